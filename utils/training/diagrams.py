"""Diagrams of what happens in training, drawn from real tokens and numbers: one function, one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.plots import BLUE, GREEN, GREY, ORANGE, new_axes

GAP = "…"  # stands for the tokens left out
PALE = {BLUE: "#CFE3F0", ORANGE: "#FBE6BF", GREEN: "#C9EADF", GREY: "#E6E6E6"}
SIGNED = LinearSegmentedColormap.from_list("signed", [ORANGE, "#F4F4F4", BLUE])  # below and above the group's mean


def _empty_axes(figure: Figure, width: float, low: float, high: float) -> Any:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(low, high)
    axes.set_axis_off()
    return axes


def _box(axes: Any, x: float, y: float, text: str, colour: str, width: float = 0.92, size: float = 8) -> None:
    axes.add_patch(
        Rectangle((x + (1 - width) / 2, y), width, 0.8, facecolor=PALE.get(colour, "white"), edgecolor=colour)
    )
    axes.text(x + 0.5, y + 0.4, text, ha="center", va="center", fontsize=size, family="monospace")


def shifted_logits(
    prompt: Sequence[str], completion: Sequence[str], probabilities: Sequence[float], padding: int = 2, head: int = 4
) -> Figure:
    """One row of a batch: its tokens, the mask, and at which position the scores for each token stand.

    Args:
        prompt: its last tokens.
        completion: its tokens, the end token included; the middle of a long one is left out.
        probabilities: of each of these under the model.
        padding: columns behind the end.
        head: tokens shown before the gap, and after it.
    """
    shown = list(zip(completion, probabilities, strict=True))
    if len(shown) > 2 * head:
        shown = [*shown[:head], (GAP, None), *shown[-head:]]
    cells = [(text, GREY, None, None) for text in prompt]
    cells += [(text, GREY if text == GAP else GREEN, p, 1) for text, p in shown]
    cells[-1] = (cells[-1][0], ORANGE, cells[-1][2], 1)
    cells += [("pad", GREY, None, 0)] * padding
    first, width = len(prompt), len(cells)
    figure = Figure(figsize=(10, 3.2))
    axes = _empty_axes(figure, width + 2.3, -0.5, 4.6)
    left = 2.2
    for name, y in (("token", 3), ("probability, by\nthe scores that stand\none place before", 1.4), ("mask", 0)):
        axes.text(left - 0.15, y + 0.4, name, ha="right", va="center", fontsize=9)
    for i, (text, colour, p, kept) in enumerate(cells):
        _box(axes, left + i, 3, text, colour, size=min(8.0, 60 / max(7.5, len(text))))
        if kept is not None:
            _box(axes, left + i, 0, GAP if text == GAP else str(kept), GREEN if kept else GREY)
        if i >= first and text != GAP:
            _box(axes, left + i, 1.4, "unused" if p is None else f"{p:.2f}", GREEN if kept else GREY)
            axes.annotate(
                "", (left + i + 0.35, 2.22), (left + i - 0.5, 2.98), arrowprops={"arrowstyle": "->", "color": BLUE}
            )
    axes.annotate(
        "", (left + first - 0.9, 4.1), (left + width - 1.1, 4.1), arrowprops={"arrowstyle": "|-|", "color": BLUE}
    )
    axes.text(left + (first + width) / 2 - 1, 4.2, "logits[:, -C-1 : -1]", ha="center", fontsize=9, color=BLUE)
    return figure


def reward_to_tokens(rewards: Sequence[float], advantages: Sequence[float], lengths: Sequence[int]) -> Figure:
    """A group: the rewards and their mean, the advantages, and the tokens that each advantage goes to.

    Args:
        lengths: tokens of each completion, the end token included.
    """
    figure = Figure(figsize=(9.5, 0.32 * len(rewards) + 1.3), layout="constrained")
    places, most = range(len(rewards)), max(abs(a) for a in advantages)
    scale = Normalize(-most or -1, most or 1)
    panels = figure.add_gridspec(1, 3, width_ratios=(1, 1, 2.2))
    left = new_axes(figure, panels[0], title="reward", x="", y="completion", grid="x")
    left.barh(places, rewards, 0.7, color=GREY)
    mean = sum(rewards) / len(rewards)
    left.axvline(mean, color="black", linestyle="--", linewidth=1)
    left.set_xlabel(f"dashed: mean {mean:.2f}")
    middle = new_axes(figure, panels[1], title="advantage", x="standard deviations", y="", grid="x")
    middle.barh(places, advantages, 0.7, color=[SIGNED(scale(a)) for a in advantages], edgecolor=GREY, linewidth=0.5)
    middle.axvline(0, color="black", linewidth=1)
    for place, advantage in zip(places, advantages, strict=True):
        middle.text(1.02, place, f"{advantage:+.2f}", transform=middle.get_yaxis_transform(), va="center", fontsize=8)
    right = new_axes(
        figure, panels[2], title="every token of it", x="token; the black edge is the end token", y="", grid="x"
    )
    for place, advantage, length in zip(places, advantages, lengths, strict=True):
        right.barh(
            [place] * length,
            [1] * length,
            0.7,
            range(length),
            color=SIGNED(scale(advantage)),
            align="center",
            edgecolor="white",
            linewidth=0.5,
        )
        right.barh(place, 1, 0.7, length - 1, color=SIGNED(scale(advantage)), edgecolor="black", linewidth=1.2)
    for axes in (left, middle, right):
        axes.set_yticks(places, [str(place + 1) for place in places] if axes is left else [])
        axes.invert_yaxis()
    return figure


def lora_layer(name: str, rows: int, columns: int, rank: int) -> Figure:
    """A layer's frozen matrix and the two thin ones that LoRA trains beside it, with their numbers.

    To scale, but that a side which would be too thin to see is drawn wider.

    Args:
        rows, columns: of the frozen matrix: numbers that go out of the layer and into it.
        rank: of the adapter.
    """
    figure, longest = Figure(figsize=(8, 3)), max(rows, columns)
    axes = _empty_axes(figure, 8, 0, 3)
    tall, wide, thin = 1.7 * rows / longest, 1.7 * columns / longest, max(0.07, 1.7 * rank / longest)
    blocks = (
        (1.4, tall, wide, GREY, f"W: {rows:,} × {columns:,}\n{rows * columns:,} numbers,\nfrozen"),
        (4.3, tall, thin, ORANGE, f"B: {rows:,} × {rank}\n{rows * rank:,} numbers,\ntrained, 0 at first"),
        (6.3, thin, wide, BLUE, f"A: {rank} × {columns:,}\n{rank * columns:,} numbers,\ntrained, random at first"),
    )
    for x, height, width, colour, text in blocks:
        low = 1.7 - height / 2
        axes.add_patch(Rectangle((x - width / 2, low), width, height, facecolor=PALE[colour], edgecolor=colour))
        axes.text(x, 0.75, text, ha="center", va="top", fontsize=9)
    for x, sign in ((2.85, "+"), (3.5, "α / r  ×"), (5.2, "×")):
        axes.text(x, 1.7, sign, ha="center", va="center", fontsize=12)
    axes.text(4, 2.8, f"one layer of this model: {name}", ha="center", fontsize=11)
    return figure
