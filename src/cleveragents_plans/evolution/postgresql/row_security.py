"""Row-level security that binds the owner of a table, as whom the functions of triggers run."""

from __future__ import annotations

from sqlalchemy import Connection

from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.alterations import TableUnfit
from cleveragents_plans.evolution.postgresql.connection import raise_if, run
from cleveragents_plans.evolution.postgresql.ownership import literal

#: Whether policies are enforced for the owner of the relation *c*. Without FORCE they are not.
#: https://www.postgresql.org/docs/current/ddl-rowsecurity.html
BINDS_OWNER = """\
(c.relrowsecurity AND c.relforcerowsecurity AND NOT EXISTS (
   SELECT FROM pg_roles o WHERE o.oid = c.relowner AND (o.rolsuper OR o.rolbypassrls)))"""


def binds_owner(connection: Connection, name: str) -> str | None:
    """
    Name the owner of a table, if policies are enforced for it, whatever they say.

    Args:
        connection: The connection that asks; catalogs are read.
        name: The table, as in SQL with its schema; it need not exist.

    Returns:
        The role, as in SQL.
    """
    return run(connection, _BOUND, {"table": name}).scalar()


def hides_rows_from_owner(connection: Connection, name: str) -> str | None:
    """
    Name the owner of a table, if policies may hide rows from it when it reads or locks them.

    They do not where one that says ``USING (true)`` applies to the owner, and none that is
    RESTRICTIVE. A superuser, and a role with BYPASSRLS, is not bound. Catalogs are read.

    Args:
        connection: The connection that asks.
        name: The table, as in SQL with its schema; it need not exist.

    Returns:
        The role, as in SQL.
    """
    return run(connection, _HIDES, {"table": name}).scalar()


@checks("row-level security")
def check_row_security(op: Op, table: str) -> None:
    """
    Find out whether row-level security would hide rows of *table* from its owner.

    The functions of triggers with the owner's rights (`Trigger`) would take these for missing,
    without an error, also where a role migrates that sees them all. Catalogs are read. On SQLite
    and offline it does nothing.

    Raises:
        TableUnfit: It would. Nothing was changed.
    """
    context = op.get_context()
    if context.dialect.name == "sqlite" or context.as_sql:
        return
    name = qualified(context, table)
    owner = hides_rows_from_owner(op.get_bind(), name)
    if owner is not None:
        raise TableUnfit(
            table,
            f"has row-level security that is forced on its owner {owner}, with whose rights the "
            "triggers look up other rows; expected that it sees them all",
            f"run ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, which leaves every other role "
            "bound",
        )


def raise_if_rows_are_hidden(table: str) -> str:
    """
    Give a statement that raises what `check_row_security` would raise, in a script, too.

    Args:
        table: As in SQL, with its schema.
    """
    hidden = _HIDES.replace("%(table)s", literal(table))
    return raise_if(
        f"EXISTS (\n{hidden})",
        f"row-level security is forced on the owner of {table}, as whom its triggers look up rows",
        f"run ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
    )


_BOUND = f"""\
SELECT quote_ident(pg_get_userbyid(c.relowner)) FROM pg_class c
 WHERE c.oid = to_regclass(%(table)s) AND {BINDS_OWNER}"""

# To lock a row takes the policies for UPDATE besides.
_HIDES = f"""\
{_BOUND}
   AND EXISTS (SELECT FROM unnest(ARRAY['r', 'w']) AS of (command)
                WHERE NOT (SELECT coalesce(bool_or(p.polpermissive AND p.sees_all), false)
                                  AND bool_and(p.polpermissive OR p.sees_all)
                             FROM (
                  SELECT polpermissive, pg_get_expr(polqual, polrelid) = 'true' AS sees_all
                    FROM pg_policy
                   WHERE polrelid = c.oid AND polqual IS NOT NULL
                     AND CAST(polcmd AS text) IN ('*', of.command)
                     AND EXISTS (SELECT FROM unnest(polroles) AS r (oid)
                                  WHERE r.oid = 0 OR pg_has_role(c.relowner, r.oid, 'USAGE'))
                ) AS p))"""
