"""The chain is found wherever the package is, and an application's autogenerate leaves it alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from cleveragents_plans.persistence import Base
from cleveragents_plans.schema import chain_config, chain_location, include_object
from support.databases import ROOT
from support.revisions import HEAD

PACKAGE = ROOT / "src" / "cleveragents_plans"
#: Runs before the program: the path of the package is that of the zip or the folder.
_START = """
import sys
sys.path.insert(0, {path!r})
sys.path[:] = [p for p in sys.path if not p.endswith("/src")]
from importlib import metadata
of_name = metadata.Distribution.from_name
def without_ours(name):  # as in a bundle, which has modules only
    if name == "cleveragents-plans":
        raise metadata.PackageNotFoundError(name)
    return of_name(name)
metadata.Distribution.from_name = without_ours
import cleveragents_plans
assert cleveragents_plans.__file__.startswith({path!r}), cleveragents_plans.__file__
from cleveragents_plans.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(path: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and "COVERAGE" not in name
    }
    return subprocess.run(
        [sys.executable, "-c", _START.format(path=str(path)), *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def files() -> list[Path]:
    return [
        file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ] + [
        PACKAGE / "migrations" / file.relative_to(ROOT / "migrations")
        for file in (ROOT / "migrations").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in a zip, as zipapp and such put it."""
    path = tmp_path_factory.mktemp("zip") / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in set(files()):
            archive.write(file, Path("cleveragents_plans") / file.relative_to(PACKAGE))
    return path


@pytest.mark.slow
def test_package_in_a_zip_runs_its_chain(archive: Path, tmp_path: Path):
    upgrade = run(archive, tmp_path, "upgrade")
    current = run(archive, tmp_path, "current", "--check-heads")

    assert upgrade.returncode == 0, upgrade.stderr
    assert (current.returncode, current.stdout.strip()) == (0, f"{HEAD} (head)")
    assert [file.name for file in tmp_path.iterdir()] == ["plans.db"]


def test_copy_of_the_chain_is_removed_at_the_end(archive: Path, tmp_path: Path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        done = run(archive, folder, "upgrade")

    assert done.returncode == 0, done.stderr
    assert list(temporary.iterdir()) == []


def test_installation_without_the_chain_is_refused_in_one_line(tmp_path: Path):
    # As a frozen bundle that took the modules only.
    bundle = tmp_path / "bundle"
    shutil.copytree(
        PACKAGE, bundle / "cleveragents_plans", ignore=shutil.ignore_patterns("migrations")
    )

    done = run(bundle, tmp_path, "upgrade")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert "this installation has no migrations" in line
    assert not (tmp_path / "plans.db").exists()


@pytest.mark.parametrize("name", ["100%", "50%d of %(here)s", "%%", "blank and ünïcode"])
@pytest.mark.parametrize("program", ["alembic", "cleveragents_plans"])
def test_checkout_works_in_a_folder_of_any_name(tmp_path: Path, name: str, program: str):
    folder = tmp_path / name
    folder.mkdir()
    for part in ("alembic.ini", "migrations", "src"):
        (folder / part).symlink_to(ROOT / part)
    environment = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}

    done = subprocess.run(
        [sys.executable, "-m", program, "upgrade", "head"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (folder / "plans.db").exists()


def test_chain_is_configured_wherever_the_package_is():
    assert (chain_location() / "env.py").is_file()
    assert chain_config().get_main_option("script_location") == str(chain_location())


OURS = [*Base.metadata.tables, "v3_plans_snapshot_archive"]


@pytest.mark.parametrize("name", OURS)
def test_tables_of_the_package_are_left_alone(name: str):
    found = Table(name, MetaData(), Column("plan_id", String))

    assert not include_object(found, name, "table", True, None)
    # The application may have a model of its own of it, and then it is compared.
    assert include_object(found, name, "table", True, found)
    assert include_object(found, name, "table", False, None)


def test_version_tables_of_any_name_are_left_alone():
    table = Table("plans_version", MetaData(), Column("version_num", String(32)))
    other = Table("versions", MetaData(), Column("version_num", String(32)), Column("id", Integer))

    assert not include_object(table, table.name, "table", True, None)
    assert include_object(other, other.name, "table", True, None)


def test_parts_of_tables_are_compared():
    table = Table("jobs", MetaData(), Column("id", Integer))

    assert include_object(table, "jobs", "table", True, None)
    assert include_object(table.c.id, "id", "column", True, None)
