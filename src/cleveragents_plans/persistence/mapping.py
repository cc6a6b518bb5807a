"""
The one mapping between plans and rows: one function per direction.

Rows are plain here: dicts on the way in, anything with the columns as attributes on the
way out. So the ORM classes and the repository's bulk paths share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from cleveragents_plans.domain import Plan, PlanIdentity
from cleveragents_plans.domain.errors import InvalidType
from cleveragents_plans.persistence.columns import (
    Unreadable,
    check_positions,
    later_than,
    object_json,
    profile_text,
    read_arguments,
    read_invariant,
    read_link,
    read_object,
    read_profile,
    read_texts,
    read_time,
    read_word,
    texts_json,
    time_text,
)
from cleveragents_plans.persistence.errors import CorruptPlanRow, NoLaterVersion

Row = dict[str, Any]

# Not Plan(**fields), which copies them into keyword arguments.
_validated: Callable[[dict[str, Any]], Plan] = TypeAdapter(Plan).validator.validate_python

# The same as `.value`, which is a function in Python.
_word = str.__str__

_CHILD_TABLES = ("plan_projects", "plan_arguments", "plan_invariants")


class ChildRows(NamedTuple):
    """The rows of the child tables, plan by plan."""

    projects: list[Row]
    arguments: list[Row]
    invariants: list[Row]


def plan_row(plan: Plan) -> Row:
    """
    Lay *plan* out as its row in ``v3_plans``, by column.

    Raises:
        InvalidType: It is of a class with fields that no column keeps.
    """
    if type(plan) is not Plan:
        _refuse_other_fields(type(plan))
    identity, created_at = plan.identity, time_text(plan.created_at)
    # A new plan has one time twice, and writing it takes as long as ten other columns. Python
    # calls the two times of an hour that comes twice equal.
    unchanged = plan.updated_at == plan.created_at and plan.updated_at.fold == plan.created_at.fold
    return {
        "plan_id": identity.plan_id,
        "parent_plan_id": identity.parent_plan_id,
        # A plan that was built without validation may lack it.
        "root_plan_id": identity.root_plan_id or identity.plan_id,
        "attempt": identity.attempt,
        "namespaced_name": plan.namespaced_name,
        "namespace": plan.namespace,
        "action_name": plan.action_name,
        "description": plan.description,
        "definition_of_done": plan.definition_of_done,
        "phase": _word(plan.phase),
        "processing_state": _word(plan.processing_state),
        "strategy_actor": plan.strategy_actor,
        "execution_actor": plan.execution_actor,
        "estimation_actor": plan.estimation_actor,
        "invariant_actor": plan.invariant_actor,
        "automation_profile": profile_text(
            plan.automation_profile.profile_name, plan.automation_profile.provenance
        ),
        "changeset_id": plan.changeset_id,
        "decision_root_id": plan.decision_root_id,
        "sandbox_refs_json": texts_json(plan.sandbox_refs),
        "validation_summary_json": object_json(plan.validation_summary),
        "error_message": plan.error_message,
        "error_details_json": object_json(plan.error_details),
        "cost_actual_usd": plan.cost_actual_usd,
        "token_count_input": plan.token_count_input,
        "token_count_output": plan.token_count_output,
        "reversion_count": plan.reversion_count,
        "last_completed_step": plan.last_completed_step,
        "last_checkpoint_id": plan.last_checkpoint_id,
        "reusable": plan.reusable,
        "read_only": plan.read_only,
        "tags_json": texts_json(plan.tags),
        "created_by": plan.created_by,
        "created_at": created_at,
        "updated_at": created_at if unchanged else time_text(plan.updated_at),
        "completed_at": plan.completed_at and time_text(plan.completed_at),
        "execution_environment": plan.execution_environment,
        "execution_env_priority": plan.execution_env_priority
        and _word(plan.execution_env_priority),
        "effective_profile_snapshot": plan.effective_profile_snapshot,
    }


def _refuse_other_fields(kind: type[Plan]) -> None:
    others = [
        name
        for name, field in kind.model_fields.items()
        if name not in Plan.model_fields and not field.exclude
    ]
    if others:
        found = f"a {kind.__name__}, which has {', '.join(others)} besides, and no column for it"
        raise InvalidType("plan", found, "a Plan, or Field(exclude=True) for what is not stored")


def child_rows(*plans: Plan) -> ChildRows:
    """Lay out what *plans* keep in their child tables, by column."""
    return ChildRows(
        projects=[
            {
                "plan_id": plan.identity.plan_id,
                "position": position,
                "project_name": link.project_name,
                "alias": link.alias,
                "read_only": link.read_only,
            }
            for plan in plans
            for position, link in enumerate(plan.project_links)
        ],
        arguments=[
            {
                "plan_id": plan.identity.plan_id,
                "position": position,
                "name": name,
                "value_json": text,
            }
            for plan in plans
            for position, (name, text) in enumerate(plan.arguments.texts())
        ],
        invariants=[
            {
                "plan_id": plan.identity.plan_id,
                "position": position,
                "text": invariant.text,
                "source": _word(invariant.source),
            }
            for plan in plans
            for position, invariant in enumerate(plan.invariants)
        ],
    )


def read_plan(
    row: Any, projects: Sequence[Any], arguments: Sequence[Any], invariants: Sequence[Any]
) -> Plan:
    """
    Read a row of ``v3_plans`` and its child rows, in the order of their positions.

    Raises:
        CorruptPlanRow: A column holds what no plan can hold.
    """
    try:
        for table, below in zip(_CHILD_TABLES, (projects, arguments, invariants), strict=True):
            check_positions(table, below)
        plan = _validated(
            {
                "identity": {
                    "plan_id": row.plan_id,
                    "parent_plan_id": row.parent_plan_id,
                    "root_plan_id": row.root_plan_id,
                    "attempt": row.attempt,
                },
                "namespaced_name": row.namespaced_name,
                "namespace": row.namespace,
                "action_name": row.action_name,
                "description": row.description,
                "definition_of_done": row.definition_of_done,
                "phase": read_word("v3_plans.phase", row.phase),
                "processing_state": read_word("v3_plans.processing_state", row.processing_state),
                "strategy_actor": row.strategy_actor,
                "execution_actor": row.execution_actor,
                "estimation_actor": row.estimation_actor,
                "invariant_actor": row.invariant_actor,
                "automation_profile": read_profile(row.automation_profile),
                "effective_profile_snapshot": row.effective_profile_snapshot,
                "changeset_id": row.changeset_id,
                "decision_root_id": row.decision_root_id,
                "sandbox_refs": read_texts("sandbox_refs_json", row.sandbox_refs_json),
                "validation_summary": read_object(
                    "validation_summary_json", row.validation_summary_json
                ),
                "error_message": row.error_message,
                "error_details": read_object("error_details_json", row.error_details_json),
                "cost_actual_usd": row.cost_actual_usd,
                "token_count_input": row.token_count_input,
                "token_count_output": row.token_count_output,
                "reversion_count": row.reversion_count,
                "last_completed_step": row.last_completed_step,
                "last_checkpoint_id": row.last_checkpoint_id,
                "reusable": row.reusable,
                "read_only": row.read_only,
                "tags": read_texts("tags_json", row.tags_json),
                "created_by": row.created_by,
                "execution_environment": row.execution_environment,
                "execution_env_priority": read_word(
                    "v3_plans.execution_env_priority", row.execution_env_priority
                ),
                "created_at": read_time("created_at", row.created_at),
                "updated_at": read_time("updated_at", row.updated_at),
                "completed_at": None
                if row.completed_at is None
                else read_time("completed_at", row.completed_at),
                "project_links": [
                    read_link(link.project_name, link.alias, link.read_only) for link in projects
                ],
                "arguments": read_arguments(arguments),
                "invariants": [
                    read_invariant(invariant.text, invariant.source) for invariant in invariants
                ],
            }
        )
    except Unreadable as unreadable:
        raise CorruptPlanRow(row.plan_id, *unreadable.args) from unreadable.__cause__
    except ValidationError as error:
        raise CorruptPlanRow(row.plan_id, *_explained(error)) from error
    place = plan.identity
    if (place.plan_id, place.root_plan_id) != (row.plan_id, row.root_plan_id) or (
        place.parent_plan_id != row.parent_plan_id
    ):
        raise CorruptPlanRow(row.plan_id, *_other_id(row, place))
    return plan


def next_version(plan_id: str, updated_at: str) -> datetime:
    """
    Give the ``updated_at`` of a write to the plan that has *updated_at* in its row.

    Raises:
        CorruptPlanRow: What is there is no time.
        NoLaterVersion: It is the last time that there is.
    """
    try:
        return later_than(read_time("updated_at", updated_at))
    except Unreadable as unreadable:
        raise CorruptPlanRow(plan_id, *unreadable.args) from None
    except OverflowError:
        raise NoLaterVersion(plan_id, updated_at) from None


def _other_id(row: Any, place: PlanIdentity) -> tuple[str, Any, str]:
    # The domain takes lower case, and a plan with neither parent nor root for its own root.
    for column in ("plan_id", "parent_plan_id"):
        found = getattr(row, column)
        if found != getattr(place, column):
            break
    else:
        column, found = "root_plan_id", row.root_plan_id
    expected = "a ULID should be in upper case" if found else "expected a ULID"
    return f"v3_plans.{column}", found, expected


#: Where the domain's fields are kept, as far as their names differ.
_COLUMN_OF = {
    "tags": "v3_plans.tags_json",
    "sandbox_refs": "v3_plans.sandbox_refs_json",
    "project_links": "plan_projects",
}


def _explained(error: ValidationError) -> tuple[str, Any, str]:
    first = error.errors(include_url=False, include_context=False)[0]
    field, *below = (str(part) for part in first["loc"] if isinstance(part, str))
    if field == "identity":
        field, *below = below
    column = _COLUMN_OF.get(field, f"v3_plans.{field}")
    return ".".join((column, *below)), first["input"], first["msg"]
