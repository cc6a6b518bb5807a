"""How plans are kept; the only place that knows both plans and rows."""

from cleveragents_plans.persistence.base import Base
from cleveragents_plans.persistence.engine import (
    database_url,
    open_async_engine,
    open_engine,
    read_only,
    without_password,
)
from cleveragents_plans.persistence.errors import (
    ChildrenNotLoaded,
    CorruptPlanRow,
    DatabaseUrlError,
    EncodingMismatch,
    ForeignKeysOff,
    NoLaterVersion,
    NotARoot,
    PlanAlreadyStored,
    PlanConflict,
    PlanCycle,
    PlanNotFound,
    PlanNotStored,
    RelatedPlanMissing,
    RootInUse,
    SchemaMissing,
)
from cleveragents_plans.persistence.models import (
    LifecyclePlanModel,
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.repository import Page, PlanRepository

__all__ = [
    "Base",
    "ChildrenNotLoaded",
    "CorruptPlanRow",
    "DatabaseUrlError",
    "EncodingMismatch",
    "ForeignKeysOff",
    "LifecyclePlanModel",
    "NoLaterVersion",
    "NotARoot",
    "Page",
    "PlanAlreadyStored",
    "PlanArgumentModel",
    "PlanConflict",
    "PlanCycle",
    "PlanInvariantModel",
    "PlanNotFound",
    "PlanNotStored",
    "PlanProjectModel",
    "PlanRepository",
    "RelatedPlanMissing",
    "RootInUse",
    "SchemaMissing",
    "database_url",
    "open_async_engine",
    "open_engine",
    "read_only",
    "without_password",
]
