"""ruff over modules, tests and notebooks, and the imports that must stay light."""

import re
import subprocess
import sys

import pytest

from utils.files import ROOT


def test_ruff_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("modules", ["run", "utils.rewards.functions, utils.data.tiny_world"])
def test_the_start_and_the_answer_checker_load_only_the_standard_library(modules):
    code = (
        f"import sys; before = set(sys.modules); import {modules}; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names - {'utils', 'run'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_comparing_stored_evaluations_loads_neither_torch_nor_widgets():
    code = (
        "import sys; import utils.evaluation.evaluate; print({'torch', 'transformers', 'ipywidgets'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "utils").rglob("*.py")), ids=lambda path: path.name)
def test_no_group_is_possessive(path):
    """Python 3.11.2 matches `(?:ab)*+` wrongly where the group fails half-way; `(?>(?:ab)*)` means the same."""
    assert not re.search(r"\)(?:[*+?]|\{[\d,]+\})\+(?!\s)", path.read_text(encoding="utf-8"))
