"""What a grid of runs says: differences with intervals over seeds, in numbers and in pictures.

The unit is the run: two arms are compared by their differences seed by seed, with Student's t interval over the seeds.
In every picture an interval stands beside the mean, and every seed is a dot.

    >>> verdict(interval([4.0, 6.0, 5.0, 7.0, 3.0]))
    'better'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from utils.plots import BLUE, GREEN, GREY, ORANGE, RED
from utils.stats import Interval, interval

Row = dict[str, Any]
WORDS = ("better", "worse", "no difference seen")


def by_seed(rows: Sequence[Row], arm: str, metric: str = "strict") -> dict[int, float]:
    """{seed: value} of one arm."""
    return {row["seed"]: row[metric] for row in rows if row["arm"] == arm}


def gaps_by_seed(rows: Sequence[Row], arm: str, reference: str, metric: str = "strict") -> dict[int, float]:
    """{seed: arm minus reference} over the seeds that both have."""
    here, there = by_seed(rows, arm, metric), by_seed(rows, reference, metric)
    return {seed: here[seed] - there[seed] for seed in sorted(here.keys() & there.keys())}


def paired(rows: Sequence[Row], arm: str, reference: str, metric: str = "strict", confidence: float = 0.95) -> Interval:
    """The mean difference to the reference, seed by seed, with its t interval."""
    return interval(list(gaps_by_seed(rows, arm, reference, metric).values()), confidence)


def verdict(found: Interval) -> str:
    """One of `WORDS`: whether the interval of a difference lies above 0, below it, or holds it."""
    if found.low > 0:
        return WORDS[0]
    return WORDS[1] if found.high < 0 else WORDS[2]


# --------------------------------------------------------------------------------------------- the page


def points(found: Interval) -> str:
    """A difference of shares in percentage points: "+5.0 [+3.0, +7.0]"."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x + 0.0 for x in (found.mean, found.low, found.high)))


def comparisons(experiments: Sequence[Any], rows: Sequence[Row]) -> list[tuple[Any, str]]:
    """(experiment, arm) of all differences that the rows allow: two seeds or more in common with the reference."""
    return [(e, arm) for e in experiments for arm in e.arms if len(gaps_by_seed(rows, arm, e.reference)) > 1]


# ------------------------------------------------------------------------------------------------------------ pictures


COLOURS = {"better": GREEN, "worse": RED, "no difference seen": GREY}
PURPLE, SKY = "#CC79A7", "#56B4E9"


def _axes(figure: Figure, *where: int, title: str, x: str) -> Any:
    axes = figure.add_subplot(*where)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    return axes


def _row(axes: Any, place: float, values: Sequence[float], found: Interval | None, colour: str) -> None:
    axes.plot([100 * v for v in values], [place] * len(values), "o", color=colour, alpha=0.35, markersize=4)
    if found:
        ends = [[100 * (found.mean - found.low)], [100 * (found.high - found.mean)]]
        axes.errorbar(100 * found.mean, place, xerr=ends, fmt="D", color=colour, capsize=4, markersize=6)


def _zero_line(axes: Any) -> None:
    """A line at no difference; where a difference is huge, the scale is logarithmic beyond 10 points."""
    axes.axvline(0, color="black", linewidth=0.8)
    low, high = axes.get_xlim()
    if max(-low, high) > 30:
        axes.set_xscale("symlog", linthresh=10, linscale=1.5)
        ticks = [t for t in (-80, -40, -20, -10, -5, 0, 5, 10, 20, 40, 80) if low <= t <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def comparison(
    rows: Sequence[Row], labels: dict[str, str], reference: str, arms: Sequence[str], title: str, metric: str = "strict"
) -> Figure:
    """One experiment: on the left the arms, on the right their differences to the reference, seed by seed.

    Args:
        rows: of runs.csv.
        labels: arm name -> how it is called.
        metric: a share among the rows' columns.
    """
    shown = [reference, *arms]
    figure = Figure(figsize=(9.5, 1.3 + 0.42 * len(shown)), layout="constrained")
    figure.suptitle(title, fontsize=12)
    left = _axes(figure, 1, 2, 1, title="mean, 95% interval, seeds", x=f"{metric}, held-out questions [%]")
    right = _axes(figure, 1, 2, 2, title="difference, paired by seed", x=f"difference in {metric} [points]")
    for place, arm in enumerate(shown):
        values = list(by_seed(rows, arm, metric).values())
        _row(left, place, values, interval(values) if len(values) > 1 else None, BLUE)
        gaps = list(gaps_by_seed(rows, arm, reference, metric).values())
        if arm != reference and gaps:
            found = interval(gaps) if len(gaps) > 1 else None
            _row(right, place, gaps, found, COLOURS[verdict(found)] if found else GREY)
    for axes, names in ((left, [labels[arm] for arm in shown]), (right, [""] * len(shown))):
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.5, -0.5)
    _zero_line(right)
    return figure


def overview(rows: Sequence[Row], labels: dict[str, str], experiments: Sequence[Any]) -> Figure:
    """Every arm's paired difference to its experiment's reference, experiment under experiment."""
    figure = Figure(figsize=(8, 0.9 + 0.24 * sum(len(e.arms) + 1 for e in experiments)), layout="constrained")
    axes = _axes(figure, title="strict accuracy against the reference", x="difference, paired by seed [points]")
    names, place = [], 0
    for experiment in experiments:
        names.append((place, f"{experiment.name} (against {labels[experiment.reference]})"))
        for arm in experiment.arms:
            place += 1
            names.append((place, labels[arm]))
            gaps = list(gaps_by_seed(rows, arm, experiment.reference).values())
            if len(gaps) > 1:
                found = interval(gaps)
                _row(axes, place, gaps, found, COLOURS[verdict(found)])
        place += 1
    axes.set_yticks([p for p, _ in names], [name for _, name in names], fontsize=8)
    for text, (_, name) in zip(axes.get_yticklabels(), names, strict=True):
        text.set_fontweight("bold" if "(against" in name else "normal")
    axes.set_ylim(place - 0.3, -0.7)
    _zero_line(axes)
    handles = [axes.plot([], [], "D", color=colour, label=word)[0] for word, colour in COLOURS.items()]
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def curves_with_bands(
    curves: Sequence[Row], labels: dict[str, str], arms: Sequence[str], metric: str = "strict"
) -> Figure:
    """Mean over seeds of a curve of training, with the 95% interval of that mean as a band.

    Args:
        curves: of curves.csv.
        metric: "strict" or "dead" (shares), "reward", or "tokens".
    """
    scale, y = {
        "strict": (100, "strict, sampled in training [%]"),
        "dead": (100, "dead groups [%]"),
        "reward": (1, "mean reward"),
        "tokens": (1, "tokens per completion"),
    }[metric]
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = _axes(figure, title="mean over seeds, 95% interval", x="optimizer step")
    axes.set_ylabel(y)
    for colour, arm in zip((BLUE, ORANGE, GREEN, PURPLE, SKY, RED), arms, strict=False):
        at: dict[int, list[float]] = {}
        for line in curves:
            if line["arm"] == arm:
                at.setdefault(line["step"], []).append(scale * line[metric])
        found = {step: interval(values) for step, values in sorted(at.items()) if len(values) > 1}
        axes.plot(list(found), [f.mean for f in found.values()], color=colour, linewidth=2, label=labels[arm])
        axes.fill_between(
            list(found), [f.low for f in found.values()], [f.high for f in found.values()], color=colour, alpha=0.15
        )
    axes.legend(frameon=False, fontsize=9)
    return figure
