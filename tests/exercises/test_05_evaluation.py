"""The checks of notebook 05, held against wrong solutions."""

import math
import random

import numpy as np

from tests.exercises.given import hold, solution
from utils.exercises.evaluation import check_n_for_width, check_right_after, check_tossed_p, halved, smallest_n
from utils.stats import mcnemar_exact, wilson_interval

NAME = "05_evaluation"
FLIPS = {"fixed": 413, "broken": 29, "both": 746, "neither": 131}
RUN = (775, FLIPS, 1159)  # right before, flips and right after, as the notebook prints them


def test_exercise_1():
    hold(
        check_right_after,
        solution(NAME, 1)["right_after"],
        {
            "the stub": (lambda before, flips: before, "up or down"),
            "the broken forgotten": (lambda before, flips: before + flips["fixed"], "was right before"),
            "the fixed forgotten": (lambda before, flips: before - flips["broken"], "right now"),
            "the broken added": (lambda before, flips: before + flips["fixed"] + flips["broken"], "one right answer"),
            "the other way round": (lambda before, flips: before - flips["fixed"] + flips["broken"], "way round"),
            "its size": (lambda before, flips: before + abs(flips["fixed"] - flips["broken"]), "the number falls"),
            "text, and right": lambda before, flips: str(before + flips["fixed"] - flips["broken"]),
            "a rate": lambda before, flips: (before + flips["fixed"] - flips["broken"]) / sum(flips.values()),
            "the printed case": lambda before, flips: 1159,
            "the printed difference": lambda before, flips: before + 384,
            "this run looked up": lambda before, flips: 1159 if before == 775 else before + 2,
            "text": lambda before, flips: "1159",
            "no function": (1159, "a function is wanted"),
            "another key": (lambda before, flips: before + flips["mended"], "KeyError"),
        },
        *RUN,
    )
    assert check_right_after(lambda before, flips: flips["both"] + flips["fixed"], *RUN) == "solved"


def tosses(n):
    return sum(random.random() < 0.5 for _ in range(n))


def share(hit):
    """A wrong solution: the share of rounds in which `hit(heads, fixed, broken)`."""

    def tossed_p(fixed, broken, rounds=4000):
        return sum(hit(tosses(fixed + broken), fixed, broken) for _ in range(rounds)) / rounds

    return tossed_p


def test_exercise_2():
    upper = share(lambda heads, fixed, broken: heads >= fixed)
    larger = share(lambda heads, fixed, broken: heads >= max(fixed, broken))
    two_sided = share(lambda heads, fixed, broken: abs(2 * heads - fixed - broken) >= abs(fixed - broken))
    biased = share(lambda heads, fixed, broken: abs(2 * heads - fixed - broken + 1) >= abs(fixed - broken))
    printed = {(5, 0): 0.0625, (10, 2): 0.0386, (60, 40): 0.0569}
    hold(
        check_tossed_p,
        solution(NAME, 2, random=random)["tossed_p"],
        {
            "the stub": (lambda fixed, broken, rounds: 1.0, "should be near"),
            "a constant": lambda fixed, broken, rounds: 0.05,
            "the upper tail": upper,
            "the upper tail, doubled": lambda fixed, broken, rounds: 2 * upper(fixed, broken, rounds),
            "the larger side alone": (larger, "both directions"),
            "the larger side, doubled without a limit": lambda fixed, broken, rounds: 2 * larger(fixed, broken, rounds),
            "only more lopsided": (
                share(lambda heads, fixed, broken: abs(2 * heads - fixed - broken) > abs(fixed - broken)),
                "just as lopsided",
            ),
            "just as lopsided alone": share(lambda heads, fixed, broken: heads in (fixed, broken)),
            "the count one off": biased,
            "half of the lead": (
                share(lambda heads, fixed, broken: abs(heads - (fixed + broken) / 2) >= abs(fixed - broken)),
                "half of the lead",
            ),
            "as fractions": (
                share(lambda heads, f, b: abs(heads / (f + b) - 0.5) >= abs(f / (f + b) - 0.5)),
                "fractions are rounded",
            ),
            "the larger of the two tossed": (
                lambda f, b, rounds: (
                    sum(abs(2 * tosses(max(f, b)) - max(f, b)) >= abs(f - b) for _ in range(rounds)) / rounds
                ),
                "once for each flip",
            ),
            "text": (lambda fixed, broken, rounds: str(two_sided(fixed, broken, rounds)), "no number"),
            "rounds ignored": (lambda fixed, broken, rounds: two_sided(fixed, broken, 4001), "rounds"),
            "a number of rounds, not a share": lambda fixed, broken, rounds: rounds * two_sided(fixed, broken, rounds),
            "the formula": (lambda fixed, broken, rounds: mcnemar_exact(fixed, broken), "whole number"),
            "the formula, rounded": (
                lambda fixed, broken, rounds: round(mcnemar_exact(fixed, broken) * rounds) / rounds,
                "coins are to be tossed",
            ),
            "the printed cases": lambda fixed, broken, rounds: printed.get((fixed, broken), 1.0),
            "no return": (lambda fixed, broken, rounds: None, "no number"),
        },
        also=[
            lambda f, b, rounds: np.mean(
                abs(2 * np.random.default_rng().binomial(f + b, 0.5, rounds) - f - b) >= abs(f - b)
            )
        ],
    )
    doubled = check_tossed_p(lambda fixed, broken, rounds: min(1, 2 * larger(fixed, broken, rounds)))
    assert doubled == "solved", "both tails are alike: the larger side's, doubled and at most 1, is as good"


def test_exercise_3():
    def width(rate, n):
        low, high = wilson_interval(round(rate * n), n)
        return high - low

    def textbook(rate, wanted):
        return math.ceil(4 * 1.96**2 * rate * (1 - rate) / wanted**2)

    right = solution(NAME, 3, wilson_interval=wilson_interval)["n_for_width"]
    assert smallest_n(0.85, 0.02) > 3 * 1319, "the notebook says: several times GSM8K's test split"
    assert all(right(rate, wide) == smallest_n(rate, wide) for rate, wide in ((0.3, 0.1), (0.97, 0.05)))
    hold(
        check_n_for_width,
        right,
        {
            "the stub": (lambda rate, width: 1319, "points wide"),
            "the arguments ignored": lambda rate, width: smallest_n(0.85, 0.02),
            "the rate ignored": lambda rate, width: smallest_n(0.85, width),
            "the width ignored": lambda rate, width: smallest_n(rate, 0.02),
            "the textbook's interval": textbook,
            "half the interval": lambda rate, wanted: next(n for n in range(1, 9999) if width(rate, n) / 2 <= wanted),
            "one too many": (lambda rate, width: smallest_n(rate, width) + 1, "with"),
            "one too few": lambda rate, width: smallest_n(rate, width) - 1,
            "halving a range": halved,
            "begun at 30": lambda rate, width: max(30, smallest_n(rate, width)),
            "begun at 10": lambda rate, width: max(10, smallest_n(rate, width)),
            "too large for a float": (lambda rate, width: 10**400, "a whole number"),
            "text": (lambda rate, width: str(smallest_n(rate, width)), "a whole number"),
            "steps of a hundred": lambda rate, width: 100 * math.ceil(smallest_n(rate, width) / 100),
            "the printed case": lambda rate, width: smallest_n(0.85, 0.02) if (rate, width) == (0.85, 0.02) else 1,
            "no number": (lambda rate, width: None, "a whole number"),
            "a fraction": (lambda rate, width: smallest_n(rate, width) - 0.5, "a whole number"),
        },
        also=[lambda rate, width: np.float64(smallest_n(rate, width))],
    )
