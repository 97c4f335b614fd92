"""What the tests of the exercises' checks share: the solution a notebook folds, and how a check is held to its word.

A check must say "solved" to the given solution, every time, and "not yet" to every wrong one: at least three mistakes
that learners make and two ways of gaming it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import nbformat

from utils.exercises.checks import SOLVED
from utils.scripts.notebooks import CHECK, WITH_EXERCISES, exercises

TIMES = 10  # a check draws its cases: what passes by luck does not pass so often


def solution(name: str, number: int, **names: Any) -> dict[str, Any]:
    """The names that the solution of a notebook's exercise defines, where `names` are there already.

    Args:
        number: which exercise, from 1.
    """
    return _defined(_exercise(name, number)[1], f"{name}, solution {number}", names)


def stub(name: str, number: int, **names: Any) -> dict[str, Any]:
    """The names that an exercise's cell defines as it is given; arguments as of `solution`."""
    source = _exercise(name, number)[0].source
    return _defined(source[: source.index(CHECK)], f"{name}, exercise {number}", names)


def _exercise(name: str, number: int) -> tuple[Any, str]:
    path = next(path for path in WITH_EXERCISES if path.stem == name)
    return exercises(nbformat.read(path, as_version=4))[number - 1]


def _defined(source: str, where: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(source, where, "exec"), names)
    return names


def hold(
    check: Callable[..., str],
    right: Any,
    wrong: dict[str, Any],
    *more: Any,
    also: Sequence[Any] = (),
    times: int = TIMES,
) -> None:
    """Assert that a check tells the right solution from each wrong one, whatever cases it draws.

    Args:
        also: right solutions that are written otherwise.
        wrong: what the mistake is -> a wrong solution, or a pair of it and words that a reply must hold.
        more: what else the check is given.
        times: how often each is tried; fewer where the check runs a model.
    """
    for solved in (right, *also):
        assert [check(solved, *more) for _ in range(times)] == [SOLVED] * times
    assert len(wrong) >= 5
    for mistake, answer in wrong.items():
        answer, words = answer if isinstance(answer, tuple) else (answer, "")
        replies = [check(answer, *more) for _ in range(times)]
        assert all(reply.startswith("not yet: ") for reply in replies), f"{mistake}: {replies}"
        assert any(words in reply for reply in replies), (
            f"{mistake}: {replies}"
        )  # a case may fit another mistake as well
