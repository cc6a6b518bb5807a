"""Each rule of who may import whom is seen to fail when it is broken, and there is no circle."""

from __future__ import annotations

import graphlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

from support.databases import ROOT

RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def forbidden_by(rule: dict) -> set[tuple[str, str]]:
    """List (importer, imported) for every import that *rule* forbids between two of its names."""
    if rule["type"] == "forbidden":
        return set(itertools.product(rule["source_modules"], rule["forbidden_modules"]))
    (container,) = rule["containers"]
    levels = [
        [f"{container}.{name.strip()}" for name in re.split(r"[|:]", level)]
        for level in rule["layers"]
    ]
    # A lower one imports a higher one, or one of the two that do not know each other.
    found = {
        (low, high)
        for upper, lower in itertools.combinations(levels, 2)
        for high, low in itertools.product(upper, lower)
    }
    for level, names in zip(rule["layers"], levels, strict=True):
        if "|" in level:
            found |= set(itertools.permutations(names, 2))
    return found


def source_of(module: str, folder: Path) -> Path:
    file = folder / "src" / Path(*module.split("."))
    return file / "__init__.py" if file.is_dir() else file.with_suffix(".py")


@pytest.fixture(scope="module")
def broken_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which every rule is broken in every way."""
    folder = tmp_path_factory.mktemp("checkout")
    package = "src/cleveragents_plans"
    skipped = shutil.ignore_patterns("__pycache__", "migrations")
    shutil.copytree(ROOT / package, folder / package, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for importer, imported in set().union(*map(forbidden_by, RULES["contracts"])):
        with source_of(importer, folder).open("a") as file:
            file.write(f"\nimport {imported}\n")
    (folder / package / "stray.py").write_text('"""In no layer."""\n')
    (folder / package / "evolution" / "stray.py").write_text('"""In no layer."""\n')
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "NO_COLOR": "1", "COLUMNS": "500"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def reported(broken_checkout: Path) -> str:
    """What lint-imports says of it."""
    done = lint(broken_checkout)
    assert done.returncode != 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("rule", RULES["contracts"], ids=lambda rule: rule["name"])
def test_rule_fails_for_each_import_that_it_forbids(rule: dict, reported: str):
    assert f"{rule['name']} BROKEN" in reported
    ((_, said),) = (
        part for part in sections(reported).items() if part[0].startswith(rule["name"][:60])
    )

    for importer, imported in forbidden_by(rule):
        assert re.search(rf"{re.escape(importer)} -> {re.escape(imported)} \(l\.", said), said


def sections(report: str) -> dict[str, str]:
    """Split what is said of broken rules by their names."""
    parts = re.split(r"^(.+)\n-{3,}\n", report.split("Broken contracts", 1)[1], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("module", ["stray", "evolution.stray"])
def test_module_in_no_layer_is_reported(module: str, reported: str):
    assert f"cleveragents_plans.{module}" in reported


def sorted_by_imports(graph: grimp.ImportGraph) -> list[str]:
    """Sort the modules so that each comes after what it imports."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    return [*graphlib.TopologicalSorter(imports).static_order()]


def test_modules_import_each_other_in_no_circle():
    graph = grimp.build_graph("cleveragents_plans", cache_dir=None)

    assert len(sorted_by_imports(graph)) > 50

    graph.add_import(
        importer="cleveragents_plans.domain.enums", imported="cleveragents_plans.domain.plan"
    )
    with pytest.raises(graphlib.CycleError, match=r"domain\.enums"):
        sorted_by_imports(graph)
