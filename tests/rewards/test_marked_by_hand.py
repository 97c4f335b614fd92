"""200 completions of the real model's bank, drawn before `is_correct` judged any, read one by one and marked.

Fifty of each policy under each prompt; of texts beyond 650 characters the first 150 and the last 480 were read.
Strict: the layout and nothing else, the right number in its tag. Lenient: what the text states as its answer is right.
Of one that was cut off an answer counts where it was stated before, and not where the working only came to the number.
"""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from utils.data.answers import is_correct
from utils.files import read_jsonl
from utils.rewards.bank import REAL, load_bank

KNOWN = {(40, 1), (104, 1)}  # (group, completion): cut off after a sentence that gives the answer; read as no answer
MARKS = read_jsonl(Path(__file__).with_name("marked_by_hand.jsonl"))


@pytest.fixture(scope="module")
def marked():
    """(group, completion, whether it was cut off, mark), for each of the marks."""
    groups, found = load_bank(REAL).groups, []
    for mark in MARKS:
        group, place = groups[mark["group"]], mark["completion"]
        text = group.completions[place]
        assert hashlib.sha256(text.encode()).hexdigest()[:12] == mark["sha256"], (
            "the bank holds another text: mark anew"
        )
        found.append((group, text, group.truncated[place], mark))
    return found


@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_they_are_marked_alike(marked, mode):
    differ = {
        (mark["group"], mark["completion"])
        for group, text, cut, mark in marked
        if is_correct(text, group.gold, mode, cut) != mark[mode]
    }
    assert differ == (KNOWN if mode == "lenient" else set())


def test_there_are_enough_of_every_kind(marked):
    kinds = Counter((group.policy, group.prompt) for group, *_ in marked)
    assert len(kinds) == 4 and set(kinds.values()) == {50}
    assert len({(mark["group"], mark["completion"]) for mark in MARKS}) == 200
    right = Counter((mark["strict"], mark["lenient"]) for mark in MARKS)
    assert min(right[False, False], right[False, True], right[True, True]) >= 10 and not right[True, False]
