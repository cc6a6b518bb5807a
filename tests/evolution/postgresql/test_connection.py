"""SQL goes into a script as it is written."""

from __future__ import annotations

import pytest

from cleveragents_plans.evolution.op import qualified
from cleveragents_plans.evolution.postgresql.connection import write_sql
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


def test_names_are_written_with_their_schema_and_quoted_where_they_need_it():
    with script() as (op, _):
        assert qualified(op.get_context(), "toy") == "public.toy"
        assert qualified(op.get_context(), "Toy", "order") == '"order"."Toy"'
