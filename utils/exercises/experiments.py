"""The checks of notebook 06, Experiments."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist, pstdev, stdev
from typing import Any

from utils.exercises.checks import NotYet, ask, call, check, same, shown
from utils.experiments.catalogue import LABELS, stored
from utils.experiments.findings import Row, by_seed
from utils.experiments.grid import SETTINGS, START, Arm, fingerprint
from utils.stats import interval, t_quantile

Pair = tuple[list[float], list[float]]
TOY = [0.65, 0.73, 0.60, 0.70, 0.64], [0.62, 0.71, 0.55, 0.68, 0.60]  # the notebook's after and before


def gaps(arm: Sequence[float], reference: Sequence[float]) -> list[float]:
    return [a - r for a, r in zip(arm, reference, strict=True)]


def unpaired(arm: Sequence[float], reference: Sequence[float]) -> float:
    return t_quantile(0.95, 2 * len(arm) - 2) * math.sqrt((stdev(arm) ** 2 + stdev(reference) ** 2) / len(arm))


def wrong_halves(arm: list[float], reference: list[float]) -> dict[str, float]:
    """The half widths that likely mistakes give -> what is wrong there."""
    n, sd = len(arm), stdev(gaps(arm, reference))
    t = t_quantile(0.95, n - 1)
    return {
        f"t is the one of five seeds, and these are {n}": t_quantile(0.95, 4) * sd / math.sqrt(n),
        "t takes n - 1 degrees of freedom, not n": t_quantile(0.95, n) * sd / math.sqrt(n),
        f"1.96 is for endlessly many seeds; {n} take t": NormalDist().inv_cdf(0.975) * sd / math.sqrt(n),
        "t_quantile(0.95, …) leaves 2.5% on either side already": t_quantile(0.975, n - 1) * sd / math.sqrt(n),
        "divide by the root of n, not by n": t * sd / n,
        "the deviation of the mean is that of a run by the root of n": t * sd,
        "divide by the root of n, not of n - 1": t * sd / math.sqrt(n - 1) if n > 2 else math.nan,
        "stdev divides by n - 1, pstdev by n": t * pstdev(gaps(arm, reference)) / math.sqrt(n),
        "that is the interval of two heaps: subtract seed by seed first": unpaired(arm, reference),
        "that is half of the half width": t * sd / math.sqrt(n) / 2,
        "sorting tears the pairs apart": t * stdev(gaps(sorted(arm), sorted(reference))) / math.sqrt(n),
    }


@functools.cache
def recorded() -> tuple[Row, ...]:
    return tuple(stored())


def recorded_pair(rng: random.Random) -> tuple[str, Pair]:
    """An arm of the recorded runs beside the default, as shares sorted by seed."""
    name = rng.choice([arm for arm in LABELS if arm not in ("default", "small_passes")])
    here, there = by_seed(recorded(), name), by_seed(recorded(), "default")
    return LABELS[name], ([here[seed] for seed in sorted(here)], [there[seed] for seed in sorted(there)])


def made_up_pair(rng: random.Random, n: int) -> Pair:
    reference = [rng.uniform(0.3, 0.7) for _ in range(n)]
    shift = rng.uniform(-0.2, 0.2)
    return [r + shift + rng.gauss(0, 0.05) for r in reference], reference


@check
def check_interval(my_interval: Callable[[list[float], list[float]], Any]) -> None:
    """Exercise 1: the paired t interval, for any number of seeds; the recorded runs are among the cases."""
    rng = random.Random()
    judge_interval(my_interval, *TOY, " (the toy of section 2)")
    for n in (rng.choice((3, 4)), *rng.sample(range(6, 25), 3), rng.randint(32, 60), 2):
        judge_interval(my_interval, *made_up_pair(rng, n), "")
    for label, pair in (recorded_pair(rng) for _ in range(3)):
        judge_interval(my_interval, *pair, f" ({label}, as recorded, against the default)")


def judge_interval(my_interval: Callable[..., Any], arm: list[float], reference: list[float], which: str) -> None:
    """Hold one answer against ours.

    Raises:
        NotYet: the two ends differ from it; the likely mistake is named.
    """
    got, n = ask(my_interval, arm, reference), len(arm)
    wanted = interval(gaps(arm, reference))
    try:
        low, high = got
    except (TypeError, ValueError):
        low = high = None
    if not same(low, low) or not same(high, high):
        raise NotYet(f"two numbers are wanted, low and high, got {shown(got)}")
    if same(low, wanted.low) and same(high, wanted.high):
        return
    said = f"for {n} seeds{which} [{low:.6f}, {high:.6f}] should be [{wanted.low:.6f}, {wanted.high:.6f}]"
    middle, half = (low + high) / 2, (high - low) / 2
    if same(low, wanted.mean):
        raise NotYet(f"{said}; the two ends are wanted: half the width to either side of the mean")
    if half < 0:
        raise NotYet(f"{said}; low comes first")
    if same(middle, -wanted.mean):
        raise NotYet(f"{said}; the difference is the arm minus the reference, with its sign")
    if not same(middle, wanted.mean):
        raise NotYet(f"{said}; its middle is the mean of the differences, {wanted.mean:.4f}")
    wrong = {words: abs(half - value) for words, value in wrong_halves(arm, reference).items() if value == value}
    nearest = min(wrong, key=wrong.__getitem__)
    raise NotYet(f"{said}; {nearest if wrong[nearest] < 5e-4 * half else 'the middle is right, the width is not'}")


# ------------------------------------------------------------------------------------------------------- how many seeds


t_of = functools.cache(functools.partial(t_quantile, 0.95))


def half_width(n: int, sd: float, df: int | None = None) -> float:
    return t_of(df or n - 1) * sd / math.sqrt(n)


def normal(n: int, sd: float) -> float:
    return 1.96 * sd / math.sqrt(n)


def counted(sd: float, wanted: float, width: Callable[[int, float], float] = half_width) -> int:
    """The smallest n of at least 2 whose interval reaches at most `wanted` to either side."""
    n = 2
    while width(n, sd) > wanted:
        n += 1
    return n


def wrong_counts(sd: float, wanted: float) -> dict[str, int]:
    """The numbers of seeds that likely mistakes give -> what is wrong there."""
    return {
        "t takes n - 1 degrees of freedom, not n": counted(sd, wanted, lambda n, s: half_width(n, s, n)),
        "1.96 is for many seeds; few take t": counted(sd, wanted, normal),
        "t depends on n, and yours is the one of five seeds": counted(sd, wanted, lambda n, s: half_width(n, s, 4)),
        "divide by the root of n": counted(sd, wanted, lambda n, s: half_width(n, s) / math.sqrt(n)),
        "at 30 seeds t is not yet 1.96": counted(sd, wanted, lambda n, s: half_width(n, s) if n < 30 else normal(n, s)),
        "does it use both arguments?": 18,
        "does it use both arguments? sd is not always 4": counted(4.0, wanted),
        "does it use both arguments? half_width is not always 2": counted(sd, 2.0),
        "`half_width` is meant to one side, not for both together": counted(sd, wanted / 2),
        "`half_width` is meant to either side, the whole is twice as wide": counted(sd, 2 * wanted),
    }


def likely(asked: Sequence[tuple[float, float, Any]], n: int) -> str:
    """The mistake that explains every answer so far, the last of which should be n, as the end of a sentence."""
    counts = [wrong_counts(sd, wanted) for sd, wanted, _ in asked]
    for words in counts[-1]:
        if all(each[words] == got for each, (_, _, got) in zip(counts, asked, strict=True)):
            return f"; {words}"
    return {n + 1: "; one fewer is enough", n - 1: "; one more is needed"}.get(asked[-1][2], "")


@check
def check_seeds_needed(seeds_needed: Callable[[float, float], Any]) -> None:
    """Exercise 2: the smallest number of seeds, for deviations and half widths drawn afresh."""
    rng = random.Random()
    cases = [(4.0, 2.0), (4.0, 8.0)]
    for n in (
        *rng.sample(range(3, 32), 6),
        rng.randint(32, 60),
    ):  # widths that n seeds just reach, and widths that n - 1 seeds nearly do
        sd = rng.uniform(0.5, 12)
        just, nearly = half_width(n, sd), half_width(n - 1, sd)
        cases += [(sd, just + 0.02 * (nearly - just)), (sd, nearly - 0.02 * (nearly - just))]
    cases += [(1.0, 9.5), (0.7, 30.0), (3.0, half_width(rng.randint(110, 200), 3.0))]  # two are enough, and many
    asked = []
    for sd, wanted in ((round(sd, 4), round(wanted, 4)) for sd, wanted in cases):
        got, n = ask(seeds_needed, sd, wanted), counted(sd, wanted)
        asked.append((sd, wanted, got))
        if same(got, n, 0.0):
            continue
        said = f"{call(seeds_needed, sd, wanted)} should be {n}, got {shown(got)}"
        if not same(got, got) or float(got) % 1 or got < 2:
            raise NotYet(f"{said}; a whole number of at least 2 is wanted: one seed has no spread")
        raise NotYet(said + likely(asked, n))


# ------------------------------------------------------------------------------------------------ an arm of one's own


@check
def check_arm(my_arm: Callable[[int], Any]) -> None:
    """Exercise 3: groups of a given size at the default's completions a step, and advantages that are not scaled."""
    names: dict[str, int] = {}
    for size in (4, *random.Random().sample((2, 8, 16), 3)):
        arm = ask(my_arm, size)
        if not isinstance(arm, Arm):
            raise NotYet(f"my_arm({size}) should return an Arm, got {shown(arm)}")
        judge_arm(arm, size)
        name = str(arm.name)
        if name in names:
            raise NotYet(f"my_arm({names[name]}) and my_arm({size}) are both named {name!r}: rows go by name")
        names[name] = size


def judge_arm(arm: Arm, size: int) -> None:
    """Hold an arm against the one that is wanted: its numbers one by one, then its fingerprint.

    TRL takes False for "none".

    Raises:
        NotYet: it differs; the first difference is named.
    """
    prompts = START.completions_per_step // size
    if not isinstance(arm.profile, dict) or not isinstance(arm.settings, dict):
        raise NotYet(f"my_arm({size}): profile and settings are dictionaries, {{name: value}}")
    if "scale_rewards" in arm.profile:
        raise NotYet(f"my_arm({size}): scale_rewards is a setting of TRL's, it goes into settings")
    for name, has in arm.profile.items():
        if isinstance(getattr(START, name, None), int) and not isinstance(has, int):
            raise NotYet(f"my_arm({size}): {name} is {shown(has)}, and a whole number is wanted, as `//` gives one")
    if (has := arm.profile.get("group_size", START.group_size)) != size:
        raise NotYet(f"my_arm({size}) has groups of {shown(has)}")
    if (has := arm.profile.get("prompts_per_step", START.prompts_per_step)) != prompts:
        raise NotYet(
            f"my_arm({size}) asks {shown(has)} questions a step, not {prompts}: with other than the default's "
            f"{START.completions_per_step} completions a step it would change a third thing"
        )
    if (has := arm.settings.get("scale_rewards", SETTINGS["scale_rewards"])) not in ("none", False):
        raise NotYet(f"my_arm({size}) should not scale its advantages, see ARMS['scale_none']; it has {shown(has)}")
    try:
        print_of_it = fingerprint(dataclasses.replace(arm, settings=arm.settings | {"scale_rewards": "none"}))
    except Exception as error:  # a field that does not exist, or a value of no use there, is the learner's answer
        raise NotYet(f"my_arm({size}) cannot be used: {type(error).__name__}: {error}; see ARMS['group_4']") from error
    wanted = Arm("", "", profile={"group_size": size, "prompts_per_step": prompts}, settings={"scale_rewards": "none"})
    if print_of_it != fingerprint(wanted):
        besides = {
            name: value
            for part in (vars(arm), arm.profile, arm.settings)
            for name, value in part.items()
            if name not in ("name", "label", "profile", "settings", "group_size", "prompts_per_step", "scale_rewards")
            and (name not in vars(wanted) or value != vars(wanted)[name])
        }
        raise NotYet(f"my_arm({size}) changes something besides: {shown(besides)}")
