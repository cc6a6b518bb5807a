"""
How far the replicas of a server are behind, in seconds.

``replay_lag`` of `pg_stat_replication` says how long the last reported write-ahead log took, and
stands still when a replica does
(https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-REPLICATION-VIEW).
So the positions of the log are remembered with their times, too: a replica is behind by the age
of the first one that it has not replayed.
"""

from __future__ import annotations

import time
from collections import deque

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.products import is_aurora

# As many seconds are remembered; a replica that is further behind is behind by at least that.
_REMEMBERED = 3600


class ReplicaLagHidden(EvolutionError):
    """It cannot be seen how far replicas are behind."""


class ReplicaLag:
    """
    Measures, each time it is asked, which replica is too far behind.

    A replica that is not connected is not seen. Subscribers of logical replication count, too.

    Args:
        limit: Seconds that a replica may be behind.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        #: Seconds of the replica that was furthest behind at the last look; None within the limit.
        self.seconds: float | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)

    def reason(self, connection: Connection) -> str:
        """
        Say which replica is too far behind, and how far; empty if none is.

        The *connection* is in autocommit, and waits for no replica. It takes no lock.
        """
        now = time.monotonic()
        end = run(connection, _END).scalar_one()
        self._samples.append((now, end))
        behind = [
            (name, self._lag(now, replayed, reported or 0.0))
            for name, replayed, reported in run(connection, _REPLICAS)
            if replayed is not None and replayed < end
        ]
        if any(lag > self._limit / 2 for _, lag in behind):
            # A replica that has caught up says so when it gets something new, or every ten
            # seconds (wal_receiver_status_interval).
            run(connection, _SOMETHING_NEW)
        behind = [(name, lag) for name, lag in behind if lag > self._limit]
        self.seconds = max((lag for _, lag in behind), default=None)
        return ", ".join(
            f"the replica {name} is {lag:.0f} s behind (max-replica-lag={self._limit:g})"
            for name, lag in behind
        )

    def _lag(self, now: float, replayed: int, reported: float) -> float:
        since = next((then for then, end in self._samples if end > replayed), now)
        return max(now - since, reported)


def require_visible_lag(connection: Connection) -> None:
    """
    Refuse a server or a role to which it is not visible how far replicas are behind.

    Raises:
        ReplicaLagHidden: It is Amazon Aurora, whose readers are not in pg_stat_replication; or
            the role is not a member of pg_read_all_stats, and no superuser.
    """
    if is_aurora(connection):
        raise ReplicaLagHidden(
            "max-replica-lag: Amazon Aurora does not show its readers in pg_stat_replication; "
            "leave it out, watch aurora_replica_status() and use rows-per-second; nothing was "
            "changed"
        )
    role, visible = run(connection, _VISIBLE).one()
    if not visible:
        raise ReplicaLagHidden(
            f"max-replica-lag: the role {role} may not see how far replicas are behind; run "
            f"GRANT pg_read_all_stats TO {role} as a superuser first, or leave it out; nothing "
            "was changed"
        )


_VISIBLE = """\
SELECT quote_ident(current_user), pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"""
_END = "SELECT CAST(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0') AS bigint)"
_REPLICAS = """\
SELECT coalesce(nullif(application_name, ''), 'pid ' || pid)
       || coalesce(' at ' || host(client_addr), ''),
       CAST(pg_wal_lsn_diff(replay_lsn, '0/0') AS bigint),
       CAST(extract(epoch FROM replay_lag) AS float8)
  FROM pg_stat_replication WHERE application_name NOT IN ('pg_basebackup', 'pg_receivewal')
 ORDER BY 1"""
_SOMETHING_NEW = "SELECT pg_logical_emit_message(true, 'cleveragents-plans', '')"
