"""
Names that a run uses, and which objects of another role may have.

A role that may create objects in the schema of the tables can create a table or a function of
such a name before the run does. ``CREATE TABLE IF NOT EXISTS`` would then use it, and its
triggers would run with the rights of the role that migrates.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError, running_revision
from cleveragents_plans.evolution.postgresql.connection import raise_if, run
from cleveragents_plans.evolution.postgresql.trust import TRUSTED_OWNER


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


def take_over(table: str, owner: str) -> str:
    """
    Say how the table of a role that is not trusted is given to *owner*, and when it may be.

    Args:
        table: The table, as in SQL with its schema.
        owner: The role, as in SQL, to which it is to belong.
    """
    return (
        "if it is this chain's, and its indexes, statistics, triggers, defaults, CHECKs and "
        f"policies call no functions but PostgreSQL's and those of {owner}, run ALTER TABLE "
        f"{table} OWNER TO {owner}, otherwise rename or drop it"
    )


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
    for name, owner, expected, is_of_trigger, trusted in run(connection, _FUNCTIONS, wanted):
        if not is_of_trigger:
            raise NameTaken(f"{name}()", "is no function of a trigger", "rename or drop it")
        remedy = f"rename it, or run {drop_function(name)}: a run creates its own"
        if trusted:
            remedy = (
                f"if it is this chain's, run ALTER FUNCTION {name}() OWNER TO {expected}, "
                "otherwise rename or drop it"
            )
        raise NameTaken(
            f"the function {name}()", f"belongs to {owner}, and {table} to {expected}", remedy
        )
    for name, function in run(connection, _TRIGGERS, wanted):
        raise NameTaken(
            f"the trigger {name} of {table}",
            f"runs {function}, and not the function of its name",
            "rename or drop it",
        )


def drop_function(name: str) -> str:
    """
    Give the statement that drops the trigger function *name* of a role that is not trusted.

    It is not to be given to the owner of the tables, whatever its body is: triggers of that role
    would run it with the owner's rights, on tables whose types have casts of their own.
    """
    return f"DROP FUNCTION {name}() CASCADE"


# Where the table is still to be created, it will belong to the role that migrates.
_FUNCTIONS = f"""\
SELECT quote_ident(n.nspname) || '.' || quote_ident(p.proname), quote_ident(o.rolname),
       quote_ident(expected.rolname), p.prokind = 'f' AND p.prorettype = 'trigger'::regtype,
       {TRUSTED_OWNER}
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
