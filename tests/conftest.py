"""What holds for every test."""

import os
import subprocess
import sys

import pytest

from utils.files import ROOT

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a model this small gains nothing from a second thread, and the
# other core has tests of its own; child processes inherit it
os.environ.pop("GRPO_MODEL", None)  # the tests are of the embedded model


def pytest_collection_modifyitems(items):
    """The whole series goes first: it keeps one worker as busy as all other tests keep the rest."""
    items.sort(key=lambda item: item.path.name != "test_series.py")


@pytest.fixture
def calls(monkeypatch):
    """Runs of a grid that take no time: which were asked for; `calls.fail` names one that raises `calls.error`."""
    from tests.experiments.made_up import curve_of, row_of
    from utils.experiments import grid

    class Calls(list):
        fail = None

    made = Calls()

    def run_arm(arm, seed, held_out):
        made.append((arm.name, seed))
        if made.fail == (arm.name, seed):
            raise made.error
        strict = 0.5 + 0.01 * seed + 0.1 * (arm.name == "b")
        return row_of(arm, seed, strict), curve_of(arm, seed, strict)

    monkeypatch.setattr(grid, "run_arm", run_arm)
    monkeypatch.setattr(grid, "judged", lambda policy, held_out: {"strict": 0.4})
    return made


HOLD = """
import signal, sys
from utils.files import in_use
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored,
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one of nohup with this
with in_use(sys.argv[1], float(sys.argv[2])):
    print("in", flush=True)
    sys.stdin.readline()
print("out", flush=True)
"""


@pytest.fixture
def hold():
    """Have another process work in a folder until it gets a line: `hold(folder)` returns it once it does."""
    processes = []

    def start(folder, sign_of_life_s=30.0):
        command = [sys.executable, "-c", HOLD, str(folder), str(sign_of_life_s)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        assert processes[-1].stdout.readline() == "in\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
