"""
Which product a server is: PostgreSQL, one that a run treats as PostgreSQL, or another one.

docs/scaling.md says, statement by statement, why the others are refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run

# The first version with CREATE OR REPLACE TRIGGER.
_MIN_VERSION = 14

# Other products speak PostgreSQL's protocol and lack row triggers, transactional DDL, lock_timeout
# or pg_locks. Most begin version() with PostgreSQL; this is in it, too.
_BY_VERSION = {
    "-YB-": "YugabyteDB",
    "CedarDB": "CedarDB",
    "CockroachDB": "CockroachDB",
    "CrateDB": "CrateDB",
    "Cloudberry": "Apache Cloudberry",
    "GaussDB": "GaussDB",
    "Greengage": "Greengage",
    "Greenplum": "Greenplum",
    "Materialize": "Materialize",
    "QuestDB": "QuestDB",
    "Redshift": "Amazon Redshift",
    "RisingWave": "RisingWave",
    "openGauss": "openGauss",
}


class ServerNotSupported(EvolutionError):
    """
    The server is none that the chain's statements are for.

    Attributes:
        target: What the database is called.
        product: What it is.
    """

    def __init__(self, target: str, product: str, remedy: str) -> None:
        super().__init__(
            f"{target} is {product}; expected PostgreSQL {_MIN_VERSION} or newer: {remedy}; "
            "nothing was changed"
        )
        self.target = target
        self.product = product


class TablesDistributed(EvolutionError):
    """
    Citus distributes the tables over servers, where they cannot have what the chain needs.

    Attributes:
        target: What the database is called.
        found: The schema, or the table.
    """

    def __init__(self, target: str, found: str, remedy: str) -> None:
        super().__init__(
            f"{target}: Citus distributes {found}, and has no row triggers there; expected local "
            f"tables: run {remedy} first; nothing was changed"
        )
        self.target = target
        self.found = found


def refuse_other_server(version: str, target: str) -> None:
    """
    Refuse a server that calls itself *version* (of its function ``version()``).

    *target* is what to call the database in messages.

    Raises:
        ServerNotSupported: It is another product, or PostgreSQL before 14.
    """
    for mark, product in _BY_VERSION.items():
        if mark in version:
            raise ServerNotSupported(
                target, product, "its triggers, locks or transactions differ, so use another server"
            )
    found = re.match(r"(?:PostgreSQL|EnterpriseDB) (\d+)[\d.]*", version)
    if found is None:
        raise ServerNotSupported(target, f"{version[:60]!r}", "use another server")
    if int(found[1]) < _MIN_VERSION:
        raise ServerNotSupported(target, found[0], "upgrade the server first")


def refuse_unfit_server(connection: Connection, target: str) -> None:
    """
    Refuse a server that the chain's statements are not for; see `refuse_other_server`.

    Raises:
        ServerNotSupported: It is another product, or PostgreSQL before 14.
    """
    refuse_other_server(run(connection, "SELECT pg_catalog.version()").scalar_one(), target)


def refuse_distributed_tables(
    connection: Connection, tables: Collection[str], schema: str | None, target: str
) -> None:
    """
    Refuse tables that Citus distributes, or would once they are created; local ones are fine.

    https://docs.citusdata.com/en/stable/extra/triggers.html

    Args:
        connection: Any connection; catalogs are read.
        tables: Names of tables, without a schema.
        schema: Their schema; None is the first of the search path.
        target: What to call the database in messages.

    Raises:
        TablesDistributed: The schema or a table is distributed, or a reference table.
    """
    has_tables, has_schemas = run(connection, _CITUS).one()
    names = {"tables": list(tables), "schema": schema}
    if has_schemas and (found := run(connection, _DISTRIBUTED_SCHEMA, names).scalar()):
        raise TablesDistributed(
            target, f"the schema {found}", f"SELECT citus_schema_undistribute({_literal(found)})"
        )
    if has_tables and (found := run(connection, _DISTRIBUTED_TABLE, names).scalar()):
        raise TablesDistributed(
            target, f"the table {found}", f"SELECT undistribute_table({_literal(found)})"
        )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def is_aurora(connection: Connection) -> bool:
    """
    Say whether the server is Amazon Aurora, which is PostgreSQL but for its replicas.

    https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora_replica_status.html
    """
    return bool(run(connection, _AURORA).scalar_one())


# Names only, no operator: the search path may still be that of the role.
_CITUS = """\
SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL,
       pg_catalog.to_regclass('pg_catalog.pg_dist_schema') IS NOT NULL"""

_AURORA = "SELECT pg_catalog.to_regproc('pg_catalog.aurora_version') IS NOT NULL"

_DISTRIBUTED_SCHEMA = """\
SELECT pg_catalog.quote_ident(n.nspname)
  FROM pg_catalog.pg_dist_schema d
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) d.schemaid
 WHERE n.nspname OPERATOR(pg_catalog.=)
       coalesce(CAST(%(schema)s AS name), pg_catalog.current_schema())"""

_DISTRIBUTED_TABLE = """\
SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.'
       OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname)
  FROM pg_catalog.pg_dist_partition p
  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.logicalrelid
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE n.nspname OPERATOR(pg_catalog.=)
       coalesce(CAST(%(schema)s AS name), pg_catalog.current_schema())
   AND c.relname OPERATOR(pg_catalog.=) ANY (CAST(%(tables)s AS name[]))
 ORDER BY c.relname LIMIT 1"""
