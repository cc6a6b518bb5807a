"""The worked example of docs/writing-a-revision.md does what the page says, as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cleveragents_plans import evolution
from support.checkout import Checkout
from support.databases import ROOT
from support.revisions import HEAD

PAGE = (ROOT / "docs" / "writing-a-revision.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def block(file: str) -> str:
    """Give the block of Python whose first line names *file*, without that line."""
    (found,) = [text for text in BLOCKS if file in text.split("\n")[0]]
    return found.split("\n", 1)[1]


def test_every_operation_that_is_named_can_be_imported():
    table = PAGE[PAGE.index("## Which operation") : PAGE.index("## What an operation refuses")]
    named = set(re.findall(r"`(?!op\.)([a-z]\w*)\(", table)) - {"check_upgrade", "check_downgrade"}

    assert len(named) > 15
    assert named <= set(evolution.__all__)
    assert {
        name for name in evolution.__all__ if name.startswith(("add_", "create_", "drop_", "set_"))
    } <= set(re.findall(r"\w+", PAGE)) | {"drop_if_empty", "drop_not_null_sql", "drop_trigger_sql"}


@pytest.mark.slow
def test_worked_example_runs_on_each_engine_and_passes_the_tests_of_the_chain(tmp_path: Path):
    checkout = Checkout(tmp_path / "checkout", f"sqlite:///{tmp_path / 'plans.db'}")
    column, deleted = block("persistence/models.py").split("# and delete this line:\n")
    checkout.change_models(
        ("    attempt: Mapped[int]", column + "    attempt: Mapped[int]"), (deleted, "")
    )
    command = re.search(r"\.venv/bin/(alembic revision --autogenerate .*)", PAGE)
    assert command is not None
    checkout.alembic(*shlex.split(command[1])[1:])
    wanted = block("m9_001_plan_priority.py").replace("m8_002_index_plans", HEAD)
    (written,) = [file for file in checkout.revisions() if file.stem.startswith("m9_001")]
    # What the page adds by hand are lines; what autogenerate wrote stays.
    generated = written.read_text()
    for call in ("add_column(", "create_index(", "drop_index(", "drop_column("):
        line = next(line for line in generated.splitlines() if line.strip().startswith(call))
        assert line in wanted
    written.write_text(wanted)
    former = "_".join(HEAD.split("_")[:2]).upper()
    tests = block("tests/chain/test_m9_001.py").replace("M8_002", former)
    (checkout.folder / "tests/chain/test_m9_001.py").write_text(tests)

    for arguments in (["ruff", "check"], ["ruff", "format", "--check"]):
        checkout.run("-m", *arguments, "migrations", "tests/chain/test_m9_001.py")
    checkout.run(
        *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "not known_order"),
        *("tests/chain/test_m9_001.py", "tests/chain/test_chain.py"),
    )
