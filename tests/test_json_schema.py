"""The JSON schema that a web service publishes says what is written, and what may be sent."""

from __future__ import annotations

import functools
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator, ValidationError

from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    AutomationProfile,
    Plan,
    PlanView,
    ResolvedProfile,
)
from support.plans import a_plan, any_plan

MODELS = [Plan, PlanView, AutomationProfile, ResolvedProfile]


@functools.cache
def written(model) -> Draft202012Validator:
    schema = model.model_json_schema(mode="serialization")
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(any_plan())
def test_a_plan_is_written_as_its_schema_says(plan):
    written(Plan).validate(json.loads(plan.model_dump_json()))
    written(PlanView).validate(json.loads(PlanView.of(plan).model_dump_json()))


@pytest.mark.parametrize("profile", BUILT_IN_PROFILES.values(), ids=lambda it: it.name)
def test_a_profile_is_written_as_its_schema_says(profile):
    written(AutomationProfile).validate(json.loads(profile.model_dump_json()))


def objects(schema: dict) -> list[tuple[str, dict]]:
    return [(schema["title"], schema), *schema.get("$defs", {}).items()]


@pytest.mark.parametrize("model", MODELS, ids=lambda it: it.__name__)
def test_every_field_that_is_written_is_required_and_described(model):
    for name, schema in objects(model.model_json_schema(mode="serialization")):
        assert schema.get("description"), name
        properties = schema.get("properties", {})
        assert sorted(schema.get("required", [])) == sorted(properties), name
        for field, described in properties.items():
            assert described.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("mode", ["serialization", "validation"])
@pytest.mark.parametrize("model", MODELS, ids=lambda it: it.__name__)
def test_every_default_is_valid_for_its_field(model, mode):
    schema = model.model_json_schema(mode=mode)
    for name, each in objects(schema):
        for field, described in each.get("properties", {}).items():
            if "default" in described:
                validator = Draft202012Validator({"$defs": schema.get("$defs", {}), **described})
                errors = [*validator.iter_errors(described["default"])]
                assert not errors, f"{name}.{field}: {errors}"


def test_optional_fields_are_not_required_of_input():
    schema = Plan.model_json_schema()
    accepted = Draft202012Validator(schema)
    body = {
        "identity": {"plan_id": a_plan().plan_id},
        "action_name": "local/lint",
        "created_at": "2026-03-14T12:00:00Z",
        "updated_at": "2026-03-14T12:00:00Z",
        "project_links": ["local/api", {"project_name": "local/web", "alias": "web"}],
        "invariants": ["Keep the API"],
    }

    accepted.validate(body)
    plan = Plan.model_validate_json(json.dumps(body))
    accepted.validate(json.loads(plan.model_dump_json()))
    assert [link.alias for link in plan.project_links] == [None, "web"]
    assert schema["$defs"]["PlanIdentity"]["required"] == ["plan_id"]
    with pytest.raises(ValidationError):
        accepted.validate(body | {"nickname": "x"})


@pytest.mark.parametrize("mode", ["serialization", "validation"])
@pytest.mark.parametrize("field", ["action_name", "namespace"])
def test_names_of_any_letters_match_the_pattern_of_the_schema_as_javascript_reads_it(field, mode):
    described = Plan.model_json_schema(mode=mode)["properties"][field]
    pattern = described.get("pattern") or described["anyOf"][0]["pattern"]
    names = re.compile(pattern, re.ASCII)  # where \w is ASCII only

    for name in ("lint", "Größe", "กา", "修理", "a_b"):
        assert names.search(name), name
    for name in ("", "a b", "a.b", "a@b", "[", "^", "`", "{", "\x7f", "a:b:c", "a,b", "a\0"):
        assert not names.search(name), name
