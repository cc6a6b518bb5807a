"""What a caller writes is checked by a type checker as far as one can."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

USE = """
from collections.abc import AsyncIterator
from cleveragents_plans import AsyncPlanRepository, Plan, PlanRepository, PlanView
from cleveragents_plans import LifecyclePlanModel, Phase, ProcessingState
from sqlalchemy import select

def use(plan: Plan, plans: PlanRepository) -> None:
    edited: Plan = plan.edit(description="x", project_links=["a"], invariants=["b"], tags={"c"})
    created: Plan = Plan.create("x", profile="ci", project_links=["a"])
    steps: tuple[str, ...] = PlanView.of(edited).allowed_steps
    select(LifecyclePlanModel).options(*LifecyclePlanModel.with_children())
    for each in plans.list(phase="action"):
        each.begin()
    phases: dict[Phase, int] = plans.count_by("phase", namespace="local")
    states: dict[ProcessingState, int] = plans.count_by("processing_state")
    authors: dict[str | None, int] = plans.count_by("created_by")
    both: dict[tuple[Phase, ProcessingState], int] = plans.count_by("phase", "processing_state")
    two: dict[tuple[str | None, str | None], int] = plans.count_by("phase", "action")
    plans.count_by("colour")  # wrong
    texts: dict[str | None, int] = plans.count_by("phase")  # wrong
    plan.fail(ValueError())
    plan.edit(colour="red")  # wrong
    plan.edit(description=5)  # wrong
    plan.edit(phase="apply")  # wrong
    plan.spawn(nickname="x")  # wrong
    Plan.create("x", tags=5)  # wrong
    plans.list(colour="red")  # wrong

async def use_async(plans: AsyncPlanRepository) -> None:
    plan: Plan = await plans.get("x")
    stored: Plan = await plans.save(plan, unchecked=True)
    await plans.save("x")  # wrong
"""


@pytest.mark.slow
def test_an_unknown_field_and_another_type_are_errors_for_a_type_checker(tmp_path: Path):
    file = tmp_path / "use.py"
    file.write_text(USE)

    said, errors, _ = api.run(["--strict", "--config-file=", str(file)])

    assert not errors, errors
    found = {int(line) for line in re.findall(r"use\.py:(\d+): error:", said)}
    wrong = {number for number, line in enumerate(USE.splitlines(), 1) if "# wrong" in line}
    assert found == wrong, said
