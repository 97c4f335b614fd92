"""A learner's function is called as TRL calls it, and what is wrong with it is said in one sentence."""

import functools
import random
import re
import time

import numpy as np
import pytest

from utils.rewards.bench import check_reward
from utils.rewards.contract import RewardProblem, time_limit
from utils.rewards.functions import REWARDS, columns, on_text

TEXTS = ["The answer is 7.", "<answer>8</answer>", ""]
GIVEN = columns(["3+4?"] * 3, ["7"] * 3)


def check(function, limit_s=0.5):
    return check_reward(function, TEXTS, GIVEN, limit_s)


def test_a_good_reward_gives_floats():
    def not_empty(completions, **kwargs):
        return [len(text) > 0 for text in completions]

    def everything(prompts, completions, gold, question, **kwargs):
        return tuple(np.float32(len(text)) for text in completions)

    assert check(not_empty) == [1.0, 1.0, 0.0]
    assert check(everything) == [16.0, 18.0, 0.0] and type(check(everything)[0]) is float
    for function in REWARDS:
        assert check(function) == function(TEXTS, gold=["7"] * 3)


def no_keywords(completions, gold):
    return [0.0] * 3


def no_rest(completions, prompts, gold, question, truncated):
    return [0.0] * 3


def chance(completions, **kwargs):
    return [random.random() for _ in completions]


def by_place(completions, **kwargs):
    return list(range(len(completions)))


def asks_for_answer(completions, answer, **kwargs):
    return [0.0] * 3


def one_number(completions, **kwargs):
    return 1.0


def too_few(completions, **kwargs):
    return [0.0] * 2


def not_a_number(completions, **kwargs):
    return [0.0, float("nan"), 0.0]


def nothing_for_silence(completions, **kwargs):
    return [1.0 if text else None for text in completions]


def words(completions, **kwargs):
    return [text[:1] for text in completions]


def divides(completions, **kwargs):
    return [1 / len(text) for text in completions]


def needs_three(completions, **kwargs):
    return [completions[2]] and [{}[len(completions)] if len(completions) == 3 else 0.0]


def endless(completions, **kwargs):
    while True:
        pass


def backtracks(completions, **kwargs):
    return [float(bool(re.match(r"(a+)+$", "a" * 40 + "b")))] * 3


@pytest.mark.parametrize(
    "function, said",
    [
        (no_keywords, r"no_keywords\(completions, gold\) cannot be called as TRL calls it .*prompts, gold, question"),
        (no_rest, r"no_rest.* must end in \*\*kwargs"),
        (chance, "chance gave .* at first and .* when asked again in another order, for completion"),
        (by_place, "by_place gave 0 at first and 2 when asked again"),
        (lambda completions, **kwargs: [0.0] * 3, "has no name of its own .* write it with def"),
        (functools.partial(too_few, x=1), "too_few returned 2 rewards for 3 completions"),
        (asks_for_answer, "missing a required argument: 'answer'"),
        (one_number, "one_number returned float, not a list"),
        (too_few, "returned 2 rewards for 3 completions"),
        (not_a_number, r"returned nan for completion 1, not a finite number: '<answer>8</answer>'"),
        (nothing_for_silence, "returned None for completion 2, not a finite number: ''"),
        (words, "returned 'T' for completion 0"),
        (divides, r"divides raised ZeroDivisionError: division by zero \(line \d+\) on completion 2: ''"),
        (needs_three, "needs_three raised .* on completion 0"),
        (endless, "endless took more than 0.5 s for 3 completions and was broken off; look for an endless loop"),
        (backtracks, "regular expression with nested repetitions"),
        (print, "cannot be called as TRL calls it|is not a Python function"),
    ],
)
def test_what_is_wrong_is_said(function, said):
    with pytest.raises(RewardProblem, match=said):
        check(function)


def test_a_fault_of_the_whole_batch_is_told_apart():
    def crowded(completions, **kwargs):
        if len(completions) > 2:
            raise KeyError("crowd")
        return [0.0] * len(completions)

    with pytest.raises(RewardProblem, match="KeyError: 'crowd'.* though on no completion given alone"):
        check(crowded)


def test_a_long_completion_is_cut_in_the_message():
    def refuses(completions, **kwargs):
        raise ValueError("no")

    with pytest.raises(RewardProblem) as problem:
        check_reward(refuses, ["x" * 5_000], columns(["?"], ["1"]))
    assert len(str(problem.value)) < 300


def test_the_time_limit_lets_quick_work_pass_and_restores_the_alarm():
    with time_limit(5):
        pass
    time.sleep(0.01)
    with pytest.raises(TimeoutError), time_limit(0.05):
        time.sleep(1)


def test_a_reward_on_text_serves_chat_completions():
    @on_text
    def length(completions, **kwargs):
        return [float(len(text)) for text in completions]

    assert length.__name__ == "length"
    assert length(completions=[[{"role": "assistant", "content": "seven"}], "7"]) == [5.0, 1.0]
