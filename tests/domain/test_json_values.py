import copy
import json
import math
import pickle
import traceback
from decimal import Decimal
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from cleveragents_plans import Plan, PlansError
from cleveragents_plans.domain import Arguments, JsonObject, NotJson, canonical_json

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(names, values, max_size=5)


class Holder(BaseModel):
    model_config = ConfigDict(frozen=True)

    some: JsonObject | None = None
    arguments: Arguments = Arguments()


def test_canonical_json_sorts_keys_and_wastes_no_space():
    assert canonical_json({"b": [1, 2.0, None], "a": {"é": True}}) == (
        '{"a":{"é":true},"b":[1,2.0,null]}'
    )


@given(objects)
def test_an_object_reads_back_as_the_same_value(plain):
    read = JsonObject.from_text(json.dumps(plain))

    assert read == JsonObject(plain)
    assert hash(read) == hash(JsonObject(plain))
    assert JsonObject.from_text(read.canonical).canonical == read.canonical
    assert canonical_json(read.to_plain()) == read.canonical


@given(objects)
def test_an_object_survives_copies_pickles_and_models(plain):
    given_ = JsonObject(plain)
    held = Holder(some=given_)

    assert pickle.loads(pickle.dumps(given_)) == given_
    assert copy.copy(given_) == copy.deepcopy(given_) == given_
    assert Holder.model_validate(held.model_dump()) == held
    assert Holder.model_validate_json(held.model_dump_json()) == held


def test_one_and_one_point_nought_and_true_are_three_values():
    alike = {JsonObject({"a": 1}), JsonObject({"a": 1.0}), JsonObject({"a": True})}

    assert len(alike) == 3


def test_an_object_equals_a_mapping_of_the_same_json_only():
    assert JsonObject({"a": 1, "b": 2}) == {"b": 2, "a": 1}
    assert JsonObject({"a": 1}) != {"a": 1.0}
    assert JsonObject({"a": 1}) != {"a": object()}
    assert JsonObject() == {}
    assert JsonObject({"a": 1}) != "a"


def test_negative_zero_is_another_number_than_zero():
    assert JsonObject({"a": -0.0}) != JsonObject({"a": 0.0})


def test_nested_values_cannot_be_changed():
    source = {"list": [1, {"deep": [2]}]}
    frozen = JsonObject(source)
    source["list"].append(3)

    assert frozen["list"] == (1, JsonObject({"deep": [2]}))
    assert list(frozen) == ["list"]
    assert len(frozen) == 1
    with pytest.raises(TypeError):
        frozen["list"] = 3
    with pytest.raises(AttributeError):
        frozen.other = 3


def test_a_plain_copy_is_free_to_change():
    frozen = JsonObject({"list": [1]})
    plain = frozen.to_plain()
    plain["list"].append(2)

    assert frozen == {"list": [1]}
    assert repr(frozen) == "JsonObject({'list': [1]})"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, r"\$\.a\[1\]: found nan, expected a finite number"),
        (-math.inf, "found -inf"),
        ("a\0b", "NUL character"),
        ("\ud800", "lone surrogate"),
        ({1: 2}, "the key 1, expected keys that are text"),
        ({"\0": 2}, "NUL character"),
        ({"\udfff": 2}, "lone surrogate"),
        (Decimal(1), "Decimal"),
        ({1, 2}, r"set \{1, 2\}"),
        pytest.param(10**4300, "4300 digits", id="a long integer"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_where_it_is(value, said):
    with pytest.raises(NotJson, match=said):
        JsonObject({"a": [0, value]})


def test_a_value_that_is_too_deep_is_refused():
    deep = []
    for _ in range(99):
        deep = [deep]

    with pytest.raises(NotJson, match="more than 100 levels"):
        JsonObject({"deep": deep})


def test_a_text_that_is_too_deep_is_refused_when_it_is_read():
    deep = "[" * 99 + "]" * 99

    assert Arguments.from_texts([("deep", deep)]) == Arguments({"deep": json.loads(deep)})
    assert JsonObject.from_text(f'{{"a": "{"[" * 200}"}}')["a"] == "[" * 200
    with pytest.raises(NotJson, match="more than 100 levels"):
        Arguments.from_texts([("deep", f"[{deep}]")])
    with pytest.raises(NotJson, match="more than 100 levels"):
        JsonObject.from_text(f'{{"deep": [{deep}]}}')


def shared(levels: int, least: object = "x") -> object:
    value = least
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (shared(40), "more than 250,000 values"),
        ({"deep": [{"a": shared(60)}]}, "more than 250,000 values"),
        (shared(10, "x" * 2**20), "more than 67,108,864 characters"),
        (shared(10, {"x" * 2**20: 1}), "more than 67,108,864 characters"),
        ([[None] * 1000] * 251, "more than 250,000 values"),
    ],
)
def test_a_small_value_that_is_huge_when_written_out_is_refused(value, said):
    for make in (JsonObject, Arguments, canonical_json):
        with pytest.raises(NotJson, match=f"{said}, expected a smaller value"):
            make({"x": value})


def test_traceback_of_a_refused_value_does_not_write_it_out():
    value = ["secret"]
    for _ in range(20):
        value = [value, value]

    with pytest.raises(PlansError) as caught:
        Plan.create("local/tidy", arguments={"x": value})

    shown = "".join(traceback.format_exception(caught.value))
    assert "expected a smaller value" in shown
    assert "input_value" not in shown
    assert "secret" not in shown


def test_a_stored_value_is_read_whatever_its_size():
    text = '{"a":[' + ",".join(["1e99"] * 1_000_001) + "]}"

    assert len(JsonObject.from_text(text)["a"]) == 1_000_001


@pytest.mark.parametrize("name", ["a\nb", "x" * 10**6])
def test_a_refusal_is_one_short_line_whatever_the_keys_are(name):
    with pytest.raises(NotJson) as caught:
        JsonObject({name: {"deep": object()}})

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


class Color(str, Enum):  # noqa: UP042  what others still write, and whose str() is its name
    """A text that has a name besides."""

    RED = "red"


def test_a_member_of_an_enumeration_is_kept_as_its_text():
    assert JsonObject({Color.RED: [Color.RED]}).canonical == '{"red":["red"]}'
    assert Arguments({Color.RED: Color.RED}).texts() == (("red", '"red"'),)


def test_a_value_as_deep_as_allowed_is_read_again_as_an_argument():
    deep = []
    for _ in range(98):
        deep = [deep]
    arguments = Arguments({"deep": deep})

    assert Arguments.from_texts(arguments.texts()) == arguments
    assert pickle.loads(pickle.dumps(arguments)) == arguments


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '"text"', "3", "null", '{"a":NaN}', '{"a":Infinity}', '{"a":"\\ud800"}',
     '{"a":"\\u0000"}', '{"\\u0000":1}', '{"a":1e999}', '{"a":-1E+0400}', '{"a":"\ud800"}',
     '{"a":' + "9" * 309 + ".0}", '{"a":1}x', "{'a':1}"],
)  # fmt: skip
def test_a_broken_text_is_found_when_it_is_read(text):
    with pytest.raises(NotJson):
        JsonObject.from_text(text)


@pytest.mark.parametrize("text", [r'{"a":"\\u0000"}', '{"a":"1e999"}', '{"a":1e99}'])
def test_a_text_that_only_looks_suspicious_is_read(text):
    assert JsonObject.from_text(text).to_plain() == json.loads(text)


def test_arguments_are_equal_in_the_same_order_only():
    forth = Arguments({"a": 1, "b": {"x": 1, "y": 2}})
    back = Arguments({"b": {"y": 2, "x": 1}, "a": 1})

    assert forth != back
    assert forth == {"a": 1, "b": {"y": 2, "x": 1}}
    assert forth.texts() == (("a", "1"), ("b", '{"x":1,"y":2}'))
    assert list(pickle.loads(pickle.dumps(back))) == ["b", "a"]
    assert list(back.to_plain()) == ["b", "a"]
    assert forth != JsonObject(forth)


@given(objects)
def test_arguments_read_back_from_their_texts(plain):
    plain = {f"n{name}"[:255]: value for name, value in plain.items()}
    arguments = Arguments(plain)
    held = Holder(arguments=arguments)

    assert Arguments.from_texts(arguments.texts()) == arguments
    assert Holder.model_validate_json(held.model_dump_json()) == held


@pytest.mark.parametrize("name", ["", "a" * 256, "\0", "\ud800"])
def test_an_argument_has_a_name_that_can_be_stored(name):
    with pytest.raises(NotJson):
        Arguments({name: 1})
    with pytest.raises(NotJson):
        Arguments.from_texts([(name, "1")])


def test_an_argument_comes_once():
    with pytest.raises(NotJson, match="a second argument 'a', expected each name once"):
        Arguments.from_texts([("a", "1"), ("a", "2")])


def test_a_broken_argument_says_which_it_is():
    with pytest.raises(NotJson, match=r"\$\.depth: found str '\{' \(EOF"):
        Arguments.from_texts([("mode", "1"), ("depth", "{")])


def test_a_model_refuses_what_is_no_object():
    with pytest.raises(ValidationError, match="found int 3, expected a mapping"):
        Holder(some=3)


def test_nothing_and_an_empty_object_are_different():
    assert Holder(some={}) != Holder(some=None)


def test_a_model_with_json_has_a_schema():
    schema = Holder.model_json_schema()

    assert schema["properties"]["arguments"]["type"] == "object"


def test_a_long_finding_is_cut_short():
    with pytest.raises(NotJson, match="…"):
        JsonObject.from_text("x" * 100)
