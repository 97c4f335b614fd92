"""The bench itself: its rows are what they say, and rewards with the known defects fail where they should."""

from collections import Counter
from functools import partial

import pytest

from utils.data.answers import is_correct
from utils.rewards.bench import PLACES, RIGHT_CLEAN, RIGHT_MESSY, ROWS, WORTHLESS, WRONG_CLEAN, bench, laid_out
from utils.rewards.functions import REWARDS, classic_rewards, correctness_reward, format_reward, total_reward

SHELL = laid_out("0", "")
BARE = "42"


def reasons(reward):
    return {result.row.reason for result in bench(reward) if not result.passed}


def test_there_are_enough_rows_each_with_its_own_reason():
    assert len(ROWS) >= 60
    assert len({(row.completion, row.gold) for row in ROWS}) == len(ROWS)
    assert max(Counter(row.reason for row in ROWS).values()) == 1
    assert {row.place for row in ROWS} == set(PLACES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_a_row_lies_where_its_place_says(row):
    """`strict` and `lenient` are other code than the bench, and agree with where a person put the row."""
    assert is_correct(row.completion, row.gold, "strict") <= (row.place != WORTHLESS)
    assert is_correct(row.completion, row.gold, "lenient") == (row.place in (RIGHT_CLEAN, RIGHT_MESSY))
    assert (format_reward([row.completion]) == [1.0]) == (row.place in (RIGHT_CLEAN, WRONG_CLEAN))


def test_the_projects_rewards_pass_every_row():
    assert reasons(total_reward) == set()


@pytest.mark.parametrize("scale, offset", [(10, 0), (0.01, 5), (1, -3)])
def test_only_the_order_matters(scale, offset):
    assert not reasons(lambda **given: [scale * r + offset for r in total_reward(**given)])


@pytest.mark.parametrize(
    "reward, reason",
    [
        (lambda completions, gold, **k: [0.0] * len(completions), "right without tags"),
        (correctness_reward, "right without tags"),
        (format_reward, "a bare number is right"),
        (partial(total_reward, rewards={correctness_reward: 1.0, format_reward: 1.5}), "right without tags"),
        (partial(total_reward, rewards={correctness_reward: -1.0}), "the layout asked for"),
        (
            lambda completions, gold, **k: [
                r + 1e-6 * len(c) for c, r in zip(completions, total_reward(completions, gold=gold), strict=True)
            ],
            "padding must not pay",
        ),
        (
            lambda completions, gold, **k: [
                r + 0.1 * ("step by step" in c)
                for c, r in zip(completions, total_reward(completions, gold=gold), strict=True)
            ],
            "a show of method",
        ),
        (lambda completions, gold, **k: [c.count("<answer>") + 0.0 for c in completions], "the tag repeated"),
        (
            lambda completions, gold, **k: [float(g in c) for c, g in zip(completions, gold, strict=True)],
            "a list is no",
        ),
        (
            lambda completions, gold, **k: [
                r - 0.5 * ("?" in c) - 0.5 * ("36" in c)
                for c, r in zip(completions, total_reward(completions, gold=gold), strict=True)
            ],
            "a bare wrong number",
        ),
    ],
    ids=[
        "constant",
        "no format",
        "format only",
        "format pays most",
        "upside down",
        "length",
        "show",
        "tags counted",
        "contains",
        "punishes",
    ],
)
def test_a_bad_reward_fails_with_the_reason(reward, reason):
    assert any(reason in found for found in reasons(reward))


def test_the_failures_say_what_was_paid():
    result = next(r for r in bench(correctness_reward) if not r.passed)
    assert result.why == "earns 1, not more than 'right but messy' (1)"


def score(text, gold="42"):
    return total_reward([text], classic_rewards, gold=[gold])[0]


def test_the_classic_set_has_the_published_values():
    """Measured on the set itself: shell with a wrong 0, bare right number, bare wrong integer, -7."""
    assert score("<reasoning>\n\n</reasoning>\n<answer>\n0\n</answer>\n") == 1.5
    assert score(BARE) == 2.5
    assert score("36") == 0.5
    assert score("<reasoning>\nwork\n</reasoning>\n<answer>\n42\n</answer>\n") == 3.5
    assert score("-7", "-7") == 2.0
    assert total_reward(["<answer>42</answer><answer>36</answer>"], classic_rewards, gold=["42"]) == [0.5]


def test_the_classic_format_rewards_never_fire_on_reasoning_of_two_lines():
    text = "<reasoning>\n6 * 7\n= 42\n</reasoning>\n<answer>\n42\n</answer>\n"
    parts = {f.__name__: f(completions=[text], gold=["42"])[0] for f in classic_rewards}
    assert parts["classic_strict_format"] == parts["classic_soft_format"] == 0.0
    assert parts["classic_correctness"] == 2.0


def test_the_classic_set_fails_in_the_bench_where_it_is_known_to():
    failed = reasons(partial(total_reward, rewards=classic_rewards))
    assert {"a currency sign does not make it wrong", "an empty shell around a guess", "wrong, and talks on"} <= failed
    assert len(failed) > 20 and len(REWARDS) == 4
