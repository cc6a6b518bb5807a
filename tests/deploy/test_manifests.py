"""
The manifests of deploy/: valid for their schemas, and right about the exit statuses.

No cluster and no init process runs here: the schemas are those of Kubernetes, which the package
kubernetes-validate carries, and units are read by systemd itself (`systemd-analyze verify`).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cleveragents_plans import __version__
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support.databases import ROOT
from support.debian import program

FOLDER = ROOT / "deploy"
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))
UNITS = sorted((FOLDER / "systemd").glob("*.service"))
JOBS = [file for file in MANIFESTS if file.stem.endswith("-job")]

#: A person must act: the same command would be refused again.
FINAL = {ExitStatus.REFUSED, ExitStatus.USAGE}
#: What `upgrade` and `downgrade` end with otherwise, and continue from when they are run again.
AGAIN = {ExitStatus.UNREACHABLE, ExitStatus.AGAIN, ExitStatus.INTERRUPTED} | {
    128 + number for number in (signal.SIGHUP, signal.SIGTERM)
}
#: What other commands say of a database; no run ends with it.
OF_OTHER_COMMANDS = {ExitStatus.FOUND, ExitStatus.UNFINISHED}
#: The one in which podFailurePolicy became stable, and the newest.
VERSIONS = ["1.31", kubernetes_validate.latest_version()]


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def pods(file: Path) -> Iterator[dict[str, Any]]:
    for each in documents(file):
        if "template" in each["spec"]:
            yield each["spec"]["template"]["spec"]


def containers(file: Path) -> list[dict[str, Any]]:
    return [
        each for pod in pods(file) for each in [*pod.get("initContainers", []), *pod["containers"]]
    ]


def unit(file: Path) -> RawConfigParser:
    found = RawConfigParser(strict=True, delimiters="=", comment_prefixes="#")
    found.optionxform = str  # type: ignore[assignment,method-assign]  # systemd tells case apart
    found.read_string(file.read_text())
    return found


def of_ours(words: list[str]) -> list[str] | None:
    """Give the arguments, if *words* start the program of this package."""
    return words[1:] if Path(words[0]).name == "cleveragents-plans" else None


def test_statuses_of_a_run_are_either_final_or_tried_again():
    assert {*ExitStatus} <= FINAL | AGAIN | OF_OTHER_COMMANDS | {ExitStatus.DONE}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_manifest_is_valid_for_the_schemas_of_kubernetes(file: Path, version: str):
    for each in documents(file):
        kubernetes_validate.validate(each, version, strict=True)


def test_images_are_those_of_the_version_of_the_package():
    release = re.match(r"[\d.]+\d", __version__)
    assert release is not None
    images = {each["image"] for file in MANIFESTS for each in containers(file)}

    assert images == {f"registry.example/plans:{release[0]}"}


def test_schemas_of_kubernetes_refuse_a_misspelt_field():
    [job] = documents(FOLDER / "kubernetes" / "upgrade-job.yaml")
    job["spec"]["podFailurePolicies"] = job["spec"].pop("podFailurePolicy")

    with pytest.raises(kubernetes_validate.ValidationError, match="podFailurePolicies"):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_job_fails_at_once_on_what_a_person_must_mend_and_counts_the_rest(file: Path):
    [job] = documents(file)
    rules = job["spec"]["podFailurePolicy"]["rules"]
    [container] = containers(file)

    # The first rule that matches decides: an evicted pod is no failure, whatever its status.
    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob", "Count"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert set(rules[1]["onExitCodes"]["values"]) == FINAL
    assert set(rules[2]["onExitCodes"]["values"]) == AGAIN
    for rule in rules[1:]:
        assert rule["onExitCodes"]["containerName"] == container["name"]
        assert rule["onExitCodes"]["operator"] == "In"


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_job_has_what_its_failure_policy_demands(file: Path):
    """The API server checks these beyond the schema: validation of batch/v1 in Kubernetes."""
    [job] = documents(file)
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert "activeDeadlineSeconds" not in job["spec"]


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_containers_run_with_the_least_rights(file: Path):
    for pod in pods(file):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
    for each in containers(file):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_passwords_come_from_a_secret_and_no_shell_hides_a_signal(file: Path):
    found = 0
    for each in containers(file):
        [url] = [variable for variable in each["env"] if variable["name"] == "DATABASE_URL"]
        if "value" in url:
            assert url["value"].startswith("sqlite:")
        else:
            assert url["valueFrom"] == {"secretKeyRef": {"name": "plans-database", "key": "url"}}
        found += of_ours(each["command"]) is not None
        assert Path(each["command"][0]).name not in ("sh", "bash")
    assert found


def test_commands_of_manifests_and_units_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """All of them, on one file: upgraded first, downgraded last."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'plans.db'}")
    commands = [each["command"] for file in MANIFESTS for each in containers(file)]
    commands += [shlex.split(unit(file)["Service"]["ExecStart"]) for file in UNITS]
    ours = {tuple(words) for each in commands if (words := of_ours(each))}
    order = ["upgrade", "status", "downgrade"]
    assert {words[0] for words in ours} == set(order)

    for words in sorted(ours, key=lambda words: (order.index(words[0]), words[1:])):
        assert main(words) == ExitStatus.DONE, capsys.readouterr().err


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_unit_is_what_systemd_reads(file: Path, tmp_path: Path):
    """The program stands elsewhere here; no other line is changed."""
    at_home = "/opt/cleveragents-plans/bin"
    assert at_home in file.read_text()
    here = tmp_path / file.name
    here.write_text(file.read_text().replace(at_home, str(Path(sys.executable).parent)))

    done = subprocess.run(
        [program("systemd"), "verify", "--man=no", here],
        env={**os.environ, "SYSTEMD_COLORS": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    # What it says of other units of the machine is not about ours.
    assert [line for line in done.stderr.splitlines() if file.stem in line] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_unit_is_started_again_except_after_what_a_person_must_mend(file: Path):
    service = unit(file)["Service"]
    assert service["Type"] == "oneshot"
    assert service["Restart"] == "on-failure"
    assert set(map(int, service["RestartPreventExitStatus"].split())) == FINAL
    # A run that was stopped half way is no success: the application would start.
    assert "SuccessExitStatus" not in service
    assert service["TimeoutStartSec"] == "infinity"


def test_comments_of_manifests_name_files_that_exist():
    for file in [*MANIFESTS, *UNITS]:
        for name in re.findall(r"(?:docs/)?[\w-]+\.(?:md|yaml)\b", file.read_text()):
            assert (ROOT / name).exists() or (file.parent / name).exists(), f"{file.name}: {name}"
