"""Replicas and replication slots, as the server sees them."""

from __future__ import annotations

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.preflight.findings import Replica, Slot


def replicas_of(connection: Connection) -> tuple[Replica, ...]:
    """Find the replicas that are attached, with how far they are behind."""
    names = ("name", "host", "state", "bytes_behind", "seconds_behind")
    rows = run(connection, _REPLICAS)
    return tuple(Replica(**dict(zip(names, row, strict=True))) for row in rows)


def slots_of(connection: Connection) -> tuple[Slot, ...]:
    """Find the replication slots, with what they keep."""
    names = ("name", "kind", "active", "bytes_kept")
    return tuple(Slot(**dict(zip(names, row, strict=True))) for row in run(connection, _SLOTS))


# A standby writes no WAL of its own, and cascades what it has received.
_NOW = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"

_REPLICAS = f"""\
SELECT coalesce(application_name, ''), client_addr::text, state,
       pg_wal_lsn_diff({_NOW}, replay_lsn)::bigint, extract(epoch FROM replay_lag)::float8
  FROM pg_stat_replication ORDER BY 1"""

_SLOTS = f"""\
SELECT slot_name::text, slot_type, active, pg_wal_lsn_diff({_NOW}, restart_lsn)::bigint
  FROM pg_replication_slots ORDER BY 1"""
