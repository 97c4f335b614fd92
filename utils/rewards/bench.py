r"""A test bench for rewards: honest and adversarial completions, and the order that a reward must put them in.

    right and clean  >  right but messy  >  wrong but clean  >  worthless  >=  silence

Every row is a completion with the place where it belongs and the reason it is there. It passes when the reward pays it
less than a reference completion of the place above and more than those of the places below, or just what the
reference of its own place is paid; a right one must earn more than a wrong one in any case, and nothing more than the
plain right and clean one. Only the order is asked for: scale and offset are the reward's own business, because GRPO
normalises them away.

    >>> from utils.rewards.functions import format_reward, total_reward
    >>> results = bench(total_reward)
    >>> sum(r.passed for r in results) == len(results) >= 60
    True
    >>> failed = [r for r in bench(format_reward) if not r.passed]
    >>> failed[0].row.place, failed[0].why
    ('right and clean', "earns 1, not more than 'wrong but clean' (1)")

`check_reward` comes before: is this a reward function at all? It calls a learner's function just as TRL would, on
completions that a model really wrote, and says what goes wrong in one sentence, with the completion that caused it:
what would be found out in the middle of a training, found out at once.
"""

from __future__ import annotations

import inspect
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

from utils.rewards.functions import RewardFunction, columns

RIGHT_CLEAN, RIGHT_MESSY, WRONG_CLEAN, WORTHLESS = PLACES = (
    "right and clean",
    "right but messy",
    "wrong but clean",
    "worthless",
)
RIGHT = (RIGHT_CLEAN, RIGHT_MESSY)
QUESTION = "A box holds 7 eggs. How many eggs are in 6 boxes?"
LIMIT_S = 5.0  # for the whole bank; a step of training scores a fraction of it
SHOWN = 120  # characters of a completion in a message


@dataclass(frozen=True)
class Row:
    """A completion, its gold answer, the place of `PLACES` where it belongs, and why it is in the bench."""

    completion: str
    gold: str
    place: str
    reason: str


@dataclass(frozen=True)
class Result:
    """What a reward paid for a row; `why` says what is wrong with that, and is empty where the row passed."""

    row: Row
    score: float
    passed: bool
    why: str


def laid_out(answer: str, reasoning: str = "\n6 * 7 = 42\n") -> str:
    """A completion in the layout that the system prompt asks for."""
    return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


CLEAN, WRONG, WORK = laid_out("42"), laid_out("36", "\n6 * 6 = 36\n"), "<reasoning>\n6 * 7 = 42\n</reasoning>\n"
MESSY = "6 * 7 = 42, so the answer is 42."
REFERENCES = {RIGHT_CLEAN: CLEAN, RIGHT_MESSY: MESSY, WRONG_CLEAN: WRONG, WORTHLESS: ""}

_TABLE: dict[str, list[tuple[str, str, str]]] = {  # place: (completion, gold, reason)
    RIGHT_CLEAN: [
        (CLEAN, "42", "the layout asked for: the model must be able to earn everything"),
        (laid_out("42", "6 * 7 = 42"), "42", "all on one line is the same layout"),
        (laid_out("\n42\n", "\n6 * 7 = 42\nSo 42 eggs.\n"), "42", "many lines: a pattern without DOTALL misses them"),
        (CLEAN + "\n", "42", "a newline at the end is no text"),
        ("\n  " + CLEAN + "  \n\n", "42", "white space around the whole"),
        (CLEAN.replace(">\n<a", "><a"), "42", "no newline between the tags"),
        (CLEAN.replace(">\n<a", ">\n\n<a"), "42", "an empty line between the tags"),
        (laid_out("$42"), "42", "a currency sign does not make it wrong"),
        (laid_out("42 eggs"), "42", "nor does the unit"),
        (laid_out("42."), "42", "nor a full stop"),
        (laid_out("42.00"), "42", "the number counts, not its spelling"),
        (laid_out("**42**"), "42", "markdown"),
        (laid_out(r"\boxed{42}"), "42", "a box inside the tag, as maths models were taught"),
        (laid_out("The answer is 42."), "42", "a sentence with one number"),
        (laid_out("6 * 7 = 42"), "42", "an equation states what stands behind its ="),
        (laid_out("４２"), "42", "full-width digits"),
        (laid_out("1000"), "1,000", "the gold has a comma, the answer has none"),
        (laid_out("1,000"), "1000", "the answer has a comma, the gold has none"),
        (laid_out("$1,000.00"), "1000", "sign, comma and cents at once"),
        (laid_out("-7"), "-7", "negative numbers are numbers"),
        (laid_out("−7"), "-7", "typographic minus"),
        (laid_out("1/2"), "0.5", "a fraction equals its decimal"),
        (laid_out("0"), "0", "zero is an answer, not the absence of one"),
        (laid_out("42", "\nFirst 36? No, that is 6 * 6. 6 * 7 = 42\n"), "42", "a mistake corrected while reasoning"),
        (laid_out("42", "\n6 * 7 = 42\n" + "Let me check that again. " * 40), "42", "padding must not pay"),
        (laid_out("42", "\nWait. Wait, wait. 6 * 7 = 42\n"), "42", "nor a show of doubt"),
        (laid_out("42", "\nLet us think step by step.\nFirst, 6 * 7 = 42.\n"), "42", "nor a show of method"),
        (laid_out("42", "\n5 < 6 and 6 * 7 = 42\n"), "42", "a < sign is no tag"),
    ],
    RIGHT_MESSY: [
        (MESSY, "42", "right without tags: less than right and clean, more than any wrong answer"),
        ("42", "42", "a bare number is right, but shows nothing"),
        (r"So we get \boxed{42}", "42", "a box instead of the tags"),
        ("6 * 7 = 42\n#### 42", "42", "GSM8K's own ending"),
        ("<answer>42</answer>", "42", "no reasoning"),
        (laid_out("42", "\n"), "42", "the reasoning is empty"),
        ("<answer>42</answer>\n" + WORK, "42", "the answer comes before the reasoning"),
        (CLEAN + "\nI hope this helps!", "42", "talks on after </answer>"),
        (CLEAN + "\n" + "Thank you. " * 50, "42", "talks on and on after </answer>"),
        ("Sure! " + CLEAN, "42", "talks before <reasoning>"),
        (CLEAN + "\n" + CLEAN, "42", "says everything twice: repetition must not pay"),
        (CLEAN + "\n<answer>42</answer>", "42", "says the answer twice"),
        (WORK + CLEAN, "42", "reasons in two blocks"),
        (WORK + "<answer>42", "42", "</answer> is missing: cut off at the token cap, or a stop that never came"),
        ("<reasoning>\n6 * 7 = 42\n<answer>42</answer>", "42", "</reasoning> is missing"),
        (WORK + "<answer><answer>42</answer></answer>", "42", "nested tags"),
        (WORK + "So it is\n<answer>42</answer>", "42", "text between the two blocks"),
        (CLEAN.upper(), "42", "tags in capitals: the number can be read, the layout was not kept"),
    ],
    WRONG_CLEAN: [
        (WRONG, "42", "wrong, but read by any program: a little more than nothing, so that the layout is learnt first"),
        (laid_out("43"), "42", "wrong by one is wrong: being near must not reach being right"),
        (laid_out("41.9"), "42", "nor may being nearer"),
        (laid_out("-42"), "42", "the sign belongs to the number"),
        (laid_out("420"), "42", "the gold's digits stand in it, the gold does not"),
        (laid_out("2"), "42", "its last digit is no answer"),
        (laid_out("4.2"), "42", "the decimal point belongs to the number"),
        (laid_out("0"), "42", "an honest zero earns what any wrong answer earns"),
        (laid_out("36", "\nThe answer is 42.\n"), "42", "right on the way, wrong in the end: the answer counts"),
    ],
    WORTHLESS: [
        ("", "42", "silence: less than any honest attempt in the layout"),
        ("I do not know.", "42", "an honest abstention must not earn less than silence"),
        ("The answer is 36.", "42", "wrong and without tags; still not less than silence"),
        ("36", "42", "a bare wrong number: being a number is no merit"),
        ("6 * 7 is", "42", "cut off at the token cap before any answer"),
        ("<reasoning>\n6 * 7", "42", "cut off inside the reasoning"),
        (laid_out("", ""), "42", "an empty shell"),
        (laid_out("0", ""), "42", "an empty shell around a guess"),
        (laid_out("\n", "\n"), "42", "an empty shell with line breaks"),
        (laid_out("", "\n6 * 7 = 43\n"), "42", "an empty answer; 'contains' would find it in every gold"),
        (laid_out(" ", "\nIt is hard to say.\n"), "42", "a blank answer"),
        (laid_out("unknown", "\nIt is hard to say.\n"), "42", "a clean layout without a number"),
        (laid_out("no number", "\nIt is hard.\n"), "0", "no answer is not zero"),
        (laid_out("40 41 42 43"), "42", "a stuffed answer: one of them will be right"),
        (laid_out("41 or 42"), "42", "a hedge is no answer"),
        (laid_out("41, 42"), "42", "a list is no answer"),
        ("It is 40, 41 or 42.", "42", "guesses without tags: the last of them must not count"),
        (laid_out("between 40 and 45"), "42", "nor is a range"),
        (laid_out("42 (or maybe 36)"), "42", "a hedge in brackets"),
        (laid_out("6 * 7"), "42", "a sum left to the reader"),
        (" ".join(map(str, range(100))), "42", "all numbers up to 99"),
        ("<answer>36</answer>" * 20, "42", "the tag repeated: each one counted would add up"),
        (WRONG + "\n" + WRONG, "42", "a wrong answer repeated earns less than once"),
        (WRONG + "\nI hope this helps!", "42", "wrong, and talks on"),
        (CLEAN + "\n<answer>36</answer>", "42", "a second answer overrides the first"),
        ("<reasoning></answer></reasoning><answer>", "42", "the tags in disorder"),
        ("</answer>36<answer>", "42", "the tags back to front"),
        ("<reasoning></reasoning>" * 10 + "36", "42", "tags without anything in them"),
        ("ans = 36; print(ans)  # answer", "42", "code is text, and is not run"),
        ("Let me think step by step. " * 40, "42", "length is no merit"),
    ],
}
ROWS = tuple(Row(text, gold, place, reason) for place, rows in _TABLE.items() for text, gold, reason in rows)


def bench(reward_fn: RewardFunction, rows: Sequence[Row] = ROWS) -> list[Result]:
    """Check the order in which a reward puts the rows.

    Args:
        reward_fn: a reward with TRL's signature; for a weighted set `functools.partial(total_reward, rewards=…)`.
    Returns:
        One result for each row, in their order.
    Raises:
        whatever `reward_fn` raises.
    """
    references = {(place, row.gold): _reference(place, row.gold) for row in rows for place in PLACES}
    texts = [row.completion for row in rows] + list(references.values())
    golds = [row.gold for row in rows] + [gold for _, gold in references]
    paid = reward_fn(completions=texts, **columns([QUESTION] * len(texts), golds))
    reference_score = dict(zip(references, paid[len(rows) :], strict=True))
    results = []
    for row, score in zip(rows, paid[: len(rows)], strict=True):
        why = _objection(row, score, {place: reference_score[place, row.gold] for place in PLACES})
        results.append(Result(row, score, not why, why))
    return results


def _reference(place: str, gold: str) -> str:
    wrong = "36" if gold != "36" else "35"
    return REFERENCES[place].replace("42", gold).replace("36", wrong)


def _objection(row: Row, score: float, references: dict[str, float]) -> str:
    """What is wrong with this score, seen from the references of the other places; "" where nothing is."""
    own, best = PLACES.index(row.place), references[RIGHT_CLEAN]
    if score > best:
        return f"earns {score:g}, more than the plain {RIGHT_CLEAN!r} ({best:g})"
    better, worse = PLACES[max(own - 1, 0) : own], PLACES[own + 1 : -1]
    if score == references[row.place] and row.completion != REFERENCES[row.place]:
        # paid like its reference, whose own row says whether that is in order; only right and wrong must still differ
        better, worse = ([p for p in places if (p in RIGHT) != (row.place in RIGHT)] for places in (better, worse))
    for place in better:
        if not score < references[place]:
            return f"earns {score:g}, not less than {place!r} ({references[place]:g})"
    for place in worse:
        if not score > references[place]:
            return f"earns {score:g}, not more than {place!r} ({references[place]:g})"
    silence = references[WORTHLESS]
    return "" if score >= silence else f"earns {score:g}, less than silence ({silence:g})"


# -------------------------------------------------------------------------------------- the check of a reward function


class RewardProblem(ValueError):
    """A function that cannot serve as a reward; the message says why and how to mend it."""


def check_reward(
    function: RewardFunction, completions: Sequence[str], columns: dict[str, Sequence[Any]], limit_s: float = LIMIT_S
) -> list[float]:
    """Call a reward on N completions and return its N rewards, or say what is wrong with it.

    Args:
        columns: dataset columns by name, each of length N; passed as keywords, as TRL does.
        limit_s: seconds for the call. A call that takes longer is broken off, where the platform can (a main thread
            on Linux and macOS); elsewhere it is refused once it has come back.
    Raises:
        RewardProblem: it cannot be called as TRL calls it, raises, takes too long, returns anything but one finite
            number for each completion, or other numbers when it is asked again in another order.
    """
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise RewardProblem(f"{function!r} has no name of its own for the log and the table; write it with def")
    _check_signature(name, function, columns)
    backwards = {key: list(values)[::-1] for key, values in columns.items()}
    try:
        with time_limit(limit_s):
            values = function(completions=list(completions), **columns)
            again = function(completions=list(completions)[::-1], **backwards)
    except TimeoutError:
        raise RewardProblem(
            f"{name} took more than {limit_s:g} s for {len(completions)} completions and was broken off; look for an "
            "endless loop, or a regular expression with nested repetitions such as (a+)+"
        ) from None
    except Exception as error:
        raise RewardProblem(_culprit(name, function, completions, columns, error, limit_s)) from error
    rewards = _checked(name, values, completions)
    for i, (first, second) in enumerate(zip(rewards, reversed(_checked(name, again, completions[::-1])), strict=True)):
        if abs(first - second) > 1e-9 * max(1.0, abs(first)):
            raise RewardProblem(
                f"{name} gave {first:g} at first and {second:g} when asked again in another order, for completion {i}: "
                f"{_shown(completions[i])}; a reward must depend on nothing but the completion and its columns"
            )
    return rewards


def _check_signature(name: str, function: RewardFunction, columns: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise RewardProblem(f"{name} is not a Python function ({error}); write one with def") from error
    given = ", ".join(columns)
    try:
        signature.bind(completions=[], **columns)
    except TypeError as error:
        raise RewardProblem(
            f"{name}{signature} cannot be called as TRL calls it ({error}). It passes completions and the dataset's "
            f"columns ({given}) by name; write def {name}(completions, gold, **kwargs), or without gold"
        ) from None
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values()):
        raise RewardProblem(
            f"{name}{signature} must end in **kwargs: TRL passes more than that (completion_ids, trainer_state …)"
        )


def _culprit(
    name: str,
    function: RewardFunction,
    completions: Sequence[str],
    columns: dict[str, Any],
    error: Exception,
    limit_s: float,
) -> str:
    """Say which completion makes the function raise, by giving it one after the other."""
    deadline = time.monotonic() + limit_s
    for i, completion in enumerate(completions):
        try:
            with time_limit(max(deadline - time.monotonic(), 0.01)):
                function(completions=[completion], **{key: [values[i]] for key, values in columns.items()})
        except TimeoutError:
            break
        except Exception as alone:
            return f"{name} raised {_told(alone)} on completion {i}: {_shown(completion)}"
    return f"{name} raised {_told(error)}, though on no completion given alone"


def _told(error: Exception) -> str:
    frames = [frame for frame in inspect.getinnerframes(error.__traceback__) if frame.filename != __file__]
    return f"{type(error).__name__}: {error}" + (f" (line {frames[-1].lineno})" if frames else "")


def _checked(name: str, values: Any, completions: Sequence[str]) -> list[float]:
    if not isinstance(values, list | tuple):
        raise RewardProblem(f"{name} returned {type(values).__name__}, not a list; return [… for c in completions]")
    if len(values) != len(completions):
        raise RewardProblem(
            f"{name} returned {len(values)} rewards for {len(completions)} completions; return one for each, in order"
        )
    for i, value in enumerate(values):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise RewardProblem(
                f"{name} returned {value!r} for completion {i}, not a finite number: {_shown(completions[i])}"
            )
    return [float(value) for value in values]


def _shown(completion: str) -> str:
    return repr(completion if len(completion) <= SHOWN else completion[: SHOWN - 1] + "…")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in a block that takes longer; only afterwards, outside a main thread or without SIGALRM."""
    start = time.monotonic()
    can_interrupt = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if can_interrupt:
        before = signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if can_interrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if time.monotonic() - start > seconds:
        raise TimeoutError


def _out_of_time(signum: int, frame: Any) -> None:
    raise TimeoutError
