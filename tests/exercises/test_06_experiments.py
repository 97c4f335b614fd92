"""The checks of notebook 06, held against wrong solutions."""

import math
from statistics import fmean, pstdev, stdev

import numpy as np
from scipy import stats

from tests.exercises.given import hold, solution
from utils.exercises.experiments import check_arm, check_interval, check_seeds_needed
from utils.experiments.catalogue import ARMS
from utils.experiments.grid import START, Arm
from utils.stats import t_quantile

NAME = "06_experiments"
NAMES = {"fmean": fmean, "stdev": stdev, "math": math, "t_quantile": t_quantile, "Arm": Arm, "START": START}


def test_exercise_1():
    right = solution(NAME, 1, **NAMES)["my_interval"]

    def wrong(half=None, middle=fmean):
        """A solution with another half width or middle: half(n, gaps), middle(gaps)."""

        def my_interval(arm, reference):
            gaps, n = [a - r for a, r in zip(arm, reference, strict=True)], len(arm)
            width = half(n, gaps) if half else t_quantile(0.95, n - 1) * stdev(gaps) / math.sqrt(n)
            return middle(gaps) - width, middle(gaps) + width

        return my_interval

    def two_heaps(arm, reference):
        n, spread = len(arm), math.sqrt(stdev(arm) ** 2 + stdev(reference) ** 2)
        half = t_quantile(0.95, 2 * n - 2) * spread / math.sqrt(n)
        return fmean(arm) - fmean(reference) - half, fmean(arm) - fmean(reference) + half

    def t(gaps):
        return t_quantile(0.95, len(gaps) - 1)

    hold(
        check_interval,
        right,
        {
            "t of five seeds, hard-wired": (
                wrong(lambda n, gaps: 2.776445105 * stdev(gaps) / math.sqrt(n)),
                "t is the one of five",
            ),
            "five for the number of seeds": wrong(lambda n, gaps: t_quantile(0.95, 4) * stdev(gaps) / math.sqrt(5)),
            "df = n": (wrong(lambda n, gaps: t_quantile(0.95, n) * stdev(gaps) / math.sqrt(n)), "n - 1 degrees"),
            "the normal quantile": (wrong(lambda n, gaps: 1.959963985 * stdev(gaps) / math.sqrt(n)), "1.96"),
            "divided by n": (wrong(lambda n, gaps: t(gaps) * stdev(gaps) / n), "not by n"),
            "not divided": (wrong(lambda n, gaps: t(gaps) * stdev(gaps)), "deviation of the mean"),
            "the normal quantile from 30 on": wrong(
                lambda n, gaps: (t(gaps) if n < 30 else 1.96) * stdev(gaps) / math.sqrt(n)
            ),
            "a table of t up to 30": wrong(
                lambda n, gaps: t_quantile(0.95, min(30, n - 1)) * stdev(gaps) / math.sqrt(n)
            ),
            "the quantile of a tail": (
                wrong(lambda n, gaps: t_quantile(0.975, n - 1) * stdev(gaps) / math.sqrt(n)),
                "on either side already",
            ),
            "both lists sorted": (lambda arm, reference: right(sorted(arm), sorted(reference)), "tears the pairs"),
            "mean and half width": (lambda a, r: (fmean(right(a, r)), fmean(right(a, r)) - right(a, r)[0]), "two ends"),
            "text": (lambda arm, reference: map(str, right(arm, reference)), "two numbers"),
            "pstdev": (wrong(lambda n, gaps: t(gaps) * pstdev(gaps) / math.sqrt(n)), "pstdev"),
            "two heaps": (two_heaps, "two heaps"),
            "the reference minus the arm": (lambda arm, reference: right(reference, arm), "arm minus"),
            "high first": (lambda arm, reference: right(arm, reference)[::-1], "low comes first"),
            "the arm alone": (lambda arm, reference: right(arm, [0.0] * len(arm)), "mean of the differences"),
            "the median in the middle": (wrong(middle=lambda gaps: sorted(gaps)[len(gaps) // 2]), "mean of"),
            "percentage points": (lambda arm, reference: [100 * x for x in right(arm, reference)], "should be"),
            "one number": (lambda arm, reference: fmean(arm) - fmean(reference), "two numbers"),
            "only for five seeds": lambda arm, reference: right(arm, reference) if len(arm) == 5 else (0.0, 0.0),
            "the toy's numbers": lambda arm, reference: (0.016, 0.048),
            "it raises": (lambda arm, reference: arm - reference, "raised TypeError"),
            "the stub": lambda arm, reference: (0.0, 0.0),
            "no function": ((0.0, 0.0), "a function is wanted"),
        },
        also=[
            lambda arm, reference: np.array(right(arm, reference)),
            lambda arm, reference: stats.ttest_rel(arm, reference).confidence_interval(0.95),
        ],
    )


def test_exercise_2():
    right = solution(NAME, 2, **NAMES)["seeds_needed"]

    def wrong(fits, first=2):
        """Counts up to the first n with fits(n, sd, half_width)."""

        def seeds_needed(sd, half_width):
            return next(n for n in range(first, 10_000) if fits(n, sd, half_width))

        return seeds_needed

    hold(
        check_seeds_needed,
        right,
        {
            "df = n": (wrong(lambda n, sd, half: t_quantile(0.95, n) * sd / math.sqrt(n) <= half), "n - 1 degrees"),
            "arguments ignored": (lambda sd, half_width: right(4.0, 2.0), "both arguments"),
            "sd ignored": lambda sd, half_width: right(4.0, half_width),
            "half width ignored": lambda sd, half_width: right(sd, 2.0),
            "the normal quantile": lambda sd, half_width: max(2, math.ceil((1.96 * sd / half_width) ** 2)),
            "t of five seeds": wrong(lambda n, sd, half: 2.776445 * sd / math.sqrt(n) <= half),
            "not the root": wrong(lambda n, sd, half: t_quantile(0.95, n - 1) * sd / n <= half),
            "the whole width": lambda sd, half_width: right(sd, half_width / 2),
            "one too many": (lambda sd, half_width: right(sd, half_width) + 1, "one fewer is enough"),
            "one too few": lambda sd, half_width: right(sd, half_width) - 1,
            "beginning at 1": (
                wrong(lambda n, sd, half: t_quantile(0.95, n - 1) * sd / math.sqrt(n) <= half, first=1),
                "raised ValueError",
            ),
            "at least five": lambda sd, half_width: max(5, right(sd, half_width)),
            "a fraction": (lambda sd, half_width: right(sd, half_width) - 0.5, "a whole number"),
            "begun at three": lambda sd, half_width: max(3, right(sd, half_width)),
            "a hundred at most": lambda sd, half_width: min(100, right(sd, half_width)),
            "the normal quantile from 30 on": wrong(
                lambda n, sd, half: (t_quantile(0.95, n - 1) if n < 30 else 1.96) * sd / math.sqrt(n) <= half
            ),
            "half of the half width": (lambda sd, half_width: right(sd, 2 * half_width), "to either side"),
            "text": (lambda sd, half_width: str(right(sd, half_width)), "a whole number"),
            "the printed cases": lambda sd, half_width: {(4.0, 2.0): 18, (4.0, 8.0): 4}.get((sd, half_width), 5),
            "the stub": lambda sd, half_width: None,
        },
        also=[lambda sd, half_width: np.float64(right(sd, half_width))],
        times=2,
    )


def test_exercise_3():
    right = solution(NAME, 3, **NAMES)["my_arm"]

    def made(size, settings=None, **more):
        """An arm as the solution makes it, but for what is given."""
        numbers = {"group_size": size, "prompts_per_step": 32 // size} | more
        return Arm(f"mine_{size}", "", profile=numbers, settings={"scale_rewards": "none"} | (settings or {}))

    hold(
        check_arm,
        right,
        {
            "scaled as before": (lambda size: Arm(f"{size}", "", profile=right(size).profile), "should not scale"),
            "scaled by the batch": (lambda size: made(size, {"scale_rewards": "batch"}), "'batch'"),
            "None for none": (lambda size: made(size, {"scale_rewards": None}), "it has None"),
            "a quotient with a point": (lambda size: made(size, prompts_per_step=32 / size), "`//`"),
            "an array": (lambda size: made(size, group_size=np.array([size, size])), "a whole number"),
            "four questions a step": (lambda size: made(size, prompts_per_step=4), "third thing"),
            "groups of four": (lambda size: made(size, group_size=4), "has groups of 4"),
            "the setting among the numbers": (lambda size: made(size, scale_rewards="none"), "goes into settings"),
            "a field that does not exist": (lambda size: made(size, prompts=8), "cannot be used"),
            "settings that are no dictionary": (lambda size: Arm("mine", "", settings="none"), "are dictionaries"),
            "rewards that are none": (
                lambda size: Arm("mine", "", made(size).profile, made(size).settings, {"x": 1}),
                "cannot be used",
            ),
            "another loss besides": (lambda size: made(size, {"loss_type": "grpo"}), "something besides"),
            "another rate besides": (lambda size: made(size, learning_rate=1e-3), "something besides"),
            "one name for all": (lambda size: Arm("mine", "", made(size).profile, made(size).settings), "rows go by"),
            "the arm of the catalogue": lambda size: ARMS["group_4"],
            "only groups of four": lambda size: right(4),
            "an arm, not a function": (right(4), "a function is wanted"),
            "a dictionary": (lambda size: made(size).profile, "should return an Arm"),
            "the stub": lambda size: Arm("mine", "my arm"),
        },
        also=[lambda size: made(size, {"scale_rewards": False})],
    )
