"""Steps of taking a database from the former release to this one, and back."""

import json

import former
from behave import given, then, when
from words import attempt, everything, id_of, in_words, name_of

from cleveragents_plans import AutomationProfileRef, new_ulid
from support.databases import migrate, roll_back
from support.revisions import M4_003, M8_002
from support.rows import database_hash, schema_dump

FILLED_IN = {"root_plan_id", "automation_profile", "effective_profile_snapshot"}
PROFILES = {"": None, "blanks": " \t\n"}


def state_of(url):
    return database_hash(url), schema_dump(url)


def begin_change(context):
    context.before = state_of(context.url)
    context.rows_before = former.whole_rows(context, FILLED_IN)


def profile_text(words):
    if words in PROFILES:
        return PROFILES[words]
    name, _, level = words.partition(" by the ")
    return json.dumps({"profile_name": name, "provenance": level})


def as_cells(context, headings, parent, root, profile):
    found = {
        "parent": name_of(context, parent),
        "root": name_of(context, root),
        "profile": profile,
    }
    return tuple(found[heading] for heading in headings[1:])


def expected(context):
    return {id_of(context, row["plan"]): tuple(row.cells[1:]) for row in context.table}


@given("the former release left these plans")
@when("the former release stores these plans")
def former_plans(context):
    def linked(row, heading):
        name = row.get(heading)
        return id_of(context, name) if name else None

    # First of all the ids, so that they grow in the order of the table.
    for row in context.table:
        id_of(context, row["plan"])
    former.write(
        context,
        [
            {
                "plan": id_of(context, row["plan"]),
                "part_of": linked(row, "parent"),
                "tree": linked(row, "root"),
                "profile": profile_text(row.get("profile", "")),
            }
            for row in context.table
        ],
    )


@given("the database was upgraded")
@when("the database is upgraded")
def upgrade(context):
    begin_change(context)
    migrate(context.url, "head")


@given("the database was upgraded as far as the former release can write to it")
def upgrade_beside_the_former_release(context):
    migrate(context.url, M8_002)


@when("an operator tries to upgrade the database")
def try_to_upgrade(context):
    begin_change(context)
    attempt(context, lambda: migrate(context.url, "head"))


@given("the database was downgraded")
@when("the database is downgraded")
def go_back(context):
    roll_back(context.url, M4_003)


@when("the database is upgraded and downgraded")
def there_and_back(context):
    begin_change(context)
    migrate(context.url, "head")
    roll_back(context.url, M4_003)


@when("the database is downgraded and upgraded")
def back_and_there(context):
    begin_change(context)
    roll_back(context.url, M4_003)
    migrate(context.url, "head")


@given("the former release begins it")
def former_begins(context):
    begun = "UPDATE v3_plans SET processing_state = 'processing' WHERE plan_id = :plan"
    former.change(context, begun, plan=context.plan.plan_id)


@given("the former release deletes it")
@when("the former release deletes it")
def former_deletes(context):
    gone = "DELETE FROM v3_plans WHERE plan_id = :plan"
    former.change(context, gone, plan=context.plan.plan_id)


@then("these are the plans")
def these_are(context):
    found = {
        plan.plan_id: as_cells(
            context,
            context.table.headings,
            plan.parent_plan_id,
            plan.root_plan_id,
            in_words(plan.automation_profile),
        )
        for plan in everything(context)
    }
    assert found == expected(context), found


@then("the former release reads these plans")
def former_reads(context):
    found = {
        plan_id: as_cells(
            context,
            context.table.headings,
            parent,
            root,
            in_words(AutomationProfileRef(**profile)) if profile else "",
        )
        for plan_id, (parent, root, profile) in former.read(context).items()
    }
    assert found == expected(context), found


@then('the former release reads that plan\'s profile as "{words}"')
def former_reads_profile(context, words):
    _, _, profile = former.read(context)[context.plan.plan_id]
    assert in_words(AutomationProfileRef(**profile)) == words


@then("all else about them is as it was")
def all_else(context):
    # A column that a later revision adds was not there before.
    known = {name for row in context.rows_before for name in row}
    rows = former.whole_rows(context, FILLED_IN)
    assert [{name: row[name] for name in row if name in known} for row in rows] == (
        context.rows_before
    )


@then("nothing has changed")
def nothing_changed(context):
    assert state_of(context.url) == context.before


@then("there is no archive")
def nothing_kept(context):
    assert not [entry for entry in schema_dump(context.url) if "archive" in entry[2]]


@then('the error names the plans "{first:w}" and "{second:w}"')
def told_plans(context, first, second):
    for name in (first, second):
        assert id_of(context, name) in context.refusal, context.refusal


# Corrections of plans, which another package keeps


def correct(context, plan_id):
    correction = "INSERT INTO correction_attempts (id, plan_id) VALUES (:id, :plan)"
    former.change(context, correction, id=new_ulid(), plan=plan_id)


@given("corrections are kept beside the plans")
def corrections_kept(context):
    former.keep_corrections(context)


@given('a correction of "{name:w}"')
def a_correction(context, name):
    former.keep_corrections(context)
    correct(context, id_of(context, name))


@when("a client tries to correct a plan that does not exist")
def try_to_correct(context):
    attempt(context, lambda: correct(context, new_ulid()))


@then("it is refused")
def is_refused(context):
    assert context.refusal is not None


@then('there is a correction of "{name:w}"')
def is_corrected(context, name):
    assert former.corrected(context) == [id_of(context, name)]


@then("there is no correction")
def no_correction(context):
    assert former.corrected(context) == []
