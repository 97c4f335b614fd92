"""The notebooks as files: execute them headless, write the series' address into them, make those with the solutions.

Every code cell is executed, in order, each notebook in a fresh kernel. A notebook of a folder `solutions` is made from
the student's beside it: the solution that is folded under an exercise stands in the place of its stub.
"""

from __future__ import annotations

import copy
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from utils.files import ROOT, write_text

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
WORKSHOP = ROOT / "workshop" / "bug_hunt.ipynb"  # no part of the series
WITH_EXERCISES = (*NOTEBOOKS, WORKSHOP)
CHECK = "print(check_"  # how the last line of an exercise begins; what stands above it in the cell is the learner's
SOLUTION = re.compile(r"<details><summary>Solution.*?```python\n(.*?)\n```", re.DOTALL)
MACHINE_PATH = re.compile(re.escape(str(ROOT)) + r"/?|" + re.escape(str(Path.home())))


PAGES = (ROOT / "README.md", *WITH_EXERCISES)  # what names the series' address: badges and set-up cells


def origin() -> tuple[str, str]:
    """The repository's address and the tag that is cloned, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"], f"v{project['version']}"


def addressed(page: str, address: str, tag: str) -> str:
    """The text of a page, Markdown or notebook, whose badges and set-up cell point at `address` and `tag`."""
    repository = address.removeprefix("https://github.com/")
    badge = re.compile(r"(colab\.research\.google\.com/github/)[^/]+/[^/]+/blob/[^/]+")
    cell = re.compile(r'(source, tag, here = \\?")[^"\\]+(\\?", \\?")[^"\\]+')
    page = badge.sub(rf"\g<1>{repository}/blob/{tag}", page)
    return cell.sub(rf"\g<1>{address}\g<2>{tag}", page)


class NotebookFailed(RuntimeError):
    """A cell raised; the message names notebook, cell and error."""


def execute(source: Path, target: Path, environment: dict[str, str], progress: Callable[[str], None] = print) -> float:
    """Execute one notebook and write it, with its outputs, to `target`; return the seconds taken.

    A failing notebook is written too, with the error in it, so that its reader sees how far it came.

    Raises:
        NotebookFailed: a cell raised.
    """
    notebook = nbformat.read(source, as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]

    def on_start(cell: nbformat.NotebookNode, cell_index: int) -> None:
        done = sum(c.cell_type == "code" for c in notebook.cells[: cell_index + 1])
        progress(f"{source.stem}: cell {done} of {len(cells)}")

    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # a local kernel warns that its traffic is not encrypted
        on_cell_start=on_start,
        resources={"metadata": {"path": str(source.parent)}},
    )
    start = time.perf_counter()
    try:
        client.execute(env={**os.environ, **environment})
    except CellExecutionError as error:
        index = next(i for i, c in enumerate(cells, start=1) if any(o.output_type == "error" for o in c.outputs))
        raise NotebookFailed(f"{source.name}, code cell {index}: {error.ename}: {error.evalue}") from error
    finally:
        write_text(target, nbformat.writes(clean(notebook)))
    return time.perf_counter() - start


def exercises(notebook: nbformat.NotebookNode) -> list[tuple[nbformat.NotebookNode, str]]:
    """The cells that hold an exercise, each with the solution that is folded under it.

    Raises:
        ValueError: an exercise without a solution.
    """
    found = []
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and f"\n{CHECK}" in cell.source:
            folded = SOLUTION.search(notebook.cells[i + 1].source)
            if folded is None:
                raise ValueError(f"no solution is folded in the cell that follows {cell.source!r}")
            found.append((cell, folded[1]))
    return found


def with_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy for the folder `solutions`: every exercise solved, no outputs, links and badge from there."""
    made = nbformat.from_dict(copy.deepcopy(notebook))
    for cell, solution in exercises(made):
        cell.source = f"{solution}\n\n\n{cell.source[cell.source.index(CHECK) :]}"
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = re.sub(
                r"(/blob/[^/]+/(?:notebooks/(?=\d)|workshop/(?=bug)))",
                r"\1solutions/",
                cell.source.replace("](../", "](../../"),
            )
    made.cells[0].source = made.cells[0].source.replace("\n", " (solutions)\n", 1)
    return made


def write_solutions() -> list[Path]:
    """Make the notebooks with the solutions from those of the students, each in the folder `solutions` beside it."""
    made = [path.parent / "solutions" / path.name for path in WITH_EXERCISES]
    for path, target in zip(WITH_EXERCISES, made, strict=True):
        target.parent.mkdir(exist_ok=True)
        write_text(target, nbformat.writes(with_solutions(nbformat.read(path, as_version=4))))
    return made


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs from run to run or names the machine: execution times, widget state, absolute paths."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:  # a widget without its state shows an error; the static picture beside it stays
            cell.outputs = _joined(
                o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})
            )
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = MACHINE_PATH.sub("", output["text"])
            for kind, value in output.get("data", {}).items():
                if isinstance(value, str) and kind.startswith("text/"):
                    output["data"][kind] = MACHINE_PATH.sub("", value)
    return notebook


def _joined(outputs: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs in their order, where neighbouring pieces of one stream are one: how a print is cut is chance."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined
