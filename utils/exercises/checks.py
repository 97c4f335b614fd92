"""What the checks of all exercises share: fresh cases, a learner's function called with care, the mistake named.

A check is a function that takes what the learner wrote and raises `NotYet` with one sentence about the first thing that
is wrong; the decorator `check` turns that into the text under the cell. It never raises: a learner's error is an answer
too, and the rest of the notebook must run.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from utils.rewards.contract import time_limit

SOLVED = "solved"
LIMIT_S = 20.0  # for one call of a learner's function
LONGEST = 60  # characters of a value in a sentence


class NotYet(Exception):
    """The exercise is not solved; the message says what to look at."""


def check(function: Callable[..., None]) -> Callable[..., str]:
    """Let a check return what the learner reads: "solved", or "not yet: " and the reason."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> str:
        try:
            function(*args, **kwargs)
        except NotYet as reason:
            return f"not yet: {reason}"
        except Exception as error:  # what a check cannot even compare is no answer, and the notebook goes on
            return f"not yet: what you return cannot be judged ({type(error).__name__}: {error})"
        return SOLVED

    return told


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """What the learner's function returns for these arguments; it gets copies, so that it cannot change the case.

    Raises:
        NotYet: it is no function, it raised, or it took longer than `LIMIT_S`.
    """
    if not callable(function):
        raise NotYet(f"a function is wanted, this is {shown(function)}")
    try:
        with time_limit(LIMIT_S):
            return function(*copy.deepcopy(args))
    except TimeoutError:
        raise NotYet(f"{call(function, *args)} did not return within {LIMIT_S:.0f} seconds") from None
    except Exception as error:  # whatever a learner's code may raise is named, and the notebook goes on
        raise NotYet(f"{call(function, *args)} raised {type(error).__name__}: {error}") from error


def call(function: Callable[..., Any], *args: Any) -> str:
    """A call as one would write it, long values cut.

    Example:
        >>> call(len, "abc")
        "len('abc')"
    """
    return f"{getattr(function, '__name__', 'it')}({', '.join(map(shown, args))})"


def shown(value: Any) -> str:
    """A value in at most `LONGEST` characters."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"


def same(got: Any, wanted: Any, tolerance: float = 1e-9) -> bool:
    """Whether a learner's number is the wanted one; None, text and NaN are not, and do not raise."""
    if isinstance(got, str | bytes):
        return False
    try:
        return abs(float(got) - float(wanted)) <= tolerance * max(1.0, abs(float(wanted)))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: a tensor of several numbers
        return False


def truth(got: Any) -> bool | None:
    """A learner's True or False, numpy's and torch's too; None for anything else.

    Example:
        >>> truth(True), truth(1)
        (True, None)
    """
    single = getattr(got, "shape", None) == () and str(got.dtype).endswith("bool")
    return bool(got) if single or isinstance(got, bool) else None


def listed(got: Any) -> list[Any] | None:
    """A learner's list, tuple or array as a list of Python's own values; None for anything else.

    Example:
        >>> listed((1, 2)), listed("12")
        ([1, 2], None)
    """
    if getattr(got, "shape", None) and hasattr(got, "tolist"):
        return got.tolist()
    return [each.item() if hasattr(each, "item") else each for each in got] if isinstance(got, list | tuple) else None
