"""The checks of notebook 05, Evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from utils.exercises.checks import NotYet, ask, call, check, same, shown
from utils.stats import mcnemar_exact, wilson_interval

ROUNDS = 4000  # of tossing, as in the stub
MOST = 20_000  # questions to search among


@check
def check_right_after(
    right_after: Callable[[int, dict[str, int]], Any], right_before: int, flips: Mapping[str, int], right_now: int
) -> None:
    """Exercise 1: the trained model's right answers from the base's and the flips, of this run and of others."""
    rng = random.Random()
    cases = [(right_before, dict(flips), right_now)]
    for n in (12, 150, 1319):
        made = {name: rng.randint(1, n // 4) for name in ("fixed", "broken", "both")}
        made["neither"] = n - sum(made.values())
        cases.append((made["both"] + made["broken"], made, made["both"] + made["fixed"]))
    cases.append((7, {"fixed": 0, "broken": 7, "both": 0, "neither": 3}, 0))
    for before, each, wanted in cases:
        got = ask(right_after, before, each)
        if not same(got, wanted):
            raise NotYet(
                f"{call(right_after, before, each)} should be {wanted}, got {shown(got)}{_book(got, before, each)}"
            )


def _book(got: Any, before: int, flips: Mapping[str, int]) -> str:
    """The mistake that is likely behind a wrong balance, as the end of a sentence."""
    fixed, broken = flips["fixed"], flips["broken"]
    mistakes = {
        before: "; nothing has changed yet",
        before + fixed: "; what was broken was right before and is not any more",
        before - broken: "; what was fixed is right now",
        before + fixed + broken: "; a broken question is one right answer less",
        before - fixed + broken: "; fixed and broken are the other way round",
    }
    return next((said for value, said in mistakes.items() if same(got, value)), "")


@check
def check_tossed_p(tossed_p: Callable[[int, int, int], Any]) -> None:
    """Exercise 2: a two-sided p-value by tossing coins, near the exact one and as rough as so many rounds make it."""
    rng = random.Random()
    small, large = rng.randint(4, 6), rng.randint(7, 9)
    pairs = [(small, 0), (0, small), (large, 3), (3, large), (large + 3, large), (small, small), (10, 2)]
    as_exact = 0
    for fixed, broken in pairs:
        rounds = ROUNDS + rng.randint(1, 999)
        exact, got = mcnemar_exact(fixed, broken), ask(tossed_p, fixed, broken, rounds)
        said = f"{call(tossed_p, fixed, broken, rounds)} should be near {exact:.3f}, got {shown(got)}"
        if not same(got, got):
            raise NotYet(f"{said}, which is no number")
        if float(got) > 1 + 1e-9:
            raise NotYet(f"{said}; a share is at most 1: if you double one tail, which, and is it never the middle?")
        one_tail = exact / 2  # whoever doubles its share doubles its error, too
        if abs(float(got) - exact) > 2 * 5 * math.sqrt(one_tail * (1 - one_tail) / rounds) + 2 / rounds:
            raise NotYet(said + _tail(float(got), fixed, broken, rounds))
        if not same(float(got) * rounds, round(float(got) * rounds), 1e-6):
            raise NotYet(f"{said}, which is no whole number of {rounds:,} rounds: are `rounds` rounds tossed?")
        as_exact += abs(float(got) - exact) <= 0.5 / rounds and exact < 1
    if as_exact >= len(pairs) - 2:
        raise NotYet("every answer is the exact one: that is a formula, and here coins are to be tossed")


def _tail(got: float, fixed: int, broken: int, rounds: int) -> str:
    """The mistake that is likely behind a wrong share, as the end of a sentence."""
    n, exact = fixed + broken, mcnemar_exact(fixed, broken)

    def near(p: float) -> bool:
        return abs(got - p) <= 5 * math.sqrt(max(p * (1 - p), 1 / rounds) / rounds)

    upper = sum(math.comb(n, k) for k in range(fixed, n + 1)) / 2**n
    more = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) > abs(fixed - broken)) / 2**n
    if near(more):
        return "; a round that is just as lopsided counts, too"
    if near(exact / 2):
        return "; do you count both directions?"
    return "; the other side may lead, too" if near(upper) or near(2 * upper) else ""


@check
def check_n_for_width(n_for_width: Callable[[float, float], Any]) -> None:
    """Exercise 3: the smallest n whose Wilson interval is narrow enough, for rates and widths drawn afresh."""
    rng = random.Random()
    cases = [(0.85, 0.02)] + [(rng.randint(10, 98) / 100, rng.randint(4, 20) / 100) for _ in range(5)]
    for rate, width in cases:
        got = ask(n_for_width, rate, width)
        said = f"{call(n_for_width, rate, width)} is {shown(got)}"
        if isinstance(got, bool) or not same(got, round(got) if same(got, got) else None) or not 1 <= got <= MOST:
            raise NotYet(f"{said}; a whole number of questions is wanted, from 1 to {MOST:,}")
        n = smallest_n(rate, width)
        if got < n:
            raise NotYet(f"{said}, and there the interval is {100 * _width(rate, int(got)):.2f} points wide")
        if got > n:
            also = "so is a smaller one" if _width(rate, int(got)) <= width else "no interval of such a width is there"
            raise NotYet(f"{said}, and {also}: with {n:,} it is {100 * _width(rate, n):.2f} points wide")


def smallest_n(rate: float, width: float) -> int:
    """The answer to exercise 3, by trying one number after the other."""
    return next(n for n in range(1, MOST + 1) if _width(rate, n) <= width)


def _width(rate: float, n: int) -> float:
    low, high = wilson_interval(round(rate * n), n)
    return high - low
