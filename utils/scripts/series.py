"""The series as a whole: how long each notebook takes to read, and a map of what flows from one to the next.

    python -m utils.scripts.series        print the times, and draw assets/figures/series.png

Reading is estimated by one rule for all notebooks:

    prose       200 words a minute; a link counts by its words; what is folded and the sources do not count
    code        15 lines a minute, without blank ones, the set-up cell and the exercises' stubs
    printed     30 lines a minute, the first 15 of a cell
    pictures    half a minute each
    predictions one minute for each card
    exercises   the minutes that stand at them
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import nbformat
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from utils.files import ROOT, write_bytes
from utils.plots import BLUE, GREEN, GREY, ORANGE, png
from utils.scripts.notebooks import CHECK, NOTEBOOKS

PICTURE = ROOT / "assets" / "figures" / "series.png"
WORDS, LINES, PRINTED, SCREEN = 200, 15, 30, 15  # a minute each, and the lines of a print that are looked at
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
SOURCES = re.compile(r"^(## Sources|\*\*Sources).*", re.DOTALL | re.MULTILINE)
ADDRESS = re.compile(r"\]\([^)]*\)|https?://\S+")
STATED = re.compile(r"^\*\*Exercise \d.*?(\d+) min", re.MULTILINE)


# -------------------------------------------------------------------------------------------------------------- reading


def reading_minutes(notebook: nbformat.NotebookNode) -> float:
    """Minutes that an executed notebook takes to read and work through, by the rule at the top."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    told = ADDRESS.sub("", SOURCES.sub("", FOLDED.sub("", prose)))
    minutes = len(re.findall(r"\w[\w'’.-]*", told)) / WORDS
    minutes += told.count("**Predict first") + sum(map(int, STATED.findall(prose)))
    for cell in notebook.cells:
        if cell.cell_type == "code" and "set_up()" not in cell.source:
            if f"\n{CHECK}" not in cell.source:
                minutes += sum(bool(line.strip()) for line in cell.source.splitlines()) / LINES
            printed = "".join(output.get("text", "") for output in cell.outputs).splitlines()
            minutes += min(SCREEN, len(printed)) / PRINTED
            minutes += 0.5 * sum("image/png" in output.get("data", {}) for output in cell.outputs)
    return minutes


@dataclass(frozen=True)
class Head:
    """What a notebook's head says of time.

    Attributes:
        run: minutes on a CPU with the tiny model.
        read: minutes, with the exercises.
        model: whether the profile decides which model works here, so that a GPU profile has times of its own.
    """

    run: float
    read: int
    model: bool


def head_of(notebook: nbformat.NotebookNode, name: str) -> Head:
    """The times in the table at a notebook's beginning.

    Raises:
        ValueError: a line of the table is not there, or names no minutes.
    """
    top = "\n".join(cell.source for cell in notebook.cells[:2])
    found = {}
    for line, minutes in (("Time to run", r"([\d.]+) min"), ("Time to read", r"(\d+) min"), ("Memory", "()")):
        row = re.search(rf"^\| \*\*{line}\*\* \| (.*) \|$", top, re.MULTILINE)
        number = re.search(minutes, row[1]) if row else None
        if number is None:
            raise ValueError(f"{name}: the table at the beginning has no line {line!r} with its minutes; write it")
        found[line] = number[1], row[1]
    return Head(float(found["Time to run"][0]), int(found["Time to read"][0]), "`t4`" in found["Memory"][1])


def heads() -> dict[str, Head]:
    """Notebook -> what its head says."""
    return {path.stem: head_of(nbformat.read(path, as_version=4), path.name) for path in NOTEBOOKS}


# ------------------------------------------------------------------------------------------------------------------ map


@dataclass(frozen=True)
class Box:
    """A notebook on the map: its title, what it makes of what comes in, and its place (column, row)."""

    title: str
    does: str
    place: tuple[float, float]


BOXES = {
    "00_start_here": Box("00 Start here", "the whole loop,\nand the base model", (0, 1)),
    "01_data_prep": Box("01 Data", "questions with a\ngold number", (1, 1)),
    "02_reward_design": Box("02 Rewards", "score each\ncompletion", (2, 1)),
    "03_grpo_from_scratch": Box("03 From scratch", "advantages to\ngradients", (3, 1)),
    "04_grpo_training": Box("04 Training", "the loop, for\nmany steps", (3, 0)),
    "05_evaluation": Box("05 Evaluation", "did it help,\nand how sure?", (2, 0)),
    "06_experiments": Box("06 Experiments", "which setting\nmattered?", (1, 0)),
}
FLOWS = (
    ("00_start_here", "01_data_prep", "questions"),
    ("01_data_prep", "02_reward_design", "prompts"),
    ("02_reward_design", "03_grpo_from_scratch", "rewards"),
    ("03_grpo_from_scratch", "04_grpo_training", "advantages"),
    ("04_grpo_training", "05_evaluation", "adapter"),
    ("05_evaluation", "06_experiments", "evaluation"),
)
WIDE, HIGH, APART, DOWN = 1.75, 1.25, 2.75, 2.0  # inches: a box, and from one box to the next
KEY = (
    (-0.7, BLUE, "these minutes on any machine"),
    (3.1, ORANGE, "these with the tiny model; a GPU profile takes its own time, see there"),
)


def map_of(times: dict[str, Head]) -> Figure:
    """The seven notebooks, what flows between them, and their minutes.

    Args:
        times: notebook -> what its head says; those of `BOXES`.
    """
    figure = Figure(figsize=(3 * APART + WIDE + 0.3, DOWN + HIGH + 0.75))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_xlim(-0.15 - WIDE / 2, 3 * APART + WIDE / 2 + 0.15)
    axes.set_ylim(-HIGH / 2 - 0.6, DOWN + HIGH / 2 + 0.15)
    centre = {name: (box.place[0] * APART, box.place[1] * DOWN) for name, box in BOXES.items()}
    for start, end, what in FLOWS:
        _arrow(axes, centre[start], centre[end], what)
    for name, box in BOXES.items():
        _box(axes, centre[name], box, times[name])
    axes.text(0, 0, "read in this order,\nor start anywhere:\neach stands alone", ha="center", va="center", color=GREY)
    for x, colour, words in KEY:
        axes.plot(x, -HIGH / 2 - 0.4, "s", color="white", mec=colour, mew=2.5, ms=9)
        axes.text(x + 0.2, -HIGH / 2 - 0.4, words, va="center", fontsize=10)
    return figure


def _box(axes: Any, centre: tuple[float, float], box: Box, time: Head) -> None:
    x, y = centre
    corner = (x - WIDE / 2, y - HIGH / 2)
    colour = ORANGE if time.model else BLUE
    axes.add_patch(FancyBboxPatch(corner, WIDE, HIGH, "round,pad=0,rounding_size=0.1", fc="white", ec=colour, lw=2.5))
    axes.text(x, y + 0.4, box.title, ha="center", va="center", fontsize=10.5, fontweight="bold")
    axes.text(x, y + 0.02, box.does, ha="center", va="center", fontsize=10)
    run = f"{time.run:.0f}" if time.run >= 1 else "< 1"
    axes.text(x, y - 0.43, f"run {run} min, read {time.read} min", ha="center", va="center", fontsize=8.5, color=GREY)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], what: str) -> None:
    across = (end[0] > start[0]) - (end[0] < start[0])
    down = (end[1] > start[1]) - (end[1] < start[1])
    begin = (start[0] + across * (WIDE / 2 + 0.05), start[1] + down * (HIGH / 2 + 0.05))
    tip = (end[0] - across * (WIDE / 2 + 0.05), end[1] - down * (HIGH / 2 + 0.05))
    axes.annotate("", tip, begin, arrowprops={"arrowstyle": "-|>", "color": GREEN, "lw": 2})
    middle = ((begin[0] + tip[0]) / 2, (begin[1] + tip[1]) / 2)
    if across:
        axes.text(middle[0], middle[1] + 0.09, what, ha="center", va="bottom", fontsize=10, color=GREEN)
    else:
        axes.text(middle[0] - 0.12, middle[1], what, ha="right", va="center", fontsize=10, color=GREEN)


def write_map() -> None:
    """Draw the map with the minutes that the heads have now."""
    write_bytes(PICTURE, png(map_of(heads()), dpi=150))


def main() -> None:
    times = heads()
    for path in NOTEBOOKS:
        counted = reading_minutes(nbformat.read(path, as_version=4))
        print(f"{path.stem:24}{counted:6.0f} minutes to read by the rule, the head says {times[path.stem].read}")
    write_map()
    print(f"the map is in {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
