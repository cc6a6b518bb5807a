"""Expressions of both engines, and of the models, in one form."""

from __future__ import annotations

import pytest

from cleveragents_plans.verification.expressions import canonical

ARRAY = "ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])"


@pytest.mark.parametrize(
    ("written", "of_the_catalog"),
    [
        ("phase IN ('a', 'b')", f"(((phase)::text = {ARRAY}))"),
        ("phase IN ('a', 'b')", "(phase = ANY (ARRAY['a'::text, 'b'::text]))"),
        (
            "cost >= 0 AND cost <= 1.7976931348623157e308",
            "((cost >= (0)::double precision)"
            " AND (cost <= '1.7976931348623157e+308'::double precision))",
        ),
        (
            "state NOT IN ('a', 'b')",
            "((state)::text <> ALL ((ARRAY['a'::character varying, 'b'::character varying])"
            "::text[]))",
        ),
        ("step >= -1", "(step >= '-1'::integer)"),
        ("state = 'queued'", "((state)::text = 'queued'::text)"),
        ("length(name) > 2", "(length((name)::text) > 2)"),
        ("up IS NOT NULL", "(up IS NOT NULL)"),
        ("Phase  in('a')", "phase IN ('a')"),
        ('"phase" = 1', "phase = 1"),
        ("'it''s'", "'it''s'::text"),
        ("1", "1.0"),
    ],
)  # fmt: skip
def test_equal_expressions_have_one_form(written: str, of_the_catalog: str):
    assert canonical(written) == canonical(of_the_catalog)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(a OR b) AND c", "a OR (b AND c)"),
        ("a = 1 AND (b = 2 OR c = 3)", "(a = 1 AND b = 2) OR c = 3"),
        ("(a + b) * c > 1", "a + b * c > 1"),
        ("x = 'a'", "x = 'A'"),
        ("x = 'a'", 'x = "a"'),
        ("NOT (a = 1)", "a = 1"),
        ("a >= 0", "a > 0"),
        ("a >= 0", "a >= 0 OR a IS NULL"),
        ("phase IN ('a', 'b')", "phase IN ('a')"),
        ("a - 1 > 0", "a > 0"),
        ("x = '1'", "x = 1"),
        ("x NOT IN ('a')", "x IN ('a')"),
        ("x <> ALL (ARRAY['a'])", "x = ALL (ARRAY['a'])"),
    ],
)
def test_different_expressions_have_different_forms(one: str, other: str):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("attempt>=1", "attempt >= 1"),
        ("a<>'x  ( y'", "a <> 'x  ( y'"),
        (f"((phase)::text = {ARRAY})", "phase in ('a', 'b')"),
        ("lower(a) || b != -1.5", "lower (a) || b != -1.5"),
    ],
)
def test_canonical_form_is_sql_that_can_be_typed(expression: str, shown: str):
    assert canonical(expression) == shown
