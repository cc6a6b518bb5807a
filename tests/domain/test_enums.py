import pytest

from cleveragents_plans.domain import EnvironmentPriority, Level, Phase, ProcessingState


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (Phase, "action strategize execute apply"),
        (
            ProcessingState,
            "queued processing complete errored constrained applied cancelled",
        ),
        (Level, "plan action project global"),
        (EnvironmentPriority, "fallback override"),
    ],
)
def test_the_words_are_those_that_are_stored_in_their_order(words, stored):
    assert [str(word) for word in words] == stored.split()
