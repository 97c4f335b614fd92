"""Runs that take no time."""

import pytest

from tests.experiments.made_up import curve_of, row_of
from utils.experiments import grid


@pytest.fixture
def calls(monkeypatch):
    """Runs that take no time: which were asked for; `calls.fail` names one that raises."""

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
