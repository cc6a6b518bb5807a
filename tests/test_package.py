"""What a release would upload: whole, described, reproducible, and passing its own tests."""

from __future__ import annotations

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from support.databases import ROOT
from support.revisions import CHAIN
from support.site import require

# What an environment has that was made for this package, and what was left by others.
NOT_COPIED = shutil.ignore_patterns(".*_cache", ".venv*", ".git", "build", "dist", "__pycache__")
#: Licences that an application can live with, whatever its own is.
KNOWN = {"MIT", "BSD", "PSF", "LGPL"}


def built(checkout: Path, folder: Path) -> Path:
    """Build an archive, and a wheel from that archive, as an installer would."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout],
        check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("package") / "dist")


@pytest.fixture
def archive(dist: Path, tmp_path: Path) -> Path:
    """The archive, unpacked."""
    (packed,) = dist.glob("*.tar.gz")
    with tarfile.open(packed) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / packed.name.removesuffix(".tar.gz")


@pytest.mark.slow
def test_two_builds_in_two_folders_are_equal(dist: Path, tmp_path: Path):
    checkout = tmp_path / "elsewhere"
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=NOT_COPIED)

    again = built(checkout, tmp_path / "dist")

    def hashes(folder: Path) -> dict[str, str]:
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}

    assert len(hashes(dist)) == 2
    assert hashes(again) == hashes(dist)


@pytest.mark.slow
def test_wheel_from_the_archive_has_every_revision(dist: Path):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())

    folder = "cleveragents_plans/migrations"
    assert {f"{folder}/env.py", *(f"{folder}/versions/{each}.py" for each in CHAIN)} <= names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


@pytest.mark.slow
def test_description_can_be_shown_by_an_index(dist: Path):
    require("twine")

    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_metadata_says_what_the_package_is(dist: Path):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        metadata = BytesParser().parsebytes(file.read(name))

    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert len(metadata["Keywords"].split(",")) >= 5
    assert len(metadata.get_all("Classifier")) >= 10
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# cleveragents-plans")


@pytest.mark.slow
def test_archive_passes_its_own_tests(archive: Path):
    kept = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/domain/test_lifecycle.py", "tests/persistence/test_mapping.py",
         "tests/schema/test_creation.py", "tests/docs/test_readme.py"],
        cwd=archive, capture_output=True, text=True, check=False,
        env={**kept, "PYTHONPATH": str(archive / "src"), "TEST_ENGINES": "sqlite"},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_licences_of_what_is_installed_are_known():
    found = runpy.run_path(str(ROOT / "docs" / "extension" / "licences.py"))["licences"]()

    assert {"alembic", "click", "mako", "psycopg", "pyyaml", "sqlalchemy"} <= {p for p, *_ in found}
    assert [each for each in found if not any(name in each.licence for name in KNOWN)] == []
