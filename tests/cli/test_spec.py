"""``spec``: each difference from the specification has an erratum, or is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.schema.specification import errata
from support.broken import break_database
from support.databases import ONE_OF_EACH, database_at
from support.json_output import validated
from support.revisions import HEAD, M4_003


def test_models_are_looked_at_where_no_database_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    assert main(["spec", "--json"]) == ExitStatus.DONE
    report = validated(capfd.readouterr().out)
    assert main(["spec"]) == ExitStatus.DONE
    out = capfd.readouterr().out

    assert report["database"] is None
    assert len(report["differences"]) == len(errata())
    (state,) = (each for each in report["columns"] if each["specified_name"] == "state")
    assert (state["name"], state["specified"]) == (
        "processing_state",
        "TEXT NOT NULL DEFAULT 'queued'",
    )
    assert "name state: state -> processing_state\n  A plan has two states" in out
    assert out.endswith(f"{len(errata())} differences, none unexplained\n")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_database_at_the_head_differs_by_the_errata_only(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", engine, tmp_path) as url:
        assert main(["spec", "--json", "--url", url]) == ExitStatus.DONE
        report = validated(capfd.readouterr().out)
        break_database(url, ["ALTER TABLE v3_plans ADD COLUMN surplus INTEGER"])
        assert main(["spec", "--json", "--url", url]) == ExitStatus.FOUND
        odd = validated(capfd.readouterr().out)

    assert report["database"]["revisions"] == [HEAD]
    assert len(report["differences"]) == len(errata())
    unexplained = [each["of"] for each in odd["differences"] if each["why"] is None]
    assert unexplained == ["surplus"]


def test_older_revision_shows_what_the_next_ones_close(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        assert main(["spec", "--url", url]) == ExitStatus.FOUND

    out = capfd.readouterr().out
    assert "column effective_profile_snapshot: present -> absent\n  on no list of errata" in out
    assert "3 unexplained" in out
