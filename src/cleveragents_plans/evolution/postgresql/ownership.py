"""
Names that a run uses, and which objects of another role may have.

A role that may create objects in the schema of the tables can create a table or a function of
such a name before the run does. ``CREATE TABLE IF NOT EXISTS`` would then use it, and its
triggers would run with the rights of the role that migrates.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError, running_revision
from cleveragents_plans.evolution.postgresql.connection import raise_if, run


class NameTaken(EvolutionError):
    """
    A name that the run needs is that of something which it must not use.

    Attributes:
        name: The name, with its schema.
    """

    def __init__(self, name: str, found: str, remedy: str) -> None:
        running = running_revision.get()
        kept = "nothing was changed"
        if running is not None:
            changed = running.has_changes()
            kept = (
                "what the revision did before stays" if changed else "the revision changed nothing"
            )
        super().__init__(f"{name} {found}; {remedy}; {kept}")
        self.name = name


def refuse_foreign_tables(
    connection: Connection,
    tables: Collection[str],
    version_table: str,
    schema: str | None,
    version_schema: str | None,
) -> None:
    """
    Refuse tables of the chain that belong to different roles.

    Refused is a version table with a trigger or a rule, too, as it is written in every run: any
    rule, and a trigger whose function or table is not of a superuser or of the role that migrates.

    A superuser may own some of them, and so may the role that migrates, and the owner of the
    schema or of the database.

    Args:
        connection: The connection that migrates; catalogs are read.
        tables: Names of tables, without a schema.
        version_table: The table in which Alembic keeps the version.
        schema: The schema of the tables; None is the first of the search path.
        version_schema: The schema of the version table, likewise.

    Raises:
        NameTaken: One belongs to a role that does not own the others, or is the only one; or
            the version table runs what another role wrote.
    """
    names = {
        "tables": list(tables),
        "schema": schema,
        "version_table": version_table,
        "version_schema": version_schema,
    }
    for name, found, remedy in run(connection, _TABLES, names):
        raise NameTaken(name, found, remedy)


def tables_of_strangers(
    connection: Connection,
    tables: Collection[str],
    version_table: str,
    schema: str | None,
    version_schema: str | None,
) -> list[tuple[str, str]]:
    """
    List the tables of roles that are not trusted, and these roles, as in SQL.

    Trusted are those of `refuse_foreign_tables`, and a role that this one is a member of; a
    superuser is one of all only where it was made one. Catalogs are read.
    """
    names = {
        "tables": list(tables),
        "schema": schema,
        "version_table": version_table,
        "version_schema": version_schema,
    }
    return [(name, owner) for name, owner in run(connection, _OF_STRANGERS, names)]


def raise_if_foreign_tables(tables: Collection[str], version_table: str, schema: str) -> str:
    """
    Give the statement of a script that raises what `refuse_foreign_tables` would raise.

    Args:
        tables: Names of tables, without a schema.
        version_table: The table in which Alembic keeps the version.
        schema: The schema of all.
    """
    listed = ", ".join(map(literal, sorted(tables)))
    literals = {
        "tables": f"ARRAY[{listed}]",
        "version_table": literal(version_table),
        **dict.fromkeys(("schema", "version_schema"), literal(schema)),
    }
    query = re.sub(r"%\((\w+)\)s", lambda name: literals[name[1]], _TABLES)
    return f"""\
DO $check$ DECLARE wrong record; BEGIN
  FOR wrong IN
{query}
  LOOP
    RAISE EXCEPTION USING MESSAGE = wrong.name || ' ' || wrong.found, HINT = wrong.remedy;
  END LOOP;
END $check$;"""


def raise_if_foreign_function(name: str, table: str) -> str:
    """
    Give a statement that raises where the function *name* is another role's.

    It belongs to the owner of *table*, or must not be used: its owner can replace it. Both are
    named as in SQL, with their schema. Sent after ``CREATE OR REPLACE``, it holds
    until the transaction ends, since no other session can change the function before that.
    """
    return raise_if(
        "EXISTS (SELECT FROM pg_proc p JOIN pg_class t ON p.proowner <> t.relowner\n"
        f"              WHERE p.oid = to_regprocedure({literal(name)})"
        f" AND t.oid = to_regclass({literal(table)}))",
        f"the function {name} belongs to another role than {table}",
        "rename or drop it",
    )


def raise_if_foreign_relation(name: str, table: str) -> str:
    """
    Give a statement that raises where the relation *name* is another role's.

    As `raise_if_foreign_function`, after ``CREATE TABLE IF NOT EXISTS``.
    """
    return raise_if(
        "EXISTS (SELECT FROM pg_class c JOIN pg_class t ON c.relowner <> t.relowner\n"
        f"              WHERE c.oid = to_regclass({literal(name)})"
        f" AND t.oid = to_regclass({literal(table)}))",
        f"{name} belongs to another role than {table}",
        "rename or drop it",
    )


def literal(text: str) -> str:
    """Give *text* as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def refuse_foreign_functions(connection: Connection, table: str, names: Sequence[str]) -> None:
    """
    Refuse functions and triggers that are not those of a revision, and have their names.

    Args:
        connection: The connection that migrates; catalogs are read.
        table: The table, as in SQL with its schema.
        names: Names of trigger functions in its schema, and of triggers of the table.

    Raises:
        NameTaken: A function of such a name belongs to another role than the table, or is none
            of a trigger; or a trigger of such a name runs another function.
    """
    wanted = {"table": table, "names": list(names)}
    for name, owner, expected, is_of_trigger in run(connection, _FUNCTIONS, wanted):
        if not is_of_trigger:
            raise NameTaken(f"{name}()", "is no function of a trigger", "rename or drop it")
        raise NameTaken(
            f"the function {name}()",
            f"belongs to {owner}, and {table} to {expected}",
            f"if it is this chain's, run ALTER FUNCTION {name}() OWNER TO {expected}, otherwise "
            "rename or drop it",
        )
    for name, function in run(connection, _TRIGGERS, wanted):
        raise NameTaken(
            f"the trigger {name} of {table}",
            f"runs {function}, and not the function of its name",
            "rename or drop it",
        )


#: The privilege of `pg_has_role` with which a member may SET ROLE; from PostgreSQL 16 on a
#: membership need not give it.
SET_ROLE = """\
CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END"""
#: Whether the owner *o* of the relation *c* is trusted in every schema.
TRUSTED_ROLE = """\
(o.rolsuper OR o.rolname = current_user
 OR c.relowner = (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database()))"""
#: Whether the owner *o* of the relation *c* in the schema *n*, which the run uses, is trusted.
TRUSTED_OWNER = f"({TRUSTED_ROLE} OR c.relowner = n.nspowner)"

#: Whether this role is a member of the role *o* that acts as it; of a superuser, by a GRANT.
IS_MEMBER = f"""\
CASE WHEN (SELECT me.rolsuper FROM pg_roles me WHERE me.rolname = current_user)
     THEN EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles me ON me.oid = m.member
                   WHERE m.roleid = o.oid AND me.rolname = current_user)
     ELSE pg_has_role(o.oid, 'USAGE') OR pg_has_role(o.oid, {SET_ROLE}) END"""

_OF_STRANGERS = f"""\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(o.rolname)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles o ON o.oid = c.relowner
 WHERE ((c.relname = ANY(CAST(%(tables)s AS text[]))
         AND n.nspname = coalesce(%(schema)s, current_schema()))
        OR (c.relname = %(version_table)s
            AND n.nspname = coalesce(%(version_schema)s, current_schema())))
   AND NOT {TRUSTED_OWNER} AND NOT ({IS_MEMBER}) ORDER BY 1"""

# Of the version table: a superuser and the role that migrates may write what it runs. Its owner
# may not, as no revision makes a trigger there.
_TABLES = f"""\
WITH ours AS (
  SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
         quote_ident(o.rolname) AS owner, {TRUSTED_OWNER} AS trusted,
         o.rolsuper OR o.rolname = current_user AS has_rights,
         c.relname = %(version_table)s AS has_version
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles o ON o.oid = c.relowner
   WHERE (c.relname = ANY(CAST(%(tables)s AS text[]))
          AND n.nspname = coalesce(%(schema)s, current_schema()))
      OR (c.relname = %(version_table)s
          AND n.nspname = coalesce(%(version_schema)s, current_schema()))
)
SELECT ours.name, 'belongs to ' || ours.owner || ', '
       || coalesce('and other tables of this chain to ' || others.names, 'alone') AS found,
       'expected one owner of all: if it is this chain''s, run ALTER TABLE ' || ours.name
       || ' OWNER TO ' || coalesce(others.first, 'CURRENT_USER')
       || ', otherwise rename or drop it' AS remedy
  FROM ours CROSS JOIN LATERAL (
    SELECT string_agg(DISTINCT o.owner, ' and ') AS names, min(o.owner) AS first
      FROM ours o WHERE o.owner <> ours.owner) AS others
 WHERE NOT ours.trusted AND (others.first IS NOT NULL OR (SELECT count(*) FROM ours) = 1)
UNION ALL
SELECT ours.name, 'has the trigger ' || quote_ident(g.tgname) || ', whose function '
       || CAST(CAST(p.oid AS regprocedure) AS text) || ' belongs to ' || quote_ident(o.rolname),
       'drop that'
  FROM ours JOIN pg_trigger g ON g.tgrelid = ours.oid
  JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_roles o ON o.oid = p.proowner
 WHERE ours.has_version AND NOT g.tgisinternal
   AND NOT (ours.has_rights AND (o.rolsuper OR o.rolname = current_user))
UNION ALL
SELECT ours.name, 'has the rule ' || quote_ident(r.rulename), 'drop that'
  FROM ours JOIN pg_rewrite r ON r.ev_class = ours.oid
 WHERE ours.has_version
 ORDER BY 1, 2 LIMIT 1"""

# Where the table is still to be created, it will belong to the role that migrates.
_FUNCTIONS = """\
SELECT quote_ident(n.nspname) || '.' || quote_ident(p.proname), quote_ident(o.rolname),
       quote_ident(expected.rolname), p.prokind = 'f' AND p.prorettype = 'trigger'::regtype
  FROM pg_namespace n
  LEFT JOIN pg_class t ON t.oid = to_regclass(%(table)s)
  JOIN pg_roles expected
    ON expected.oid = coalesce(t.relowner, to_regrole(quote_ident(current_user)))
  JOIN pg_proc p ON p.pronamespace = n.oid AND p.pronargs = 0
  JOIN pg_roles o ON o.oid = p.proowner
 WHERE n.nspname = (parse_ident(%(table)s))[1] AND p.proname = ANY(CAST(%(names)s AS text[]))
   AND (p.proowner <> expected.oid OR p.prokind <> 'f' OR p.prorettype <> 'trigger'::regtype)
 ORDER BY p.proname"""

_TRIGGERS = """\
SELECT quote_ident(g.tgname), CAST(CAST(g.tgfoid AS regprocedure) AS text)
  FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid JOIN pg_proc p ON p.oid = g.tgfoid
 WHERE t.oid = to_regclass(%(table)s) AND NOT g.tgisinternal
   AND g.tgname = ANY(CAST(%(names)s AS text[]))
   AND NOT (p.proname = g.tgname AND p.pronamespace = t.relnamespace) ORDER BY g.tgname"""
