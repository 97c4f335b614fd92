"""What the tests of the exercises' checks share: the solution a notebook folds, and how a check is held to its word.

A check must say "solved" to the given solution, every time, and "not yet" to every wrong one: at least three mistakes
that learners make and two ways of gaming it.
"""

from collections.abc import Callable
from typing import Any

import nbformat

from utils.exercises.checks import SOLVED
from utils.files import ROOT
from utils.scripts.notebooks import exercises

TIMES = 20  # a check draws its cases: what passes by luck does not pass so often


def solution(name: str, number: int, **names: Any) -> dict[str, Any]:
    """The names that the solution of a notebook's exercise defines, where `names` are there already.

    Args:
        number: which exercise, from 1.
    """
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    source = exercises(notebook)[number - 1][1]
    exec(compile(source, f"{name}, solution {number}", "exec"), names)
    return names


def hold(check: Callable[..., str], right: Any, wrong: dict[str, Any], *more: Any) -> None:
    """Assert that a check tells the right solution from each wrong one, whatever cases it draws.

    Args:
        wrong: what the mistake is -> a wrong solution, or a pair of it and words that the reply must hold.
        more: what else the check is given.
    """
    for _ in range(TIMES):
        assert check(right, *more) == SOLVED
    assert len(wrong) >= 5
    for mistake, answer in wrong.items():
        answer, words = answer if isinstance(answer, tuple) else (answer, "")
        for _ in range(TIMES):
            reply = check(answer, *more)
            assert reply.startswith("not yet: ") and words in reply, f"{mistake}: {reply}"
