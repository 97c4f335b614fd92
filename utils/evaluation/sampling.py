"""Sixteen answers a question instead of one: does training add ability, or concentrate what was there?

The greedy answer shows only the most probable completion. Sampled at temperature 1, the same model shows what else it
has in it: *pass@k*, the chance that at least one of k samples is right, and *maj@k*, the chance that the answer given
most often among k samples is right. Where training raises pass@1 but not pass@16, it has made likely what the model
could do before; where it raises pass@16 too, it solves questions that 16 attempts did not.

The *lenient* answer votes, wherever it stands, because the question is ability: under the strict reading, a right
answer that training only moved into its tag would count as a question newly solved. The strict rate stays the headline
of an evaluation; `mode="strict"` reads the same samples that way, and the difference of the two is layout.

    >>> seven = ballot("q1", "7", [f"<reasoning>x</reasoning><answer>{n}</answer>" for n in (7, 7, 9)] + ["Well."])
    >>> seven.right, seven.others, seven.silent
    (2, (1,), 1)
    >>> [round(maj_at_k(seven.right, seven.others, seven.silent, k), 3) for k in (1, 2, 3, 4)]
    [0.5, 0.667, 0.75, 1.0]
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.answers import extract_answer
from utils.data.numbers import to_number
from utils.data.questions import Question
from utils.evaluation.protocol import ANSWERS, Answer, append, begin, header_of, read_answers
from utils.files import in_use
from utils.model.policy import Policy, fitting, generate
from utils.stats import mcnemar_exact, pass_at_k, wilson_interval

TOGETHER = 32  # questions sampled under one seed: what an interruption costs at most
BINS = 8  # of the calibration: of 16 samples, two possible shares in each
DRAWS = 2_000  # bootstrap resamples of a band


@dataclass(frozen=True)
class Ballot:
    """The answers sampled to one question, in their order.

    Attributes:
        id: the question's.
        mode: of reading them, "lenient" or "strict".
        votes: one for each sample; `None` where the completion states no answer.
    """

    id: str
    gold: Fraction
    mode: str
    votes: tuple[Fraction | None, ...]

    @property
    def right(self) -> int:
        """Samples that are right."""
        return self.votes.count(self.gold)

    @property
    def others(self) -> tuple[int, ...]:
        """Samples for each wrong answer, the most frequent first."""
        counts = Counter(vote for vote in self.votes if vote is not None and vote != self.gold)
        return tuple(sorted(counts.values(), reverse=True))

    @property
    def silent(self) -> int:
        """Samples that state no answer."""
        return self.votes.count(None)


def ballot(
    id: str,
    gold: str,
    completions: Sequence[str],
    mode: str = "lenient",
    truncated: Sequence[bool | None] | None = None,
) -> Ballot:
    """Read the votes of one question's completions.

    Args:
        mode: "lenient" or "strict", as in `utils.data.answers`.
        truncated: for each completion whether it was cut off; None where that is not known.
    Raises:
        ValueError: the gold is not a number, there are no completions, or the mode is unknown.
    """
    number = to_number(gold)
    if number is None:
        raise ValueError(f"gold answer {gold[:80]!r} of question {id} is not a number; correct that row of the data")
    if not completions:
        raise ValueError(f"question {id} has no completions; sample at least one")
    cut = truncated or [None] * len(completions)
    answers = (extract_answer(text, mode, bool(t)) for text, t in zip(completions, cut, strict=True))
    return Ballot(id, number, mode, tuple(map(to_number, answers)))


# ------------------------------------------------------------------------------------------- stored samples


def collect(
    policy: Policy,
    questions: Sequence[Question],
    folder: str | Path,
    n: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Ballot]:
    """Sample n answers at temperature 1 to every question and keep each of them, as an evaluation keeps its own.

    Called again after whatever ended it, it asks only what is missing; since every `TOGETHER` questions have a seed of
    their own, torch then draws what it would have drawn without the interruption. As in an evaluation, questions too
    long for the context are not asked, and named in protocol.json.

    Args:
        folder: of protocol.json and completions.jsonl, see `utils.evaluation.protocol`.
        progress: called with (questions done, questions in all).
    Raises:
        InUse: another process works in the folder.
        ValueError: the folder holds answers of another model, adapter or protocol, or to other questions.
    """
    from transformers import set_seed

    folder = Path(folder)
    questions, too_long = fitting(policy, questions)
    header = header_of(policy, questions, f"{n} samples at temperature 1", seed, too_long)
    with in_use(folder):
        known = begin(folder, header, questions, n, TOGETHER)
        if progress and known:
            progress(len(known), len(questions))
        for start in range(0, len(questions), TOGETHER):
            if start in known:
                continue
            asked = dict(enumerate(questions[start : start + TOGETHER], start))
            set_seed(seed + start)
            began = time.perf_counter()
            groups = generate(policy, list(asked.values()), temperature=1.0, n=n)
            each = (time.perf_counter() - began) / (n * len(asked))
            append(folder, header["protocol_hash"], asked, dict(zip(asked, groups, strict=True)), each)
            if progress:
                progress(start + len(asked), len(questions))
        return read_ballots(folder / ANSWERS)


def read_ballots(path: str | Path, mode: str = "lenient") -> list[Ballot]:
    """The ballots of a file of stored completions, in the order of its questions; no model is needed.

    Args:
        path: a completions.jsonl, of `collect` or another with `question`, `gold` and `completion` in each line.
        mode: "lenient" or "strict", as in `utils.data.answers`.
    Raises:
        FileNotFoundError: there is none.
        ValueError: a line is no completion, or the questions have different numbers of them.
    """
    groups: dict[int | str, list[Answer]] = {}
    for answer in read_answers(Path(path)):
        groups.setdefault(answer.question.id if answer.index is None else answer.index, []).append(answer)
    sizes = sorted(set(map(len, groups.values())))
    if len(sizes) > 1:
        raise ValueError(f"{path} has from {sizes[0]} to {sizes[-1]} completions a question; let the sampling finish")
    ballots = []
    for lines in groups.values():
        question, samples = lines[0].question, [line.sample for line in lines]
        cut = [sample.truncated for sample in samples]
        ballots.append(ballot(question.id, question.gold, [sample.text for sample in samples], mode, cut))
    return ballots


# --------------------------------------------------------------------------------------- pass@k and maj@k


def maj_at_k(right: int, others: Sequence[int], silent: int, k: int) -> float:
    """Chance that the answer given most often among k of the samples is the right one.

    The expectation over all subsets of size k, exact: no subset is drawn at random. A tie is broken by a fair draw
    among the answers that share the lead; a sample without an answer does not vote; where none votes, nothing is right.
    Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning", is where the vote comes from.

    Args:
        right: samples with the right answer.
        others: samples for each wrong answer.
        silent: samples without an answer.
        k: subset size, from 1 to the number of samples.
    Raises:
        ValueError: k is out of range, or a count is negative.
    Example:
        >>> maj_at_k(right=1, others=[1], silent=0, k=2)     # a tie
        0.5
    """
    n = right + sum(others) + silent
    if not 1 <= k <= n or min(right, silent, *others) < 0:
        raise ValueError(f"need counts from 0 and 1 <= k <= their sum, got {right}, {list(others)}, {silent}, k={k}")
    return _majority_curve(right, tuple(sorted(others, reverse=True)), silent)[k - 1]


@lru_cache(maxsize=100_000)  # many questions of a set share their counts
def _majority_curve(right: int, others: tuple[int, ...], silent: int) -> tuple[float, ...]:
    """`maj_at_k` for every k, by counting the subsets in which the right answer leads with a given number of votes."""
    n = right + sum(others) + silent
    won = [Fraction(0)] * (n + 1)  # subsets won, by size; one shared with m answers counts 1 / (m + 1)
    for votes in range(1, right + 1):
        rivals = [count for count in others if count >= votes]
        harmless = silent + sum(count for count in others if count < votes)
        for (drawn, level), ways in _rival_draws(rivals, votes).items():
            ways *= math.comb(right, votes)
            for more in range(harmless + 1):
                won[votes + drawn + more] += Fraction(ways * math.comb(harmless, more), level + 1)
    return tuple(float(won[k] / math.comb(n, k)) for k in range(1, n + 1))


def _rival_draws(rivals: Sequence[int], votes: int) -> dict[tuple[int, int], int]:
    """In how many ways the rivals draw {(samples in all, rivals with just `votes`): ways}, none with more than that."""
    table = {(0, 0): 1}
    for count in rivals:
        grown: Counter[tuple[int, int]] = Counter()
        for (drawn, level), ways in table.items():
            for mine in range(votes + 1):
                grown[drawn + mine, level + (mine == votes)] += ways * math.comb(count, mine)
        table = dict(grown)
    return table


def pass_table(ballots: Sequence[Ballot]) -> np.ndarray:
    """pass@k of every question: shape (questions, n), column k - 1."""
    n = _samples_each(ballots)
    return np.array([[pass_at_k(n, b.right, k) for k in range(1, n + 1)] for b in ballots])


def maj_table(ballots: Sequence[Ballot]) -> np.ndarray:
    """maj@k of every question: shape (questions, n), column k - 1."""
    _samples_each(ballots)
    return np.array([_majority_curve(b.right, b.others, b.silent) for b in ballots])


def _samples_each(ballots: Sequence[Ballot]) -> int:
    sizes = {len(b.votes) for b in ballots}
    if len(sizes) != 1:
        raise ValueError(f"every question needs the same number of samples, got {sorted(sizes)}; sample again")
    return sizes.pop()


def band(table: np.ndarray, seed: int = 0) -> dict[str, list[float]]:
    """Mean over the questions and its 95% band, column by column.

    A percentile bootstrap over questions (Efron & Tibshirani 1993, ch. 13), for other questions could have been asked.
    Where all questions score alike the band has no width, which is no certainty: see `wilson_interval`.

    Args:
        table: shape (questions, columns).
    Returns:
        {"mean", "low", "high"}, each with one number a column.
    """
    questions = len(table)
    times = np.random.default_rng(seed).multinomial(questions, np.full(questions, 1 / questions), size=DRAWS)
    low, high = np.quantile(times @ table / questions, [0.025, 0.975], axis=0)
    return {"mean": table.mean(axis=0).tolist(), "low": low.tolist(), "high": high.tolist()}


def curves(ballots: Sequence[Ballot]) -> dict[str, Any]:
    """pass@k and maj@k of one model, ready for JSON and for `figures.pass_curves`.

    Returns:
        {"questions", "mode", "k": [1 … n], "pass": band, "maj": band}, shares from 0 to 1.
    """
    n = _samples_each(ballots)
    return {
        "questions": len(ballots),
        "mode": ballots[0].mode,
        "k": list(range(1, n + 1)),
        "pass": band(pass_table(ballots)),
        "maj": band(maj_table(ballots)),
    }


def gain_curves(base: Sequence[Ballot], trained: Sequence[Ballot]) -> dict[str, Any]:
    """What training added to pass@k and maj@k, question by question: paired, and so sharper than the two bands.

    Returns:
        As `curves`, with differences (trained - base) in place of the rates, and "reach": {"gained", "lost":
        questions that only the trained model, or only the base, has right in at least one of its n samples,
        "mcnemar_p"}, an exact test where the band would only be approximate.
    Raises:
        ValueError: the two are not answers to the same questions, or differ in their reading or number of samples.
    """
    if [(b.id, b.gold, b.mode) for b in base] != [(t.id, t.gold, t.mode) for t in trained]:
        raise ValueError(
            f"a paired comparison needs the same questions in the same order, read alike, got {len(base)} and "
            f"{len(trained)} that differ; sample both models on one list, and read both in one mode"
        )
    n = _samples_each([*base, *trained])
    gained = sum(t.right > 0 and not b.right for b, t in zip(base, trained, strict=True))
    lost = sum(b.right > 0 and not t.right for b, t in zip(base, trained, strict=True))
    return {
        "questions": len(base),
        "mode": base[0].mode,
        "k": list(range(1, n + 1)),
        "pass": band(pass_table(trained) - pass_table(base)),
        "maj": band(maj_table(trained) - maj_table(base)),
        "reach": {"gained": gained, "lost": lost, "mcnemar_p": mcnemar_exact(gained, lost)},
    }


# ----------------------------------------------------------------------------------------------- calibration


def calibration(ballots: Sequence[Ballot]) -> dict[str, Any]:
    """Does agreement tell? The majority's share of the samples against how often the majority answer is right.

    Of answers that share the lead the one sampled first is taken: samples are exchangeable, so this is a fair draw.
    The expected calibration error is the mean distance between share and accuracy over the bins, weighted by their
    questions (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3); few questions a bin raise it.

    Returns:
        {"questions", "silent": questions no sample of which states an answer (in no bin), "ece" (None without any
        other), "bins": [{"from", "to", "share" (mean), "rate", "low", "high" (accuracy, Wilson), "count", "n"}, …]};
        a bin holds from < share <= to, and bins without questions are left out.
    """
    bins: dict[int, list[tuple[Fraction, bool]]] = {}
    for b in ballots:
        leader = Counter(vote for vote in b.votes if vote is not None).most_common(1)
        if leader:
            (answer, votes) = leader[0]
            share = Fraction(votes, len(b.votes))
            bins.setdefault(math.ceil(share * BINS), []).append((share, answer == b.gold))
    judged = sum(map(len, bins.values()))
    rows = [_bin(number, bins[number]) for number in sorted(bins)]
    error = sum(row["n"] * abs(row["rate"] - row["share"]) for row in rows) / judged if judged else None
    return {"questions": len(ballots), "silent": len(ballots) - judged, "ece": error, "bins": rows}


def _bin(number: int, members: Sequence[tuple[Fraction, bool]]) -> dict[str, float]:
    n, count = len(members), sum(right for _share, right in members)
    low, high = wilson_interval(count, n)
    return {
        "from": (number - 1) / BINS,
        "to": number / BINS,
        "share": float(sum(share for share, _right in members) / n),
        "rate": count / n,
        "low": low,
        "high": high,
        "count": count,
        "n": n,
    }
