"""Leaks between two splits: test questions that stand in the training data, as they are or a little changed.

    >>> from utils.data import Question
    >>> train = [Question("Tom had 3 pens, got 4.", "7", {})]
    >>> test = [Question(text, "7", {}) for text in ("Tom had 3 pens. Got 4!", "Tom had 5 pens, got 2.")]
    >>> {kind: [(pair.test, pair.train) for pair in pairs] for kind, pairs in leaks(train, test).items()}
    {'exact': [(0, 0)], 'masked': [(1, 0)], 'near': []}

A leaked question measures memory. One that differs in its numbers alone measures less than a new one: the way to the
answer was trained on.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from utils.data import Question, words

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
