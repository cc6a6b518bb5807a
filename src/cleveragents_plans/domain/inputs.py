"""What a plan can be edited with, for type checkers and for readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from cleveragents_plans.domain.enums import EnvironmentPriority
from cleveragents_plans.domain.types import Invariant, ProjectLink


class EditableFields(TypedDict, total=False):
    """
    The fields that `Plan.edit` takes, in the short forms of `Plan.create`.

    About the work: description, definition_of_done, tags, project_links, arguments, invariants,
    reusable, read_only, execution_environment, execution_env_priority.
    Actors: strategy_actor, execution_actor, estimation_actor, invariant_actor.
    What became of it: changeset_id, decision_root_id, sandbox_refs, validation_summary,
    error_message, error_details, last_completed_step, last_checkpoint_id.
    What it took: cost_actual_usd, token_count_input, token_count_output.
    """

    description: str
    definition_of_done: str | None
    strategy_actor: str | None
    execution_actor: str | None
    estimation_actor: str | None
    invariant_actor: str | None
    changeset_id: str | None
    decision_root_id: str | None
    sandbox_refs: Iterable[str]
    validation_summary: Mapping[str, Any] | None
    error_message: str | None
    error_details: Mapping[str, Any] | None
    cost_actual_usd: float | None
    token_count_input: int | None
    token_count_output: int | None
    last_completed_step: int
    last_checkpoint_id: str | None
    reusable: bool
    read_only: bool
    tags: Iterable[str]
    execution_environment: str | None
    execution_env_priority: EnvironmentPriority | None
    project_links: Iterable[ProjectLink | str]
    arguments: Mapping[str, Any]
    invariants: Iterable[Invariant | str]
