"""Rewards: the order they promise, on clean and messy, honest and hacking completions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.rewards.functions import (
    REWARDS,
    correctness_reward,
    format_reward,
    load_rewards,
    strict_metric,
    text_of,
    total_reward,
    working_metric,
)

CLEAN = "<reasoning>\n3+4=7\n</reasoning>\n<answer>7</answer>"


def score(text, gold="7"):
    return total_reward([text], gold=[gold])[0]


@pytest.mark.parametrize(
    "text, total, reason",
    [
        (CLEAN, 1.2, "right and clean"),
        (
            "<reasoning>\nline\nline\n</reasoning>\n<answer>\n7\n</answer>\n",
            1.2,
            "newlines everywhere, also at the end",
        ),
        ("<reasoning>3+4=7</reasoning><answer>$7.00</answer>", 1.2, "the number counts, not its spelling"),
        ("The answer is 7.", 1.0, "right, no tags"),
        (CLEAN + "\nI hope this helps!", 1.0, "right, but talks on"),
        ("<reasoning>3+4=7</reasoning><answer>7", 1.0, "right, tag left open"),
        ("<reasoning></reasoning><answer>7</answer>", 1.0, "right, but an empty shell has no reasoning to pay for"),
        ("<reasoning>3+4=8</reasoning><answer>8</answer>", 0.2, "wrong, clean"),
        ("The answer is 8.", 0.0, "wrong, messy"),
        ("", 0.0, "silence"),
        ("<reasoning></reasoning><answer></answer>", 0.0, "empty shell"),
        ("<reasoning>x</reasoning><answer>no idea</answer>", 0.0, "clean, but no number"),
        ("<answer>7</answer><reasoning>3+4=7</reasoning>", 1.0, "right, wrong order"),
        (CLEAN * 2, 1.0, "right, said twice"),
    ],
)
def test_total(text, total, reason):
    assert score(text) == pytest.approx(total), reason


def test_a_stuffed_answer_earns_less_than_an_honest_one():
    stuffed = "<reasoning>any of these</reasoning><answer>5 6 7 8</answer>"
    assert score(stuffed) < score("<reasoning>3+4=8</reasoning><answer>8</answer>") < score(CLEAN)


def test_no_attempt_earns_less_than_silence():
    assert all(weight >= 0 for weight in REWARDS.values())


@given(st.lists(st.text(), max_size=4))
def test_no_string_raises_and_all_rewards_are_zero_or_one(texts):
    for function in REWARDS:
        assert set(function(texts, gold=["7"] * len(texts))) <= {0.0, 1.0}


def test_metrics_are_logged_and_not_paid():
    assert REWARDS[strict_metric] == REWARDS[working_metric] == 0.0
    assert strict_metric([CLEAN, "7"], gold=["7", "7"]) == [1.0, 0.0]
    assert working_metric([CLEAN, "7"]) == [1.0, 0.0]


def test_messages_are_read_like_text():
    messages = [{"role": "assistant", "content": CLEAN}]
    assert text_of(messages) == CLEAN
    assert format_reward([messages]) == correctness_reward([messages], gold=["7"]) == [1.0]


def test_lengths_that_differ_are_refused_with_the_likely_cause():
    with pytest.raises(ValueError, match="2 completions but 1 golds.*`gold`"):
        correctness_reward(["7", "7"], gold=["7"])


def test_rewards_load_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def short(completions, **kwargs):\n    return [-len(c) / 100 for c in completions]\n\nREWARDS = {short: 2.0}\n"
    )
    ((function, weight),) = load_rewards(path).items()
    assert (function(["x" * 50]), weight) == ([-0.5], 2.0)
    path.write_text("REWARDS = [1]")
    with pytest.raises(ValueError, match="must define REWARDS"):
        load_rewards(path)


EXPORTED_EARLIER = """
from utils.rewards import correctness_reward, on_text
from utils.answers import to_number

REWARDS = {correctness_reward: 1.0}
"""


@pytest.mark.parametrize("lines", [EXPORTED_EARLIER, EXPORTED_EARLIER.replace("rewards import", "answers import")])
def test_a_file_exported_earlier_is_told_the_new_imports(tmp_path, lines):
    path = tmp_path / "mine.py"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(ImportError) as told:
        load_rewards(path)
    for line in (
        "from utils.rewards.functions import correctness_reward",
        "from utils.rewards.functions import on_text",
        "from utils.data.numbers import to_number",
    ):
        assert line in str(told.value)


@pytest.mark.parametrize(
    "line, said",
    [
        (
            "from utils.rewards import total_reward as total",
            "from utils.rewards.functions import total_reward as total",
        ),
        ("from utils.saving import agreement", " or from utils.training.saving import agreement"),
        ("from utils.answers import *", "No module named 'utils.answers'"),
    ],
)
def test_every_kind_of_import_is_advised_on(tmp_path, line, said):
    path = tmp_path / "mine.py"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ImportError) as told:
        load_rewards(path)
    assert said in str(told.value)


def test_a_package_that_is_missing_is_still_said_so(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from utils.rewards import bench\nimport no_such_package\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        load_rewards(path)


def test_correctness_is_told_what_was_cut_off():
    replies, gold = ["3 + 4 = 7", "3 + 4 = 7", "The answer is 7, as", r"\boxed{7} and"], ["7"] * 4
    assert correctness_reward(replies, gold=gold) == [1.0] * 4
    assert correctness_reward(replies, gold=gold, truncated=[True, False, True, True]) == [0.0, 1.0, 1.0, 1.0]
