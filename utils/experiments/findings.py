"""What a grid of runs says: differences with intervals over seeds, in numbers and in pictures.

The unit is the run: two arms are compared by their differences seed by seed, with Student's t interval over the seeds.
In every picture an interval stands beside the mean, and every seed is a mark of its own. Every axis is linear.

    >>> verdict(interval([4.0, 6.0, 5.0, 7.0, 3.0]))
    'better'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from utils.plots import BLUE, GREEN, GREY, RED, new_axes
from utils.stats import Interval, interval

Row = dict[str, Any]
WORDS = ("better", "worse", "no difference seen")
COLOURS = {"better": GREEN, "worse": RED, "no difference seen": GREY}
WIDTH = 8.2  # inches: 900 pixels at the resolution of `png`
EDGE = 30  # points to either side of 0 that a forest plot holds
PALE = 0.35


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


def of_shares(values: Sequence[float]) -> Interval:
    """The t interval of a mean of shares, without what lies below 0 or above 1, where no such mean can lie.

    What is cut off holds no possible value, so the interval holds the mean as often as before.

    Example:
        >>> found = of_shares([0.0, 0.0, 0.2])
        >>> found.low, round(found.high, 2)
        (0.0, 0.35)
    """
    found = interval(values)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def points(found: Interval) -> str:
    """A difference of shares in percentage points: "+5.0 [+3.0, +7.0]"."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(round(100 * x, 1) + 0.0 for x in (found.mean, found.low, found.high)))


def comparisons(experiments: Sequence[Any], rows: Sequence[Row]) -> list[tuple[Any, str]]:
    """(experiment, arm) of all differences that the rows allow: two seeds or more in common with the reference."""
    return [(e, arm) for e in experiments for arm in e.arms if len(gaps_by_seed(rows, arm, e.reference)) > 1]


def survives(rows: Sequence[Row], arm: str, reference: str, asked: int) -> bool:
    """Whether 0 stays outside at the level 1 - 0.05 / asked, Bonferroni's for as many comparisons."""
    return verdict(paired(rows, arm, reference, confidence=1 - 0.05 / asked)) != WORDS[2]


# ------------------------------------------------------------------------------------------------------------ pictures


def _row(
    axes: Any, place: float, values: Sequence[float], found: Interval | None, colour: str, filled: bool = True
) -> None:
    """One line of a picture, in percent or points: a dot for each seed, above them the mean and its interval."""
    axes.plot([100 * v for v in values], [place + 0.16] * len(values), "o", color=colour, alpha=PALE, markersize=4)
    if found:
        ends = [[100 * (found.mean - found.low)], [100 * (found.high - found.mean)]]
        face = colour if filled else "white"
        axes.errorbar(100 * found.mean, place - 0.12, xerr=ends, fmt="D", color=colour, mfc=face, capsize=3, ms=6)


def _beyond(axes: Any, place: float, values: Sequence[float], found: Interval, colour: str, filled: bool) -> None:
    """Arrows at the edge for what goes on outside of it; where the mean does too, its numbers, bold for filled."""
    for side, mark, align in ((-1, "<", "left"), (1, ">", "right")):
        at = side * EDGE
        if any(side * 100 * value > EDGE for value in values):
            axes.plot(at, place + 0.16, mark, color=colour, alpha=PALE, markersize=5, clip_on=False)
        if side * 100 * (found.high if side > 0 else found.low) > EDGE:
            axes.plot(at, place - 0.12, mark, color=colour, markersize=7, clip_on=False)
        if side * 100 * found.mean > EDGE:
            words = axes.text(at - 1.2 * side, place, points(found), color=colour, ha=align, va="center", fontsize=9)
            words.set_fontweight("bold" if filled else "normal")


def _zero_line(axes: Any) -> None:
    axes.axvline(0, color="black", linewidth=0.8, zorder=0.5)
    axes.xaxis.set_major_formatter(_signed)


def _signed(tick: float, place: int | None = None) -> str:
    return f"{tick:+g}" if tick else "0"


def comparison(rows: Sequence[Row], labels: dict[str, str], reference: str, arms: Sequence[str], title: str) -> Figure:
    """One experiment: on the left the arms, on the right their differences to the reference, seed by seed.

    Args:
        rows: of runs.csv.
        labels: arm name -> how it is called.
    """
    shown = [reference, *arms]
    figure = Figure(figsize=(WIDTH, 1.3 + 0.4 * len(shown)), layout="constrained")
    figure.suptitle(title, fontsize=12)
    left = new_axes(figure, 1, 2, 1, title="each arm", x="strict, held-out questions [%]", y="", grid="x")
    right = new_axes(figure, 1, 2, 2, title="minus the reference, by seed", x="difference [points]", y="", grid="x")
    for place, arm in enumerate(shown):
        values = list(by_seed(rows, arm).values())
        _row(left, place, values, of_shares(values) if len(values) > 1 else None, BLUE)
        gaps = list(gaps_by_seed(rows, arm, reference).values())
        if arm != reference and gaps:
            found = interval(gaps) if len(gaps) > 1 else None
            word = verdict(found) if found else WORDS[2]
            _row(right, place, gaps, found, COLOURS[word], filled=word != WORDS[2])
    right.text(0, 0, "the reference  ", ha="right", va="center", fontsize=9, color=GREY)
    for axes, names in ((left, [labels[arm] for arm in shown]), (right, [""] * len(shown))):
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.5, -0.5)
    left.set_xlim(-3, 103)
    _zero_line(right)
    _legend(figure, right, "lower")
    return figure


def forest(rows: Sequence[Row], labels: dict[str, str], experiments: Sequence[Any], asked: int = 1) -> Figure:
    """A forest plot: every arm's paired difference to its experiment's reference, question under question.

    The axis is linear from -`EDGE` to `EDGE` points; what lies beyond is an arrow at the edge.

    Args:
        rows, labels: as `comparison` takes them.
        experiments: of utils/experiments/catalogue.py, in this order.
        asked: of how many comparisons the study consists; a filled diamond leaves out 0 at Bonferroni's level for them.
    """
    lines = sum(len(e.arms) + 1 for e in experiments)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.23 * lines), layout="constrained")
    axes = new_axes(figure, title="", x="difference in strict accuracy [points]", y="", grid="x")
    axes.spines["left"].set_visible(False)
    ticks, place, arrows = {}, 0, False
    for experiment in experiments:
        _question(axes, place, experiment.question)
        for arm in experiment.arms:
            place += 1
            ticks[place] = labels[arm]
            gaps = list(gaps_by_seed(rows, arm, experiment.reference).values())
            if len(gaps) > 1:
                found = interval(gaps)
                look = COLOURS[verdict(found)], survives(rows, arm, experiment.reference, asked)
                _row(axes, place, gaps, found, *look)
                _beyond(axes, place, gaps, found, *look)
                arrows |= 100 * max(map(abs, (*gaps, found.low, found.high))) > EDGE
        place += 1
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.tick_params(axis="y", length=0, pad=9)
    axes.set_ylim(place - 0.3, -0.7)
    axes.set_xlim(-EDGE, EDGE)
    if arrows:
        axes.set_xlabel(f"{axes.get_xlabel()}; an arrow: it goes on beyond {EDGE}")
    _zero_line(axes)
    _legend(figure, axes, "upper", asked)
    return figure


def _question(axes: Any, place: int, words: str) -> None:
    """A line of its own over the whole width of the figure."""
    text = axes.annotate(
        words,
        (0, place),
        xycoords=("figure fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
    text.set_in_layout(False)


def _legend(figure: Figure, axes: Any, side: str, asked: int = 1) -> None:
    marks = [("D", colour, "white" if colour == GREY else colour, word) for word, colour in COLOURS.items()]
    marks.append(("o", "#C9C9C9", "#C9C9C9", "one seed"))
    if asked > 1:
        marks.append(("D", "black", "black", f"filled or bold: survives Bonferroni ({asked} comparisons)"))
        marks.append(("D", "black", "white", "neither: does not"))
    else:
        marks.append(("_", "black", "black", "95% interval of the mean"))
    handles = [
        axes.plot([], [], mark, color=edge, mfc=face, ms={"D": 6, "o": 4, "_": 14}[mark], label=words)[0]
        for mark, edge, face, words in marks
    ]
    figure.legend(handles=handles, frameon=False, fontsize=9, loc=f"outside {side} center", ncols=3 if asked > 1 else 5)


def parting(curves: Sequence[Row], labels: dict[str, str], arms: Sequence[str], reference: str) -> Figure:
    """When arms part company with their reference: differences in strict accuracy while they train, a panel for each.

    A thin line is one seed, the strong one their mean, and the band its 95% interval. Runs of one seed see the same
    questions at the same step, so that a difference is free of their luck. A step judges only a few questions:
    each point is the mean of a logged step and its neighbours.

    Args:
        curves: of curves.csv.
    """
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    for axes, arm in zip(panels, arms, strict=True):
        steps, seeds = _gaps_by_step(curves, arm, reference)
        found = [interval(values) for values in zip(*seeds, strict=True)]
        for values in seeds:
            axes.plot(steps, values, color=GREY, alpha=0.45, linewidth=0.9)
        axes.fill_between(steps, [f.low for f in found], [f.high for f in found], color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(steps, [f.mean for f in found], color=BLUE, linewidth=2.5)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(labels[arm], fontsize=11)
        axes.set_xlabel("optimizer step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter(_signed)
    panels[0].set_ylabel(f"strict, minus {labels[reference]}\n[points]")
    return figure


def _gaps_by_step(curves: Sequence[Row], arm: str, reference: str) -> tuple[list[int], list[list[float]]]:
    """The logged steps, and for each seed the differences in points at them, each averaged with its neighbours."""
    value = {(line["arm"], line["seed"], line["step"]): 100 * line["strict"] for line in curves}
    steps = sorted({step for name, _, step in value if name == arm})
    seeds = []
    for seed in sorted({seed for name, seed, _ in value if name == arm}):
        gaps = [value[arm, seed, step] - value[reference, seed, step] for step in steps]
        seeds.append([fmean(gaps[max(0, i - 1) : i + 2]) for i in range(len(gaps))])
    return steps, seeds
