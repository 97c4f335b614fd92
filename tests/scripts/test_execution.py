"""A notebook executed on its own: errors are named, and outputs are stored alike whenever it is run."""

import nbformat
import pytest

from utils.scripts.notebooks import NotebookFailed, execute

PRINTS = """
from IPython.display import HTML, display

for word in "ab":
    print(word, flush=True)
    print(word * 2, flush=True)
    display(HTML(word))
"""


def test_a_failing_notebook_is_named_and_kept(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("x / 0")])
    nbformat.write(notebook, tmp_path / "bad.ipynb")
    with pytest.raises(NotebookFailed, match=r"bad.ipynb, code cell 2: ZeroDivisionError: division by zero"):
        execute(tmp_path / "bad.ipynb", tmp_path / "out.ipynb", {})
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[1].outputs[0].ename == "ZeroDivisionError"


def test_what_is_printed_is_stored_in_one_piece_between_what_is_shown(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PRINTS)]), tmp_path / "in.ipynb")
    execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {})
    outputs = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs
    assert [o.get("text") or o["data"]["text/html"] for o in outputs] == ["a\naa\n", "a", "b\nbb\n", "b"]
