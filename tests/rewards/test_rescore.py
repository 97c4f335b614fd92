"""The bank under other rewards: advantages, ranks, dead groups, what changed, and the warning lights."""

import pytest

from utils.rewards.bank import DOMINANT, Bank, Group, changed_rank, changed_sign, lights, load_bank, rescore
from utils.rewards.functions import (
    REWARDS,
    classic_rewards,
    correctness_reward,
    format_reward,
    group_advantages,
    total_reward,
)

CLEAN = "<reasoning>\n3+4=7\n</reasoning>\n<answer>7</answer>"
WRONG = CLEAN.replace("7", "8")
SMALL = Bank(
    (
        Group("base", "3+4?", "7", (CLEAN, "The answer is 7.", WRONG, ""), (20, 6, 20, 0)),
        Group("base", "3+4?", "7", (WRONG,) * 4, (20,) * 4),
    )
)


def of(bank, rewards):
    return rescore(bank, list(rewards), list(rewards.values()))


def brief(completions, **kwargs):
    return [-len(text) / 200 for text in completions]


def bullets(completions, **kwargs):
    return [float("•" in text) for text in completions]


def test_totals_parts_ranks_and_dead_groups_by_hand():
    scores = of(SMALL, REWARDS)
    assert scores.totals == [1.2, 1.0, 0.2, 0.0] + [0.2] * 4
    assert scores.parts["correctness_reward"] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert scores.ranks == [1, 2, 3, 4, 1, 1, 1, 1]
    assert scores.dead == [False, True] and scores.dead_share == 0.5
    assert scores.advantages == group_advantages(scores.totals, 4)


def test_the_whole_bank_gets_what_training_would_give_it():
    bank = load_bank()
    scores = of(bank, REWARDS)
    assert scores.totals == pytest.approx(total_reward(bank.completions, **bank.columns))


def test_weights_scale_and_functions_are_called_once_for_a_bank():
    calls = []

    def counted(completions, **kwargs):
        calls.append(len(completions))
        return [1.0] * len(completions)

    assert rescore(SMALL, [counted], [0.5]).totals == [0.5] * 8
    assert rescore(SMALL, [counted], [-2]).totals == [-2.0] * 8
    assert calls == [8]


def test_changes_of_sign_and_rank():
    before, after = of(SMALL, REWARDS), of(SMALL, {format_reward: 1.0})
    assert changed_sign(before, after) == [False, True, True, False] + [False] * 4
    assert after.ranks[:4] == [1, 3, 1, 3]
    assert changed_rank(before, after) == [False, True, True, True] + [False] * 4
    assert not any(changed_sign(before, before) + changed_rank(before, before))


def test_sums_that_differ_only_by_rounding_are_equal():
    def third(completions, **kwargs):
        return [0.1 + 0.2 if text else 0.3 for text in completions]

    assert rescore(SMALL, [third], [1.0]).dead == [True, True]


@pytest.mark.parametrize(
    "rewards, lit",
    [
        (REWARDS, set()),
        ({format_reward: 1.0}, {"a wrong answer can win", "a part dominates"}),
        ({bullets: 1.0}, {"a wrong answer can win", "a part never fires", "dead groups"}),
        ({correctness_reward: 1.0, format_reward: 2.0}, {"a wrong answer can win", "a part dominates"}),
        ({**REWARDS, brief: 0.5}, {"length drift"}),
        ({**REWARDS, brief: -1.0}, {"length drift"}),
        ({**REWARDS, bullets: 1.0}, {"a part never fires"}),
        ({**REWARDS, bullets: 0.0}, set()),
        (classic_rewards, {"a wrong answer can win", "length drift", "a part never fires"}),
    ],
)
def test_the_lights(rewards, lit):
    bank = load_bank()
    scores = of(bank, rewards)
    undecided = {"dead groups"} if abs(scores.dead_share - DOMINANT) < 0.05 else set()  # a new bank may fall either way
    assert {light.name for light in lights(bank, scores) if light.lit} - undecided == lit - undecided


def test_the_lights_say_what_they_found():
    found = {light.name: light.found for light in lights(SMALL, of(SMALL, {format_reward: 1.0}))}
    assert found["a wrong answer can win"].startswith("the wrong one earns as much or more in 3 of 4 pairs")
    assert found["dead groups"].startswith("1 of 2 groups")
    assert "format_reward makes 100%" in found["a part dominates"]


def test_one_weight_for_each_reward_and_no_name_twice():
    with pytest.raises(ValueError, match="one weight for each"):
        rescore(SMALL, [format_reward], [1.0, 2.0])
    with pytest.raises(ValueError, match="no name twice"):
        rescore(SMALL, [format_reward, format_reward], [1.0, 2.0])
