"""SQL expressions that the engines write differently, with one meaning."""

from __future__ import annotations

from typing import NamedTuple


class Sql(NamedTuple):
    """One expression, in the SQL of each engine; the row is the alias ``t`` in both."""

    postgresql: str
    sqlite: str
    #: A statement that PostgreSQL needs first, such as one that creates a function of
    #: ``pg_temp`` that the expression calls. Each operation sends it again in the session that
    #: migrates, so it is one that can be repeated: ``CREATE OR REPLACE``.
    setup: str = ""


def json_integer(column: str, key: str, default: int | None = None) -> Sql:
    """
    Give the integer that the JSON object in *column* has under *key*, else *default*.

    The default (None is NULL) also stands for text that is not JSON, for a value that is no
    integer or is written with a fraction or an exponent, and for one that does not fit 32
    bits. PostgreSQL gives it for every object that has ``\\u0000`` or half of a surrogate pair
    anywhere, which its json cannot hold; SQLite reads the integer beside it. The library stores
    neither.
    """
    fits = "AND j.atom BETWEEN -2147483648 AND 2147483647"
    otherwise = "NULL" if default is None else str(int(default))
    found = f"pg_temp.evolution_json_integer(t.{column}, {_literal(key)})"
    return Sql(
        postgresql=f"coalesce({found}, {otherwise})",
        sqlite=f"coalesce({_in_json(column, key, 'integer', fits)}, {otherwise})",
        setup=_JSON_INTEGER,
    )


def json_text(column: str, key: str) -> Sql:
    """
    Give the string that the JSON object in *column* has under *key*, else NULL.

    NULL also for text that is not JSON, for a value that is no string, and on PostgreSQL for an
    object that has ``\\u0000`` or half of a surrogate pair anywhere.
    """
    return Sql(
        postgresql=f"pg_temp.evolution_json_text(t.{column}, {_literal(key)})",
        sqlite=_in_json(column, key, "text"),
        setup=_JSON_TEXT,
    )


def _in_json(column: str, key: str, kind: str, condition: str = "") -> str:
    # Of several equal keys the last one counts, as it does in PostgreSQL's json.
    return (
        f"CASE WHEN json_valid(t.{column}) AND json_type(t.{column}) = 'object' THEN"
        f" (SELECT j.atom FROM (SELECT * FROM json_each(t.{column}) WHERE key = {_literal(key)}"
        f" ORDER BY id DESC LIMIT 1) AS j WHERE j.type = '{kind}' {condition}) END"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# PostgreSQL raises an error for text that is not JSON; the version that can ask first is 16.
_JSON_INTEGER = """\
CREATE OR REPLACE FUNCTION pg_temp.evolution_json_integer(document text, key text)
RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF json_typeof(document::json -> key) = 'number' THEN
    RETURN (document::json ->> key)::integer;
  END IF;
  RETURN NULL;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $$"""
_JSON_TEXT = """\
CREATE OR REPLACE FUNCTION pg_temp.evolution_json_text(document text, key text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF json_typeof(document::json -> key) = 'string' THEN
    RETURN document::json ->> key;
  END IF;
  RETURN NULL;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $$"""
