"""The page on security: each promise has its test, and its SQL replaces what ran before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.databases import ROOT, SERVERS, database_at
from support.revisions import M8_001
from support.toys import execute

PAGE = (ROOT / "docs" / "security.md").read_text()

FORMER = """\
CREATE OR REPLACE FUNCTION public.v3_plans_fill() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS
$$BEGIN new.root_plan_id := coalesce(new.root_plan_id, new.plan_id); RETURN new; END$$;
GRANT EXECUTE ON FUNCTION public.v3_plans_fill() TO PUBLIC;
CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT ON public.v3_plans
FOR EACH ROW EXECUTE FUNCTION public.v3_plans_fill();
ALTER TABLE public.v3_plans ENABLE TRIGGER v3_plans_fill"""
AS_IT_IS = """\
SELECT pg_get_functiondef(p.oid), p.proacl::text, p.proowner, pg_get_triggerdef(t.oid), t.tgenabled
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgname = 'v3_plans_fill'"""


def test_every_promise_names_tests_that_exist():
    [table] = re.findall(r"## What is defended against\n(.*?)\n## ", PAGE, re.DOTALL)
    promises = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(promises) >= 8
    for promise in promises:
        cells = promise.split("|")
        files = [ROOT / name for name in re.findall(r"`(tests/[\w/]+\.py)`", cells[2])]
        tests = re.findall(r"`(test_\w+)`", cells[2])
        assert files and tests, promise  # noqa: PT018
        defined = "".join(file.read_text() for file in files)
        assert [name for name in tests if f"def {name}(" not in defined] == []


@pytest.mark.parametrize("server", SERVERS)
def test_sql_of_the_page_replaces_the_function_of_a_former_upgrade(server: str, tmp_path: Path):
    [sql] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    with database_at(M8_001, server, tmp_path) as url:
        created = execute(url, AS_IT_IS)
        execute(url, FORMER)
        assert execute(url, AS_IT_IS) != created

        execute(url, sql.replace("BEGIN;", "", 1).rsplit("COMMIT;", 1)[0])

        assert execute(url, AS_IT_IS) == created
