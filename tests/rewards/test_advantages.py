"""`group_advantages` against the computation that TRL does in torch, and the properties GRPO rests on."""

import random

import pytest
import torch

from utils.rewards.functions import group_advantages, total_reward


def trl_advantages(rewards: list[float], group_size: int) -> torch.Tensor:
    """TRL's with `scale_rewards="group"`, in double precision."""
    groups = torch.tensor(rewards, dtype=torch.float64).view(-1, group_size)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()


@pytest.mark.parametrize("group_size", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_equals_trl(group_size, seed):
    rng = random.Random(seed)
    rewards = [rng.choice([0.0, 0.2, 1.0, 1.2]) for _ in range(6 * group_size)]
    ours = torch.tensor(group_advantages(rewards, group_size), dtype=torch.float64)
    torch.testing.assert_close(ours, trl_advantages(rewards, group_size), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reward", [0.0, 0.2, 1.0, 1.2])
def test_a_group_without_spread_gets_nothing(reward):
    assert group_advantages([reward] * 8, group_size=8) == pytest.approx([0.0] * 8, abs=1e-9)


def test_groups_do_not_see_each_other():
    easy, hard = [1.2, 1.2, 1.2, 0.2], [0.0, 0.0, 0.0, 1.2]
    together = group_advantages(easy + hard, group_size=4)
    assert together == group_advantages(easy, group_size=4) + group_advantages(hard, group_size=4)
    assert sum(together[:4]) == pytest.approx(0.0) and sum(together[4:]) == pytest.approx(0.0)


def test_only_differences_within_the_group_count():
    rewards = [0.0, 0.2, 1.0, 1.2]
    plain = group_advantages(rewards, group_size=4)
    assert group_advantages([r + 5 for r in rewards], group_size=4) == pytest.approx(plain)
    assert group_advantages([10 * r for r in rewards], group_size=4) == pytest.approx(plain, rel=1e-3)


def test_the_project_rewards_in_order_of_merit():
    tidy, untidy = "<reasoning>\n{0}\n</reasoning>\n<answer>{0}</answer>", "The answer is {0}."
    replies = [tidy.format(7), untidy.format(7), tidy.format(8), "I do not know."]
    best, right, wrong, none = group_advantages(total_reward(replies, gold=["7"] * 4), group_size=4)
    assert best > right > 0 > wrong > none


def test_groups_without_spread_and_with_one_right_answer():
    assert group_advantages([1.0, 1.0, 0.0, 0.0], group_size=2) == [0.0] * 4
    one_right = group_advantages([1.0] + [0.0] * 7, group_size=8)
    assert one_right[0] == pytest.approx(7 / 8**0.5, abs=2e-3) and sum(one_right) == pytest.approx(0)
