"""Automation profiles: which steps of a plan may run without a person, and who chooses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Self

from pydantic import StrictBool, ValidationError

from cleveragents_plans.domain.enums import Level
from cleveragents_plans.domain.errors import (
    InvalidType,
    InvalidValue,
    NotJson,
    ProfileNameTaken,
    SnapshotUnreadable,
    UnknownProfile,
    in_one_line,
    problems_of,
    report_invalid_fields,
    shown,
)
from cleveragents_plans.domain.json_values import JsonObject, canonical_json
from cleveragents_plans.domain.types import Count, Label, Name, Text, Threshold, Usd, Value

#: The profile of a plan for which none was chosen.
DEFAULT_PROFILE_NAME: Final = "balanced"
#: The fields that a profile has in this release.
SCHEMA_VERSION: Final = "1.0"


class SafetyProfile(Value):
    """What limits a plan however far it may go by itself."""

    allowed_skill_categories: tuple[Label, ...] = ()
    """The categories of skills that may be used; empty: every one."""
    require_sandbox: StrictBool = True
    """Whether steps run in a sandbox only."""
    require_checkpoints: StrictBool = True
    """Whether steps are taken with checkpoints only, to which one can go back."""
    require_human_approval: StrictBool = False
    """Whether a person approves each step, whatever the thresholds say."""
    allow_unsafe_tools: StrictBool = False
    """Whether tools may be used that are marked as unsafe."""
    max_cost_per_plan: Usd | None = None
    """How much one plan may cost, in US dollars; none: no limit."""
    max_retries_per_step: Count = 3
    """How often a step may be retried."""
    max_total_cost: Usd | None = None
    """How much may be spent in total, in US dollars; none: no limit."""


class AutomationProfile(Value):
    """
    How sure the system must be of each kind of step to take it without a person.

    Each threshold goes from 0.0, goes ahead by itself, to 1.0, always asks.
    """

    name: Name
    """Its name, ``[[server:]namespace/]name``."""
    description: Text = ""
    """What the profile is for, in words."""
    schema_version: Label = SCHEMA_VERSION
    """The release of the profile's own fields."""

    decompose_task: Threshold
    """How sure to be before a task is broken down by itself: 0 always, 1 never."""
    create_tool: Threshold
    """How sure to be before a tool is made."""
    select_tool: Threshold
    """How sure to be before a tool is chosen."""
    edit_code: Threshold
    """How sure to be before code is edited."""
    execute_command: Threshold
    """How sure to be before a command is run."""
    create_file: Threshold
    """How sure to be before a file is made."""
    delete_content: Threshold
    """How sure to be before something is deleted."""
    access_network: Threshold
    """How sure to be before the network is used."""
    install_dependency: Threshold
    """How sure to be before a dependency is installed."""
    modify_config: Threshold
    """How sure to be before a configuration is changed."""
    approve_plan: Threshold
    """How sure to be before a plan is applied."""

    safety: SafetyProfile = SafetyProfile()
    """What limits a plan however sure the system is."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        yield "name", self.name
        yield "description", self.description[:40]

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> Self:
        """
        Read a custom profile: a name, all eleven thresholds, and what else differs.

        Raises:
            ProfileNameTaken: The name is that of a built-in profile.
            InvalidFields: A field is missing, unknown or out of range.
            InvalidType: *fields* is no mapping.
        """
        if not isinstance(fields, Mapping):
            raise InvalidType("fields", shown(fields), "a mapping of a profile's fields")
        with report_invalid_fields():
            profile = cls.model_validate(dict(fields))
        if profile.name in BUILT_IN_PROFILES:
            raise ProfileNameTaken(profile.name)
        return profile

    @classmethod
    def from_snapshot(cls, text: str) -> Self | None:
        """
        Read the profile out of a plan's snapshot; None if none was recorded (`{}`).

        A snapshot that an older or newer release took may lack fields or have more:
        a threshold that was not recorded asks a person, an unknown field is left out.

        Raises:
            SnapshotUnreadable: The text describes no profile.
        """
        try:
            recorded = JsonObject.from_text(text).to_plain()
            if not recorded:
                return None
            known = dict.fromkeys(THRESHOLDS, 1.0) | _only_known(cls, recorded)
            if isinstance(known.get("safety"), dict):
                known["safety"] = _only_known(SafetyProfile, known["safety"])
            return cls.model_validate(known)
        except NotJson as error:
            raise SnapshotUnreadable(text, str(error)) from error
        except ValidationError as error:
            raise SnapshotUnreadable(text, in_one_line(problems_of(error))) from error

    def snapshot(self) -> str:
        """Write the whole profile, defaults included, as canonical JSON."""
        return _snapshot(self)


#: The names of the eleven thresholds.
THRESHOLDS: Final = tuple(
    name for name, field in AutomationProfile.model_fields.items() if field.annotation is float
)


@lru_cache(maxsize=64)
def _snapshot(profile: AutomationProfile) -> str:
    return canonical_json(profile.model_dump(mode="json"))


class AutomationProfileRef(Value):
    """Which profile a plan has, and the level that chose it; it may no longer exist."""

    profile_name: Label = DEFAULT_PROFILE_NAME
    """The profile's name."""
    provenance: Level | None = None
    """The level that chose it; none: the default, as no level did."""


class ResolvedProfile(Value):
    """A profile, and the level at which it was chosen."""

    profile: AutomationProfile
    """The profile."""
    provenance: Level | None = None
    """The level that chose it; none: the default, as no level did."""

    @property
    def ref(self) -> AutomationProfileRef:
        """Name the profile without its numbers."""
        return AutomationProfileRef(profile_name=self.profile.name, provenance=self.provenance)


def _built_in() -> Mapping[str, AutomationProfile]:
    unguarded = SafetyProfile(require_sandbox=False, require_checkpoints=False)
    table: dict[str, tuple[str, tuple[float, ...], SafetyProfile]] = {
        # In the order of THRESHOLDS: decompose, create tool, select tool, edit, execute,
        # create file, delete, network, dependency, config; approve, the gate to apply.
        #
        # Given: a person decides everything.
        "manual": (
            "Human-driven",
            (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
            SafetyProfile(),
        ),
        # Phases follow one another, as breaking a task down decides nothing yet.
        "review": (
            "Auto-phase, manual decisions",
            (0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
            SafetyProfile(),
        ),
        # Choosing the tools is planning too; whatever touches something is asked for.
        "supervised": (
            "Auto-plan, manual exec",
            (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
            SafetyProfile(),
        ),
        # Every step that touches something is gated, the more the harder it is to undo.
        "cautious": (
            "Confidence-gated automation",
            (0.0, 0.8, 0.0, 0.7, 0.8, 0.7, 0.95, 0.9, 0.9, 0.9, 1.0),
            SafetyProfile(),
        ),
        # What a checkpoint undoes needs little confidence; what none undoes, a person.
        DEFAULT_PROFILE_NAME: (
            "Automatic where it can be undone, a person where it cannot",
            (0.0, 0.3, 0.0, 0.3, 0.5, 0.3, 1.0, 1.0, 1.0, 1.0, 1.0),
            SafetyProfile(),
        ),
        # Execution runs, slowed a little where it reaches outside; applying is asked for.
        "trusted": (
            "Auto-exec, manual apply",
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.3, 0.3, 0.3, 1.0),
            SafetyProfile(),
        ),
        # Nothing is asked until the result is to count.
        "auto": (
            "Full auto except apply",
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
            SafetyProfile(),
        ),
        # There is no person to ask, so the sandbox and the checkpoints make it safe.
        "ci": (
            "Full auto, safe CI/CD",
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            SafetyProfile(),
        ),
        # Given: nothing asks, nothing holds back.
        "full-auto": (
            "Complete automation",
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            unguarded,
        ),
    }
    return MappingProxyType(
        {
            name: AutomationProfile(
                name=name,
                description=description,
                safety=safety,
                **dict(zip(THRESHOLDS, numbers, strict=True)),
            )
            for name, (description, numbers, safety) in table.items()
        }
    )


#: The nine profiles that always exist, from the most careful to the least.
BUILT_IN_PROFILES: Final = _built_in()


def resolve_profile(
    plan: str | None = None,
    action: str | None = None,
    project: str | None = None,
    global_: str | None = None,
    known: Mapping[str, AutomationProfile] = BUILT_IN_PROFILES,
) -> ResolvedProfile:
    """
    Find the profile that holds: the nearest level that names one, or else the default.

    *known* are the profiles that may be named besides the built-in ones, each under its name.

    Raises:
        UnknownProfile: The name that holds is not known.
        ProfileNameTaken: *known* has another profile under a built-in name.
        InvalidValue: *known* has a profile under another name than its own.
        InvalidType: A name is no text, or *known* has something else than profiles.
    """
    levels = dict(zip(Level, (plan, action, project, global_), strict=True))
    for level, name in levels.items():
        if not isinstance(name, str | None):
            raise InvalidType(f"the profile of the {level} level", shown(name), "a name")
    everyone = {**_checked(known), **BUILT_IN_PROFILES}
    for level, name in levels.items():
        if name is not None:
            if name not in everyone:
                raise UnknownProfile(name, tuple(everyone), level)
            return ResolvedProfile(profile=everyone[name], provenance=level)
    return ResolvedProfile(profile=BUILT_IN_PROFILES[DEFAULT_PROFILE_NAME])


#: What names a profile: a built-in name, a profile, or one that `resolve_profile` found.
ProfileChoice = str | AutomationProfile | ResolvedProfile


def chosen_profile(choice: ProfileChoice | None) -> ResolvedProfile:
    """Find the profile of *choice*, as `resolve_profile` does; raise what it raises."""
    if isinstance(choice, ResolvedProfile):
        _refuse_posing(choice.profile)
        return choice
    if isinstance(choice, AutomationProfile):
        return resolve_profile(plan=choice.name, known={choice.name: choice})
    return resolve_profile(plan=choice)


def _refuse_posing(profile: AutomationProfile) -> None:
    """Refuse a profile that has the name of a built-in one, and says something else."""
    if BUILT_IN_PROFILES.get(profile.name, profile) != profile:
        raise ProfileNameTaken(profile.name)


def _checked(known: Mapping[str, AutomationProfile]) -> Mapping[str, AutomationProfile]:
    if known is BUILT_IN_PROFILES:
        return known
    if not isinstance(known, Mapping):
        raise InvalidType("known", shown(known), "a mapping of profiles, each under its name")
    for name, profile in known.items():
        if not isinstance(profile, AutomationProfile):
            raise InvalidType(f"known[{shown(name)}]", shown(profile), "an AutomationProfile")
        if name != profile.name:
            found = f"the profile {profile.name!r}"
            raise InvalidValue(f"known[{shown(name)}]", found, "each profile under its own name")
        _refuse_posing(profile)
    return known


def _only_known(model: type[Value], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in model.model_fields}
