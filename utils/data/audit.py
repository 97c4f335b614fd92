"""Is the data what it seems? Leaks between two splits, and GSM8K's known wrong labels.

A leak is a test question that stands in the training data, as it is or a little changed:

    >>> from utils.data.questions import Question
    >>> train = [Question("Tom had 3 pens, got 4.", "7", {})]
    >>> test = [Question(text, "7", {}) for text in ("Tom had 3 pens. Got 4!", "Tom had 5 pens, got 2.")]
    >>> {kind: [(pair.test, pair.train) for pair in pairs] for kind, pairs in leaks(train, test).items()}
    {'exact': [(0, 0)], 'masked': [(1, 0)], 'near': []}

A leaked question measures memory. One that differs in its numbers alone measures less than a new one: the way to the
answer was trained on.

A wrong gold marks a right answer wrong, so a figure with such rows and one without them are two figures: say which one
is meant, and how many rows were left out. `without_wrong_labels` returns them, it never drops them; the four of GSM8K's
1,319 test rows move a rate by at most 0.3 points. `WRONG_LABELS` holds what was found so far, each worked out again.
GSM8K-Platinum (1,209 rows; Vendrow et al. 2025, arXiv:2502.03461) revised the test split as a whole and is a dataset of
its own.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from utils.data.numbers import to_number
from utils.data.questions import Question

GRAM = 5  # words
NEAR = 0.35
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

Grams = frozenset[tuple[str, ...]]


class Pair(NamedTuple):
    """Positions of two questions in their lists, and the Jaccard similarity of their word 5-grams, numbers masked."""

    test: int
    train: int
    similarity: float


def leaks(train: Sequence[Question], test: Sequence[Question], threshold: float = NEAR) -> dict[str, list[Pair]]:
    """Pairs of a test and a training question that are too alike, each pair under the first kind that holds.

    `exact`: the same words and numbers, whatever the case and punctuation. `masked`: the same words, other numbers.
    `near`: a Jaccard similarity (shared 5-grams by all 5-grams, numbers masked) of at least `threshold`, highest first.

    On GSM8K 0.35 lies in a gap. The five pairs above it share a story and nearly its wording (test 602 ~ train 1314 and
    5162, 632 ~ 20, 824 ~ 3726, and 974 ~ 2600, which asks something else of it). The next is at 0.26; of the six from
    there down to 0.20 three still share a story (106 ~ 1651, 1114 ~ 6679, 448 ~ 1781) and three only stock phrases. So
    this finds copies that were edited lightly, and not every paraphrase.

    The tiny world has no exact pair, but its sentences are templates: by construction 18 of its test questions are a
    training question with other numbers, and 777 of 1,319 have a near one. What that split measures is new numbers and
    new combinations of sentences, not new wording; for wording there is `tiny-reworded`, with one near pair in 500.

    Args:
        threshold: above 0, at most 1.
    Returns:
        {"exact", "masked", "near"}: pairs of positions in the two lists.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    exact = _same([words(q.question) for q in train], [words(q.question) for q in test])
    masks = [_masked(q.question) for q in train], [_masked(q.question) for q in test]
    masked = [pair for pair in _same(*masks) if pair not in set(exact)]
    known = {pair[:2] for pair in (*exact, *masked)}
    near = [pair for pair in _alike(*([_grams(m) for m in side] for side in masks), threshold) if pair[:2] not in known]
    return {"exact": exact, "masked": masked, "near": sorted(near, key=lambda pair: (-pair.similarity, *pair[:2]))}


def _masked(text: str) -> tuple[str, ...]:
    return words(_NUMBER.sub(" 0 ", text))


def _same(train: Sequence[tuple[str, ...]], test: Sequence[tuple[str, ...]]) -> list[Pair]:
    where = defaultdict(list)
    for i, key in enumerate(train):
        where[key].append(i)
    return [Pair(j, i, 1.0) for j, key in enumerate(test) for i in where.get(key, ())]


def _grams(text: tuple[str, ...]) -> Grams:
    return frozenset(text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1)))


def _alike(train: Sequence[Grams], test: Sequence[Grams], threshold: float) -> Iterator[Pair]:
    """Every pair with a similarity of `threshold` or more.

    Two sets as alike as that share one of their rarest grams: each has more than `threshold` of its size in common with
    the other, so of all but that many one must be common (prefix filtering, Chaudhuri et al. 2006). Only those are
    indexed, which leaves out the phrases that everybody uses.
    """
    frequency = Counter(gram for grams in (*train, *test) for gram in grams)

    def rarest(grams: Grams) -> list[tuple[str, ...]]:
        kept = len(grams) - math.ceil(threshold * len(grams) - 1e-9) + 1
        return sorted(grams, key=lambda gram: (frequency[gram], gram))[:kept]

    where = defaultdict(list)
    for i, grams in enumerate(train):
        for gram in rarest(grams):
            where[gram].append(i)
    for j, grams in enumerate(test):
        for i in sorted({i for gram in rarest(grams) for i in where.get(gram, ())}):
            similarity = len(grams & train[i]) / len(grams | train[i])
            if similarity >= threshold:
                yield Pair(j, i, similarity)


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, without case and punctuation."""
    return tuple(re.findall(r"\w+", text.casefold()))


def shared_questions(a: Iterable[Question], b: Iterable[Question]) -> list[str]:
    """Questions that stand in both splits, compared by their words and numbers alone: a leak, unless empty.

    `leaks` also finds questions that differ only in their numbers or in a few words.
    """
    seen = {words(q.question) for q in a}
    return [q.question for q in b if words(q.question) in seen]


# -------------------------------------------------------------------------------------------------------- wrong labels


@dataclass(frozen=True)
class WrongLabel:
    """One row of GSM8K whose gold is wrong or open to dispute.

    Attributes:
        split, row: where it stands in openai/grade-school-math; rows count from 0.
        key: `question_key` of its text, by which it is found wherever it stands.
        printed: the gold as published.
        right: what the question's own words give; `None` where they allow two readings.
        reason: what went wrong.
    """

    split: str
    row: int
    key: str
    printed: str
    right: str | None
    reason: str


WRONG_LABELS = (
    WrongLabel(
        "test",
        454,
        "ff998bb1e3fe4cff",
        "150",
        "240",
        "both eat 4 apples a day, (4 + 4) * 30; the solution adds 4 + 1, as if the neighbour ate one",
    ),
    WrongLabel(
        "test",
        952,
        "91182e3ecf3762b0",
        "360",
        "1800",
        "8:00 AM until 11:00 PM are 15 hours, 15 * 4 * 30; the solution counts the 3 hours until 11 AM",
    ),
    WrongLabel(
        "test",
        1016,
        "a7d78e5a73eb736f",
        "138",
        None,
        "5% of the original price a year for 3 years gives exactly 138, but the question asks for rounding, which only "
        "compound growth needs: 120 * 1.05**3 = 138.915, rounded 139",
    ),
    WrongLabel(
        "test",
        1309,
        "5dc76d774bd01a74",
        "2280",
        "2180",
        "750 + 430 + 700 + 300; the solution adds the 400 that Maryam has more than Sarah in place of Sarah's 300",
    ),
    WrongLabel(
        "train",
        4796,
        "bf21404b1e4f3c8e",
        "140",
        "120",
        "100 tanks and 20 trucks; the solution says 120 and the label 140",
    ),
    WrongLabel(
        "train", 7401, "4062372e21d99043", "10850", "10750", "5250 + 4000 + 1500; the solution copies its 9250 as 9350"
    ),
)
_BY_KEY = {label.key: label for label in WRONG_LABELS}


def question_key(text: str) -> str:
    """Sixteen digits of a SHA-256 of the text, white space aside."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def wrong_label(question: Question) -> WrongLabel | None:
    """What is known against the gold of this question. A gold that was corrected already has nothing against it."""
    label = _BY_KEY.get(question_key(question.question))
    return label if label and to_number(question.gold) == to_number(label.printed) else None


def without_wrong_labels(questions: Iterable[Question]) -> tuple[list[Question], list[Question]]:
    """Split questions into (kept, left out because of a label in `WRONG_LABELS`), both in their order."""
    kept: list[Question] = []
    left_out: list[Question] = []
    for question in questions:
        (left_out if wrong_label(question) else kept).append(question)
    return kept, left_out
