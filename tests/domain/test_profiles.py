import json
import sys
from itertools import pairwise
from time import monotonic
from traceback import format_exception

import pytest
from pydantic import ValidationError

from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    DEFAULT_PROFILE_NAME,
    AutomationProfile,
    AutomationProfileRef,
    BadProfileFile,
    InvalidFields,
    InvalidType,
    InvalidValue,
    Level,
    ProfileNameTaken,
    ResolvedProfile,
    SafetyProfile,
    SnapshotUnreadable,
    UnknownProfile,
    load_profiles,
    resolve_profile,
)

THRESHOLDS = [
    "decompose_task", "create_tool", "select_tool", "edit_code", "execute_command", "create_file",
    "delete_content", "access_network", "install_dependency", "modify_config", "approve_plan",
]  # fmt: skip
FROM_CAREFUL_TO_FREE = [
    "manual", "review", "supervised", "cautious", "trusted", "auto", "ci", "full-auto",
]  # fmt: skip


def thresholds(name):
    return [getattr(BUILT_IN_PROFILES[name], threshold) for threshold in THRESHOLDS]


def custom(**fields):
    return {"name": "night-shift", **dict.fromkeys(THRESHOLDS, 0.5), **fields}


def test_nine_profiles_are_built_in_under_their_own_names():
    assert set(BUILT_IN_PROFILES) == {*FROM_CAREFUL_TO_FREE, "balanced"}
    assert all(profile.name == name for name, profile in BUILT_IN_PROFILES.items())
    assert all(profile.description for profile in BUILT_IN_PROFILES.values())
    assert len({profile.snapshot() for profile in BUILT_IN_PROFILES.values()}) == 9


def test_the_built_in_profiles_cannot_be_changed():
    with pytest.raises(TypeError):
        BUILT_IN_PROFILES["manual"] = BUILT_IN_PROFILES["auto"]
    with pytest.raises(ValidationError, match="frozen"):
        BUILT_IN_PROFILES["manual"].edit_code = 0.0


def test_no_profile_asks_more_than_the_more_careful_one_before_it():
    for careful, free in pairwise(FROM_CAREFUL_TO_FREE):
        pairs = zip(thresholds(careful), thresholds(free), strict=True)
        assert all(more >= less for more, less in pairs), (careful, free)


def test_the_two_ends_are_as_specified():
    assert set(thresholds("manual")) == {1.0}
    assert set(thresholds("full-auto")) == {0.0}
    assert BUILT_IN_PROFILES["full-auto"].safety == SafetyProfile(
        require_sandbox=False, require_checkpoints=False
    )


def test_balanced_asks_a_person_where_nothing_can_be_undone():
    asks = {name for name in THRESHOLDS if getattr(BUILT_IN_PROFILES["balanced"], name) == 1.0}

    assert asks == {
        "delete_content", "access_network", "install_dependency", "modify_config", "approve_plan",
    }  # fmt: skip
    assert all(
        getattr(BUILT_IN_PROFILES["balanced"], name) <= 0.5 for name in set(THRESHOLDS) - asks
    )


def test_auto_asks_before_apply_and_nowhere_else():
    assert BUILT_IN_PROFILES["auto"].approve_plan == 1.0
    assert sum(thresholds("auto")) == 1.0


def test_ci_profile_asks_no_person_and_stays_safe():
    assert set(thresholds("ci")) == {0.0}
    assert BUILT_IN_PROFILES["ci"].safety == SafetyProfile()


def test_the_safety_of_a_profile_is_on_unless_said_otherwise():
    assert SafetyProfile().model_dump() == {
        "allowed_skill_categories": (),
        "require_sandbox": True,
        "require_checkpoints": True,
        "require_human_approval": False,
        "allow_unsafe_tools": False,
        "max_cost_per_plan": None,
        "max_retries_per_step": 3,
        "max_total_cost": None,
    }


def test_a_snapshot_holds_every_field_and_reads_back():
    profile = AutomationProfile.from_mapping(custom(safety={"max_total_cost": 12.5}))
    recorded = json.loads(profile.snapshot())

    assert set(recorded) == set(AutomationProfile.model_fields)
    assert set(recorded["safety"]) == set(SafetyProfile.model_fields)
    assert AutomationProfile.from_snapshot(profile.snapshot()) == profile


def test_a_snapshot_is_canonical_json():
    text = BUILT_IN_PROFILES["manual"].snapshot()

    assert text == json.dumps(
        json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


@pytest.mark.parametrize("text", ["{}", " { }\n"])
def test_an_empty_snapshot_records_nothing(text):
    assert AutomationProfile.from_snapshot(text) is None


def test_a_snapshot_of_another_release_is_read_on_the_safe_side():
    read = AutomationProfile.from_snapshot(
        '{"name":"old","edit_code":0.25,"fly_to_moon":0.0,'
        '"safety":{"require_sandbox":false,"shields":true}}'
    )

    assert read.edit_code == 0.25
    assert read.delete_content == 1.0
    assert read.safety == SafetyProfile(require_sandbox=False)


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        3,
        "",
        "[]",
        "{",
        '{"edit_code":1.0}',
        '{"name":"a","edit_code":2.0}',
        '{"name":"a","safety":1}',
    ],
)
def test_a_snapshot_that_describes_no_profile_says_why(text):
    with pytest.raises(SnapshotUnreadable) as caught:
        AutomationProfile.from_snapshot(text)

    assert caught.value.snapshot == text
    assert caught.value.reason


def test_a_custom_profile_names_every_threshold():
    fields = custom()
    del fields["edit_code"]

    with pytest.raises(InvalidFields, match="no valid AutomationProfile: edit_code: Field"):
        AutomationProfile.from_mapping(fields)


@pytest.mark.parametrize(
    "wrong",
    [{"edit_code": 1.1}, {"edit_code": -0.1}, {"edit_code": True}, {"edit_code": "0.5"},
     {"edit_cod": 0.5}, {"name": "two words"}, {"safety": {"require_sandbox": "yes"}}],
)  # fmt: skip
def test_a_custom_profile_with_a_wrong_field_is_refused(wrong):
    with pytest.raises(InvalidFields, match=next(iter(wrong))):
        AutomationProfile.from_mapping(custom(**wrong))


def test_a_custom_profile_cannot_take_a_built_in_name():
    with pytest.raises(ProfileNameTaken, match="give yours another name"):
        AutomationProfile.from_mapping(custom(name="trusted"))


def test_profile_without_a_choice_is_the_default():
    found = resolve_profile()

    assert found == ResolvedProfile(
        profile=BUILT_IN_PROFILES[DEFAULT_PROFILE_NAME], provenance=None
    )
    assert found.ref == AutomationProfileRef()
    assert AutomationProfileRef().profile_name == "balanced"


@pytest.mark.parametrize(
    ("named", "profile", "level"),
    [
        ({"plan": "ci", "action": "auto", "project": "review", "global_": "manual"}, "ci", "plan"),
        ({"action": "auto", "project": "review", "global_": "manual"}, "auto", "action"),
        ({"project": "review", "global_": "manual"}, "review", "project"),
        ({"global_": "manual"}, "manual", "global"),
        ({"project": "balanced"}, "balanced", "project"),
    ],
)
def test_the_nearest_level_that_names_a_profile_decides(named, profile, level):
    found = resolve_profile(**named)

    assert found.profile is BUILT_IN_PROFILES[profile]
    assert found.provenance is Level(level)


def test_a_custom_profile_is_found_besides_the_built_in_ones():
    mine = AutomationProfile.from_mapping(custom())

    assert resolve_profile(action="night-shift", known={mine.name: mine}).profile is mine
    assert resolve_profile(known={mine.name: mine}).profile is BUILT_IN_PROFILES["balanced"]


def test_known_profiles_cannot_hide_a_built_in_one():
    other = AutomationProfile(**custom(name="trusted"))

    with pytest.raises(ProfileNameTaken):
        resolve_profile(plan="auto", known={"trusted": other})


def test_a_profile_is_known_under_its_own_name():
    with pytest.raises(InvalidValue, match=r"known\['mine'\] is the profile 'trusted'; expected"):
        resolve_profile(plan="mine", known={"mine": AutomationProfile(**custom(name="trusted"))})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"plan": 3}, "the profile of the plan level is 3; expected a name"),
        ({"global_": ["ci"]}, r"the profile of the global level is \['ci'\]"),
        ({"known": {"mine": 5}}, r"known\['mine'\] is 5; expected an AutomationProfile"),
    ],
)
def test_value_that_is_no_name_and_no_profile_is_refused(wrong, said):
    with pytest.raises(InvalidType, match=said):
        resolve_profile(**wrong)


def test_fields_that_are_no_mapping_are_refused():
    with pytest.raises(InvalidType, match="fields is None; expected a mapping"):
        AutomationProfile.from_mapping(None)


def test_an_unknown_profile_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownProfile, match=r"did you mean 'trusted'\?") as caught:
        resolve_profile(project="trustd", global_="manual")

    assert caught.value.level is Level.PROJECT
    assert caught.value.nearest == "trusted"
    assert set(caught.value.known) == set(BUILT_IN_PROFILES)


def test_an_empty_name_is_not_taken_for_none():
    with pytest.raises(UnknownProfile, match="''"):
        resolve_profile(plan="", global_="manual")


def test_a_profile_that_no_longer_exists_can_still_be_named():
    ref = AutomationProfileRef(profile_name="gone.since-2025", provenance="project")

    assert ref.profile_name == "gone.since-2025"
    assert ref.provenance is Level.PROJECT


def test_profiles_are_read_from_json(tmp_path):
    path = tmp_path / "profiles.json"
    path.write_text(json.dumps([custom(), custom(name="acme/day-shift")]))

    assert list(load_profiles(path)) == ["night-shift", "acme/day-shift"]


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_one_profile_is_read_from_yaml(tmp_path, suffix):
    path = tmp_path / f"night.{suffix}"
    lines = ["name: night-shift", *(f"{name}: 0.5" for name in THRESHOLDS)]
    path.write_text("\n".join([*lines, "safety: {allowed_skill_categories: [code]}"]))

    profile = load_profiles(str(path))["night-shift"]

    assert profile.edit_code == 0.5
    assert profile.safety.allowed_skill_categories == ("code",)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "", r"should end in \.yaml, \.yml or \.json"),
        ("a.json", "{", "broken JSON"),
        ("a.json", "3", "profile 1 is 3, not a mapping"),
        ("a.json", "[" * 100_000, "nested more than 100 levels deep"),
        ("a.json", " " * 300_000, "more than 262,144 bytes; split it"),
        ("a.json", "1" * 5000, "broken JSON"),
        ("a.json", '{"name": "a", "name": "b"}', "the key 'name' comes 2 times; write it once"),
        ("a.json", '{"name": "m", "\\ud800": 1}', "unable to parse raw data"),
        ("a.yaml", "a: [", "broken YAML"),
        ("a.yaml", r'"\UFFFFFFFF"', "broken YAML: OverflowError"),
        ("a.yaml", r'"\U00110000"', "broken YAML: ValueError"),
        (
            "a.yaml",
            "!" * 100_000,
            "broken YAML: could not determine a constructor.{,200} in line 1",
        ),
        ("a.yaml", "", "profile 1 is None, not a mapping"),
        ("a.json", '{"edit_code": 1}', "without a name.*name: Field required"),
        ("a.json", json.dumps([custom(), custom()]), "profile 2 is a second 'night-shift'"),
        ("a.json", json.dumps(custom(speed=1)), r"\('night-shift'\): speed: Extra inputs"),
        ("a.json", json.dumps({**custom(), "edit_code": float("nan")}), "edit_code"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_file_says_what_is_wrong_with_it(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(BadProfileFile, match=said) as caught:
        load_profiles(path)
    assert caught.value.path == str(path)


YAML = "name: night-shift\n" + "".join(f"{name}: 0.5\n" for name in THRESHOLDS)
# Nine names for ten of the one before are a thousand million items, if they are written out.
BOMB = (
    "["
    + ", ".join(
        f"&{name} [{', '.join([f'*{before}'] * 10) if before else 1}]"
        for before, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
    )
    + "]"
)

# Merged keys are copied: nine times those of the mapping before, eleven times over.
MERGE_BOMB = "- &a0 {k0: v}\n" + "".join(
    f"- &a{each} {{k{each}: v, <<: [{', '.join([f'*a{each - 1}'] * 9)}]}}\n"
    for each in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (YAML + "description: 2026-13-45", "'2026-13-45' in line 13, column 14 is no timestamp"),
        (YAML + "description: !!int x", "'x' in line 13, column 14 is no int"),
        (YAML + "description: !!float x", "'x' in line 13, column 14 is no float"),
        (YAML + "description: !!bool foo", "'foo' in line 13, column 14 is no bool"),
        (YAML + "description: !!timestamp x", "'x' in line 13, column 14 is no timestamp"),
        (YAML + "description: " + "1" * 5000, "'111.*…1*' in line 13, column 14 is no int"),
        (YAML + "description: [a]", "description: Input should be a valid string"),
        (YAML + "edit_code: 0.0", "the key 'edit_code' comes 2 times; write it once"),
        (YAML + "safety: {require_sandbox: true, require_sandbox: false}", "'require_sandbox' co"),
        (YAML + "safety: []", "safety: Input should be a valid dictionary"),
        (YAML + "? [a]\n: 2", "found unhashable key in line 13, column 3"),
        (YAML + "1: 2", "1: Keys should be strings"),
        (YAML + "---\n" + YAML, "expected a single document.*found another document in line 13"),
        (YAML + "\0", "special characters are not allowed"),
        (YAML + "more: &it [*it]", "the alias in line 13, column 12 names what it is a part of"),
        ("[]", "it holds an empty list; expected a profile"),
        ("- - " + "x" * 5000, r"profile 1 is \['x+…x+'\], not a mapping"),
        ("&it [*it]", "the alias in line 1, column 6 names what it is a part of"),
        ("? &it {*it : 1}\n: 2", "names what it is a part of"),
        (BOMB, "more than 100,000 values, aliases written out"),
        (MERGE_BOMB, "more than 100,000 values, aliases written out"),
        ("[" * 5000, "nested more than 100 levels deep"),
        ("a: " * 5000, "broken YAML"),
        ("name: " + BOMB, "more than 100,000 values"),
        (YAML + "description: " + "1:" * 100_000 + "1", "'1:1.*' in line 13, column 14 is no int"),
        (YAML + "description: " + "1:" * 100_000 + "1.", "is no float"),
        ("# " + "x" * 300_000, "more than 262,144 bytes; split it"),
        ("name: " + "x" * 5000, r"profile 1 \('x+…x+'\): name: String should have at most 255"),
    ],
    ids=lambda value: value[-20:],
)
def test_yaml_that_is_no_profile_is_one_short_error(tmp_path, text, said):
    path = tmp_path / "a.yaml"
    path.write_text(text)

    with pytest.raises(BadProfileFile, match=said) as caught:
        load_profiles(path)

    assert len(caught.value.reason) < 700
    assert str(caught.value).isprintable()
    assert "".join(format_exception(caught.value)).count("Traceback") == 1


def test_a_file_that_has_no_end_is_refused():
    with pytest.raises(BadProfileFile, match=r"/dev/zero|name should end"):
        load_profiles("/dev/zero")


def test_a_file_as_large_as_allowed_is_read_in_seconds(tmp_path):
    each = YAML.replace("\n", "\n  ")
    many = [f"- {each.replace('night-shift', f'p{number}')}\n" for number in range(900)]
    text = "".join(many)
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert 200_000 < len(text) < 262_144

    began = monotonic()
    assert len(load_profiles(path)) == 900
    assert monotonic() - began < 30


def test_merged_keys_of_yaml_may_be_given_again(tmp_path):
    path = tmp_path / "a.yaml"
    indented = YAML.replace("\n", "\n  ")
    path.write_text(f"- &base\n  {indented}\n- <<: *base\n  name: day-shift\n  edit_code: 0.0\n")

    assert {name: each.edit_code for name, each in load_profiles(path).items()} == {
        "night-shift": 0.5,
        "day-shift": 0.0,
    }


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(custom()), encoding="utf-8-sig")

    assert [*load_profiles(path)] == ["night-shift"]


@pytest.mark.parametrize("path", [None, 3, b"a.json"])
def test_value_that_is_no_path_is_refused(path):
    with pytest.raises(InvalidType, match="expected the path of a file"):
        load_profiles(path)


def test_a_path_that_cannot_be_one_is_a_bad_file():
    with pytest.raises(BadProfileFile, match=r"from 'a\\x00.json': .*null") as caught:
        load_profiles("a\0.json")
    assert caught.value.path == "a\0.json"


def test_a_file_that_is_missing_or_no_text_is_a_bad_file(tmp_path):
    with pytest.raises(BadProfileFile, match="No such file"):
        load_profiles(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BadProfileFile, match="decode"):
        load_profiles(tmp_path / "binary.json")


def test_a_file_cannot_redefine_a_built_in_profile(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(custom(name="ci")))

    with pytest.raises(ProfileNameTaken):
        load_profiles(path)


def test_yaml_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_text("name: a")
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(BadProfileFile, match=r"pip install 'cleveragents-plans\[yaml\]'"):
        load_profiles(path)
