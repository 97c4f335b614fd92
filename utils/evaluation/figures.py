"""Pictures of an evaluation: one function, one figure, each with its intervals and its number of questions.

The models have the same colours everywhere (base grey, trained blue), and so have the fates of a question: right
before and after (blue), fixed (green), broken (red), wrong both times (grey). As in `utils.plots`, colours are Okabe
and Ito's and nothing global is touched. All are legible at the width of a page, about 900 pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from utils.evaluation.errors import RIGHT
from utils.evaluation.evaluate import RATES, Verdict, rate
from utils.plots import BLUE, GREEN, GREY, ORANGE, RED, draw_curve, new_axes
from utils.stats import p_value

MODELS = {"base": (GREY, "o"), "trained": (BLUE, "D")}
FATES = {"both": ("right both times", BLUE), "fixed": ("fixed", GREEN), "broken": ("broken", RED)}
FATES |= {"neither": ("wrong both times", "#D9D9D9")}
RATE_NAMES = {
    "strict": "strict: right, in its tag",
    "lenient": "lenient: right, anywhere",
    "format": "format: tags as asked",
    "truncated": "truncated at the cap",
    "no_answer": "no answer at all",
}
CHANGE_NAMES = (  # of `evaluate.CHANGES`
    "layout:\nthe number was\nright both times",
    "working:\nonly one answer\nshows any",
    "arithmetic:\nboth work, one\ncomes out right",
)
RARE = "rare errors"  # what the rarest kinds are called together
WIDTH = 8.0  # inches; at 110 dots an inch 880 pixels


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text[1:] == "0.0" else text


def _errors(rows: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Distances from rates to their bounds, in percent, as `errorbar` takes them."""
    return [[100 * (r["rate"] - r["low"]) for r in rows], [100 * (r["high"] - r["rate"]) for r in rows]]


def _points(axes: Any, xs: Sequence[float], rows: Sequence[Mapping[str, float]], who: str, label: str, line: str = ""):
    """Rates of one of the `MODELS` in percent, with their intervals; `line` is a style that joins them."""
    colour, marker = MODELS[who]
    rates = [100 * r["rate"] for r in rows]
    axes.errorbar(xs, rates, _errors(rows), fmt=marker + line, color=colour, capsize=4, label=label)


# ------------------------------------------------------------------------------------------------ the card


def card_figure(base: Mapping[str, Any], trained: Mapping[str, Any]) -> Figure:
    """Every rate of the card, before and after, with its 95% interval and its value.

    Args:
        base, trained: as `evaluate.rates` gives them.
    """
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    title = f"before and after, {base['strict']['n']:,} questions"
    axes = new_axes(figure, title=title, x="share of answers [%]", y="", grid="x")
    heights = dict(zip(RATES, (0, 1, 2, 3.6, 4.6), strict=True))
    for shift, name, table in ((-0.19, "base", base), (0.19, "trained", trained)):
        for name_of_rate, y in heights.items():
            _rate_bar(axes, y + shift, table[name_of_rate], MODELS[name][0])
    for y, text in ((-0.6, "more is better"), (3.0, "less is better")):
        axes.text(1, y, text, va="center", fontsize=9, style="italic", color="#555555")
    axes.set_yticks(list(heights.values()), [RATE_NAMES[each] for each in RATES])
    axes.set_ylim(5.1, -0.9)
    axes.set_xlim(0, 138)
    axes.set_xticks(range(0, 101, 20))
    swatches = [Rectangle((0, 0), 1, 1, color=colour) for colour, _marker in MODELS.values()]
    axes.legend(swatches, list(MODELS), frameon=False, fontsize=9, ncols=2, loc="upper right")
    return figure


def _rate_bar(axes: Any, y: float, r: Mapping[str, Any], colour: str) -> None:
    if not r["n"]:
        axes.text(2, y, "not recorded", va="center", fontsize=9)
        return
    axes.barh(y, 100 * r["rate"], 0.34, color=colour)
    axes.errorbar(100 * r["rate"], y, xerr=_errors([r]), color="black", capsize=3, linewidth=1.2)
    text = f"{_percent(r['rate'])}  [{100 * r['low']:.1f}, {100 * r['high']:.1f}]"
    axes.text(100 * r["high"] + 2, y, text, va="center", fontsize=9)


# ----------------------------------------------------------------------------------------------- the flips


def flips_figure(comparison: Mapping[str, Any]) -> Figure:
    """What became of every question, and how the strict gain is made up: layout, working, arithmetic.

    Args:
        comparison: as `evaluate.compare` gives it.
    """
    n, flips, gain = comparison["n"], comparison["flips"], comparison["gain"]
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    strip, steps = figure.subplots(2, 1, height_ratios=[1, 4.4])
    _strip(strip, n, flips)
    points, low, high = (_signed(comparison["difference"][part]) for part in ("points", "low", "high"))
    test = p_value(comparison["mcnemar_p"])
    steps.set_title(f"strict accuracy changed by {points} points [{low}, {high}], McNemar {test}", fontsize=11)
    _steps(steps, n, flips["both"] + flips["broken"], gain)
    return figure


def _strip(axes: Any, n: int, flips: Mapping[str, int]) -> None:
    axes.set_title(f"what became of the {n:,} questions", fontsize=11)
    start = 0
    for fate, (name, colour) in FATES.items():
        label = f"{name}: {flips[fate]:,} ({_percent(flips[fate] / n)})"
        axes.barh(0, flips[fate], 0.7, left=start, color=colour, edgecolor="white", label=label)
        start += flips[fate]
    axes.set_xlim(0, n)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0.08), columnspacing=1.2)


def _steps(axes: Any, n: int, before: int, gain: Mapping[str, Mapping[str, int]]) -> None:
    """Bars that lead from the questions right before to those right after, each from where the last one ended."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.bar(0, before, 0.62, color=MODELS["base"][0])
    axes.text(0, before + 0.02 * n, f"{before:,}\n{_percent(before / n)}", ha="center", va="bottom", fontsize=9)
    level = highest = before
    for i, change in enumerate(gain.values(), 1):
        for x, start, end, fate in (
            (i - 0.19, level, level + change["fixed"], "fixed"),
            (i + 0.19, level + change["fixed"], level + change["fixed"] - change["broken"], "broken"),
        ):
            axes.bar(x, end - start, 0.36, bottom=start, color=FATES[fate][1])
            axes.text(x, max(start, end) + 0.02 * n, _change(end - start), ha="center", va="bottom", fontsize=9)
            highest = max(highest, start, end)
        axes.plot([i - 0.69, i - 0.37], [level, level], color=GREY, linewidth=0.8)
        level += change["fixed"] - change["broken"]
        axes.plot([i + 0.37, i + 0.69], [level, level], color=GREY, linewidth=0.8)
    axes.bar(4, level, 0.62, color=MODELS["trained"][0])
    axes.text(4, level + 0.02 * n, f"{level:,}\n{_percent(level / n)}", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(5), ["base:\nstrictly right", *CHANGE_NAMES, "trained:\nstrictly right"], fontsize=9)
    axes.set_ylabel("questions")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(0, 1.18 * max(highest, 0.3 * n))


def _change(count: int) -> str:
    return f"+{count:,}" if count > 0 else f"\N{MINUS SIGN}{-count:,}" if count < 0 else "0"


def differences_figure(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Differences of two rates with their 95% intervals, one below the other, beside the line of no difference.

    Args:
        rows: name -> {"points", "low", "high"}, shares, as `evaluate.compare` gives them.
    """
    figure = Figure(figsize=(WIDTH, 1.1 + 0.45 * len(rows)), layout="constrained")
    axes = new_axes(figure, title="", x="difference, with its 95% interval [points]", y="", grid="x")
    axes.axvline(0, color="black", linewidth=1)
    for y, row in enumerate(rows.values()):
        points, low, high = (100 * row[part] for part in ("points", "low", "high"))
        colour = GREY if low <= 0 <= high else BLUE
        axes.errorbar(points, y, xerr=[[points - low], [high - points]], fmt="o", color=colour, capsize=5)
        text = f"{_signed(row['points'])}  [{_signed(row['low'])}, {_signed(row['high'])}]"
        axes.text(points, y - 0.14, text, ha="center", va="bottom", fontsize=9)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.6, -0.7)
    return figure


# ----------------------------------------------------------------------------------------------- the matrix


def transition_matrix(transitions: Mapping[tuple[str, str], int]) -> Figure:
    """What the answers were before (rows) and after (columns): a number of questions in each cell, totals outside.

    A cell has the colour of its fate, the deeper the more questions; on the framed diagonal the category stayed what
    it was. The rarest kinds of error, as long as they have less than 2.5% of the questions together, are one.

    Args:
        transitions: as `errors.transitions` gives them: {(category before, category after): questions}.
    """
    counts = merge_rare(transitions)
    n, sides, most = sum(counts.values()), _sides(counts), max(counts.values())
    order, fates = _order(sides), Counter()
    figure = Figure(figsize=(WIDTH, 2.4 + 0.42 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"what the answers to {n:,} questions were, before and after training", fontsize=11)
    for y, before in enumerate(order):
        for x, after in enumerate(order):
            count, fate = counts.get((before, after), 0), _fate(before, after)
            fates[fate] += count
            _cell(axes, x, y, count, FATES[fate][1], math.sqrt(count / most))
    _margins(axes, order, sides, n)
    handles = [Rectangle((0, 0), 1, 1, color=colour) for _name, colour in FATES.values()]
    labels = [f"{name}: {fates[fate]:,}" for fate, (name, _colour) in FATES.items()]
    figure.legend(handles, labels, frameon=False, fontsize=9, ncols=4, loc="outside lower center")
    return figure


def merge_rare(transitions: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """The rarest kinds of error become one, "rare errors"; transitions without questions are left out.

    Together they stay below 2.5% of the questions, each counted on its fuller side; a single one keeps its name.

    Raises:
        ValueError: there are no questions.
    """
    n = sum(transitions.values())
    if not n:
        raise ValueError("no transitions to draw: every count is zero; compare at least one question")
    sides = _sides(transitions)
    largest = sides[0] | sides[1]
    rare, together = set(), 0
    for name in sorted(largest.keys() - {RIGHT}, key=lambda name: (largest[name], name)):
        together += largest[name]
        if together < 0.025 * n:
            rare.add(name)
    renamed = {name: RARE if len(rare) > 1 and name in rare else name for name in largest}
    merged: Counter[tuple[str, str]] = Counter()
    for (before, after), count in transitions.items():
        if count:
            merged[renamed[before], renamed[after]] += count
    return dict(merged)


def _sides(transitions: Mapping[tuple[str, str], int]) -> tuple[Counter[str], Counter[str]]:
    """Questions in each category before, and after."""
    sides = Counter(), Counter()
    for pair, count in transitions.items():
        for side, name in zip(sides, pair, strict=True):
            side[name] += count
    return sides


def _order(sides: tuple[Counter[str], Counter[str]]) -> list[str]:
    """Right first, then the errors from the most frequent down, "rare errors" last."""
    total = sides[0] + sides[1]
    return sorted(total, key=lambda name: (name != RIGHT, name == RARE, -total[name], name))


def _fate(before: str, after: str) -> str:
    if before == RIGHT:
        return "both" if after == RIGHT else "broken"
    return "fixed" if after == RIGHT else "neither"


def _cell(axes: Any, x: int, y: int, count: int, colour: str, depth: float) -> None:
    """One square of the matrix, framed on the diagonal; white without questions, else the deeper the more, 0 to 1."""
    face = to_rgba(colour, 0.35 + 0.5 * depth) if count else "white"
    frame = {"edgecolor": "black", "linewidth": 1.4} if x == y else {"linewidth": 0}
    axes.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=face, **frame))
    if count:
        axes.text(x, y, f"{count:,}", ha="center", va="center", fontsize=10)


def _margins(axes: Any, order: Sequence[str], sides: tuple[Counter[str], Counter[str]], n: int) -> None:
    """Names above and to the left, totals below and to the right, lines that part right from wrong and from these."""
    end = len(order)
    places = [(sides[0], name, end, y) for y, name in enumerate(order)]
    places += [(sides[1], name, x, end) for x, name in enumerate(order)]
    for side, name, x, y in places:
        axes.text(x, y, f"{side[name]:,}\n{_percent(side[name] / n)}", ha="center", va="center", fontsize=8)
    axes.text(end, end, f"{n:,}", ha="center", va="center", fontsize=8)
    axes.hlines([0.5, end - 0.5], -0.5, end + 0.5, color=GREY, linewidth=0.8)
    axes.vlines([0.5, end - 0.5], -0.5, end + 0.5, color=GREY, linewidth=0.8)
    above = [name.replace(" ", "\n") for name in order]
    axes.set_xticks(range(end + 1), [*above, "all"], fontsize=9, rotation=90 if end > 7 else 0)
    axes.set_yticks(range(end + 1), [*order, "all"], fontsize=9)
    axes.set_xlabel("after", weight="bold", labelpad=6)
    axes.set_ylabel("before", weight="bold", labelpad=6)
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.5, end + 0.5), ylim=(end + 0.5, -0.5))


# ------------------------------------------------------------------------------------- many samples a question


def pass_curves(base: Mapping[str, Any], trained: Mapping[str, Any], gain: Mapping[str, Any]) -> Figure:
    """pass@k and maj@k of both models, and what training added to each, with 95% bands over the questions.

    Args:
        base, trained: as `sampling.curves` gives them.
        gain: as `sampling.gain_curves` gives it.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    title = f"{base['questions']:,} questions, {base['mode']} answers"
    rates = new_axes(figure, 1, 2, 1, title=title, x="samples k", y="questions right [%]")
    for name, curves in (("base", base), ("trained", trained)):
        for metric, style in (("pass", "-"), ("maj", "--")):
            _banded(rates, curves["k"], curves[metric], MODELS[name][0], style, f"{name}: {metric}@k")
    rates.set_ylim(-3, 103)
    added = new_axes(figure, 1, 2, 2, title="", x="samples k", y="trained \N{MINUS SIGN} base [points]")
    for metric, colour, style in (("pass", GREEN, "-"), ("maj", ORANGE, "--")):
        _banded(added, gain["k"], gain[metric], colour, style, f"gain in {metric}@k")
    added.set_title(_ability(gain), fontsize=10)
    added.axhline(0, color="black", linewidth=0.8)
    for axes, curves in ((rates, base), (added, gain)):
        axes.set_xticks([k for k in (1, 2, 4, 8, 12, 16, 24, 32) if k <= curves["k"][-1]])
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _banded(axes: Any, ks: Sequence[int], band: Mapping[str, Sequence[float]], colour: str, style: str, label: str):
    mean, low, high = ([100 * value for value in band[part]] for part in ("mean", "low", "high"))
    axes.fill_between(ks, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(ks, mean, style, color=colour, linewidth=2, marker="." if len(ks) == 1 else None, label=label)


def _ability(gain: Mapping[str, Any]) -> str:
    """The question of the picture, answered as far as McNemar's test at the largest k answers it."""
    reach, k = gain["reach"], gain["k"][-1]
    found = f"within reach of {k} samples: {reach['gained']:,} gained, {reach['lost']:,} lost\n"
    if reach["mcnemar_p"] >= 0.05:
        return f"{found}no change of ability shown ({p_value(reach['mcnemar_p'])})"
    return f"{found}ability {'added' if reach['gained'] > reach['lost'] else 'lost'} ({p_value(reach['mcnemar_p'])})"


def calibration_figure(base: Mapping[str, Any], trained: Mapping[str, Any]) -> Figure:
    """How often the majority answer is right, by how large the majority is; on the diagonal, agreement is honest.

    Args:
        base, trained: as `sampling.calibration` gives them.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    for place, (name, table) in enumerate((("base", base), ("trained", trained)), 1):
        error = "no answers" if table["ece"] is None else f"calibration error {100 * table['ece']:.0f} points"
        x = "majority's share of the samples [%]\nabove: questions in each bin"
        axes = new_axes(figure, 1, 2, place, title=f"{name}: {error}", x=x, y="majority answer right [%]")
        axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="share = accuracy")
        rows = table["bins"]
        _points(axes, [100 * row["share"] for row in rows], rows, name, name)
        for row in rows:
            beneath = 25 * (row["from"] + 3 * row["to"])  # where the mean share of a bin usually lies
            axes.text(beneath, -8, f"{row['n']:,}", ha="center", va="center", fontsize=8.5, color="#444444")
        axes.set_xlim(-4, 104)
        axes.set_ylim(-13, 104)
        axes.set_yticks(range(0, 101, 20))
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    return figure


# --------------------------------------------------------------------------------- length, and training's reward


def length_bins(base: Sequence[Verdict], trained: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Strict accuracy by length, in up to six bins with about equally many of the two models' completions together.

    Returns:
        [{"from", "to" (tokens, both included), "base", "trained"}, …]; a model is an `evaluate.rate`, or None
        where it has no completion of such a length.
    Raises:
        ValueError: there are no completions, or the token counts were not stored.
    """
    lengths = [v.tokens for v in (*base, *trained)]
    if not lengths or None in lengths:
        raise ValueError("accuracy by length needs completions with their token counts; generate them with run.py")
    lengths.sort()
    ends = sorted({lengths[(i * len(lengths) - 1) // 6] for i in range(1, 7) if i * len(lengths) >= 6})
    starts = [lengths[0], *(end + 1 for end in ends[:-1])]
    return [
        {"from": start, "to": end, "base": _rate_within(base, start, end), "trained": _rate_within(trained, start, end)}
        for start, end in zip(starts, ends, strict=True)
    ]


def _rate_within(verdicts: Sequence[Verdict], start: int, end: int) -> dict[str, float] | None:
    marks = [v.strict for v in verdicts if start <= v.tokens <= end]
    return rate(sum(marks), len(marks)) if marks else None


def length_accuracy(base: Sequence[Verdict], trained: Sequence[Verdict]) -> Figure:
    """Strict accuracy of short and long completions, with 95% intervals and the number of completions in each bin."""
    table = length_bins(base, trained)
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    x = "tokens of the completion; below: completions, base | trained"
    axes = new_axes(figure, title="is a longer answer a better one?", x=x, y="strict accuracy [%]")
    for shift, name in ((-0.1, "base"), (0.1, "trained")):
        shown = {i + shift: row[name] for i, row in enumerate(table) if row[name]}
        _points(axes, list(shown), list(shown.values()), name, name)
    axes.set_xticks(range(len(table)), [_length_label(row) for row in table], fontsize=9)
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(1, 0.4))
    return figure


def _length_label(row: Mapping[str, Any]) -> str:
    lengths = "\N{EN DASH}".join(str(end) for end in sorted({row["from"], row["to"]}))
    return f"{lengths}\n" + " | ".join(f"{row[name]['n'] if row[name] else 0:,}" for name in MODELS)


def reward_and_accuracy(history: Sequence[Mapping[str, Any]], held_out: Mapping[int, Mapping[str, float]]) -> Figure:
    """The reward that training saw above the accuracy that it did not see: apart, and the reward is being hacked.

    Args:
        history: records of log.jsonl.
        held_out: optimizer step -> strict rate on held-out questions, {"rate", "low", "high", "n"}; 0 is the base.
    """
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    top = new_axes(figure, 2, 1, 1, title="reward: what training is paid for", x="", y="mean reward")
    draw_curve(top, history, "reward", ORANGE, "reward of sampled answers")
    title = "strict accuracy: what it is for"
    below = new_axes(figure, 2, 1, 2, title=title, x="optimizer step", y="strictly right [%]")
    draw_curve(below, history, "rewards/strict_metric/mean", GREY, "training questions, sampled", 100)
    steps = sorted(held_out)
    rows = [held_out[step] for step in steps]
    sizes = sorted({f"{row['n']:,}" for row in rows})
    label = f"held-out questions (n = {' or '.join(sizes)}), greedy"
    _points(below, steps, rows, "trained", label, ":")
    below.set_ylim(-3, 103)
    last = max([line["step"] for line in history] + steps)
    for axes in (top, below):
        axes.set_xlim(-0.02 * last - 0.5, 1.02 * last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
