"""Steps of a plan's way and of its automation profile, over the domain alone."""

from behave import given, then, when
from words import REACH_PHASE, REACH_STATE, attempt

from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    AutomationProfile,
    Invariant,
    Phase,
    Plan,
    PlanIdentity,
    new_ulid,
    resolve_profile,
)

LEVELS = {"plan": "plan", "action": "action", "project": "project", "everything": "global_"}


# A plan's way


@given("a plan that is {state:State} in the {phase:Phase} phase")
def a_plan(context, state, phase):
    plan = Plan.create("refactor-auth", invariants=["Keep the API"])
    context.plan = REACH_STATE[state](REACH_PHASE[phase](plan))


@given("it went back {times:Number} times before")
def went_back_before(context, times):
    for _ in range(times):
        context.plan = context.plan.revert().begin().complete().advance().begin()


@when('a client creates the plan "{name}"')
def create(context, name):
    context.plan = Plan.create(name)


@when("it spawns a child")
def spawn(context):
    context.child = context.plan.spawn()


@when("it advances")
def advance(context):
    context.plan = context.plan.advance()


@when("it is retried")
def retry(context):
    context.plan = context.plan.retry()


@when("it reverts")
def revert(context):
    context.plan = context.plan.revert()


@when("it is applied")
def apply(context):
    context.plan = context.plan.apply()


@when("it resumes")
def resume(context):
    context.plan = context.plan.resume()


@when("it is cancelled")
def cancel(context):
    context.plan = context.plan.cancel()


@when("a client tries to {step:w} it")
def try_step(context, step):
    attempt(context, getattr(context.plan, step))


@then("it is {state:State} in the {phase:Phase} phase")
@then("it is still {state:State} in the {phase:Phase} phase")
def stands(context, state, phase):
    assert (context.plan.processing_state, context.plan.phase) == (state, phase)


@then('it is called "{name}"')
def is_called(context, name):
    assert context.plan.namespaced_name == name


@then("it is the root of its tree")
def is_root(context):
    assert context.plan.is_root


@then("the child is {state:State} in the {phase:Phase} phase")
def child_stands(context, state, phase):
    assert (context.child.processing_state, context.child.phase) == (state, phase)


@then("the child belongs to the same tree")
def same_tree(context):
    assert context.child.parent_plan_id == context.plan.plan_id
    assert context.child.root_plan_id == context.plan.root_plan_id


@then("the child must keep to the same invariants")
def same_invariants(context):
    assert context.child.invariants == (Invariant(text="Keep the API"),)


@then("it is at attempt {number:Number}")
def at_attempt(context, number):
    assert context.plan.attempt == number


@then("it has no error any more")
def no_error(context):
    assert context.plan.error_message is None


@then("it went back {times:Number} time")
def went_back(context, times):
    assert context.plan.reversion_count == times


@then("its time of completion is known")
def known_when(context):
    assert context.plan.completed_at >= context.plan.created_at


@then('the error says "{words}"')
def told(context, words):
    assert context.refusal is not None, "nothing was refused"
    assert words in context.refusal, context.refusal


# Its automation profile


@given('{level:w} names the profile "{name}"')
@given('the {level:w} names the profile "{name}"')
def names_profile(context, level, name):
    context.named = {**getattr(context, "named", {}), LEVELS[level]: name}


@given("a plan from before snapshots")
def unrecorded(context):
    now = Plan.create("refactor-auth").created_at
    context.plan = Plan(
        identity=PlanIdentity(plan_id=new_ulid()),
        action_name="local/refactor-auth",
        created_at=now,
        updated_at=now,
    )


@given('a plan that was created under "{profile}"')
@when('a client creates a plan under "{profile}"')
def create_under(context, profile):
    context.plan = Plan.create("refactor-auth", profile=profile)


@when("the profile is looked up")
def look_up(context):
    context.found = resolve_profile(**getattr(context, "named", {}))


@when("an unknown profile is looked up")
def try_to_look_up(context):
    attempt(context, lambda: resolve_profile(**context.named))


@when("a client tries to replace the snapshot")
def try_to_change_record(context):
    other = BUILT_IN_PROFILES["full-auto"].snapshot()
    attempt(context, lambda: context.plan.edit(effective_profile_snapshot=other))


@when("it is worked on until it is applied")
def work_until_applied(context):
    context.plan = REACH_PHASE[Phase.APPLY](context.plan).begin().complete().apply()


@when('a client tries to define a custom profile named "{name}"')
def try_to_define(context, name):
    fields = {**BUILT_IN_PROFILES["manual"].model_dump(), "name": name}
    attempt(context, lambda: AutomationProfile.from_mapping(fields))


@then('it is "{profile}", the default')
def found_by_default(context, profile):
    assert (context.found.profile.name, context.found.provenance) == (profile, None)


@then('it is "{profile}", chosen by the {level:w}')
def found_at_level(context, profile, level):
    assert (context.found.profile.name, context.found.provenance) == (profile, level)


@then('the plan has the snapshot of "{profile}"')
def plan_has_on_record(context, profile):
    assert context.plan.effective_profile == BUILT_IN_PROFILES[profile]


@then('the child has the snapshot of "{profile}"')
def child_has_on_record(context, profile):
    assert context.child.effective_profile == BUILT_IN_PROFILES[profile]


@then("the plan has an empty snapshot")
def nothing_on_record(context):
    assert context.plan.effective_profile is None


@then("the plan asks a person before it is applied")
def asks(context):
    assert context.plan.effective_profile.approve_plan == 1.0


@then("the plan does not ask a person before it is applied")
def does_not_ask(context):
    assert context.plan.effective_profile.approve_plan == 0.0
