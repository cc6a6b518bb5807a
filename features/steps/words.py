"""What steps share: typed words, a refusal that is kept, the plans of the scenario."""

from collections.abc import Iterator
from contextlib import contextmanager

from behave import register_type
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cleveragents_plans import Phase, Plan, PlanRepository, PlansError, ProcessingState, new_ulid
from cleveragents_plans.evolution import EvolutionError

register_type(Phase=Phase, State=ProcessingState, Number=int)

REACH_PHASE = {
    Phase.ACTION: lambda plan: plan,
    Phase.STRATEGIZE: lambda plan: REACH_PHASE[Phase.ACTION](plan).begin().complete().advance(),
    Phase.EXECUTE: lambda plan: REACH_PHASE[Phase.STRATEGIZE](plan).begin().complete().advance(),
    Phase.APPLY: lambda plan: REACH_PHASE[Phase.EXECUTE](plan).begin().complete().advance(),
}
REACH_STATE = {
    ProcessingState.QUEUED: lambda plan: plan,
    ProcessingState.PROCESSING: Plan.begin,
    ProcessingState.COMPLETE: lambda plan: plan.begin().complete(),
    ProcessingState.ERRORED: lambda plan: plan.begin().fail("It broke"),
    ProcessingState.CONSTRAINED: lambda plan: plan.begin().constrain("Not on Fridays"),
    ProcessingState.APPLIED: lambda plan: plan.begin().apply(),
    ProcessingState.CANCELLED: Plan.cancel,
}


def attempt(context, step):
    """Take a step that may be refused, and keep the refusal."""
    context.refusal = None
    try:
        return step()
    except (PlansError, EvolutionError, IntegrityError) as refusal:
        context.refusal = str(refusal)
        return None


@contextmanager
def plans(context) -> Iterator[PlanRepository]:
    """The plans of the scenario's database; what was done to them lasts."""
    with Session(context.engine) as session, session.begin():
        yield PlanRepository(session)


def store(context, plan):
    """Store a plan, and remember it as the one that the scenario is about."""
    with plans(context) as stored:
        context.plan = stored.add(plan)
    return context.plan


def look_up(context, name=None):
    """Read the plan that the scenario is about, or the one that it calls *name*."""
    with plans(context) as stored:
        return stored.get(id_of(context, name) if name else context.plan.plan_id)


def everything(context):
    """Read every plan that can be read."""
    with plans(context) as stored:
        return list(stored.stream(on_corrupt="skip"))


def id_of(context, name):
    """Give the id of the plan that the scenario calls *name*; a new one at first."""
    context.ids = getattr(context, "ids", {})
    return context.ids.setdefault(name, new_ulid())


def name_of(context, plan_id):
    """Say what the scenario calls a plan; nothing for no plan."""
    return {there: name for name, there in context.ids.items()}[plan_id] if plan_id else ""


def in_words(ref):
    """Say which profile a plan has, and which level named it."""
    return f"{ref.profile_name} by the {ref.provenance}" if ref.provenance else ref.profile_name
