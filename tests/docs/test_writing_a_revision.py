"""The code of docs/writing-a-revision.md and docs/renaming-a-word.md does what the pages say."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import op
from sqlalchemy.exc import IntegrityError

from cleveragents_plans import evolution
from cleveragents_plans.evolution.runner.alembic_internals import operations_of
from support.checkout import Checkout
from support.databases import ONE_OF_EACH, ROOT, database_at, migrate
from support.every_method import call_every_method
from support.online import revision
from support.plans import ulid
from support.revisions import CHAIN, HEAD, M8_002
from support.rows import Entry, schema_dump
from support.toys import execute

PAGE = "\n".join(
    (ROOT / "docs" / name).read_text() for name in ("writing-a-revision.md", "renaming-a-word.md")
)
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
EXAMPLE = "x9_001_plan_urgency"


def block(file: str) -> str:
    """Give the block of Python whose first line names *file*, without that line."""
    (found,) = [text for text in BLOCKS if file in text.split("\n")[0]]
    return found.split("\n", 1)[1]


def edits() -> list[tuple[str, str, str]]:
    """List what is inserted: the file, the text before which it stands, and the lines."""
    found = [re.fullmatch(r"# (\S+), before `(.+?)`\n(.*)", text, re.S) for text in BLOCKS]
    return [(each[1], each[2], each[3]) for each in found if each]


def test_every_operation_that_is_named_can_be_imported():
    table = PAGE[PAGE.index("## Which operation") : PAGE.index("## What an operation refuses")]
    named = set(re.findall(r"`(?!op\.)([a-z]\w*)\(", table)) - {"check_upgrade", "check_downgrade"}

    assert len(named) > 15
    assert named <= set(evolution.__all__)
    assert {
        name for name in evolution.__all__ if name.startswith(("add_", "create_", "drop_", "set_"))
    } <= set(re.findall(r"\w+", PAGE)) | {"drop_if_empty", "drop_not_null_sql", "drop_trigger_sql"}


def test_every_suite_that_is_named_is_there():
    suites = set(re.findall(r"\btests/[\w/]+(?:\.py)?", PAGE)) - {
        f"tests/chain/test_{EXAMPLE[:6]}.py"
    }

    assert len(suites) > 10
    assert [name for name in suites if not (ROOT / name).exists()] == []


def test_every_test_that_is_named_is_there():
    text = re.sub(r"^```.*?^```", "", PAGE, flags=re.M | re.S)
    named = set(re.findall(r"`(?:[\w/.]+::)?(test_\w+)`", text))
    defined = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))

    assert len(named) >= 6
    assert [name for name in named if f"def {name}(" not in defined] == []


def test_revisions_import_operations_and_nothing_that_changes_with_the_models():
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "migrations" / "versions").glob("*.py")):
        for each in ast.walk(ast.parse(file.read_text())):
            if isinstance(each, ast.ImportFrom):
                found.setdefault(each.module or ".", set()).add(file.name)
            elif isinstance(each, ast.Import):
                for name in each.names:
                    found.setdefault(name.name, set()).add(file.name)

    ours = {name: files for name, files in found.items() if name.startswith("cleveragents_plans")}
    assert {*ours} == {evolution.__name__}
    others = {name.partition(".")[0] for name in found} - {evolution.__name__.partition(".")[0]}
    assert others - {"alembic", "sqlalchemy"} <= sys.stdlib_module_names


def test_example_is_no_revision_of_the_chain():
    # It would be tested on top of itself.
    assert EXAMPLE not in CHAIN


@pytest.mark.slow
@pytest.mark.timeout(900)  # as long as hundreds of tests
def test_worked_example_runs_on_each_engine_and_passes_the_tests_of_the_chain(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'plans.db'}"
    migrate(url, "head")
    checkout = edited_checkout(tmp_path, url)
    assert len(edits()) >= 12
    command = re.search(r"\.venv/bin/(alembic revision --autogenerate .*)", PAGE)
    assert command is not None
    checkout.alembic(*shlex.split(command[1])[1:])
    wanted = block(f"{EXAMPLE}.py").replace(M8_002, HEAD)
    (written,) = [file for file in checkout.revisions() if file.stem == EXAMPLE]
    # What the page adds by hand are lines; what autogenerate wrote stays.
    generated = written.read_text()
    for call in ("add_column(", "create_index(", "drop_index(", "drop_column("):
        line = next(line for line in generated.splitlines() if line.strip().startswith(call))
        assert line in wanted
    written.write_text(wanted)
    former = "_".join(HEAD.split("_")[:2]).upper()
    test = checkout.folder / "tests/chain/test_x9_001.py"
    test.write_text(block("tests/chain/test_x9_001.py").replace("M8_002", former))

    for arguments in (["ruff", "check"], ["ruff", "format", "--check"]):
        checkout.run("-m", *arguments)
    checkout.run(
        *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
        *("-m", "not fault and not older", "-k", "not known_order"),
        *("tests/chain/test_x9_001.py", "tests/chain/test_chain.py"),
        *("tests/chain/test_specification.py", "tests/persistence/test_mapping.py"),
        # Plans are added, saved and read through the repository.
        "tests/persistence/test_inserts.py::test_a_plan_that_is_added_is_found",
        "tests/persistence/test_inserts.py::test_an_import_can_be_repeated",
    )


def edited_checkout(folder: Path, url: str) -> Checkout:
    """Copy the checkout and make the edits of the page in it, but for the revision."""
    checkout = Checkout(folder / "checkout", url, ",".join(ONE_OF_EACH))
    for file, anchor, lines in edits():
        checkout.change(file, (f"\n{anchor}", f"\n{lines}{anchor}"))
    return checkout


@pytest.mark.slow
def test_release_before_works_on_the_schema_of_the_example_and_the_example_refuses_the_former_one(
    tmp_path: Path,
):
    """What a rolling deployment does: this checkout is the release before that of the example."""
    checkout = edited_checkout(tmp_path, "")
    revision_file = checkout.folder / f"migrations/versions/{EXAMPLE}.py"
    revision_file.write_text(block(f"{EXAMPLE}.py").replace(M8_002, HEAD))
    for engine in ONE_OF_EACH:
        with database_at(HEAD, engine, tmp_path) as url:
            script = ("tests/support/every_method.py", "--url", url)
            refused = checkout.run(*script, check=False)
            assert "SchemaMissing" in refused.stderr
            checkout.run("-m", "alembic", "-x", f"url={url}", "upgrade", "head")
            checkout.run(*script)

            call_every_method(url)


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_trigger_is_dropped_and_created_as_it_was(engine: str, tmp_path: Path):
    names: dict[str, Any] = {"op": op}
    exec(block("# drop_trigger"), names)  # what the page says is what is tested
    with database_at(M8_002, engine, tmp_path) as url:
        before = schema_dump(url)
        for step, kinds in (("upgrade", False), ("downgrade", engine != "sqlite")):
            with revision(url) as here, operations_of(here.get_context()):
                names[step]()
            assert ("trigger" in {entry[0] for entry in schema_dump(url)}) == kinds

        assert schema_dump(url) == before


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_word_is_renamed_beside_a_release_that_writes_the_former_one(engine: str, tmp_path: Path):
    names: dict[str, Any] = {"op": op}
    exec(block("# rename_word"), names)  # what the page says is what is tested
    states = "SELECT processing_state FROM v3_plans ORDER BY plan_id"
    with database_at(M8_002, engine, tmp_path) as url:
        before = schema_dump(url)
        for number, state in enumerate(("queued", "processing", "cancelled", "queued")):
            add_plan(url, number, processing_state=state)
        for step in ("upgrade", "upgrade"):
            with revision(url) as here, operations_of(here.get_context()):
                names[step]()
        renamed = [("waiting",), ("processing",), ("cancelled",), ("waiting",)]
        assert execute(url, states) == renamed
        add_plan(url, 4)  # by the default
        if engine == "sqlite":
            with pytest.raises(IntegrityError):
                add_plan(url, 5, processing_state="queued")
        else:
            add_plan(url, 5, processing_state="queued")
            execute(
                url, f"UPDATE v3_plans SET processing_state = 'queued' WHERE plan_id = '{ulid(1)}'"
            )
            renamed = [("waiting",), ("waiting",), *renamed[2:], ("waiting",)]
        assert execute(url, states) == [*renamed, ("waiting",)]
        with pytest.raises(IntegrityError):
            add_plan(url, 6, processing_state="nonsense")
        indexes = {entry[2] for entry in schema_dump(url) if entry[0] == "index"}
        assert "ix_v3_plans_waiting" in indexes
        assert "ix_v3_plans_queued" not in indexes

        for _ in range(2):
            with revision(url) as here, operations_of(here.get_context()):
                names["downgrade"]()

        back = [(each.replace("waiting", "queued"),) for (each,) in [*renamed, ("waiting",)]]
        assert execute(url, states) == back
        assert in_any_order(schema_dump(url)) == in_any_order(before)


def add_plan(url: str, number: int, **values: str) -> None:
    """Insert a plan by SQL, as another release does."""
    time, key = "2026-03-14T00:05:32.000000+00:00", ulid(number)
    row = {
        **{"plan_id": key, "root_plan_id": key, "action_name": "local/x"},
        **{"created_at": time, "updated_at": time, "automation_profile": "balanced"},
        **values,
    }
    listed = ", ".join(f"'{value}'" for value in row.values())
    execute(url, f"INSERT INTO v3_plans ({', '.join(row)}) VALUES ({listed})")


def in_any_order(dump: list[Entry]) -> list[Entry]:
    """Leave out the order of constraints: one that is dropped is added again as the last."""
    return [(*each[:3], ",".join(sorted(re.split(r",\s*|\n\)", each[3])))) for each in dump]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_null_is_forbidden_in_a_column_that_is_there_and_allowed_again(engine: str, tmp_path: Path):
    names: dict[str, Any] = {"op": op}
    exec(block("# set_not_null"), names)  # what the page says is what is tested
    time = "2026-03-14T00:05:32.000000+00:00"
    with database_at(M8_002, engine, tmp_path) as url:
        before = schema_dump(url)
        for number, value in enumerate(("NULL", "'gpu'")):
            key = ulid(number)
            execute(
                url,
                "INSERT INTO v3_plans (plan_id, root_plan_id, automation_profile, action_name,"
                f" created_at, updated_at, execution_environment) VALUES ('{key}', '{key}',"
                f" 'balanced', 'local/x', '{time}', '{time}', {value})",
            )
        for step in ("upgrade", "upgrade", "downgrade"):
            with revision(url) as here, operations_of(here.get_context()):
                names[step]()
            if step == "upgrade":
                with pytest.raises(IntegrityError):
                    execute(url, "UPDATE v3_plans SET execution_environment = NULL")

        query = "SELECT execution_environment FROM v3_plans ORDER BY plan_id"
        assert execute(url, query) == [("local",), ("gpu",)]
        assert schema_dump(url) == before
