"""The floor plan holds: a wing imports from those to its left alone, and a package's own file imports nothing."""

import ast
from pathlib import Path

import pytest

from utils.files import ROOT

FLOORS = [["files"], ["setup", "stats", "plots"], ["data"], ["rewards", "model"], ["training", "evaluation"]]
FLOORS += [["experiments"], ["exercises"], ["scripts"]]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted((ROOT / "utils").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """What a file imports of ours, e.g. {"data.questions", "files"}, inside functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.removeprefix("utils.") for name in names if name.startswith("utils.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_to_the_left(path):
    room, of_ours = path.relative_to(ROOT / "utils").parts[0].removesuffix(".py"), imported(path)
    if path.name == "__init__.py":
        assert not of_ours, "a package hands no names on: every name has one address"
        return
    wrong = {name for name in of_ours if (other := name.split(".")[0]) != room and FLOOR[other] >= FLOOR[room]}
    assert not wrong, f"{path.name} stands in {room} and must not import {wrong}"


def test_no_notebook_imports_scripts():
    for path in (*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "workshop").glob("*.ipynb")):
        assert "from utils.scripts" not in path.read_text(encoding="utf-8"), path.name


def test_the_first_screen_is_short_and_every_module_is_in_its_wings_map():
    shown = [path for path in (ROOT / "utils").iterdir() if path.name != "__pycache__"]
    assert len(shown) <= 13 and {path.stem for path in shown} == {*FLOOR, "__init__"}
    for path in MODULES:
        if path.name != "__init__.py" and path.parent.name != "utils":
            assert f"\n{path.stem} " in (path.parent / "__init__.py").read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: path.name)
def test_every_name_is_taken_from_where_it_is_defined(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        home = ROOT / f"{(getattr(node, 'module', None) or '').replace('.', '/')}.py"
        if isinstance(node, ast.ImportFrom) and home.exists():
            top = ast.parse(home.read_text(encoding="utf-8")).body
            passed_on = {alias.name for n in top if isinstance(n, ast.ImportFrom) for alias in n.names}
            assert not passed_on & {alias.name for alias in node.names}, f"line {node.lineno}"
