"""The statistics against SciPy's, against enumeration, and against simulated experiments."""

import math
import time
from itertools import combinations

import numpy as np
import pytest

from utils.stats import (
    detectable_difference,
    mcnemar_exact,
    paired_bootstrap,
    pass_at_k,
    questions_needed,
    t_inside,
    t_quantile,
    wilson_interval,
)

RNG = np.random.default_rng(5)
SIZES = [1, 2, 3, 10, 150, 1_319, 100_000, *map(int, RNG.integers(1, 5_000, 30))]
COUNTS = [(k, n) for n in SIZES for k in {0, 1, n // 2, n - 1, n, *map(int, RNG.integers(0, n + 1, 5))}]


@pytest.fixture(scope="module")
def stats():
    return pytest.importorskip("scipy.stats", reason="scipy is not installed: requirements-dev.txt")


# ---------------------------------------------------------------------------------------------- Wilson


def test_wilson_is_scipy_s(stats):
    for k, n in COUNTS:
        theirs = stats.binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
        assert wilson_interval(k, n) == pytest.approx((theirs.low, theirs.high), rel=0, abs=1e-12), (k, n)


def test_wilson_never_leaves_the_scale_nor_the_rate():
    for k, n in COUNTS:
        low, high = wilson_interval(k, n)
        assert 0 <= low <= k / n <= high <= 1 and low < high, (k, n)


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (82, 150, 46.7, 62.4),
        (92, 150, 53.3, 68.8),  # the figure this series set out from, on 150 questions
        (721, 1319, 52.0, 57.3),
        (809, 1319, 58.7, 63.9),  # the same rates on 1,319
        (0, 10, 0.0, 27.8),
        (10, 10, 72.2, 100.0),
    ],
)
def test_wilson_intervals_known_from_elsewhere(successes, n, low, high):
    assert [round(100 * bound, 1) for bound in wilson_interval(successes, n)] == [low, high]


@pytest.mark.parametrize("successes, n", [(0, 0), (-1, 10), (11, 10)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson_interval(successes, n)


# --------------------------------------------------------------------------------------------- McNemar


def test_mcnemar_is_scipy_s(stats):
    for fixed, n in COUNTS:
        ours, theirs = mcnemar_exact(fixed, n - fixed), stats.binomtest(min(fixed, n - fixed), n, 0.5).pvalue
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12), (fixed, n - fixed)
        assert ours == mcnemar_exact(n - fixed, fixed)


def test_mcnemar_is_exact_to_the_last_digits():
    for fixed, broken in [(1, 0), (6, 0), (10, 2), (17, 418), (300, 350), (60, 40), (700, 640)]:
        n = fixed + broken
        exact = 2 * sum(math.comb(n, k) for k in range(min(fixed, broken) + 1)) / 2**n
        assert mcnemar_exact(fixed, broken) == pytest.approx(min(1.0, exact), rel=1e-14, abs=0)
    assert mcnemar_exact(0, 0) == mcnemar_exact(5, 5) == mcnemar_exact(660, 659) == 1.0


def test_mcnemar_of_hundreds_of_thousands_of_flips_is_quick():
    start = time.perf_counter()
    assert mcnemar_exact(100_000, 99_000) == pytest.approx(0.0252, abs=1e-3)
    assert 0 <= mcnemar_exact(100_000, 0) < 1e-300
    assert time.perf_counter() - start < 2


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="got -1 fixed and 3 broken"):
        mcnemar_exact(-1, 3)


# --------------------------------------------------------------------------------------------- pass@k


@pytest.mark.parametrize("n, correct, k", [(8, 0, 8), (8, 1, 1), (8, 4, 2), (6, 2, 3), (5, 5, 1), (5, 4, 2)])
def test_pass_at_k_counts_the_draws_that_hold_a_correct_one(n, correct, k):
    draws = list(combinations(range(n), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(min(draw) < correct for draw in draws) / len(draws), abs=1e-12)


def test_pass_at_k_is_one_minus_scipy_s_hypergeometric(stats):
    for n, correct, k in [(16, 3, 4), (200, 13, 100), (1_000, 1, 16), (100_000, 70, 16), (16, 16, 16), (16, 0, 16)]:
        assert pass_at_k(n, correct, k) == pytest.approx(1 - stats.hypergeom.pmf(0, n, correct, k), rel=0, abs=1e-11)


@pytest.mark.parametrize("n, correct, k", [(8, 1, 9), (8, 9, 1), (8, 1, 0), (8, -1, 1)])
def test_pass_at_k_refuses_impossible_counts(n, correct, k):
    with pytest.raises(ValueError, match="got n=8"):
        pass_at_k(n, correct, k)


# ------------------------------------------------------------------------------------------- bootstrap


def outcomes(n, fixed, broken, both):
    base = [1] * both + [0] * fixed + [1] * broken + [0] * (n - both - fixed - broken)
    trained = [1] * both + [1] * fixed + [0] * broken + [0] * (n - both - fixed - broken)
    return base, trained


@pytest.mark.parametrize("counts", [(150, 24, 14, 68), (1319, 418, 17, 758), (1319, 40, 35, 700)])
def test_bootstrap_is_scipy_s_and_the_normal_one_but_for_the_luck_of_the_draws(counts, stats):
    base, trained = map(np.array, outcomes(*counts))
    ours, n = paired_bootstrap(base, trained), len(base)
    theirs = stats.bootstrap(
        (trained, base),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        batch=1_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    error = (trained - base).std() / math.sqrt(n)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.15 * error)
    middle = (trained - base).mean()
    assert ours == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.15 * error)


def test_bootstrap_keeps_the_pairs_together():
    base, trained = outcomes(1319, 418, 17, 758)
    apart = paired_bootstrap(base, np.random.default_rng(0).permutation(trained))
    together = paired_bootstrap(base, trained)
    assert apart[1] - apart[0] > 1.15 * (together[1] - together[0])
    assert paired_bootstrap(base, base) == (0.0, 0.0)


def test_bootstrap_is_the_same_for_one_seed_and_takes_any_outcomes():
    base, trained = outcomes(150, 24, 14, 68)
    assert paired_bootstrap(base, trained) == paired_bootstrap(base, trained, seed=0)
    assert paired_bootstrap(base, trained, draws=500) != paired_bootstrap(base, trained, draws=500, seed=1)
    bools = paired_bootstrap(list(map(bool, base)), list(map(bool, trained)))
    assert bools == paired_bootstrap(base, trained), "booleans too, whose difference numpy will not take"
    low, high = paired_bootstrap([0.25, 0.5, 0.125], [0.5, 1.0, 0.25])
    assert 0.125 <= low < 0.2917 < high <= 0.5


@pytest.mark.parametrize("base, trained", [([1, 0], [1]), ([], [])])
def test_bootstrap_refuses_what_is_no_pairs(base, trained):
    with pytest.raises(ValueError, match=f"got {len(base)} and {len(trained)} outcomes"):
        paired_bootstrap(base, trained)


# -------------------------------------------------------------------------------------- how many questions


@pytest.mark.parametrize("given", [{"discordant": 0.25}, {"discordant": 0.0}, {"base_rate": 0.55}, {"base_rate": 0.0}])
@pytest.mark.parametrize("n", [20, 150, 1319, 100_000])
def test_what_n_can_detect_needs_n(n, given):
    least = detectable_difference(n, **given)
    assert questions_needed(least, **given) <= n < questions_needed(0.999 * least - 1e-9, **given) + 1
    assert questions_needed(0.98 * least, **given) > n


def test_the_published_figure():
    """82 and 92 of 150: not to be noticed on 150 questions of their own, easily on 1,319."""
    difference, before = 10 / 150, {"base_rate": 82 / 150}
    assert detectable_difference(150, **before) > difference > detectable_difference(1319, **before)
    assert 150 < questions_needed(difference, **before) == 860 < 1319


def test_the_power_is_what_it_says(stats):
    """Experiments of the size asked for, drawn with a true difference: four in five are significant."""
    rng, rounds = np.random.default_rng(2), 4_000
    n = questions_needed(0.05, discordant=0.25)
    fixed, broken, _ = rng.multinomial(n, [0.15, 0.10, 0.75], size=rounds).T
    z = (fixed - broken) / np.sqrt(fixed + broken)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)
    n = questions_needed(0.05, base_rate=0.55)
    a, b = rng.binomial(n, 0.55, rounds), rng.binomial(n, 0.60, rounds)
    middle = (a + b) / (2 * n)
    z = (b - a) / np.sqrt(2 * n * middle * (1 - middle))
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)


def test_sample_sizes_worked_by_hand():
    """(1.96 * 0.5 + 0.8416 * √(0.25 - 0.04))² / 0.04 = 46.6, and the textbook pair of 60% and 70%: 356 each."""
    assert questions_needed(0.2, discordant=0.25) == 47
    assert questions_needed(0.1, base_rate=0.6) == 356


def test_a_difference_is_itself_the_least_share_of_flips():
    assert questions_needed(0.1, discordant=0.0) == questions_needed(0.1, discordant=0.1)
    assert questions_needed(-0.1, discordant=0.3) == questions_needed(0.1, discordant=0.3)


def test_few_questions_near_the_top_can_show_nothing():
    assert detectable_difference(10, base_rate=0.95) is None
    assert detectable_difference(100, base_rate=1.0) is None
    assert detectable_difference(2, discordant=0.5) is None


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: questions_needed(0, discordant=0.5), "a difference of rates is not 0"),
        (lambda: questions_needed(1.5, discordant=0.5), "got 1.5"),
        (lambda: questions_needed(0.1), "one of them"),
        (lambda: questions_needed(0.1, discordant=0.2, base_rate=0.2), "one of them"),
        (lambda: questions_needed(0.1, discordant=1.2), "got 1.2"),
        (lambda: questions_needed(0.3, base_rate=0.8), "got 0.8 and 1.1"),
        (lambda: detectable_difference(0, discordant=0.2), "got 0"),
    ],
)
def test_impossible_questions_are_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9985])
def test_t_quantiles_are_scipy_s(df, confidence, stats):
    assert t_quantile(confidence, df) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)
    assert t_inside(1.7, df) == pytest.approx(1 - 2 * stats.t.sf(1.7, df), abs=1e-12)
