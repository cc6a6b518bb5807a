"""Steps of storing plans and finding them again."""

from behave import given, then, when
from former import change, write
from words import (
    REACH_PHASE,
    REACH_STATE,
    attempt,
    everything,
    id_of,
    look_up,
    name_of,
    plans,
    store,
)

from cleveragents_plans import (
    BUILT_IN_PROFILES,
    DEFAULT_PROFILE_NAME,
    EnvironmentPriority,
    Invariant,
    Level,
    Plan,
    ProjectLink,
    resolve_profile,
)

TO_THE_END = ["begin", "complete", "advance"] * 3 + ["begin", "complete", "apply"]


def save(context, plan):
    with plans(context) as stored:
        context.plan = stored.save(plan)


def delete(context, name):
    with plans(context) as stored:
        stored.delete(stored.get(id_of(context, name)))


# What is stored


@given("a plan with every field set")
def known_plan(context):
    plan = Plan.create(
        "server:team/refactor-auth",
        action_name="local/refactor",
        description="Move « auth » out\n\tof the monolith: 移す",
        definition_of_done="Its tests pass",
        profile=resolve_profile(project="trusted"),
        project_links=[ProjectLink(project_name="local/site", alias="site", read_only=True)],
        arguments={"depth": 3, "within": {"src": [1.5, None, "ä"]}, "a": []},
        invariants=[Invariant(text="Keep the API", source=Level.PROJECT), "No downtime"],
        tags=["auth", "auth"],
        strategy_actor="local/planner",
        execution_actor="local/builder",
        estimation_actor="local/guesser",
        invariant_actor="local/guard",
        execution_environment="container/python",
        execution_env_priority=EnvironmentPriority.OVERRIDE,
        reusable=True,
        read_only=True,
        created_by="ann@example.org",
    )
    context.plan = plan.edit(
        changeset_id="C1",
        decision_root_id="D1",
        sandbox_refs=("sandbox://1",),
        validation_summary={"passed": 12},
        cost_actual_usd=0.1 + 0.2,
        token_count_input=12,
        token_count_output=0,
        last_completed_step=4,
        last_checkpoint_id="P1",
    ).fail("It broke", {"line": 12})


@given('a stored plan that was created under "{profile}"')
def stored_under(context, profile):
    store(context, Plan.create("refactor-auth", profile=profile))


@given('a stored plan for which the project named the profile "{profile}"')
def stored_for_project(context, profile):
    store(context, Plan.create("refactor-auth", profile=resolve_profile(project=profile)))


@given("a stored plan that is {state:State} in the {phase:Phase} phase")
def stored_where(context, state, phase):
    store(context, REACH_STATE[state](REACH_PHASE[phase](Plan.create("refactor-auth"))))


@given("a stored plan from before snapshots")
def stored_unrecorded(context):
    another_program(context)


@when("another program stores a plan and leaves out every column with a default")
def another_program(context):
    another_program_under(context, DEFAULT_PROFILE_NAME)


@given('another program stored a plan under "{profile}"')
def another_program_under(context, profile):
    itself = id_of(context, "theirs")
    write(context, [{"plan": itself, "part_of": None, "tree": itself, "profile": profile}])
    context.plan = look_up(context, "theirs")


@given('the stored plan "{name:w}"')
def stored_root(context, name):
    store(context, Plan.create(name, plan_id=id_of(context, name)))


@given('the stored plan "{root:w}" with the child "{child:w}" and the grandchild "{grandchild:w}"')
def stored_tree(context, root, child, grandchild):
    stored_root(context, root)
    for name in (child, grandchild):
        store(context, context.plan.spawn(plan_id=id_of(context, name)))


@given("a stored plan that two clients have read")
def read_by_two(context):
    context.first = context.second = store(context, Plan.create("refactor-auth"))


@given("the first of them begins it")
def first_begins(context):
    save(context, context.first.begin())


@given("the first of them deletes it")
def first_deletes(context):
    with plans(context) as stored:
        stored.delete(context.first)


@given('"{name:w}" is damaged')
def damaged(context, name):
    change(
        context,
        "UPDATE v3_plans SET automation_profile = :broken WHERE plan_id = :plan",
        broken='{"profile_name": "tru',
        plan=id_of(context, name),
    )


# What is done


@when("it is stored and looked up again")
def store_and_look_up(context):
    context.given = context.plan
    store(context, context.plan)


@when("it is worked on until it is applied, and stored after each step")
def work_and_store(context):
    for step in TO_THE_END:
        save(context, getattr(context.plan, step)())


@when("it reverts and is stored")
def revert_and_store(context):
    save(context, context.plan.revert())


@when("a client changes its description and stores it")
def describe(context):
    save(context, context.plan.edit(description="Said better"))


@when("a client tries to store it with another snapshot")
def try_to_store_record(context):
    other = {"effective_profile_snapshot": BUILT_IN_PROFILES["full-auto"].snapshot()}
    # Made from nothing: the plan itself refuses already.
    attempt(context, lambda: save(context, Plan(**{**dict(context.plan), **other})))


@when("a client tries to store a child of it first")
def try_to_store_child(context):
    attempt(context, lambda: store(context, context.plan.spawn()))


@when("the second of them tries to cancel it")
def second_tries(context):
    attempt(context, lambda: save(context, context.second.cancel()))


@when("the second of them reads it again and cancels it")
def second_reads_again(context):
    save(context, look_up(context).cancel())


@given('a client deleted "{name:w}"')
@when('a client deletes "{name:w}"')
def client_deletes(context, name):
    delete(context, name)


@when('a client tries to delete "{name:w}"')
def try_to_delete(context, name):
    attempt(context, lambda: delete(context, name))


@when('a client deletes the whole tree of "{name:w}"')
def delete_whole_tree(context, name):
    with plans(context) as stored:
        stored.delete_tree(id_of(context, name))


@when('the tree of "{name:w}" is listed')
def list_tree(context, name):
    root = look_up(context, name).root_plan_id
    with plans(context) as stored:
        context.listed = stored.tree(root)


@when("all plans are listed")
def list_all(context):
    context.reported = []
    with plans(context) as stored:
        context.listed = stored.list(on_corrupt=context.reported.append)


@when('a client tries to read "{name:w}"')
def try_to_look_up(context, name):
    attempt(context, lambda: look_up(context, name))


# What is found


@then("it is the same plan")
def same_plan(context):
    assert context.plan == context.given


@then("the stored plan is {state:State} in the {phase:Phase} phase")
def stored_stands(context, state, phase):
    plan = look_up(context)
    assert (plan.processing_state, plan.phase) == (state, phase)


@then("the stored plan went back {times:Number} time")
def stored_went_back(context, times):
    assert look_up(context).reversion_count == times


@then('it is under "{profile}", the default')
@then('the stored plan is under "{profile}", the default')
def stored_under_default(context, profile):
    ref = look_up(context).automation_profile
    assert (ref.profile_name, ref.provenance) == (profile, None)


@then('the stored plan has the snapshot of "{profile}"')
def stored_on_record(context, profile):
    assert look_up(context).effective_profile == BUILT_IN_PROFILES[profile]


@then("the stored plan has an empty snapshot")
def nothing_stored_on_record(context):
    assert look_up(context).effective_profile is None


@then("their snapshots are empty")
def empty_snapshots(context):
    assert [plan.effective_profile for plan in everything(context)] == [None] * len(context.ids)


@then('"{first:w}" and "{last:w}" are listed')
@then('"{first:w}", "{second:w}" and "{last:w}" are listed')
def are_listed(context, first, last, second=None):
    found = [name_of(context, plan.plan_id) for plan in context.listed]
    assert found == [name for name in (first, second, last) if name], found


@then('it is reported what is wrong with "{name:w}"')
def reported(context, name):
    (report,) = context.reported
    assert report.plan_id == id_of(context, name)
    assert report.found == '{"profile_name": "tru'
    assert "a JSON object" in report.reason


@then('"{name:w}" has no parent any more')
def no_parent(context, name):
    assert look_up(context, name).is_detached


@then('"{name:w}" still belongs to the tree of "{root:w}"')
def still_in_tree(context, name, root):
    assert look_up(context, name).root_plan_id == id_of(context, root)


@then("{number:Number} plans are stored")
@then("{number:Number} plan is stored")
def how_many(context, number):
    assert len(everything(context)) == number
