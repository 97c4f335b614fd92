"""The comparison of prompts: what is counted of the completions to one."""

import pytest

from utils.data.questions import Question
from utils.evaluation.protocol import Answer
from utils.model.policy import Sample
from utils.scripts.prompts import TAGS, rates

LAYOUT = "<reasoning>\n3 * 4 = 12\n</reasoning>\n<answer>{}</answer>"
ANSWERS = [  # text, gold, tokens, cut off
    (LAYOUT.format(12), "12", 30, False),  # the layout, right
    (LAYOUT.format(13), "12", 31, False),  # the layout, wrong
    (r"She has 3 * 4 = 12 apples, so \boxed{12}.", "12", 20, False),  # a box, right but for the layout
    ("<answer>12</answer> since 3 * 4 = 12", "12", 15, False),  # one tag of two
    ("```python\nprint(3 * 4)\n```\nThe answer is 12.", "12", 25, False),  # code, and a right last number
    ("<reasoning>\n3 * 4 = 12", "12", 200, True),  # cut off: a last number there is none
    ("<reasoning>\n3 * 4 = 12\n</reasoning>\nI am not sure.", "12", 18, False),
]


def answers(rows):
    return [
        Answer(i, Question(f"Question {i}?", gold, {}), Sample(text, tokens, cut))
        for i, (text, gold, tokens, cut) in enumerate(rows)
    ]


def test_the_rates_of_a_list_written_by_hand():
    assert rates(answers(ANSWERS)) == {
        "n": 7,
        "<reasoning>": 4,
        "</reasoning>": 3,
        "<answer>": 3,
        "</answer>": 3,
        "format": 2,
        "strict": 1,
        "lenient": 5,
        "box": 1,
        "code": 1,
        "truncated": 1,
        "tokens": 48.4,
    }


@pytest.mark.parametrize("i", range(len(ANSWERS)))
def test_the_rates_are_sums_over_the_answers(i):
    """Each alone and the others without it make the whole."""
    parts = ANSWERS[i : i + 1], ANSWERS[:i] + ANSWERS[i + 1 :], ANSWERS
    one, rest, whole = (rates(answers(part)) for part in parts)
    assert all(one[name] + rest[name] == whole[name] for name in whole if name != "tokens")
    assert set(TAGS) < set(whole)
