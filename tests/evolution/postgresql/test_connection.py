"""SQL goes into a script as it is written."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects import postgresql

from cleveragents_plans.evolution.postgresql.connection import qualified, write_sql
from support.online import script


@pytest.mark.parametrize(
    ("sql", "written"),
    [
        ("SELECT 1", "SELECT 1;"),
        (" SELECT ':x', '%', '%%', ':1'::json;\n", "SELECT ':x', '%', '%%', ':1'::json;"),
        ("SELECT 1 -- one", "SELECT 1 -- one\n;"),
        ("SELECT '\t'", "SELECT '\t';"),
    ],
)  # fmt: skip
def test_sql_is_written_as_it_is_with_one_semicolon(sql, written):
    with script() as (op, text):
        write_sql(op.get_context(), sql)

    assert text.getvalue() == written + "\n\n"


def test_names_are_quoted_where_they_need_it():
    dialect = postgresql.dialect()

    assert qualified(dialect, "toy", None) == "toy"
    assert qualified(dialect, "Toy", "order") == '"order"."Toy"'
