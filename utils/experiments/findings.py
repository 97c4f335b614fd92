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

from utils.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, new_axes
from utils.stats import Interval, interval

Row = dict[str, Any]
WORDS = ("better", "worse", "no difference seen")
COLOURS = {"better": GREEN, "worse": RED, "no difference seen": GREY}
WIDTH = 8.2  # inches: 900 pixels at the resolution of `png`


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
    axes.plot([100 * v for v in values], [place] * len(values), "o", color=colour, alpha=0.35, markersize=4)
    if found:
        ends = [[100 * (found.mean - found.low)], [100 * (found.high - found.mean)]]
        face = colour if filled else "white"
        axes.errorbar(100 * found.mean, place, xerr=ends, fmt="D", color=colour, mfc=face, capsize=3, markersize=6)


def _zero_line(axes: Any) -> None:
    """A line at no difference; where a difference is huge, the scale is logarithmic beyond 20 points."""
    axes.axvline(0, color="black", linewidth=0.8, zorder=0.5)
    low, high = axes.get_xlim()
    if max(-low, high) > 30:
        axes.set_xscale("symlog", linthresh=20, linscale=1.2)
        ticks = [t for t in (-80, -40, -20, -10, 0, 10, 20, 40, 80) if low <= t <= high]
        axes.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(axes.get_xlabel().replace("]", ", logarithmic beyond 20]"))


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
    figure = Figure(figsize=(WIDTH, 1.3 + 0.36 * len(shown)), layout="constrained")
    figure.suptitle(title, fontsize=12)
    left = new_axes(
        figure, 1, 2, 1, title="mean, 95% interval, seeds", x=f"{metric}, held-out questions [%]", y="", grid="x"
    )
    right = new_axes(figure, 1, 2, 2, title="difference, paired by seed", x="difference [points]", y="", grid="x")
    for place, arm in enumerate(shown):
        values = list(by_seed(rows, arm, metric).values())
        _row(left, place, values, interval(values) if len(values) > 1 else None, BLUE)
        gaps = list(gaps_by_seed(rows, arm, reference, metric).values())
        if arm != reference and gaps:
            found = interval(gaps) if len(gaps) > 1 else None
            word = verdict(found) if found else WORDS[2]
            _row(right, place, gaps, found, COLOURS[word], filled=word != WORDS[2])
    for axes, names in ((left, [labels[arm] for arm in shown]), (right, [""] * len(shown))):
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.5, -0.5)
    _zero_line(right)
    return figure


def forest(rows: Sequence[Row], labels: dict[str, str], experiments: Sequence[Any], asked: int = 1) -> Figure:
    """A forest plot: every arm's paired difference to its experiment's reference, question under question.

    Args:
        rows, labels: as `comparison` takes them.
        experiments: of utils/experiments/catalogue.py, in this order.
        asked: of how many comparisons the study consists; a filled diamond leaves out 0 at Bonferroni's level for them.
    """
    lines = sum(len(e.arms) + 1 for e in experiments)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.19 * lines), layout="constrained")
    axes = new_axes(figure, title="", x="difference in strict accuracy, 95% interval [points]", y="", grid="x")
    axes.spines["left"].set_visible(False)
    ticks, place = {}, 0
    for experiment in experiments:
        _question(axes, place, experiment.question)
        for arm in experiment.arms:
            place += 1
            ticks[place] = labels[arm]
            gaps = list(gaps_by_seed(rows, arm, experiment.reference).values())
            if len(gaps) > 1:
                found = interval(gaps)
                filled = survives(rows, arm, experiment.reference, asked)
                _row(axes, place, gaps, found, COLOURS[verdict(found)], filled)
        place += 1
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set_ylim(place - 0.3, -0.7)
    _zero_line(axes)
    _legend(figure, axes, asked)
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


def _legend(figure: Figure, axes: Any, asked: int) -> None:
    marks = [("D", colour, "white" if colour == GREY else colour, word) for word, colour in COLOURS.items()]
    marks.append(("o", "#C9C9C9", "#C9C9C9", "one seed"))
    if asked > 1:
        marks.append(("D", "black", "black", f"filled: survives Bonferroni ({asked} comparisons)"))
        marks.append(("D", "black", "white", "hollow: does not"))
    handles = [
        axes.plot([], [], mark, color=edge, mfc=face, markersize=6 if mark == "D" else 4, label=words)[0]
        for mark, edge, face, words in marks
    ]
    figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside upper center", ncols=3 if asked > 1 else 4)


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
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = new_axes(figure, title="mean over seeds, 95% interval", x="optimizer step", y="", grid="x")
    axes.xaxis.get_major_locator().set_params(integer=True)
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
