"""A test that needs a Debian package fails on CI without it, and is skipped elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import debian
from support.databases import ROOT


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setitem(debian.PROGRAMS, "some-package", tmp_path / "program")
    return "some-package"


def test_missing_package_fails_a_test_on_ci(absent: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="apt-get install some-package"):
        debian.program(absent)


def test_missing_package_skips_a_test_elsewhere(absent: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="apt-get install some-package"):
        debian.program(absent)


def test_installed_package_gives_its_program(absent: str):
    debian.PROGRAMS[absent].touch()

    assert debian.program(absent) == debian.PROGRAMS[absent]


def test_list_of_missing_packages_needs_no_package_of_python(absent: str):
    listed = subprocess.run(
        [sys.executable, "-S", ROOT / "tests" / "support" / "debian.py"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""},
    ).stdout.split()  # fmt: skip

    assert listed == [package for package in debian.missing() if package != absent]


def test_ci_installs_what_the_list_names():
    assert "tests/support/debian.py" in (ROOT / ".ci" / "run").read_text()
