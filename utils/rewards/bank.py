"""A bank of real completions: whole groups sampled from the base and the trained model, to try rewards on.

Sampling is the slow part of asking what a reward would do. With the completions stored, a reward is a question that
takes milliseconds: which completions of a group would it push up? `rescore` works that out for every group, and
`lights` looks for the known ways to be wrong. Nothing here generates or trains; `python -m utils.scripts.record bank`
samples the stored completions again. `BANKS` names them: one of the embedded tiny model, one of a real model.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from utils.data.prompts import PROMPTS
from utils.files import ROOT, read_json
from utils.rewards.contract import pay
from utils.rewards.functions import RewardFunction, columns, correctness_reward, group_advantages

FOLDER = ROOT / "assets" / "bank"
FILE, PROVENANCE = "completions.jsonl.gz", "provenance.json"
TINY, REAL = "tiny model", "Qwen2.5-Coder-0.5B on GSM8K"
BANKS = {TINY: FOLDER, REAL: FOLDER / "qwen"}  # name shown: folder
WRONG_WINS = 0.01  # share of right-wrong pairs above which the first light is lit; it is 0 under a sound reward
LENGTH_BIAS = 0.25  # of -1 to 1; the default reward stays below 0.1 on the embedded bank
DOMINANT = 0.5  # share of the spread within groups
MOSTLY_DEAD = 0.5  # share of the groups


@dataclass(frozen=True)
class Group:
    """The completions that one policy gave to one question, with their lengths in tokens.

    Attributes:
        prompt: entry of `PROMPTS`, the system message that stood above the question.
        truncated: for each completion whether the token cap cut it off; None where that was not written down.
    Raises:
        ValueError: no such prompt, or not one length (and mark) for each completion.
    """

    policy: str
    question: str
    gold: str
    completions: tuple[str, ...]
    tokens: tuple[int, ...]
    prompt: str = "words"
    truncated: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise ValueError(f"the prompt of a group must be one of {', '.join(PROMPTS)}, got {self.prompt!r}")
        for name, values in (("tokens", self.tokens), ("truncated", self.truncated)):
            if values is not None and len(values) != len(self.completions):
                raise ValueError(f"a group of {len(self.completions)} completions needs as many {name}, got {values}")


@dataclass(frozen=True, eq=False)
class Bank:
    """Groups of one size. Two banks are equal only if they are the same object, so that scores can be cached by bank.

    Attributes:
        model: whose completions they are, e.g. "assets/tiny_model"; "" where that is not known.
    Raises:
        ValueError: no groups, or groups of different sizes.
    """

    groups: tuple[Group, ...]
    model: str = ""

    def __post_init__(self) -> None:
        sizes = {len(group.completions) for group in self.groups}
        if len(sizes) != 1:
            raise ValueError(f"a bank needs groups of one size, got sizes {sorted(sizes)}")

    @property
    def group_size(self) -> int:
        return len(self.groups[0].completions)

    @property
    def completions(self) -> list[str]:
        """All N completions, group after group."""
        return [text for group in self.groups for text in group.completions]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What a reward function receives beside the completions, of length N each: `prompts`, `gold`, `question` and
        `truncated`, False where that is not known."""
        rows = [group for group in self.groups for _ in group.completions]
        return columns(
            [group.question for group in rows],
            [group.gold for group in rows],
            [PROMPTS[group.prompt] for group in rows],
            [cut for group in self.groups for cut in group.truncated or [False] * len(group.completions)],
        )


def banks() -> list[str]:
    """The names in `BANKS` whose completions lie on this machine."""
    return [name for name, folder in BANKS.items() if (folder / FILE).is_file()]


def load_bank(bank: str | Path = FOLDER) -> Bank:
    """Read a bank that `utils.scripts.record.save_bank` wrote, by default the tiny model's.

    Args:
        bank: a name in `BANKS`, or a folder.
    Raises:
        FileNotFoundError: no bank there.
        ValueError: its file is damaged, or holds something else.
    """
    path = Path(BANKS.get(str(bank), bank)) / FILE
    mend = "make one with `python -m utils.scripts.record bank`"
    if not path.is_file():
        raise FileNotFoundError(f"no bank of completions at {path}; {mend}")
    made = path.with_name(PROVENANCE)
    told = read_json(made, "copy it again") if made.is_file() else {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            groups = tuple(_group(json.loads(line)) for line in lines)
        return Bank(groups, str(told.get("model", told.get("base", ""))))
    except (OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no bank that can be read ({error}); copy it again, or {mend}") from error


def _group(row: Any) -> Group:
    return Group(**{name: tuple(value) if isinstance(value, list) else value for name, value in dict(row).items()})


# ------------------------------------------------------------------------------------------ the bank under any rewards


@dataclass(frozen=True)
class Scores:
    """A bank under one set of weighted rewards.

    Attributes:
        parts: unweighted rewards by function name, each of length N (all groups flattened).
        weights: weight by function name.
        totals: the weighted sum, length N.
        advantages: of each completion in its group, length N.
        ranks: place of each completion in its group, 1 is best, equal totals share a place; length N.
        dead: whether all totals of a group are equal, one for each group.
    """

    parts: dict[str, list[float]]
    weights: dict[str, float]
    totals: list[float]
    advantages: list[float]
    ranks: list[int]
    dead: list[bool]

    @property
    def dead_share(self) -> float:
        return fmean(self.dead)


@lru_cache(maxsize=64)
def part_scores(bank: Bank, function: RewardFunction) -> list[float]:
    """One reward over the whole bank, length N; computed once for each bank and function."""
    return pay(function, bank.completions, **bank.columns)


def rescore(bank: Bank, reward_fns: Sequence[RewardFunction], weights: Sequence[float]) -> Scores:
    """Score every completion of a bank.

    Args:
        reward_fns: reward functions with TRL's signature and different names.
        weights: one for each function.
    Raises:
        ValueError: the numbers of functions and weights differ, or two functions share a name.
    """
    names = [function.__name__ for function in reward_fns]
    if len(names) != len(weights) or len(set(names)) != len(names):
        raise ValueError(f"need one weight for each reward and no name twice, got {names} and {list(weights)}")
    parts = {name: part_scores(bank, f) for name, f in zip(names, reward_fns, strict=True)}
    weighted = [[w * value for value in part] for w, part in zip(weights, parts.values(), strict=True)]
    totals = [round(sum(values), 9) for values in zip(*weighted, strict=True)]  # equal rewards stay equal as floats
    groups = [totals[i : i + bank.group_size] for i in range(0, len(totals), bank.group_size)]
    return Scores(
        parts,
        dict(zip(names, weights, strict=True)),
        totals,
        group_advantages(totals, bank.group_size),
        [1 + sum(other > total for other in group) for group in groups for total in group],
        [len(set(group)) == 1 for group in groups],
    )


def changed_sign(before: Scores, after: Scores) -> list[bool]:
    """For each completion, whether its advantage went to the other side of zero, onto it or off it."""
    return [(a > 0) - (a < 0) != (b > 0) - (b < 0) for a, b in zip(before.advantages, after.advantages, strict=True)]


def changed_rank(before: Scores, after: Scores) -> list[bool]:
    """For each completion, whether its place in its group changed."""
    return [a != b for a, b in zip(before.ranks, after.ranks, strict=True)]


# ----------------------------------------------------------------------------------------- warning lights


@dataclass(frozen=True)
class Light:
    """One known way to go wrong: its name, whether it is lit, and what was found."""

    name: str
    lit: bool
    found: str


def lights(bank: Bank, scores: Scores) -> list[Light]:
    """Look for signs of a reward that can be hacked, before anything is trained.

    Whether a completion is right is judged by `correctness_reward`, whatever the rewards in `scores` are.
    """
    return [
        _wrong_wins(bank, scores),
        _length_drift(bank, scores),
        _never_fires(scores),
        _dominates(bank, scores),
        _dead(scores),
    ]


@lru_cache(maxsize=4)
def _pairs(bank: Bank) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of completions of one group: (right, wrong); and (longer, shorter) among those equally right."""
    right = part_scores(bank, correctness_reward)
    tokens = [count for group in bank.groups for count in group.tokens]
    pairs = [(i, j) for group in _members(bank) for i in group for j in group]
    return (
        [(i, j) for i, j in pairs if right[i] > right[j]],
        [(i, j) for i, j in pairs if right[i] == right[j] and tokens[i] > tokens[j]],
    )


def _members(bank: Bank) -> list[range]:
    """The indices of each group's completions."""
    size = bank.group_size
    return [range(i, i + size) for i in range(0, size * len(bank.groups), size)]


def _wrong_wins(bank: Bank, scores: Scores) -> Light:
    pairs, _ = _pairs(bank)
    won = sum(scores.totals[i] <= scores.totals[j] for i, j in pairs)
    found = f"the wrong one earns as much or more in {won:,} of {len(pairs):,} pairs of a right and a wrong completion"
    return Light("a wrong answer can win", won > WRONG_WINS * len(pairs), found)


def _length_drift(bank: Bank, scores: Scores) -> Light:
    _, pairs = _pairs(bank)
    gaps = [scores.totals[i] - scores.totals[j] for i, j in pairs]
    bias = fmean((gap > 0) - (gap < 0) for gap in gaps) if gaps else 0.0
    side = "longer" if bias > 0 else "shorter"
    found = f"of two equally right completions the {side} one earns more ({abs(bias):.0%} net of {len(gaps):,} pairs)"
    return Light("length drift", abs(bias) > LENGTH_BIAS, found)


def _never_fires(scores: Scores) -> Light:
    silent = [name for name, values in scores.parts.items() if scores.weights[name] and len(set(values)) == 1]
    found = f"{', '.join(silent)}: the same value for every completion" if silent else "every weighted part varies"
    if not any(scores.weights.values()):
        found = "no part has a weight"
    return Light("a part never fires", bool(silent), found)


def _dominates(bank: Bank, scores: Scores) -> Light:
    spread = {
        name: abs(scores.weights[name]) * fmean(_spread([values[i] for i in group]) for group in _members(bank))
        for name, values in scores.parts.items()
        if scores.weights[name]
    }
    total = sum(spread.values())
    if not total:
        return Light("a part dominates", False, "no part differs within any group")
    name = max(spread, key=spread.__getitem__)
    share = spread[name] / total
    follows = _correlation(scores.parts[name], part_scores(bank, correctness_reward)) > 0.5
    found = f"{name} makes {share:.0%} of the differences within groups"
    found += " and follows being right" if follows else " and does not follow being right"
    return Light("a part dominates", share > DOMINANT and not follows, found)


def _dead(scores: Scores) -> Light:
    found = f"{sum(scores.dead)} of {len(scores.dead)} groups have equal rewards throughout and teach nothing"
    return Light("dead groups", scores.dead_share > MOSTLY_DEAD, found)


def _spread(values: Sequence[float]) -> float:
    """Population standard deviation."""
    mean = fmean(values)
    return math.sqrt(fmean((value - mean) ** 2 for value in values))


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's, 0 where one of them does not vary."""
    mean_a, mean_b, scale = fmean(a), fmean(b), _spread(a) * _spread(b)
    return fmean((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / scale if scale else 0.0
