"""The notebooks as committed: valid, executed in order, clean outputs, one set-up cell."""

import json
import re

import nbformat
import pytest

from utils.files import ROOT
from utils.scripts.notebooks import NOTEBOOKS

NAMES = [
    "00_start_here",
    "01_data_prep",
    "02_reward_design",
    "03_grpo_from_scratch",
    "04_grpo_training",
    "05_evaluation",
    "06_experiments",
]
FORBIDDEN = {
    "machine path": re.compile(r"/(root|home|tmp|work|Users)/[\w.]"),
    "token": re.compile(r"hf_[A-Za-z0-9]{20,}|write_token"),
    "eval or exec": re.compile(r"(?<![.\w])(eval|exec)\("),
    "remote code": re.compile(r"trust_remote_code\s*=\s*True"),
}


def test_the_series_is_complete():
    assert [n.stem for n in NOTEBOOKS] == NAMES


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(ROOT / "notebooks" / f"{request.param}.ipynb", as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_it_is_valid_and_was_executed_top_to_bottom(notebook):
    nbformat.validate(notebook)
    assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert not [o for c in code_cells(notebook) for o in c.outputs if o.output_type == "error"]
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_private_or_unsafe_is_in_it(notebook, what):
    outputs_and_code = json.dumps([[c.source, c.outputs] for c in code_cells(notebook)])
    assert not FORBIDDEN[what].search(outputs_and_code)


def test_the_anatomy(notebook):
    first, code = notebook.cells[0].source, code_cells(notebook)
    assert first.startswith("# ") and "colab-badge.svg" in first
    assert "set_up()" in code[0].source
    assert any("GRPO_PROFILE" in c.source for c in code)
    lengths = sorted(len(c.source.splitlines()) for c in code)
    assert lengths[-1] <= 40, f"a code cell of {lengths[-1]} lines: split it or move it to utils/"
    prose = sum(c.cell_type == "markdown" for c in notebook.cells)
    assert prose >= len(code), f"{prose} cells of prose to {len(code)} of code: merge code, or say what it shows"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_page_loads_at_once(path):
    size = path.stat().st_size / 1000
    assert size <= 400, f"{size:.0f} KB: draw fewer pictures, or store less HTML"


def test_the_set_up_cell_is_the_same_everywhere():
    cells = {code_cells(nbformat.read(path, as_version=4))[0].source for path in NOTEBOOKS}
    assert len(cells) == 1
