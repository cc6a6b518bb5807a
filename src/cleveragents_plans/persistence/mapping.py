"""
The one mapping between plans and rows: one function per direction.

Rows are plain here: dicts on the way in, anything with the columns as attributes on the
way out. So the ORM classes and the repository's bulk paths share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from cleveragents_plans.domain import (
    DEFAULT_PROFILE_NAME,
    Arguments,
    AutomationProfileRef,
    JsonObject,
    Level,
    NotJson,
    Plan,
    canonical_json,
)
from cleveragents_plans.persistence.errors import CorruptPlanRow

Row = dict[str, Any]


_CHILD_TABLES = ("plan_projects", "plan_arguments", "plan_invariants")


class ChildRows(NamedTuple):
    """The rows of a plan's child tables."""

    projects: list[Row]
    arguments: list[Row]
    invariants: list[Row]


def plan_row(plan: Plan) -> Row:
    """Lay *plan* out as its row in ``v3_plans``, by column."""
    identity = plan.identity
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
        "phase": plan.phase.value,
        "processing_state": plan.processing_state.value,
        "strategy_actor": plan.strategy_actor,
        "execution_actor": plan.execution_actor,
        "estimation_actor": plan.estimation_actor,
        "invariant_actor": plan.invariant_actor,
        "automation_profile": _profile_text(
            plan.automation_profile.profile_name, plan.automation_profile.provenance
        ),
        "changeset_id": plan.changeset_id,
        "decision_root_id": plan.decision_root_id,
        "sandbox_refs_json": _texts_json(plan.sandbox_refs),
        "validation_summary_json": _object_json(plan.validation_summary),
        "error_message": plan.error_message,
        "error_details_json": _object_json(plan.error_details),
        "cost_actual_usd": plan.cost_actual_usd,
        "token_count_input": plan.token_count_input,
        "token_count_output": plan.token_count_output,
        "reversion_count": plan.reversion_count,
        "last_completed_step": plan.last_completed_step,
        "last_checkpoint_id": plan.last_checkpoint_id,
        "reusable": plan.reusable,
        "read_only": plan.read_only,
        "tags_json": _texts_json(plan.tags),
        "created_by": plan.created_by,
        "created_at": time_text(plan.created_at),
        "updated_at": time_text(plan.updated_at),
        "completed_at": plan.completed_at and time_text(plan.completed_at),
        "execution_environment": plan.execution_environment,
        "execution_env_priority": plan.execution_env_priority and plan.execution_env_priority.value,
        "effective_profile_snapshot": plan.effective_profile_snapshot,
    }


def child_rows(plan: Plan) -> ChildRows:
    """Lay out what *plan* keeps in its child tables, by column."""
    plan_id = plan.plan_id
    return ChildRows(
        projects=[
            {
                "plan_id": plan_id,
                "position": position,
                "project_name": link.project_name,
                "alias": link.alias,
                "read_only": link.read_only,
            }
            for position, link in enumerate(plan.project_links)
        ],
        arguments=[
            {"plan_id": plan_id, "position": position, "name": name, "value_json": text}
            for position, (name, text) in enumerate(plan.arguments.texts())
        ],
        invariants=[
            {
                "plan_id": plan_id,
                "position": position,
                "text": invariant.text,
                "source": invariant.source.value,
            }
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
            _check_positions(table, below)
        plan = Plan(
            identity={
                "plan_id": row.plan_id,
                "parent_plan_id": row.parent_plan_id,
                "root_plan_id": row.root_plan_id,
                "attempt": row.attempt,
            },
            namespaced_name=row.namespaced_name,
            namespace=row.namespace,
            action_name=row.action_name,
            description=row.description,
            definition_of_done=row.definition_of_done,
            phase=_read_word("v3_plans.phase", row.phase),
            processing_state=_read_word("v3_plans.processing_state", row.processing_state),
            strategy_actor=row.strategy_actor,
            execution_actor=row.execution_actor,
            estimation_actor=row.estimation_actor,
            invariant_actor=row.invariant_actor,
            automation_profile=_read_profile(row.automation_profile),
            effective_profile_snapshot=row.effective_profile_snapshot,
            changeset_id=row.changeset_id,
            decision_root_id=row.decision_root_id,
            sandbox_refs=_read_texts("sandbox_refs_json", row.sandbox_refs_json),
            validation_summary=_read_object("validation_summary_json", row.validation_summary_json),
            error_message=row.error_message,
            error_details=_read_object("error_details_json", row.error_details_json),
            cost_actual_usd=row.cost_actual_usd,
            token_count_input=row.token_count_input,
            token_count_output=row.token_count_output,
            reversion_count=row.reversion_count,
            last_completed_step=row.last_completed_step,
            last_checkpoint_id=row.last_checkpoint_id,
            reusable=row.reusable,
            read_only=row.read_only,
            tags=_read_texts("tags_json", row.tags_json),
            created_by=row.created_by,
            execution_environment=row.execution_environment,
            execution_env_priority=_read_word(
                "v3_plans.execution_env_priority", row.execution_env_priority
            ),
            created_at=_read_time("created_at", row.created_at),
            updated_at=_read_time("updated_at", row.updated_at),
            completed_at=None
            if row.completed_at is None
            else _read_time("completed_at", row.completed_at),
            project_links=[
                {
                    "project_name": link.project_name,
                    "alias": link.alias,
                    "read_only": link.read_only,
                }
                for link in projects
            ],
            arguments=_read_arguments(arguments),
            invariants=[
                {
                    "text": invariant.text,
                    "source": _read_word("plan_invariants.source", invariant.source),
                }
                for invariant in invariants
            ],
        )
    except _Unreadable as unreadable:
        raise CorruptPlanRow(row.plan_id, *unreadable.args) from unreadable.__cause__
    except ValidationError as error:
        raise CorruptPlanRow(row.plan_id, *_explained(error, row)) from error
    for column in ("plan_id", "parent_plan_id", "root_plan_id"):
        if getattr(plan, column) != getattr(row, column):
            found = getattr(row, column)
            raise CorruptPlanRow(row.plan_id, f"v3_plans.{column}", found, "a ULID in upper case")
    return plan


def time_text(moment: datetime) -> str:
    """Write *moment* as it is stored: in UTC, of fixed width, so that text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


class _Unreadable(Exception):
    """Carries the column, what was found and what was expected."""


def _check_positions(table: str, rows: Sequence[Any]) -> None:
    # Their order is what counts; a row may have been taken out.
    for row in rows:
        if type(row.position) is not int or row.position < 0:
            raise _Unreadable(f"{table}.position", row.position, "an integer from 0")


def _read_word(column: str, found: Any) -> Any:
    # pydantic takes the bytes of a word, which SQLite can hold, for the word.
    if isinstance(found, bytes):
        raise _Unreadable(column, found, "a text")
    return found


def _read_time(column: str, text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        # Only what would be written again just so: the optimistic check compares texts.
        if time_text(moment) == text:
            return moment
    except (TypeError, ValueError):
        pass
    raise _Unreadable(f"v3_plans.{column}", text, "a time like 2026-03-14T00:05:32.000000+00:00")


def _texts_json(texts: Sequence[str]) -> str | None:
    return f"[{','.join(map(canonical_json, texts))}]" if texts else None


def _read_texts(column: str, text: Any) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        found = from_json(_a_text(text))
    except (TypeError, ValueError):
        found = None
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return tuple(found)
    raise _Unreadable(f"v3_plans.{column}", text, "a JSON array of strings, or NULL")


def _object_json(value: JsonObject | None) -> str | None:
    return None if value is None else value.canonical


def _read_object(column: str, text: Any) -> JsonObject | None:
    if text is None:
        return None
    try:
        return JsonObject.from_text(_a_text(text))
    except (NotJson, TypeError) as error:
        raise _Unreadable(f"v3_plans.{column}", text, "a JSON object, or NULL") from error


def _read_arguments(rows: Iterable[Any]) -> Arguments:
    pairs = [(row.name, row.value_json) for row in rows]
    if not pairs:
        return _NO_ARGUMENTS
    try:
        return Arguments.from_texts((_a_text(name), _a_text(text)) for name, text in pairs)
    except (NotJson, TypeError) as error:
        for name, text in pairs:
            if not _is_argument("name", text):
                raise _Unreadable("plan_arguments.value_json", text, "a JSON text") from error
            if not _is_argument(name, "0"):
                expected = "an argument name of 1 to 255 characters"
                raise _Unreadable("plan_arguments.name", name, expected) from error
        names = [name for name, _ in pairs]
        raise _Unreadable("plan_arguments.name", names, "each name once") from error


def _is_argument(name: Any, text: Any) -> bool:
    try:
        Arguments.from_texts([(_a_text(name), _a_text(text))])
    except (NotJson, TypeError):
        return False
    return True


def _a_text(found: Any) -> str:
    # SQLite stores bytes in a column for text, and the JSON parser would take them.
    if not isinstance(found, str):
        raise TypeError(f"{type(found).__name__} is no text")
    return found


_NO_ARGUMENTS = Arguments()


@lru_cache(maxsize=4096)
def _profile_text(profile_name: str, provenance: Level | None) -> str:
    if provenance is None and profile_name == DEFAULT_PROFILE_NAME:
        return profile_name
    return canonical_json({"profile_name": profile_name, "provenance": provenance})


@lru_cache(maxsize=4096)
def _read_profile(text: Any) -> AutomationProfileRef:
    expected = 'a JSON object like {"profile_name": "trusted", "provenance": "plan"}, or a name'
    try:
        found = _json_or_bare_name(_a_text(text))
        if isinstance(found, dict) and "profile_name" in found:
            return AutomationProfileRef(**found)
        if isinstance(found, str):
            return AutomationProfileRef(profile_name=found)
    except (TypeError, ValueError) as error:
        raise _Unreadable("v3_plans.automation_profile", text, expected) from error
    raise _Unreadable("v3_plans.automation_profile", text, expected)


def _json_or_bare_name(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        # What begins like JSON, or is blank, is a broken value and no name.
        if text.strip() != text or text[:1] in ("", "{", "[", '"'):
            raise
        return text


#: Where the domain's fields are kept, as far as their names differ.
_COLUMN_OF = {
    "tags": "v3_plans.tags_json",
    "sandbox_refs": "v3_plans.sandbox_refs_json",
    "project_links": "plan_projects",
    "invariants": "plan_invariants",
}
#: The column that a rule about several columns is told of.
_DECIDING = {
    (): "v3_plans.processing_state",
    ("identity",): "v3_plans.parent_plan_id",
    ("project_links",): "plan_projects.alias",
}


def _explained(error: ValidationError, row: Any) -> tuple[str, Any, str]:
    first = error.errors(include_url=False, include_context=False)[0]
    path = tuple(str(part) for part in first["loc"] if not isinstance(part, int))
    if path in _DECIDING:
        column = _DECIDING[path]
        return column, getattr(row, column.partition(".")[2], first["input"]), first["msg"]
    if path[0] == "identity":
        path = path[1:]
    column = _COLUMN_OF.get(path[0], f"v3_plans.{path[0]}")
    return ".".join((column, *path[1:])), first["input"], first["msg"]
