"""The tiny world: every problem is solvable as written, splits are disjoint, and the draw is the same everywhere."""

import hashlib
import itertools
import re
from fractions import Fraction

import pytest

from utils.answers import gold_answer
from utils.tiny_world import LARGEST, SPLIT_SIZES, problems, split_of, tiny_split

ANNOTATION = re.compile(r"(\d+)([-+*/])(\d+)=<<(\d+[-+*/]\d+)=(\d+)>>(\d+)")
SUMS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": Fraction}


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_every_line_of_working_is_a_true_sum_and_the_last_is_the_gold(split):
    for problem in tiny_split(split):
        *lines, last = problem.answer.split("\n")
        assert len(lines) == problem.steps and 1 <= problem.steps <= 5
        for line in lines:
            a, op, b, inside, result, shown = ANNOTATION.search(line).groups()
            assert inside == f"{a}{op}{b}" and result == shown
            assert SUMS[op](int(a), int(b)) == int(result) <= LARGEST
        assert last == f"#### {result}" and gold_answer(problem.answer) == result


def test_every_number_used_is_in_the_question_or_was_worked_out():
    for problem in tiny_split("test"):
        known = set(re.findall(r"\d+", problem.question)) | {"2"}  # half of them: divide by 2
        for a, _, b, _, result, _ in ANNOTATION.findall(problem.answer):
            assert {a, b} <= known, problem
            known.add(result)


def test_splits_have_their_sizes_and_share_no_question():
    splits = {name: {p.question for p in tiny_split(name)} for name in SPLIT_SIZES}
    assert {name: len(questions) for name, questions in splits.items()} == SPLIT_SIZES
    for a, b in itertools.combinations(splits.values(), 2):
        assert not a & b


def test_a_plot_belongs_to_one_split_whatever_the_names():
    """Questions with names and things blanked out: the same plot never turns up in two splits."""

    def plot(problem):
        return re.sub(r"<<.*?>>|[^\d+*/=-]", "", problem.answer), tuple(re.findall(r"\d+", problem.question))

    drawn = {name: {plot(p) for p in itertools.islice(problems(name, seed=3), 3_000)} for name in SPLIT_SIZES}
    shared = drawn["train"] & drawn["test"]
    assert len(shared) < 0.02 * len(
        drawn["test"]
    )  # plots of different sentences can blank to one; the hash itself never
    assert split_of(["_has", 5, "_now"]) == split_of(["_has", 5, "_now"])


def test_the_test_split_is_the_same_on_every_machine():
    text = "\n".join(p.question + p.answer for p in tiny_split("test"))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "ba0bfe8d5050f3cef6f6a91e109a0e0e95a69ed6b04442aab38a7abc1d3e3a31"
    )


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation, test.*'dev'"):
        next(problems("dev", seed=0))
