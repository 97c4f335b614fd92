"""How long a notebook takes to read, by one rule, and what its head says; and the map of the series."""

import re

import numpy as np
import pytest
from nbformat import read
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from utils.plots import png
from utils.scripts import series
from utils.scripts.notebooks import NOTEBOOKS, WITH_EXERCISES
from utils.scripts.series import BOXES, FLOWS, HIGH, PICTURE, WIDE, Head, head_of, heads, map_of, reading_minutes

TABLE = "| **Time to run** | CPU: {} · T4 |\n| **Time to read** | about {} minutes |\n| **Memory** | 1 GB{} |"


def test_the_rule_counts_what_it_says():
    words = " ".join(["word"] * 200)
    link = "[one](https://example.org/many/words/here)"
    folded = f"<details><summary>Hint 1</summary>{words}</details>"
    cells = [
        new_markdown_cell(f"{words} {link} https://example.org/a/b"),
        new_markdown_cell(f"> **Predict first.** What?\n\n{folded}"),
        new_code_cell("import utils\nset_up()"),
        new_code_cell("\n\n".join(["x = 1"] * 15)),
        new_code_cell("print(1)", outputs=[new_output("stream", text="a line\n" * 100)]),
        new_code_cell("show()", outputs=[new_output("display_data", data={"image/png": "x"})]),
        new_markdown_cell("**Exercise 1 · name (easy, 5 min)** Do it."),
        new_code_cell("answer = None\n\n\nprint(check_answer(answer))"),
        new_markdown_cell(f"{folded}\n\n## Sources\n\n{words}"),
    ]
    prose = (201 + 3 + 8) / 200
    assert reading_minutes(new_notebook(cells=cells)) == pytest.approx(prose + 1 + 17 / 15 + 15 / 30 + 0.5 + 5)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_head_says_how_long_a_notebook_takes_to_read(path):
    notebook = read(path, as_version=4)
    counted, told = reading_minutes(notebook), head_of(notebook, path.name).read
    assert abs(told - counted) <= counted / 5, f"the head says {told} minutes, the rule {counted:.0f}"


@pytest.mark.parametrize("path", WITH_EXERCISES, ids=lambda path: path.stem)
def test_every_head_has_its_running_time_where_an_execution_writes_it(path):
    [written] = re.findall(r"CPU: [^·]*·", path.read_text(encoding="utf-8"))
    assert re.fullmatch(r"CPU: [\d.]+ min on \d+ cores ·", written)


def test_a_head_is_read_and_what_is_missing_is_named():
    def headed(text):
        return head_of(new_notebook(cells=[new_markdown_cell("# 00"), new_markdown_cell(text)]), "00.ipynb")

    assert headed(TABLE.format("0.1 min on 2 cores", 25, "")) == Head(0.1, 25, False)
    assert headed(TABLE.format("1.4 min on 2 cores", 25, "; a 16 GB GPU on `t4`")) == Head(1.4, 25, True)
    for broken in (TABLE.format("an hour", 25, ""), TABLE.format("1 min", "many", ""), "no table"):
        with pytest.raises(ValueError, match="00.ipynb: the table at the beginning has no line 'Time to re|run'"):
            headed(broken)


# ------------------------------------------------------------------------------------------------------------ the map


def test_the_map_holds_every_notebook_and_its_minutes_in_a_box_of_its_own():
    times = {name: Head(0.4 + k, 10 + k, k % 2 == 0) for k, name in enumerate(BOXES)}
    figure = map_of(times)
    (axes,) = figure.axes
    png(figure)  # lays the texts out
    texts = {t.get_text(): t for t in axes.texts}
    assert list(BOXES) == [path.stem for path in NOTEBOOKS]
    assert [flow[:2] for flow in FLOWS] == list(zip(BOXES, [*BOXES][1:], strict=False))
    for (name, box), patch in zip(BOXES.items(), axes.patches[-len(BOXES) :], strict=True):
        run = "< 1" if times[name].run < 1 else f"{times[name].run:.0f}"
        frame = patch.get_window_extent()
        for words in (box.title, box.does, f"run {run} min, read {times[name].read} min"):
            inside = texts[words].get_window_extent()
            assert frame.x0 < inside.x0 and inside.x1 < frame.x1 and frame.y0 < inside.y0 and inside.y1 < frame.y1
    places = [box.place for box in BOXES.values()]
    assert len(set(places)) == len(places) and series.APART > WIDE and series.DOWN > HIGH
    assert {what for _, _, what in FLOWS} <= texts.keys()


def test_the_map_shows_the_minutes_that_the_heads_have(tmp_path):
    """Up to the shade of single pixels at the edges of letters, which another processor may round otherwise."""
    drawn = tmp_path / "series.png"
    drawn.write_bytes(png(map_of(heads()), dpi=150))
    here, there = (np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (PICTURE, drawn))
    assert here.shape == there.shape and abs(here - there).max() < 40, "draw it: python -m utils.scripts.series"
