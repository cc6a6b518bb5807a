"""What a plan is and what it may do; pydantic and the standard library only."""

from __future__ import annotations

from cleveragents_plans.domain.enums import EnvironmentPriority, Level, Phase, ProcessingState
from cleveragents_plans.domain.errors import (
    BadProfileFile,
    ChangeNotAllowed,
    InvalidArgument,
    InvalidFields,
    InvalidType,
    InvalidValue,
    NotEditable,
    NotJson,
    PlansError,
    ProfileNameTaken,
    SnapshotIsFrozen,
    SnapshotUnreadable,
    StepNotAllowed,
    UnknownProfile,
)
from cleveragents_plans.domain.inputs import EditableFields
from cleveragents_plans.domain.json_values import Arguments, JsonObject, canonical_json
from cleveragents_plans.domain.plan import Plan
from cleveragents_plans.domain.profile_files import load_profiles
from cleveragents_plans.domain.profiles import (
    BUILT_IN_PROFILES,
    DEFAULT_PROFILE_NAME,
    AutomationProfile,
    AutomationProfileRef,
    ProfileChoice,
    ResolvedProfile,
    SafetyProfile,
    resolve_profile,
)
from cleveragents_plans.domain.types import Invariant, PlanIdentity, ProjectLink
from cleveragents_plans.domain.ulid import new_ulid
from cleveragents_plans.domain.view import PlanView

__all__ = [
    "BUILT_IN_PROFILES",
    "DEFAULT_PROFILE_NAME",
    "Arguments",
    "AutomationProfile",
    "AutomationProfileRef",
    "BadProfileFile",
    "ChangeNotAllowed",
    "EditableFields",
    "EnvironmentPriority",
    "InvalidArgument",
    "InvalidFields",
    "InvalidType",
    "InvalidValue",
    "Invariant",
    "JsonObject",
    "Level",
    "NotEditable",
    "NotJson",
    "Phase",
    "Plan",
    "PlanIdentity",
    "PlanView",
    "PlansError",
    "ProcessingState",
    "ProfileChoice",
    "ProfileNameTaken",
    "ProjectLink",
    "ResolvedProfile",
    "SafetyProfile",
    "SnapshotIsFrozen",
    "SnapshotUnreadable",
    "StepNotAllowed",
    "UnknownProfile",
    "canonical_json",
    "load_profiles",
    "new_ulid",
    "resolve_profile",
]
