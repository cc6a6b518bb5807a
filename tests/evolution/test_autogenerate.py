"""
``alembic revision --autogenerate`` writes revisions that can be applied as they are.

On a copy of the checkout, the models are changed and Alembic is run as a developer runs it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.checkout import Checkout
from support.databases import ENGINES, database_at
from support.revisions import HEAD

# Each of these is found by itself; the second column is dropped again below.
COLUMNS = """\
    luck: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    hint: Mapped[str | None] = mapped_column(String(40))
    twin_id: Mapped[str | None] = mapped_column(
        String(26), ForeignKey("v3_plans.plan_id", ondelete="CASCADE"), index=True
    )
    flagged: Mapped[bool] = mapped_column(FoundBoolean, server_default=false())
    ratio: Mapped[float | None] = mapped_column(REAL_NUMBER)
"""
CHECK = '        CheckConstraint("luck > -10 OR flagged", name="luck"),\n'
BEFORE_COLUMNS = "    attempt: Mapped[int]"
BEFORE_CHECK = '        CheckConstraint("attempt'
SAFE = [
    (BEFORE_COLUMNS, COLUMNS + BEFORE_COLUMNS),
    (BEFORE_CHECK, CHECK + BEFORE_CHECK),
]
DROPPED = [("    hint: Mapped[str | None] = mapped_column(String(40))\n", "")]
UNSAFE = {
    "changed type": (
        [("definition_of_done: Mapped[str | None] = mapped_column(Text)",
          "definition_of_done: Mapped[str | None] = mapped_column(String(99))")],
        "the type of v3_plans.definition_of_done changes",
    ),
    "renamed column": (
        [("    sandbox_refs_json: Mapped", "    sandboxes_json: Mapped")],
        "v3_plans loses sandbox_refs_json and gets sandboxes_json; if a column was renamed",
    ),
    "NOT NULL without a default": (
        [(BEFORE_COLUMNS, "    new: Mapped[str] = mapped_column(Text)\n" + BEFORE_COLUMNS)],
        "v3_plans.new is NOT NULL without a server_default",
    ),
    "UNIQUE": (
        [("changeset_id: Mapped[str | None] = mapped_column(String(26))",
          "changeset_id: Mapped[str | None] = mapped_column(String(26), unique=True)")],
        "v3_plans: CreateUniqueConstraint was found, for which there is no operation",
    ),
}  # fmt: skip


@pytest.fixture(params=["sqlite", ENGINES[-1] if len(ENGINES) > 1 else "sqlite"])
def checkout(request: pytest.FixtureRequest, tmp_path: Path):
    with database_at("head", request.param, tmp_path) as url:
        yield Checkout(tmp_path / "checkout", url, engines=request.param)


@pytest.fixture
def sqlite_checkout(tmp_path: Path):
    with database_at("head", "sqlite", tmp_path) as url:
        yield Checkout(tmp_path / "checkout", url, engines="sqlite")


@pytest.mark.fault
def test_what_can_be_made_safe_is_written_and_passes_the_tests_of_the_chain(checkout: Checkout):
    checkout.change_models(*SAFE)
    told = checkout.alembic("revision", "--autogenerate", "-m", "Give plans luck, and the")
    checkout.alembic("upgrade", "head")
    checkout.change_models(*DROPPED)
    told += checkout.alembic(
        "revision", "--autogenerate", "--rev-id", "z9_001_no_hint", "-m", "Drop hints"
    )
    checkout.alembic("upgrade", "head")

    assert "not written" not in told
    added, dropped = checkout.revisions()[-2:]
    assert dropped.name == "z9_001_no_hint.py"
    text = added.read_text()
    for operation in (
        'create_index(op, "ix_v3_plans_twin_id", "v3_plans", ["twin_id"])',
        'add_column(op, "v3_plans", sa.Column("hint", sa.String(length=40), nullable=True))',
        'add_check(op, "v3_plans", "ck_v3_plans_luck", "luck > -10 OR flagged")',
        "add_foreign_key(",
        "server_default=sa.false()",
        'drop_constraint(op, "v3_plans", "fk_v3_plans_twin_id")',
        "SHARE ROW EXCLUSIVE on v3_plans",
    ):
        assert operation in text
    assert "op.create_index" not in text
    assert "op.add_column" not in text
    tools = [["ruff", "check"], ["ruff", "format", "--check"]]
    if "sqlite" in checkout.environment["DATABASE_URL"]:  # what is written is the same
        tools.append(["mypy"])
    for arguments in tools:
        checkout.run("-m", *arguments, "migrations/versions")
    checkout.run(
        "-m",
        *("pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not fault and not older"),
        *("-k", "not known_order", "tests/chain/test_chain.py"),
    )


@pytest.mark.slow
def test_a_revision_is_named_after_its_message_in_the_series_of_the_one_before(
    checkout: Checkout,
):
    checkout.change_models(*SAFE)
    checkout.alembic("revision", "--autogenerate", "-m", "Give every plan a priority")

    series, number, _ = HEAD.split("_", 2)
    name = f"{series}_{int(number) + 1:03}_give_every_plan"
    assert checkout.revisions()[-1].stem == name
    assert len(name) <= 32
    again = checkout.run("-m", "alembic", "revision", "-m", "", check=False)
    assert "the revision has no name" in again.stdout


def test_no_revision_is_written_when_the_models_describe_the_database(checkout: Checkout):
    before = checkout.revisions()

    told = checkout.alembic("revision", "--autogenerate", "-m", "Nothing")

    assert "no revision was written" in told
    assert checkout.revisions() == before


@pytest.mark.slow
@pytest.mark.parametrize(("edits", "message"), UNSAFE.values(), ids=UNSAFE)
def test_what_cannot_be_made_safe_is_said_and_stops_the_revision(
    sqlite_checkout: Checkout, edits: list[tuple[str, str]], message: str
):
    checkout = sqlite_checkout
    checkout.change_models(*edits)

    told = checkout.alembic("revision", "--autogenerate", "-m", "Something unsafe")

    assert f"not written: {message}" in told
    text = checkout.revisions()[-1].read_text()
    assert message in " ".join(text.replace("\n    # ", " ").split())
    upgraded = checkout.run("-m", "alembic", "upgrade", "head", check=False)
    assert upgraded.returncode != 0
    assert "NotImplementedError: write this step" in upgraded.stderr


def test_a_table_without_a_model_is_said(sqlite_checkout: Checkout, tmp_path: Path):
    checkout = sqlite_checkout
    (last,) = checkout.revisions()[-1:]
    last.write_text(
        last.read_text()
        + '\n\ndef _never() -> None:\n    op.create_table(\n        "old_things",\n    )\n'
    )
    with closing(sqlite3.connect(tmp_path / "plans.db")) as connection:
        connection.execute("CREATE TABLE old_things (id)")

    told = checkout.alembic("revision", "--autogenerate", "-m", "Forget a table")

    assert "not written: the table old_things has no model any more" in told


def test_a_revision_is_not_formatted_without_ruff_and_that_is_said(sqlite_checkout: Checkout):
    checkout = sqlite_checkout
    checkout.change_models(*SAFE)
    hidden = "import sys; sys.modules['ruff'] = None; from alembic.config import main; main()"

    told = checkout.run("-c", hidden, "revision", "--autogenerate", "-m", "Without ruff").stderr

    assert "ruff is not installed, and " in told
    assert "pip install ruff" in told
    assert checkout.revisions()[-1].stem.endswith("without_ruff")
