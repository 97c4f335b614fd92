"""Pictures: one function, one figure. Colours are Okabe and Ito's, told apart by colour-blind readers.

Every function returns a `matplotlib.figure.Figure` and touches no global state; `png(figure)` gives its bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
PURPLE, SKY = "#CC79A7", "#56B4E9"


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes in its own 256 colours, two fifths the size of all colours and the same to the eye.

    No time stamps: a figure made again gives the same bytes. Pillow, which makes the palette, comes with matplotlib.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(256, kmeans=1, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def new_axes(figure: Figure, *where: int, title: str, x: str, y: str, grid: str = "y") -> Any:
    """Axes with a title, named x and y, and a faint grid; `where` as `Figure.add_subplot` takes it."""
    axes = figure.add_subplot(*where)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)
    return axes


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over about an eighth of a run, nine steps at least; it shrinks at both ends."""
    half = max(4, len(values) // 16)
    return [sum(part) / len(part) for part in (values[max(0, i - half) : i + half + 1] for i in range(len(values)))]


def draw_curve(
    axes: Any,
    history: Sequence[dict[str, Any]],
    metric: str,
    colour: str,
    label: str,
    scale: float = 1.0,
    style: Any = "-",
) -> None:
    """One metric of a log: its steps as faint dots, and smoothed as a line; nothing where it was not logged."""
    points = [(line["step"], scale * line[metric]) for line in history if line.get(metric) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, "o", color=colour, alpha=0.2, markersize=3.5, markeredgewidth=0)
        axes.plot(steps, smooth(values), linestyle=style, color=colour, label=label, linewidth=2)


def legend_below(axes: Any, columns: int = 2) -> None:
    """The legend under the axes, where it hides no data."""
    axes.legend(
        frameon=False, fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.2), columnspacing=1.2
    )


def learning_curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Reward parts, dead groups and cut-off share, completion length, over the optimizer steps of a run.

    Args:
        history: records of log.jsonl.
    """
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    parts = new_axes(figure, 1, 3, 1, title="what is rewarded", x="optimizer step", y="share of completions [%]")
    for metric, colour, label, style in (
        ("rewards/correctness_reward/mean", BLUE, "correct (lenient)", "-"),
        ("rewards/format_reward/mean", ORANGE, "format", "-"),
        ("rewards/strict_metric/mean", GREEN, "strict (not rewarded)", (0, (3, 4))),  # often lies on correct
    ):
        draw_curve(parts, history, metric, colour, label, 100, style)
    health = new_axes(figure, 1, 3, 2, title="what teaches nothing", x="optimizer step", y="share [%]")
    draw_curve(health, history, "frac_reward_zero_std", RED, "dead groups", 100)
    draw_curve(health, history, "completions/clipped_ratio", GREY, "cut off at the token cap", 100)
    length = new_axes(figure, 1, 3, 3, title="how long it talks", x="optimizer step", y="tokens per completion")
    draw_curve(length, history, "completions/mean_length", BLUE, "mean length")
    for axes in (parts, health):
        axes.set_ylim(-3, 103)
    for axes in (parts, health, length):
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines and axes is not length:
            legend_below(axes)
    return figure


def histogram(groups: dict[str, Sequence[float]], title: str, x: str, cap: float | None = None) -> Figure:
    """Overlaid histograms of a few named samples (lengths, number of steps …), with a dashed line at `cap`."""
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    axes = new_axes(figure, title=title, x=x, y="count")
    low = min(min(values) for values in groups.values())
    high = max(max(values) for values in groups.values())
    width = max(1, round((high - low) / 40))
    edges = [low + width * i - 0.5 for i in range(int((high - low) // width) + 2)]
    for colour, (name, values) in zip((GREY, BLUE, ORANGE, GREEN), groups.items(), strict=False):
        axes.hist(values, edges, color=colour, alpha=0.6, label=name)
    if cap is not None:
        axes.axvline(cap, color=RED, linestyle="--", label=f"cap {cap:g}")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def bars(series: dict[str, Sequence[float]], labels: Sequence[str], title: str, y: str) -> Figure:
    """Grouped bars with their values, a zero as a dash: one colour a named series, one place a label."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = new_axes(figure, title=title, x="", y=y)
    width = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        places = [i + width * (k - (len(series) - 1) / 2) for i in range(len(values))]
        drawn = axes.bar(places, values, 0.9 * width, color=(BLUE, ORANGE, GREEN, GREY)[k], label=name)
        axes.bar_label(drawn, fmt="%.3g", padding=2, fontsize=8)
        zeros = [place for place, value in zip(places, values, strict=True) if value == 0]
        axes.hlines(
            [0] * len(zeros),
            *([p + side * 0.45 * width for p in zeros] for side in (-1, 1)),
            color=(BLUE, ORANGE, GREEN, GREY)[k],
            linewidth=4,
            zorder=3,
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(labels)), labels)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=9)
    return figure


def lines(
    curves: dict[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    x: str,
    y: str,
    marks: dict[str, float] | None = None,
) -> Figure:
    """Named curves `{name: (xs, ys)}` in one panel, and named places of the x axis as dashed lines."""
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    axes = new_axes(figure, title=title, x=x, y=y)
    for colour, (name, (xs, ys)) in zip((BLUE, ORANGE, GREEN, GREY), curves.items(), strict=False):
        axes.plot(xs, ys, color=colour, linewidth=2, label=name)
    for name, place in (marks or {}).items():
        axes.axvline(place, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(name, (place, 0), (3, 4), ("data", "axes fraction"), "offset points", fontsize=9, color=GREY)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def accuracy_by(table: dict[str, dict[str, dict[str, float]]], title: str, x: str) -> Figure:
    """Rates of several models in several bins, as points with their 95% intervals.

    Args:
        table: bin -> model -> {"rate", "low", "high"}; the bins in their order, the models in the first bin's order.
    """
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = new_axes(figure, title=title, x=x, y="strict accuracy [%]")
    models = list(next(iter(table.values())))
    for k, (model, colour, marker) in enumerate(zip(models, (GREY, BLUE, ORANGE, GREEN), "osD^", strict=False)):
        shown = [by_model[model] for by_model in table.values()]
        places = [i + 0.14 * (k - (len(models) - 1) / 2) for i in range(len(shown))]
        errors = [[100 * (r["rate"] - r["low"]) for r in shown], [100 * (r["high"] - r["rate"]) for r in shown]]
        axes.errorbar(
            places, [100 * r["rate"] for r in shown], errors, fmt=marker, color=colour, capsize=4, label=model
        )
    axes.set_xticks(range(len(table)), list(table))
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def rewards_and_advantages(groups: dict[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Groups of completions side by side: what each was paid, and the advantage that came of it.

    Args:
        groups: name -> rewards and advantages of its completions, of one length.
    """
    figure = Figure(figsize=(3 * len(groups), 3.2), layout="constrained")
    for k, (name, series) in enumerate(groups.items(), start=1):
        title = f"{name}\nmean {fmean(series[0]):.3g}, standard deviation {stdev(series[0]):.2g}"
        axes = new_axes(figure, 1, len(groups), k, title=title, x="completion", y="" if k > 1 else "reward, advantage")
        for side, values, colour, label in zip((-0.2, 0.2), series, (GREY, BLUE), ("reward", "advantage"), strict=True):
            drawn = axes.bar([i + side for i in range(1, len(values) + 1)], values, 0.36, color=colour, label=label)
            axes.bar_label(drawn, fmt="%.3g", padding=2, fontsize=8, color=colour)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks(range(1, len(series[0]) + 1))
        low, high = (f(v for pair in groups.values() for values in pair for v in values) for f in (min, max))
        axes.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))
        if not any(series[1]):
            axes.text(0.5, 0.75, "dead: no completion\nis better than its group", ha="center", transform=axes.transAxes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def runs_beside(runs: dict[str, Sequence[dict[str, Any]]], steps: int) -> Figure:
    """Strict accuracy and completion length of a few short runs over their optimizer steps, finished or not.

    Args:
        runs: name -> records as log.jsonl has them, with `rewards/strict_metric/mean`.
        steps: length of a whole run, which fixes the axis while the runs go on.
    """
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    judged = new_axes(figure, 1, 2, 1, title="what it learns", x="optimizer step", y="strict accuracy [%]")
    length = new_axes(figure, 1, 2, 2, title="how long it talks", x="optimizer step", y="tokens per completion")
    for colour, (name, history) in zip((GREY, BLUE, ORANGE, GREEN), runs.items(), strict=False):
        draw_curve(judged, history, "rewards/strict_metric/mean", colour, name, 100)
        draw_curve(length, history, "completions/mean_length", colour, name)
    judged.set_ylim(-3, 103)
    for axes in (judged, length):
        axes.set_xlim(0, steps + 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            legend_below(axes, 4)
    return figure
