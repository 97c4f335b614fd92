"""The notebooks with the solutions: made from the students', executed, and every exercise in them is solved.

`run.py notebooks --write` executes all of them, and what it stored is read here; one is executed once more. The
solutions themselves are run against their checks in tests/exercises.
"""

import nbformat
import pytest

from utils.exercises.checks import SOLVED
from utils.scripts.commands import EMBEDDED
from utils.scripts.notebooks import NOTEBOOKS, WITH_EXERCISES, execute, exercises, with_solutions

PAGES = pytest.mark.parametrize("path", WITH_EXERCISES, ids=lambda path: path.stem)


def solved(path):
    return path.parent / "solutions" / path.name


def read(path):
    return nbformat.read(path, as_version=4)


@PAGES
def test_those_that_are_committed_are_made_from_the_students_and_executed(path):
    committed, made = read(solved(path)), with_solutions(read(path))
    assert [cell.source for cell in committed.cells] == [cell.source for cell in made.cells]
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        if "print(check_" in cell.source:
            assert cell.outputs[0].text == f"{SOLVED}\n"


@PAGES
def test_an_unsolved_exercise_says_not_yet_and_its_solution_is_folded_below_two_hints(path):
    found, task = dict((cell.source, solution) for cell, solution in exercises(read(path))), ""
    assert len(found) >= 2
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            task = cell.source
        elif cell.source in found:
            assert cell.outputs[0].text.startswith("not yet: ") and found[cell.source] not in cell.source
            assert "<summary>Hint 1</summary>" in task and "<summary>Hint 2</summary>" in task


def test_a_solution_stands_in_the_place_of_its_stub():
    path = next(path for path in NOTEBOOKS if path.stem.startswith("00"))
    student, made = read(path), with_solutions(read(path))
    changed = [(a.source, b.source) for a, b in zip(student.cells, made.cells, strict=True) if a.source != b.source]
    stubs = [(a, b) for a, b in changed if "print(check_" in a]
    assert [a for a, _ in stubs] == [cell.source for cell, _ in exercises(student)]
    for (_, solution), (_, source) in zip(exercises(student), stubs, strict=True):
        assert source.startswith(solution) and source.splitlines()[-1].startswith("print(check_")
    assert made.cells[0].source.startswith("# 00 · Start here (solutions)\n")
    assert "notebooks/solutions/00_start_here.ipynb" in made.cells[0].source
    for cell in made.cells:
        for link in cell.source.split("](")[1:]:
            target = link.split(")")[0].split("#")[0]
            assert target.startswith("http") or (solved(path).parent / target).exists(), target


@pytest.mark.slow
def test_executed_every_exercise_is_solved(tmp_path):
    path = NOTEBOOKS[0]
    written = tmp_path / path.name
    execute(solved(path), written, EMBEDDED | {"GRPO_RUN_DIR": str(tmp_path)}, lambda _: None)
    for cell in read(written).cells:
        if cell.cell_type == "code" and "print(check_" in cell.source:
            assert cell.outputs[0].text == f"{SOLVED}\n", f"{path.name}: {cell.source}\n{cell.outputs}"
