"""What a grid of runs says: intervals over seeds, and the page that sums them up.

The unit is the run: two arms are compared by their differences seed by seed, with Student's t interval over the seeds.

    >>> found = interval([4.0, 6.0, 5.0, 7.0, 3.0])
    >>> f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]", verdict(found)
    ('5.00 [3.04, 6.96]', 'better')
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
WORDS = ("better", "worse", "no difference seen")


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


def t_inside(t: float, df: int) -> float:
    """P(|T| <= t) for Student's t with `df` degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))
    return sine * total


def t_quantile(confidence: float, df: int) -> float:
    """The t with P(|T| <= t) = confidence, by bisection.

    >>> f"{t_quantile(0.95, df=4):.3f}"
    '2.776'
    """
    if not 0 < confidence < 1 or df < 1:
        raise ValueError(f"need 0 < confidence < 1 and df >= 1, got {confidence} and {df}")
    low, high = 0.0, 1.0
    while t_inside(high, df) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_inside(middle, df) < confidence else (low, middle)
    return high


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and t interval: mean ± t · s / √n.

    Raises:
        ValueError: fewer than two values, which have no spread to judge by.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {n}; run more seeds")
    mean = statistics.fmean(values)
    half = t_quantile(confidence, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def by_seed(rows: Sequence[Row], arm: str, metric: str = "strict") -> dict[int, float]:
    """{seed: value} of one arm."""
    return {row["seed"]: row[metric] for row in rows if row["arm"] == arm}


def differences(rows: Sequence[Row], arm: str, reference: str, metric: str = "strict") -> dict[int, float]:
    """{seed: arm minus reference} over the seeds that both have."""
    here, there = by_seed(rows, arm, metric), by_seed(rows, reference, metric)
    return {seed: here[seed] - there[seed] for seed in sorted(here.keys() & there.keys())}


def paired(rows: Sequence[Row], arm: str, reference: str, metric: str = "strict", confidence: float = 0.95) -> Interval:
    """The mean difference to the reference, seed by seed, with its t interval."""
    return interval(list(differences(rows, arm, reference, metric).values()), confidence)


def verdict(found: Interval) -> str:
    """One of `WORDS`: whether the interval of a difference lies above 0, below it, or holds it."""
    if found.low > 0:
        return WORDS[0]
    return WORDS[1] if found.high < 0 else WORDS[2]


# --------------------------------------------------------------------------------------------- the page

ALSO = {  # how a further column is written
    "dead": ("dead groups", lambda value: f"{100 * value:.0f}%"),
    "format": ("format", lambda value: f"{100 * value:.0f}%"),
    "tokens": ("tokens per answer", lambda value: f"{value:.0f}"),
}


def points(found: Interval) -> str:
    """A difference of shares in percentage points: "+5.0 [+3.0, +7.0]"."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x + 0.0 for x in (found.mean, found.low, found.high)))


def comparisons(experiments: Sequence[Any], rows: Sequence[Row]) -> list[tuple[Any, str]]:
    """(experiment, arm) of all differences that the rows allow: two seeds or more in common with the reference."""
    return [(e, arm) for e in experiments for arm in e.arms if len(differences(rows, arm, e.reference)) > 1]


def page(
    experiments: Sequence[Any],
    labels: dict[str, str],
    rows: Sequence[Row],
    facts: dict[str, Any],
    conclusions: Sequence[str] = (),
) -> str:
    """The findings in Markdown, one line for each experiment, worded by the numbers alone.

    Args:
        experiments: of utils/experiments.py.
        labels: arm name -> what the page calls it.
        rows: of these experiments' arms.
        facts: provenance.json of their folder.
        conclusions: sentences to end with.
    """
    made = comparisons(experiments, rows)
    level = 1 - 0.05 / max(1, len(made))
    lines = ["# Findings", "", *_head(rows, labels, facts), "", *_reading(made, rows, level), ""]
    lines += [_line(experiment, labels, rows, level) for experiment in experiments]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines += ["", *conclusions, "", f"Made on {facts['machine']}, one thread a run, with {versions}."]
    return "\n".join(lines) + "\n"


def _head(rows: Sequence[Row], labels: dict[str, str], facts: dict[str, Any]) -> list[str]:
    start = list(by_seed(rows, "default").values())
    spread = ""
    if len(start) > 1:
        found = interval(start)
        spread = (
            f" The default reaches {100 * found.mean:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}] "
            f"over {found.n} seeds, from {100 * min(start):.1f} to {100 * max(start):.1f}%; leniently "
            f"{100 * statistics.fmean(by_seed(rows, 'default', 'lenient').values()):.1f}%."
        )
    return [
        f"Strict accuracy of the tiny model on {facts['held_out']} held-out questions, greedy, after a short training; "
        f"untrained it is {100 * facts['untrained']['strict']:.1f}%.{spread}",
        f"The default: {', '.join(f'{name} {value:g}' for name, value in facts['start'].items())}.",
    ]


def _reading(made: Sequence[tuple[Any, str]], rows: Sequence[Row], level: float) -> list[str]:
    strict, lenient = (
        sum(verdict(paired(rows, arm, e.reference, metric)) != WORDS[2] for e, arm in made)
        for metric in ("strict", "lenient")
    )
    return [
        "Each number is the mean difference to the experiment's reference in percentage points, paired by seed, "
        "with its 95% t interval.",
        f"Of {len(made)} intervals {strict} leave out 0, and {lenient} under the lenient reading, which forgives the "
        f"layout; about {0.05 * len(made):.1f} would if nothing made any "
        f"difference. Those in bold still do at the level {100 * level:.2f}% (Bonferroni).",
        "For any other model these are hypotheses, not measurements.",
    ]


def _line(experiment: Any, labels: dict[str, str], rows: Sequence[Row], level: float) -> str:
    counts, parts = set(), []
    for arm in experiment.arms:
        if len(differences(rows, arm, experiment.reference)) < 2:
            parts.append(f"{labels[arm]} not measured")
            continue
        found = paired(rows, arm, experiment.reference)
        text = f"{labels[arm]} {points(found)} {verdict(found)}"
        sure = verdict(paired(rows, arm, experiment.reference, confidence=level)) != WORDS[2]
        parts.append(f"**{text}**" if sure else text)
        counts.add(found.n)
    seeds = "/".join(map(str, sorted(counts))) or "0"
    option = "" if seeds == "5" else f" --seeds {max(counts, default=2)}"
    reference = labels[experiment.reference]
    return (
        f"- {experiment.question} Against {reference}: {'; '.join(parts)}.{_also(experiment, labels, rows)} "
        f"n = {seeds} seeds. `python -m utils.experiments {experiment.name}{option} --output runs/again`"
    )


def _also(experiment: Any, labels: dict[str, str], rows: Sequence[Row]) -> str:
    if experiment.also is None:
        return ""
    name, write = ALSO[experiment.also]
    means = {arm: by_seed(rows, arm, experiment.also) for arm in (experiment.reference, *experiment.arms)}
    shown = [f"{labels[arm]} {write(statistics.fmean(m.values()))}" for arm, m in means.items() if m]
    return f" {name.capitalize()}: {', '.join(shown)}." if shown else ""


def agreement(rows: Sequence[Row], reference: Sequence[Row], metric: str = "strict") -> str:
    """One sentence on runs made again: how many gave the reference's value, and the largest difference."""
    there = {(row["arm"], row["seed"], row["settings"]): row[metric] for row in reference}
    gaps = [abs(row[metric] - there[k]) for row in rows if (k := (row["arm"], row["seed"], row["settings"])) in there]
    if not gaps:
        return "none of these runs is among the reference's"
    return (
        f"{sum(gap == 0 for gap in gaps)} of {len(gaps)} runs give the reference's {metric} rate, "
        f"the largest difference is {100 * max(gaps):.1f} points"
    )
