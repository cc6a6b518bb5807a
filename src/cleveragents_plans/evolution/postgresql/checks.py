"""Look at a PostgreSQL table for what would stop a revision half way, before it begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, sqlstate
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, in_schema, qualified
from cleveragents_plans.evolution.postgresql.alterations import FAMILY, TableUnfit
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.dependents import (
    functions_in_use,
    refuse_foreign_triggers,
)
from cleveragents_plans.evolution.postgresql.not_null import BECOMING_NOT_NULL
from cleveragents_plans.evolution.postgresql.ownership import refuse_foreign_functions
from cleveragents_plans.evolution.postgresql.read_locks import lock_known
from cleveragents_plans.evolution.postgresql.table_rights import acting_as
from cleveragents_plans.evolution.postgresql.written_values import BUILT_IN, refuse_unfit_values

log: Final = logging.getLogger("alembic.evolution")

_MAX_SHOWN = 5
#: The class of errors about what a value is.
_DATA_ERROR = "22"


class CheckViolated(EvolutionError):
    """
    A CHECK would refuse what is to be written.

    Attributes:
        table: The table.
        constraint: The CHECK.
    """

    def __init__(self, table: str, constraint: str, found: str, then: str) -> None:
        super().__init__(
            f"the CHECK {constraint} of {table} {found}; {then}, then run the same command "
            "again; nothing was changed"
        )
        self.table = table
        self.constraint = constraint


@checks("CHECKs and triggers")
def check_writable(
    op: Op,
    table: str,
    *,
    key: str,
    needs: str,
    values: Mapping[str, str | None],
    rows: str | None = None,
    ours: Sequence[str] = (),
) -> None:
    """
    Find out whether all rows of *table* can be written on PostgreSQL; change nothing.

    A CHECK that is NOT VALID refuses the next UPDATE of each row that breaks it, and
    another may refuse what is to be written, as may an expression of an index, a generated
    column or a trigger, or a foreign key. Triggers that would fire, and what else uses the
    functions of *ours*, are named in a warning. Reads only: ACCESS SHARE for one scan for each
    CHECK that is NOT VALID. On SQLite, and offline, it does nothing.

    Args:
        op: Alembic's ``op``.
        table: The table.
        key: Its primary key, to name rows by.
        needs: A condition over the alias ``t`` that is true for the rows to be written.
        values: The columns that are to be written, and the literal that most rows get, or NULL,
            if there is one.
        rows: A condition over the alias ``t`` that is true for rows that get all of *values*; by
            default those that have NULL in these columns.
        ours: Triggers that the revision creates itself, with functions of the same names.

    Raises:
        CheckViolated: A CHECK would refuse a row.
        TableUnfit: A rule would be run for an UPDATE, *needs* is no condition for its columns, or
            something else would refuse one of *values*.
        NameTaken: A function of one of *ours* belongs to another role, or a table of another role
            has a trigger that runs it.
    """
    connection = _connection(op)
    if connection is None:
        return
    name_in_sql = qualified(op.get_context(), table)
    refuse_foreign_functions(connection, name_in_sql, ours)
    refuse_foreign_triggers(connection, name_in_sql, ours)
    for used in functions_in_use(connection, name_in_sql, ours):
        log.warning("the function %s: it is left where this run would drop it", used)
    # A step before this one may be to create the table.
    if not lock_known(connection, name_in_sql):
        return
    needs = in_schema(op.get_context(), needs)
    rows = rows and in_schema(op.get_context(), rows)
    key = connection.dialect.identifier_preparer.quote(key)
    _refuse_rules(connection, table, name_in_sql)
    _refuse_condition(connection, table, name_in_sql, needs)
    for name, check, is_built_in in _rows(connection, _NOT_VALID, name_in_sql):
        if not is_built_in:
            _warn_of_check(table, name)
            continue
        where = f"({needs}) AND NOT ({check})"
        query = f"SELECT t.{key} FROM {name_in_sql} t WHERE {where} LIMIT {_MAX_SHOWN}"
        broken = [str(found) for (found,) in run(connection, query)]
        if broken:
            raise CheckViolated(
                table,
                name,
                f"is NOT VALID, and rows break it, such as {', '.join(broken)}",
                "mend these rows, or drop it",
            )
    planned = {column: value for column, value in values.items() if value is not None}
    columns = ", ".join(f"{value} AS {column}" for column, value in planned.items())
    written = {"columns": list(planned)}
    for heir, name, check, is_built_in in _rows(connection, _ONLY_OF, name_in_sql, **written):
        if not is_built_in:
            _warn_of_check(heir or table, name)
        elif _refuses(connection, f"SELECT ({check}) IS FALSE FROM (SELECT {columns}) AS planned"):
            shown = " and ".join(f"{column} = {value}" for column, value in planned.items())
            raise CheckViolated(
                heir or table, name, f"would refuse {shown}", "let it pass, or drop it"
            )
    refuse_unfit_values(connection, table, name_in_sql, values, rows)
    written = {"columns": list(values), "ours": list(ours)}
    triggers = [name for (name,) in _rows(connection, _TRIGGERS, name_in_sql, **written)]
    if triggers:
        rights = "".join(
            f", with the rights of this superuser (to avoid that, {acting_as(*owner)})"
            for owner in _rows(connection, _OWNER_BELOW, name_in_sql)
        )
        log.warning(
            "%s has triggers that will fire for every row that is written%s: %s; if they must "
            "not, disable them for the time of this run",
            table,
            rights,
            ", ".join(triggers),
        )


def _warn_of_check(table: str, name: str) -> None:
    # Looked at as text, it could call what another role has given the same name.
    log.warning(
        "the CHECK %s of %s calls functions or types of its own, so that it is not looked at: what "
        "it refuses would stop this run half way; drop it for the time of this run unless it fits",
        name, table,
    )  # fmt: skip


def _refuse_rules(connection: Connection, table: str, name_in_sql: str) -> None:
    rules = [name for (name,) in _rows(connection, _RULES, name_in_sql)]
    if rules:
        raise TableUnfit(
            table,
            "has rules that would be run instead of, or beside, each UPDATE: " + ", ".join(rules),
            "ALTER TABLE ... DISABLE RULE for the time of this run, or make a trigger of each",
        )


def _refuse_condition(connection: Connection, table: str, name_in_sql: str, needs: str) -> None:
    if not _rows(
        connection,
        "SELECT to_regclass(%(table)s) WHERE to_regclass(%(table)s) IS NOT NULL",
        name_in_sql,
    ):
        return
    try:
        with connection.begin_nested():
            run(connection, f"EXPLAIN SELECT FROM {name_in_sql} t WHERE {needs}")
    except DBAPIError as error:
        if (sqlstate(error) or "")[:2] not in ("22", "42"):
            raise
        said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or error.orig
        raise TableUnfit(
            table,
            f"has columns of other types than this revision is for: PostgreSQL says {said}",
            "change their types",
        ) from error


def _refuses(connection: Connection, query: str) -> bool:
    try:
        with connection.begin_nested():
            return bool(run(connection, query).scalar_one())
    except DBAPIError as error:
        # A value that it cannot even read, as JSON perhaps, it refuses, too.
        if (sqlstate(error) or "").startswith(_DATA_ERROR):
            return True
        raise


def _connection(op: Op) -> Connection | None:
    context = op.get_context()
    on_server = context.dialect.name == "postgresql" and not context.as_sql
    return context.connection if on_server else None


def _rows(connection: Connection, query: str, table: str, **values: Any) -> list[Any]:
    # A table that a step before this one is to create is not there yet: no rows.
    return list(run(connection, query, {"table": table, **values}))


# From PostgreSQL 18 on one may be NOT ENFORCED, which is NOT VALID as well.
_ENFORCED = "coalesce(to_jsonb(c) ->> 'conenforced', 'true') = 'true'"
_OF_CHECK = BUILT_IN.format(objects="('pg_constraint'::regclass, c.oid)", except_for=0)
# An interrupted run left the others, which the next one drops.
_OF_OTHERS = f"conname !~ {BECOMING_NOT_NULL}"
_NOT_VALID = f"""\
SELECT conname, pg_get_expr(conbin, conrelid), {_OF_CHECK} FROM pg_constraint c
 WHERE conrelid = to_regclass(%(table)s) AND contype = 'c' AND NOT convalidated AND {_ENFORCED}
   AND {_OF_OTHERS} ORDER BY conname"""

# Those that a table which inherits has of its own, too.
_ONLY_OF = f"""\
WITH RECURSIVE {FAMILY}
SELECT CASE WHEN c.conrelid <> to_regclass(%(table)s)
            THEN CAST(CAST(c.conrelid AS regclass) AS text) END,
       c.conname, pg_get_expr(c.conbin, c.conrelid), {_OF_CHECK}
  FROM family JOIN pg_constraint c ON c.conrelid = family.oid
 WHERE (c.conrelid = to_regclass(%(table)s) OR c.coninhcount = 0)
   AND c.contype = 'c' AND {_ENFORCED} AND {_OF_OTHERS}
   AND c.conkey <@ ARRAY(
         SELECT a.attnum FROM pg_attribute a
          WHERE a.attrelid = c.conrelid AND a.attname = ANY(%(columns)s))
 ORDER BY 1 NULLS FIRST, c.conname"""

# The owner of a table, if a superuser runs what that role, who is none, has made of it.
_OWNER_BELOW = """\
SELECT quote_ident(o.rolname), o.rolname, o.rolcanlogin
  FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner
  JOIN pg_roles me ON me.rolname = current_user
 WHERE c.oid = to_regclass(%(table)s) AND me.rolsuper AND NOT o.rolsuper"""

# On UPDATE (16), of any column or of one that is written.
_TRIGGERS = """\
SELECT t.tgname FROM pg_trigger t
 WHERE t.tgrelid = to_regclass(%(table)s) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
   AND t.tgtype & 16 <> 0 AND t.tgname <> ALL(%(ours)s) AND (t.tgattr::text = '' OR EXISTS (
         SELECT FROM pg_attribute a WHERE a.attrelid = t.tgrelid
            AND a.attnum = ANY(t.tgattr) AND a.attname = ANY(%(columns)s)))
 ORDER BY t.tgname"""

# On UPDATE ('2'); a WITH query is refused where there is one that is not instead of it.
_RULES = """\
SELECT quote_ident(rulename) FROM pg_rewrite
 WHERE ev_class = to_regclass(%(table)s) AND ev_type = '2' AND ev_enabled IN ('O', 'A')
 ORDER BY rulename"""
