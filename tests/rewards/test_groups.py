"""The group inspector: its table as a pure function, its sliders without a browser."""

import re

import pytest

from utils.rewards.functions import group_advantages
from utils.rewards.groups import advantage_bar, group_table, inspector, is_dead


def record(step, rewards, completion="<answer>{i}</answer> & <script>alert(1)</script>"):
    group = {
        "question": "Is 3 < 5?",
        "gold": "1",
        "rewards": rewards,
        "advantages": group_advantages(rewards, len(rewards)),
        "completions": [completion.format(i=i) for i in range(len(rewards))],
        "parts": {"correctness_reward": rewards, "strict_metric": [0.0] * len(rewards)},
    }
    return {"step": step, "groups": [group, group | {"rewards": [0.2] * 4, "advantages": [0.0] * 4}]}


def test_table_shows_every_completion_escaped_and_best_first():
    table = group_table(record(7, [0.0, 1.0, 0.2, 0.0]), 0)
    assert "<script" not in table and "Is 3 &lt; 5?" in table and "&lt;answer&gt;" in table
    assert re.findall(r"<tr><td>(\d)</td>", table) == ["2", "3", "1", "4"]
    assert "step 7, group 0 of 0–1" in table and "mean reward 0.30" in table
    assert "<th>correctness</th><th>strict</th><th>reward</th>" in table
    assert table.count("<tr>") == table.count("</tr>") == 5


def test_identical_completions_share_a_row():
    table = group_table(record(7, [0.0, 1.0, 0.0, 0.0], completion="<answer>5</answer>"), 0)
    assert re.findall(r"<tr><td>([\d ]+)</td>", table) == ["2", "1 3 4"]


def test_dead_group_is_called_dead():
    groups = record(7, [0.0, 1.0, 0.2, 0.0])["groups"]
    assert [is_dead(group) for group in groups] == [False, True]
    assert "dead group" in group_table(record(7, [0.0, 1.0, 0.2, 0.0]), 1)


def test_missing_group_is_named():
    with pytest.raises(IndexError, match="step 7 has groups 0 to 1, got 2"):
        group_table(record(7, [0.0, 1.0, 0.0, 0.0]), 2)


@pytest.mark.parametrize(
    "advantage, left, right", [(0.0, 0, 0), (0.05, 0, 1), (2.475, 0, 8), (-2.475, 8, 0), (9.0, 0, 8)]
)
def test_bar_shows_sign_by_side_and_size_by_length(advantage, left, right):
    before, after = advantage_bar(advantage, group_size=8).split("|")
    assert (before.count("█"), after.count("█")) == (left, right)
    assert len(before) == len(after) == 8


def test_sliders_change_the_table():
    first, second = record(1, [0.0, 1.0, 0.0, 0.0]), record(2, [1.0, 1.0, 1.0, 0.0])
    box = inspector([first, second])
    (step, group), table = box.children[0].children, box.children[1]
    assert table.value == group_table(first, 0)
    step.value = 2
    assert table.value == group_table(second, 0)
    group.value = 1
    assert table.value == group_table(second, 1)
    assert (group.min, group.max) == (0, 1)
