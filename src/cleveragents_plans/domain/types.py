"""The small values that a plan is made of: frozen, and equal by value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cleveragents_plans.domain.enums import Level
from cleveragents_plans.domain.errors import InvalidType, report_invalid_fields, shown

#: The largest number that a column of integers holds.
MAX_INTEGER: Final = 2**31 - 1

# An own type check, since str_schema fails on a lone surrogate with a bare
# UnicodeEncodeError instead of a validation error.
_A_STR = core_schema.json_or_python_schema(
    core_schema.str_schema(),
    core_schema.custom_error_schema(
        core_schema.is_instance_schema(str), custom_error_type="string_type"
    ),
)
_NOT_STORABLE = (
    "text_not_storable",
    "Text can hold neither NUL characters nor lone surrogates (bytes that are no UTF-8)",
)


def _storable(text: str) -> str:
    try:
        if "\0" not in text and (text.isascii() or text.encode()):
            return text
    except UnicodeEncodeError:
        pass
    raise PydanticCustomError(*_NOT_STORABLE)


# A call into Python looks through a long text faster than a regular expression, which does
# without the call for a short one.
_LONG_STORABLE = core_schema.no_info_plain_validator_function(_storable)
_SHORT_STORABLE = core_schema.custom_error_schema(
    core_schema.str_schema(pattern=r"^[^\x00]*$"),
    custom_error_type=_NOT_STORABLE[0],
    custom_error_message=_NOT_STORABLE[1],
)

# [\w-] for those who read the JSON schema: in ECMA-262 \w is ASCII only, and Python knows no \p{L}.
# It lets pass whatever is beyond ASCII.
_PUBLISHED_LETTER = r"[^\x00-,./:-@\[-^`{-\x7f]"


class _TextSchema:
    """Text that both databases can hold."""

    def __init__(
        self,
        *,
        min_length: int = 0,
        max_length: int | None = None,
        pattern: str | None = None,
        upper: bool = False,
        expected: str | None = None,
    ) -> None:
        self._last: CoreSchema = core_schema.str_schema(
            min_length=min_length or None, max_length=max_length
        )
        self._storable = _SHORT_STORABLE if max_length or pattern else _LONG_STORABLE
        published = {
            "minLength": min_length or None,
            "maxLength": max_length,
            "pattern": pattern and pattern.replace(r"[\w-]", _PUBLISHED_LETTER),
            "description": expected,
        }
        self._published = {key: said for key, said in published.items() if said is not None}
        if pattern is not None and expected is not None:
            shaped = core_schema.custom_error_schema(
                core_schema.str_schema(pattern=pattern, to_upper=upper),
                custom_error_type="text_shape",
                custom_error_message=f"Input should be {expected}",
            )
            self._last = core_schema.chain_schema([self._last, shaped])

    def __repr__(self) -> str:
        # As `help` shows it, in the signatures of models.
        known = self._published
        least, most = known.get("minLength"), known.get("maxLength")
        length = f" of up to {most} characters" if most else " that is not empty" if least else ""
        return f"<{known.get('description') or f'text{length}'}>"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.chain_schema([_A_STR, self._storable, self._last])

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", **self._published}


#: Text of any length; NUL characters and lone surrogates are refused, as everywhere.
Text = Annotated[str, _TextSchema()]
#: At least one character, of any length.
NonEmptyText = Annotated[str, _TextSchema(min_length=1)]
#: Up to 255 characters.
ShortText = Annotated[str, _TextSchema(max_length=255)]
#: One to 255 characters.
Label = Annotated[str, _TextSchema(min_length=1, max_length=255)]
#: A reference that others hand out, of up to 26 characters.
Reference = Annotated[str, _TextSchema(max_length=26)]

#: 26 characters of Crockford base 32; lower case is accepted, upper case kept.
Ulid = Annotated[
    str,
    _TextSchema(
        pattern=r"^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$",
        upper=True,
        expected="a ULID: 26 characters of Crockford base 32, the first of them 0 to 7",
    ),
]
#: `[[server:]namespace/]name`.
Name = Annotated[
    str,
    _TextSchema(
        max_length=255,
        pattern=r"^(?:(?:[\w-]+:)?[\w-]+/)?[\w-]+$",
        expected="a name: [[server:]namespace/]name, of letters, digits, - and _",
    ),
]
#: `[server:]namespace`.
Namespace = Annotated[
    str,
    _TextSchema(
        max_length=255,
        pattern=r"^(?:[\w-]+:)?[\w-]+$",
        expected="a namespace: [server:]namespace, of letters, digits, - and _",
    ),
]


def _positive_zero(number: float) -> float:
    # -0.0 equals 0.0 and is stored differently.
    return number + 0.0


def _in_utc(time: datetime) -> datetime:
    if type(time) is not datetime:  # what another class adds, as nanoseconds, is not stored
        time = datetime.combine(time.date(), time.timetz())
    if time.tzinfo is UTC:
        return time
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{time} has no UTC equivalent between the years 1 and 9999") from error


#: A point in time, kept in UTC; one without a zone is refused.
UtcDatetime = Annotated[AwareDatetime, AfterValidator(_in_utc)]
#: An integer that fits the column, from 0.
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]
#: An integer that fits the column, from 1.
Ordinal = Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)]
#: The last step that was completed; -1 before the first.
StepIndex = Annotated[int, Field(strict=True, ge=-1, le=MAX_INTEGER)]
#: US dollars: finite, not negative, never -0.0.
Usd = Annotated[
    float, Field(strict=True, ge=0, allow_inf_nan=False), AfterValidator(_positive_zero)
]
#: From 0.0, goes ahead by itself, to 1.0, always asks a person.
Threshold = Annotated[float, Field(strict=True, ge=0, le=1), AfterValidator(_positive_zero)]


class Value(BaseModel):
    """A value that is checked when it is made and never changes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        # A traceback shows the error of pydantic, too: to write out lists that share their items
        # would take all memory, and what plans hold is not for logs.
        hide_input_in_errors=True,
        # What is written has every field, whether it may be left out where it is read or not.
        json_schema_serialization_defaults_required=True,
    )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """
        Copy, with *update* checked as in a new value, unlike what pydantic does.

        Raises:
            InvalidFields: The copy would not be valid.
        """
        copied = super().model_copy(deep=deep)
        return copied._with(**update) if update else copied

    def _with(self, **changes: Any) -> Self:
        # pydantic's own copy does not validate; building anew does.
        return self._valid(**{**dict(self), **changes})

    @classmethod
    def _valid(cls, **fields: Any) -> Self:
        with report_invalid_fields():
            return cls(**fields)


def _not_itself(parent: str, info: ValidationInfo) -> str:
    if parent == info.data.get("plan_id"):
        raise ValueError(f"plan {parent} cannot be its own parent")
    return parent


class PlanIdentity(Value):
    """Which plan it is, and its place in its tree."""

    plan_id: Ulid
    """The plan's ULID: 26 characters of Crockford base 32."""
    parent_plan_id: Annotated[Ulid, AfterValidator(_not_itself)] | None = None
    """The plan that this one is a part of; none for a root, or if the parent was deleted."""
    # A default would stand in the JSON schema, where none is right.
    root_plan_id: Ulid = Field(default_factory=str, validate_default=True)
    """The root of the tree in which the plan was created; its own id if there is no parent."""
    attempt: Ordinal = 1
    """Counts the attempts, from 1."""

    @field_validator("root_plan_id", mode="before")
    @classmethod
    def _own_id_without_a_parent(cls, root: Any, info: ValidationInfo) -> Any:
        if root is not None and root != "":
            return root
        if info.data.get("parent_plan_id") is not None:
            raise ValueError("a child plan needs the root of its tree; only a root is its own")
        # Of a plan id that is refused, just that is said.
        return info.data.get("plan_id", "0" * 26)


class ProjectLink(Value):
    """A project that a plan works on."""

    project_name: Label
    """The project's name."""
    alias: Label | None = None
    """What the plan calls the project; unique within the plan."""
    read_only: StrictBool = False
    """Whether the plan must leave the project as it is."""


class Invariant(Value):
    """What must stay true whatever the plan does."""

    text: NonEmptyText
    """What must stay true, in words."""
    source: Level = Level.PLAN
    """The level that asked for it."""


def _or_texts(field: str, accepted: Any) -> BeforeValidator:
    """Let each of several values be given as a text as well, that of its *field*."""

    def read(given: Any) -> Any:
        # A lone text is not taken apart into its characters: pydantic refuses it.
        if type(given) not in (list, tuple) and (
            isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable)
        ):
            return given
        return [{field: one} if isinstance(one, str) else one for one in given]

    return BeforeValidator(read, json_schema_input_type=accepted)


#: Links, or just the names of projects.
ProjectLinks = Annotated[
    tuple[ProjectLink, ...], _or_texts("project_name", Sequence[ProjectLink | str])
]
#: Invariants, or just the texts of the plan's own.
Invariants = Annotated[tuple[Invariant, ...], _or_texts("text", Sequence[Invariant | str])]


def full_name(name: str) -> str:
    """
    Write out the namespace of *name*: `refactor-auth` is `local/refactor-auth`.

    Raises:
        InvalidType: *name* is no text.
    """
    if not isinstance(name, str):
        raise InvalidType("the name", shown(name), "text like namespace/name")
    text = str.__str__(name)  # not the name of an enumeration's member
    return text if "/" in text else f"local/{text}"


def namespace_of(name: str) -> str:
    """Give the namespace within *name*, without the server: `local` if it names none."""
    return full_name(name).partition("/")[0].rpartition(":")[2]
