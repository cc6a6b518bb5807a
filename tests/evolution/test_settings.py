"""What an operator or a program chooses is used, and what cannot be used is refused."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from types import SimpleNamespace

import pytest
from alembic.config import Config

from cleveragents_plans.evolution.settings import BadSetting, Settings


def chosen(*x, **attributes):
    config = Config(attributes={"evolution": attributes}, cmd_opts=Namespace(x=list(x)))
    return Settings.of(SimpleNamespace(config=config))


def test_lock_wait_is_ten_minutes_by_default():
    assert Settings.of(None).lock_wait == 600
    assert Settings.of(SimpleNamespace(config=Config())) == Settings()


def test_an_operator_chooses_on_the_command_line():
    assert chosen("lock-wait=60", "batch-ms=2.5") == Settings(lock_wait=60, batch_ms=2.5)


def test_a_program_chooses_by_attributes_and_the_operator_has_the_last_word():
    assert chosen("lock-wait=60", lock_wait=5, duty_cycle=1) == Settings(lock_wait=60, duty_cycle=1)


def test_arguments_for_others_are_ignored():
    assert chosen("drop-plans=yes", "verbose") == Settings()


@pytest.mark.parametrize(
    "argument",
    [
        "lock-wait=soon",
        "lock-wait=-1",
        "lock-wait=inf",
        "lock-wait=nan",
        "duty-cycle=0",
        "duty-cycle=1.5",
        "batch-ms=0",
        "report-every=0",
        "report-every=1e-9",
        "duty-cycle=1e-300",
        "max-replica-lag=3601",
        "rows-per-second=1e-300",
    ],
)
def test_a_value_that_cannot_be_used_is_refused(argument):
    name, value = argument.split("=")

    with pytest.raises(BadSetting, match=f"the setting {name} is '{value}'; expected ") as refused:
        chosen(argument)

    assert (refused.value.name, refused.value.found) == (name, value)


def test_a_program_that_misspells_a_setting_is_told_which_there_are():
    with pytest.raises(BadSetting, match=r"lock_wiat.*expected one of.*lock_wait"):
        chosen(lock_wiat=5)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300", "1e10"])
@pytest.mark.parametrize("name", [each.name for each in fields(Settings)])
def test_every_setting_has_a_range(name, value):
    with pytest.raises(BadSetting, match=r"expected (0, or )?a number from [0-9.]+ to [0-9,]+$"):
        chosen(f"{name}={value}")
