"""Statistics: how sure is a rate, is a difference chance, how many questions or seeds does a claim need?

Worked through on the figure this series set out from, 54.66% before and 61.33% after training (82 and 92 of 150):

    >>> for n, before, after in ((150, 82, 92), (1319, 721, 809)):
    ...     print(n, [[round(100 * bound, 1) for bound in wilson_interval(right, n)] for right in (before, after)])
    150 [[46.7, 62.4], [53.3, 68.8]]
    1319 [[52.0, 57.3], [58.7, 63.9]]

On 150 questions the intervals overlap. Where each model gets 150 questions of its own, the smallest gain noticed in
four cases of five is 15.6 points, and one of 6.67 points needs 860 questions:

    >>> [round(100 * detectable_difference(n, base_rate=82 / 150), 1) for n in (150, 1319)]
    [15.6, 5.4]
    >>> questions_needed(10 / 150, base_rate=82 / 150)
    860

Where both answer the same questions, only those that flip count. If a quarter of them do, 440 questions are enough, and
the same net gain of 10 in 150 and 88 in 1,319 is chance's doing with p = 0.14 and p = 0.0000015:

    >>> questions_needed(10 / 150, discordant=0.25)
    440
    >>> [round(mcnemar_exact(fixed, broken), 7) for fixed, broken in ((24, 14), (209, 121))]
    [0.1433067, 1.5e-06]

Where the unit is a run and not a question, Student's t over the seeds says how sure a mean is:

    >>> found = interval([4.0, 6.0, 5.0, 7.0, 3.0])
    >>> f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
    '5.00 [3.04, 6.96]'
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np

Z = NormalDist().inv_cdf(0.975)  # 1.96: two-sided, 5%
Z_POWER = NormalDist().inv_cdf(0.8)  # 0.84: in four cases of five


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95% Wilson score interval of a proportion: the true rates for which `successes` of `n` would not surprise.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference":
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). It stays within 0 and 1 and never has width zero.

    Raises:
        ValueError: not 0 <= successes <= n, or n < 1.
    Example:
        >>> [round(bound, 3) for bound in wilson_interval(8, 8)]     # eight of eight, and yet the ninth may fail
        [0.676, 1.0]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # rounding must not put p outside


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided exact McNemar test: could `fixed` against `broken` flips be a fair coin's doing?

    McNemar 1947 with the binomial distribution: 2 P(X <= min(fixed, broken)), X of fixed + broken tosses, at most 1.
    The largest term of that sum is a ratio of whole numbers; each further one follows from the last by k / (n - k + 1).

    Raises:
        ValueError: a negative count.
    Example:
        >>> mcnemar_exact(5, 0), 2 * (1 / 2) ** 5
        (0.0625, 0.0625)
    """
    if fixed < 0 or broken < 0:
        raise ValueError(f"flips are counts from 0, got {fixed} fixed and {broken} broken")
    n, least = fixed + broken, min(fixed, broken)
    if n - 2 * least <= 1:
        return 1.0
    series = term = 1.0
    for k in range(least, 0, -1):
        term *= k / (n - k + 1)
        series += term
        if term < 1e-18 * series:
            break
    return min(1.0, 2 * series * (math.comb(n, least) / 2**n))


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of k completions is correct, estimated from `correct` of n without bias.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1: 1 - C(n - correct, k) / C(n, k), the
    share of the draws of k among the n that hold a correct one. 1 - (1 - correct/n)^k would be too low.

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= correct <= n.
    Example:
        >>> pass_at_k(n=8, correct=1, k=8), pass_at_k(n=8, correct=2, k=1)
        (1.0, 0.25)
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"need 1 <= k <= n and 0 <= correct <= n, got n={n}, correct={correct}, k={k}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def paired_bootstrap(
    base: Sequence[float], trained: Sequence[float], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95% interval of mean(trained) - mean(base): the middle of what resampled question sets would have given.

    Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13 (percentile interval). A question is drawn with
    both its outcomes, so only their difference matters; and since the same few differences come again and again, a
    resample is one multinomial draw of how often each occurs.

    Args:
        base, trained: outcomes of the same n questions in the same order, e.g. right (1) or wrong (0).
    Raises:
        ValueError: two lengths, or no outcomes.
    Example:
        >>> base, trained = [1] * 80 + [0] * 60 + [1] * 10, [1] * 80 + [0] * 40 + [1] * 20 + [0] * 10
        >>> [round(bound, 3) for bound in paired_bootstrap(base, trained)]     # 20 fixed, 10 broken, of 150
        [-0.007, 0.14]
    """
    if len(base) != len(trained) or not len(base):
        raise ValueError(
            f"a paired bootstrap needs two outcomes of each question, got {len(base)} and {len(trained)} outcomes; "
            "evaluate both models on one list of questions"
        )
    n = len(base)
    differences, counts = np.unique(np.subtract(trained, base, dtype=float), return_counts=True)
    means = np.random.default_rng(seed).multinomial(n, counts / n, size=draws) @ differences / n
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def questions_needed(difference: float, *, discordant: float | None = None, base_rate: float | None = None) -> int:
    """How many questions a test at 5% needs to notice a true `difference` in four cases of five (power 0.8).

    Paired (both models answer the same questions; Connor 1987, "Sample Size for Testing Differences in Proportions for
    the Paired-Sample Design"): (z √d + z' √(d - difference²))² / difference², d = share of discordant pairs.
    Unpaired (questions of their own, so many for each; Fleiss 1981, "Statistical Methods for Rates and Proportions",
    ch. 3): (z √(2 p̄ q̄) + z' √(p₁ q₁ + p₂ q₂))² / difference².

    Args:
        difference: of two rates, as a share (0.05 is five points); its sign does not matter in the paired case.
        discordant: paired: share of the questions that flip; the difference itself is the least it can be.
        base_rate: unpaired: the first model's rate.
    Raises:
        ValueError: not just one of the two given, a difference of zero, or rates outside 0 and 1.
    """
    if (discordant is None) == (base_rate is None):
        raise ValueError("give discordant (paired) or base_rate (unpaired), one of them")
    if not 0 < abs(difference) <= 1:
        raise ValueError(f"a difference of rates is not 0 and at most 1, got {difference}")
    if discordant is not None:
        if not 0 <= discordant <= 1:
            raise ValueError(f"discordant is a share from 0 to 1, got {discordant}")
        share = max(discordant, abs(difference))
        spread, spread_if = share, share - difference**2
    else:
        other = base_rate + difference
        if not (0 <= base_rate <= 1 and -1e-12 <= other <= 1 + 1e-12):
            raise ValueError(f"base_rate and base_rate + difference are shares, got {base_rate} and {other}")
        other, middle = min(max(other, 0.0), 1.0), base_rate + difference / 2
        spread = 2 * middle * (1 - middle)
        spread_if = base_rate * (1 - base_rate) + other * (1 - other)
    return math.ceil((Z * math.sqrt(spread) + Z_POWER * math.sqrt(max(0.0, spread_if))) ** 2 / difference**2 - 1e-9)


def detectable_difference(n: int, *, discordant: float | None = None, base_rate: float | None = None) -> float | None:
    """Smallest gain that n questions show at 5% in four cases of five: the inverse of `questions_needed`, see there.

    Returns:
        A share, e.g. 0.05 for five points; None where n cannot even show the largest gain possible (to 100%).
    Raises:
        ValueError: n < 1, or what `questions_needed` refuses.
    """
    if n < 1:
        raise ValueError(f"n is a number of questions from 1, got {n}")
    low, high = 0.0, 1.0 if base_rate is None else 1 - base_rate
    if high <= 0 or questions_needed(high, discordant=discordant, base_rate=base_rate) > n:
        return None
    for _ in range(60):  # bisection, to the last bit
        middle = (low + high) / 2
        enough = questions_needed(middle, discordant=discordant, base_rate=base_rate) <= n
        low, high = (low, middle) if enough else (middle, high)
    return high


# --------------------------------------------------------------------------------------------- over seeds


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


def t_inside(t: float, df: int) -> float:
    """P(|T| <= t) for Student's t with `df` degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))
    return sine * total


def t_quantile(confidence: float, df: int) -> float:
    """The t with P(|T| <= t) = confidence, by bisection.

    >>> f"{t_quantile(0.95, df=4):.3f}"
    '2.776'
    """
    if not 0 < confidence < 1 or df < 1:
        raise ValueError(f"need 0 < confidence < 1 and df >= 1, got {confidence} and {df}")
    low, high = 0.0, 1.0
    while t_inside(high, df) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_inside(middle, df) < confidence else (low, middle)
    return high


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and t interval: mean ± t · s / √n.

    Raises:
        ValueError: fewer than two values, which have no spread to judge by.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {n}; run more seeds")
    mean = fmean(values)
    half = t_quantile(confidence, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


# ----------------------------------------------------------------------------------------------- in words


def percent(rate: dict[str, Any]) -> str:
    """A rate with its interval.

    >>> percent({"rate": 82 / 150, "low": 0.467, "high": 0.624})
    '54.7% [46.7, 62.4]'
    """
    if rate["rate"] is None:
        return "not recorded"
    return f"{100 * rate['rate']:.1f}% [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def p_value(p: float) -> str:
    """A p-value after its letter, e.g. "p = 0.0072" or "p < 1e-6"."""
    return "p < 1e-6" if p < 1e-6 else f"p = {p:.2g}"


def progress_text(label: str, done: int, total: int, strict: int | None = None) -> str:
    """Where an evaluation stands.

    >>> progress_text("base model", 640, 1319, strict=374)
    'base model: 640 of 1,319, strict 58.4% [54.6, 62.2]'
    """
    so_far = ""
    if strict is not None and done:
        low, high = wilson_interval(strict, done)
        so_far = f", strict {percent({'rate': strict / done, 'low': low, 'high': high})}"
    return f"{label}: {done:,} of {total:,}{so_far}"
