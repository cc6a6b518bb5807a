"""How plans are kept; the only place that knows both plans and rows."""

from cleveragents_plans.persistence.async_repository import AsyncPlanRepository
from cleveragents_plans.persistence.base import Base
from cleveragents_plans.persistence.claims import QueueConflict
from cleveragents_plans.persistence.engine import open_async_engine, open_engine, read_only
from cleveragents_plans.persistence.errors import (
    ChildrenNotLoaded,
    CorruptPlanRow,
    DatabaseLocked,
    DatabaseMissing,
    DatabaseReadOnly,
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
from cleveragents_plans.persistence.filters import PlanFilters, QueueFilters, UnknownFilter
from cleveragents_plans.persistence.inserts import Existing
from cleveragents_plans.persistence.models import (
    LifecyclePlanModel,
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.pages import Order, Page
from cleveragents_plans.persistence.queries import OnCorrupt
from cleveragents_plans.persistence.references import PlanReferenced
from cleveragents_plans.persistence.repository import PlanRepository
from cleveragents_plans.persistence.summaries import CountField, TreeSummary
from cleveragents_plans.persistence.urls import database_url, without_password

__all__ = [
    "AsyncPlanRepository",
    "Base",
    "ChildrenNotLoaded",
    "CorruptPlanRow",
    "CountField",
    "DatabaseLocked",
    "DatabaseMissing",
    "DatabaseReadOnly",
    "DatabaseUrlError",
    "EncodingMismatch",
    "Existing",
    "ForeignKeysOff",
    "LifecyclePlanModel",
    "NoLaterVersion",
    "NotARoot",
    "OnCorrupt",
    "Order",
    "Page",
    "PlanAlreadyStored",
    "PlanArgumentModel",
    "PlanConflict",
    "PlanCycle",
    "PlanFilters",
    "PlanInvariantModel",
    "PlanNotFound",
    "PlanNotStored",
    "PlanProjectModel",
    "PlanReferenced",
    "PlanRepository",
    "QueueConflict",
    "QueueFilters",
    "RelatedPlanMissing",
    "RootInUse",
    "SchemaMissing",
    "TreeSummary",
    "UnknownFilter",
    "database_url",
    "open_async_engine",
    "open_engine",
    "read_only",
    "without_password",
]
