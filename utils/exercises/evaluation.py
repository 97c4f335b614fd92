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
        before: "; the flips change it, up or down",
        before + fixed: "; what was broken was right before and is not any more",
        before - broken: "; what was fixed is right now",
        before + fixed + broken: "; a broken question is one right answer less",
        before - fixed + broken: "; fixed and broken are the other way round"
        if fixed > broken
        else "; where more is broken than fixed, the number falls",
    }
    return next((said for value, said in mistakes.items() if same(got, value)), "")


@check
def check_tossed_p(tossed_p: Callable[[int, int, int], Any]) -> None:
    """Exercise 2: a two-sided p-value by tossing coins, near the exact one and as rough as so many rounds make it."""
    rng = random.Random()
    small, large = rng.randint(4, 6), rng.randint(7, 9)
    pairs = [(large, 3), (3, large), (small, 0), (0, small), (large + 3, large), (small, small), (10, 2), (3, 7)]
    as_exact = 0
    for fixed, broken in pairs:
        rounds = ROUNDS + rng.randint(1, 999)
        exact, got = mcnemar_exact(fixed, broken), ask(tossed_p, fixed, broken, rounds)
        said = f"{call(tossed_p, fixed, broken, rounds)} should be near {exact:.3f}, got {shown(got)}"
        if not same(got, got):
            raise NotYet(f"{said}, which is no number")
        if float(got) > 1 + 1e-9:
            raise NotYet(f"{said}; a share is at most 1: if you double one tail, which, and is it never the middle?")
        if not same(float(got) * rounds, round(float(got) * rounds), 1e-6):
            raise NotYet(f"{said}, which is no whole number of {rounds:,} rounds: are `rounds` rounds tossed?")
        one_tail = exact / 2  # whoever doubles its share doubles its error, too
        if abs(float(got) - exact) > 2 * 5 * math.sqrt(one_tail * (1 - one_tail) / rounds) + 2 / rounds:
            raise NotYet(said + _tail(float(got), fixed, broken, rounds))
        as_exact += abs(float(got) - exact) <= 0.5 / rounds and exact < 1
    if as_exact >= len(pairs) - 2:
        raise NotYet("every answer is the exact one: that is a formula, and here coins are to be tossed")


def _tail(got: float, fixed: int, broken: int, rounds: int) -> str:
    """The mistake that is likely behind a wrong share, as the end of a sentence."""
    n, lead = fixed + broken, abs(fixed - broken)

    def share(counts: Callable[[int], bool], tosses: int = n) -> float:
        return sum(math.comb(tosses, heads) for heads in range(tosses + 1) if counts(heads)) / 2**tosses

    upper, exact = share(lambda heads: heads >= fixed), mcnemar_exact(fixed, broken)
    more = share(lambda heads: abs(2 * heads - n) > lead)
    mistakes = {
        "a round that is just as lopsided counts, too": [more],
        "do you count both directions?": [exact / 2],
        "the other side may lead, too": [upper, 2 * upper, min(1.0, 2 * upper)],
        "heads above the half are half of the lead": [share(lambda heads: abs(2 * heads - n) >= 2 * lead)],
        "just as lopsided and more count, in both directions; fractions are rounded on the way": [
            (exact + more) / 2,
            exact - more,
        ],
        "toss once for each flip, fixed or broken": [
            share(lambda heads, k=k: abs(2 * heads - k) >= lead, k) for k in (fixed, broken)
        ],
    }
    apart, name = min((abs(got - p), name) for name, values in mistakes.items() for p in values if p)
    return f"; {name}" if apart <= 3 * math.sqrt(max(exact, 1 / rounds) / rounds) else ""


@check
def check_n_for_width(n_for_width: Callable[[float, float], Any]) -> None:
    """Exercise 3: the smallest n whose Wilson interval is narrow enough, for rates and widths drawn afresh."""
    rng = random.Random()
    cases = [(0.85, 0.02)] + [(rng.randint(10, 98) / 100, rng.randint(4, 20) / 100) for _ in range(5)]
    cases += [(0.5, 0.75), (rng.randint(40, 60) / 100, rng.randint(50, 70) / 100), *(bumpy(rng) for _ in range(4))]
    for rate, width in cases:
        got = ask(n_for_width, rate, width)
        said = f"{call(n_for_width, rate, width)} is {shown(got)}"
        if isinstance(got, bool) or not same(got, got) or float(got) % 1 or not 1 <= got <= MOST:
            raise NotYet(f"{said}; a whole number of questions is wanted, from 1 to {MOST:,}")
        n = smallest_n(rate, width)
        if got < n:
            raise NotYet(f"{said}, and there the interval is {100 * _width(rate, int(got)):.4f} points wide")
        if got > n:
            there = _width(rate, int(got))
            also = "enough, and fewer are" if there <= width else f"not: there it is {100 * there:.4f} points wide"
            raise NotYet(f"{said}, which is {also}; with {n:,} it is {100 * _width(rate, n):.4f} points wide")


def bumpy(rng: random.Random) -> tuple[float, float]:
    """A rate and a width for which halving a range misses the smallest n, for behind it the width grows again."""
    while True:
        rate, n = rng.randint(60, 95) / 100, rng.randint(50, 300)
        width = round((_width(rate, n) + _width(rate, n + 1)) / 2, 6)
        if smallest_n(rate, width) == n < halved(rate, width):
            return rate, width


def halved(rate: float, width: float) -> int:
    """What doubling n, and halving the last range then, takes for the smallest n."""
    high = 1
    while _width(rate, high) > width:
        high *= 2
    low = high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _width(rate, middle) <= width else (middle + 1, high)
    return low


def smallest_n(rate: float, width: float) -> int:
    """The answer to exercise 3, by trying one number after the other."""
    return next(n for n in range(1, MOST + 1) if _width(rate, n) <= width)


def _width(rate: float, n: int) -> float:
    low, high = wilson_interval(round(rate * n), n)
    return high - low
