"""The same completions read by others: do our verdicts agree with lm-eval's, or another scorer's, and where not?

    >>> flexible = LM_EVAL["lm-eval flexible-extract"]
    >>> read(flexible, "She pays $1,000.\\n#### 1,000"), read(flexible, "<answer>7</answer>"), read(flexible, "seven")
    ('1,000', '7', None)
    >>> matches("1,000", gold="1000"), matches("7.00", gold="7")
    (True, False)

lm-eval's two rules are regular expressions of its task gsm8k, version 3.0: the number after the first `####`
("strict-match"), and the last number of the text ("flexible-extract"); what they find must be the gold's very
characters, commas, dollar signs and one closing stop aside. Source: EleutherAI/lm-evaluation-harness,
lm_eval/tasks/gsm8k/gsm8k.yaml, with the filters `regex` and `take_first` of lm_eval/filters and the metric
`exact_match` of lm_eval/api/metrics.py. Only the rules are taken from there, not its five examples in the prompt nor
its stop at "Question:". Its strict rule asks for another layout than this series teaches, so it fails most of ours.

Any other scorer joins by what it read and judged, a pair for each completion. tests/math_verify_judge.py makes such
pairs with math-verify, in a process of its own and with a time limit, for that computes what it reads, and a text can
ask it for 10^(10^10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.data.answers import MODES, extract_answer
from utils.evaluation.evaluate import Verdict

LM_EVAL = {  # name: (pattern, which of its matches)
    "lm-eval strict-match": (re.compile(r"#### (\-?[0-9\.\,]+)"), 0),
    "lm-eval flexible-extract": (re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"), -1),
}
Judged = tuple[str | None, bool | None]  # what another scorer read, and whether that is right; (None, None): it gave up
_IGNORED = re.compile(r"[,$]")


@dataclass(frozen=True)
class Disagreement:
    """One completion that we and another scorer judge differently; a reading is the answer found, `None` for none."""

    id: str
    question: str
    gold: str
    completion: str
    mode: str
    other: str
    our_reading: str | None
    their_reading: str | None
    ours: bool
    theirs: bool


@dataclass(frozen=True)
class Agreement:
    """One of our readings beside another scorer: how many of n completions each calls right.

    `unjudged` counts completions that the other scorer gave up on; they are in `n` and in no other count.
    """

    mode: str
    other: str
    n: int
    both: int
    only_ours: int
    only_theirs: int
    neither: int
    unjudged: int

    @property
    def rate(self) -> float:
        """The share of the completions both judged on which the verdicts are the same."""
        judged = self.n - self.unjudged
        return (self.both + self.neither) / judged if judged else float("nan")


def read(rule: tuple[re.Pattern, int], completion: str) -> str | None:
    """What a rule of `LM_EVAL` finds in a completion, in linear time; `None` where it finds nothing."""
    pattern, which = rule
    found = pattern.findall(completion)
    if not found:
        return None
    groups = found[which]  # one text, or one for each group of the pattern
    return groups if isinstance(groups, str) else next(filter(None, groups))


def matches(reading: str | None, gold: str) -> bool:
    """lm-eval's exact match: equal characters once commas, dollar signs and one closing stop are taken off both."""
    return reading is not None and _bare(reading) == _bare(gold)


def _bare(text: str) -> str:
    return _IGNORED.sub("", text).removesuffix(".").lower()


def agreement(
    verdicts: Sequence[Verdict], others: Mapping[str, Sequence[Judged]] | None = None
) -> tuple[list[Agreement], list[Disagreement]]:
    """Score the completions of these verdicts by the other rules and compare, for both of our readings.

    Args:
        others: further scorers by name, with a reading and verdict for each of these completions.
    Returns:
        A row for each of our readings and each other scorer, and every disagreement behind them, in order.
    Raises:
        ValueError: no verdicts, or another number of them than another scorer gave.
    """
    if not verdicts:
        raise ValueError("no verdicts to compare; evaluate at least one question")
    scorers = {
        name: [(reading, matches(reading, v.gold)) for v in verdicts for reading in [read(rule, v.completion)]]
        for name, rule in LM_EVAL.items()
    } | dict(others or {})
    table, disagreements = [], []
    for mode in MODES:
        for other, theirs in scorers.items():
            row, differing = _compare(verdicts, mode, other, theirs)
            table.append(row)
            disagreements += differing
    return table, disagreements


def _compare(
    verdicts: Sequence[Verdict], mode: str, other: str, theirs: Sequence[Judged]
) -> tuple[Agreement, list[Disagreement]]:
    pairs = [(getattr(v, mode), right) for v, (_, right) in zip(verdicts, theirs, strict=True)]
    counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    unjudged = sum(right is None for _, right in pairs)
    differing = [
        Disagreement(
            v.id,
            v.question,
            v.gold,
            v.completion,
            mode,
            other,
            extract_answer(v.completion, mode, bool(v.truncated)),
            reading,
            ours,
            right,
        )
        for v, (reading, right), (ours, _) in zip(verdicts, theirs, pairs, strict=True)
        if right is not None and ours != right
    ]
    return Agreement(mode, other, len(verdicts), *counts, unjudged), differing
