"""ruff over modules, tests and notebooks; pins, and the imports that must stay light."""

import subprocess
import sys

from utils.files import ROOT


def test_ruff_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_importing_the_package_and_the_answer_checker_loads_only_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import utils.rewards.functions, utils.data.tiny_world; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names - {'utils'})"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "set()"
    )
