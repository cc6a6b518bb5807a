"""The commands of a run that event triggers see, and how each is tried on objects of a trial."""

from __future__ import annotations

from typing import NamedTuple

_COLUMNS = (
    "plan_id text PRIMARY KEY, note text DEFAULT '' NOT NULL,"
    " other integer CONSTRAINT ck_other_is_positive CHECK (other > 0)"
)
_TABLE = f"CREATE TABLE {{table}} ({_COLUMNS})"
_TEMPORARY = f"CREATE TEMPORARY TABLE {{temporary}} ({_COLUMNS})"
_INDEX = "CREATE INDEX {index} ON {table} (note)"
_FUNCTION = (
    "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql"
    " SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN new; END'"
)
_TRIGGER = (
    "CREATE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
)
_EXECUTE = "ALL ON FUNCTION {function}()"
_ALTER = "ALTER TABLE {table} "
_COLUMN = f"{_ALTER}ALTER COLUMN note "


class Command(NamedTuple):
    """One that is tried, with what a trial puts for ``{table}``, ``{temporary}``, ``{index}``, …"""

    #: What it is called in messages: its command tag first.
    shown: str
    #: What says that a run sends it.
    pattern: str
    #: What is tried, after the statements that have to come before it.
    statement: str
    before: tuple[str, ...] = ()


# A table that is to be altered, or to get an index, is copied for checks, without its rows.
_COPIED = r"\b(ALTER TABLE|INDEX)\b"

#: Every command tag that a run sends. What is tried has all that a house rule may ask for.
COMMANDS = (
    Command("CREATE TABLE", r"\bCREATE TABLE (IF NOT EXISTS )?\S+ \(", _TABLE),
    Command("CREATE TABLE", _COPIED, _TEMPORARY),
    Command(
        "CREATE TABLE AS",
        r"\bCREATE TABLE (IF NOT EXISTS )?\S+ AS\b",
        "CREATE TABLE {table} AS SELECT {columns} WITH NO DATA",
    ),
    Command("CREATE INDEX", r"\bCREATE (UNIQUE )?INDEX\b", _INDEX, (_TABLE,)),
    Command(
        "CREATE INDEX",
        r"\b(CREATE|DROP) (UNIQUE )?INDEX\b",
        "CREATE INDEX {index} ON pg_temp.{temporary} (note)",
        (_TEMPORARY,),
    ),
    Command("CREATE FUNCTION", r"\bCREATE (OR REPLACE )?FUNCTION\b", _FUNCTION),
    Command(
        "CREATE FUNCTION … SECURITY DEFINER",
        r"\bSECURITY DEFINER\b",
        f"{_FUNCTION} SECURITY DEFINER",
    ),
    Command("CREATE TRIGGER", r"\bCREATE (OR REPLACE )?TRIGGER\b", _TRIGGER, (_TABLE, _FUNCTION)),
    Command(
        "GRANT", r"\bGRANT\b", "GRANT EXECUTE ON FUNCTION {function}() TO PUBLIC", (_FUNCTION,)
    ),
    Command(
        "REVOKE", r"\bREVOKE\b", "REVOKE ALL ON FUNCTION {function}() FROM PUBLIC", (_FUNCTION,)
    ),
    # Of the note of a revision that is unfinished.
    Command("COMMENT", "", "COMMENT ON TABLE {table} IS 'unfinished'", (_TABLE,)),
    Command(
        "ALTER TABLE",
        r"\bALTER TABLE\b",
        f"{_ALTER}ALTER COLUMN other SET DEFAULT 1",
        (_TABLE,),
    ),
    Command(
        "ALTER TABLE … ADD COLUMN",
        r"\bADD COLUMN\b",
        f"{_ALTER}ADD COLUMN more text DEFAULT '' NOT NULL",
        (_TABLE,),
    ),
    Command(
        "ALTER TABLE … DROP NOT NULL", r"\bDROP NOT NULL\b", f"{_COLUMN}DROP NOT NULL", (_TABLE,)
    ),
    Command("ALTER TABLE … DROP DEFAULT", r"\bDROP DEFAULT\b", f"{_COLUMN}DROP DEFAULT", (_TABLE,)),
    # IF EXISTS, and of a name that is looked up: what an interrupted run may have left.
    Command(
        "ALTER TABLE … DROP CONSTRAINT",
        r"\bDROP CONSTRAINT (?!IF EXISTS|%)",
        f"{_ALTER}DROP CONSTRAINT ck_other_is_positive",
        (_TABLE,),
    ),
    Command(
        "ALTER TABLE … DROP COLUMN",
        r"\bDROP COLUMN\b",
        f"{_ALTER}DROP COLUMN note",
        (_TABLE,),
    ),
    Command(
        "DROP TRIGGER",
        r"\bDROP TRIGGER\b",
        "DROP TRIGGER {trigger} ON {table}",
        (_TABLE, _FUNCTION, _TRIGGER),
    ),
    Command("DROP FUNCTION", r"\bDROP FUNCTION\b", "DROP FUNCTION {function}()", (_FUNCTION,)),
    Command("DROP INDEX", r"\bDROP INDEX\b", "DROP INDEX {schema}.{index}", (_TABLE, _INDEX)),
    Command(
        "DROP INDEX",
        r"\b(CREATE|DROP) (UNIQUE )?INDEX\b",
        "DROP INDEX pg_temp.{index}",
        (_TEMPORARY, "CREATE INDEX {index} ON pg_temp.{temporary} (note)"),
    ),
    Command("DROP TABLE", r"\bDROP TABLE\b", "DROP TABLE {table}", (_TABLE,)),
)
