"""What a reward owes, and what it is owed: a name, and N finite numbers for N completions; copies of what it judges.

The Reward Lab, the check of a file, the trainer and its record all call a reward by `pay`, so that they agree. Numbers
of numpy and torch are as good as Python's, an array of N of them as a list, and True is 1.0. None is refused: TRL adds
it up as 0 and leaves it out of the part's mean, which then is a mean of unlike things; 0.0 is paid the same, openly.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import reprlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

LARGEST = 1e9  # of a reward or a weight in size: the square of their product still is a number in single precision
SHOWN = 120  # characters of a completion in a message
TOLD = 200  # characters of an exception in a message
AGAIN_S = 0.05  # between the alarms of a block that catches them


class RewardProblem(ValueError):
    """A function that cannot serve as a reward; the message says why and how to mend it."""


# -------------------------------------------------------------------------------------------- its name


def name_of(function: Callable[..., Any]) -> str:
    """A reward's name in log and table: its own, for a partial that of its function, for an object that of its class.

    >>> name_of(functools.partial(len)), name_of(Decimal(1))
    ('len', 'Decimal')
    """
    while isinstance(function, functools.partial) and not hasattr(function, "__name__"):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def named(function: Callable[..., Any]) -> Callable[..., Any]:
    """The reward itself, or a function around it where it has no `__name__`, by which TRL knows it.

    Raises:
        RewardProblem: it is a class, or has no name, as a lambda.
    """
    name = name_of(function)
    if isinstance(function, type):
        raise RewardProblem(f"{name} is a class; put an object of it into REWARDS: {name}(…)")
    if not name.isidentifier():
        raise RewardProblem(f"{function!r} has no name of its own for the log and the table; write it with def")
    if hasattr(function, "__name__"):
        return function

    def reward(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    functools.update_wrapper(reward, function, assigned=("__doc__",), updated=())
    reward.__name__ = name
    return reward


def distinct(rewards: dict[Callable[..., Any], float]) -> dict[Callable[..., Any], float]:
    """The same rewards and weights, each with a name and none with that of another.

    Raises:
        RewardProblem: one has no name, or two share one.
    """
    names = [name_of(function) for function in rewards]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RewardProblem(f"{len(twice)} rewards are called {', '.join(twice)}; give each a __name__ of its own")
    return {named(function): weight for function, weight in rewards.items()}


# -------------------------------------------------------------------------------------------- its call


def pay(function: Callable[..., Any], completions: Sequence[Any], /, **columns: Any) -> list[float]:
    """What a reward pays for N completions, N floats. It gets copies, so that what it changes stays with it.

    Args:
        columns: what TRL passes beside the completions; lists and tuples among them have length N.
    Raises:
        RewardProblem: it raises anything, `SystemExit` too, or returns anything but N finite numbers.
    """
    try:
        values = function(completions=copied(completions), **copied(columns))
        values = values.tolist() if hasattr(values, "tolist") else values
    except (KeyboardInterrupt, _OutOfTime):
        raise
    except BaseException as error:
        raise RewardProblem(_culprit(function, completions, columns, error)) from error
    return _numbers(name_of(function), values, completions)


def copied(value: Any) -> Any:
    """A copy down to the last list and dictionary, also those of the trainer's state; all else is shared."""
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [copied(each) for each in value]
    if hasattr(value, "log_history"):
        twin = copy.copy(value)
        vars(twin).update(copied(vars(value)))
        return twin
    return value


def some(columns: dict[str, Any], rows: slice) -> dict[str, Any]:
    """These rows of each column; what is no column, as the trainer's state, stays whole."""
    return {key: value[rows] if isinstance(value, list | tuple) else value for key, value in columns.items()}


def number(value: Any) -> float:
    """A number of Python, numpy or torch as a float; nan for all else."""
    try:
        value = value.item() if hasattr(value, "item") else value
        return float(value) if isinstance(value, Real | Decimal) else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):  # several numbers, or one beyond all floats
        return math.nan


def _numbers(name: str, values: Any, completions: Sequence[Any]) -> list[float]:
    if inspect.iscoroutine(values):
        values.close()
        raise RewardProblem(f"{name} is an async function, which is not supported; write it with def")
    if not isinstance(values, list | tuple):
        raise RewardProblem(f"{name} returned {type(values).__name__}, not a list; return [… for c in completions]")
    if len(values) != len(completions):
        raise RewardProblem(
            f"{name} returned {len(values)} rewards for {len(completions)} completions; return one for each, in order"
        )
    paid = [number(value) for value in values]
    for i, found in enumerate(paid):
        if not abs(found) <= LARGEST:
            wrong = f"more than {LARGEST:g} in size" if abs(found) < math.inf else "not a finite number"
            raise RewardProblem(
                f"{name} returned {reprlib.repr(values[i])} for completion {i}, {wrong}: {shown(completions[i])}; "
                "return a number for each, 0.0 where it does not apply, since a group's mean is of like things"
            )
    return paid


def _culprit(
    function: Callable[..., Any], completions: Sequence[Any], columns: dict[str, Any], error: BaseException
) -> str:
    """Say which completion makes the function raise, by giving it one after the other."""
    for i, completion in enumerate(completions):
        try:
            function(completions=copied([completion]), **copied(some(columns, slice(i, i + 1))))
        except KeyboardInterrupt:
            raise
        except _OutOfTime:
            break
        except BaseException as alone:
            return f"{name_of(function)} raised {told(alone)} on completion {i}: {shown(completion)}"
    return f"{name_of(function)} raised {told(error)}, though on no completion given alone"


def told(error: BaseException) -> str:
    """An exception in one line, with the line of the file in which the learner's own code begins."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    lines = [(file, line) for file, line in lines if Path(file).parent != Path(__file__).parent]
    own = [line for file, line in lines if file == lines[0][0]]
    try:
        said = " ".join(str(error).split())
    except Exception:  # one that cannot be printed
        said = ""
    said = f": {said if len(said) <= TOLD else said[: TOLD - 1] + '…'}" if said else ""
    return f"{type(error).__name__}{said}" + (f" (line {own[-1]})" if own else "")


def shown(completion: Any) -> str:
    """A completion as it was passed, cut to fit into a sentence."""
    text = repr(completion)
    return text if len(text) <= SHOWN else text[: SHOWN - 2] + "…" + text[-1]


# -------------------------------------------------------------------------------------------- its time


class _OutOfTime(BaseException):
    """No `Exception`, since rewards catch those."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in a block that takes longer; only afterwards, outside a main thread or without SIGALRM.

    The alarm comes again and again, for a block that catches it. A loop in compiled code does not hear it.
    """
    start = time.monotonic()
    can_interrupt = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if can_interrupt:
        before = signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    except _OutOfTime:
        pass
    finally:
        if can_interrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if time.monotonic() - start > seconds:
        raise TimeoutError


def _out_of_time(signum: int, frame: Any) -> None:
    raise _OutOfTime
