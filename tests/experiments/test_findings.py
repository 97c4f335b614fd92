"""What rows say: paired intervals against scipy, the words they allow, and the pictures."""

import math

import pytest

from tests.experiments.made_up import TWO, curve_of, row_of, rows_with
from utils.experiments.catalogue import Experiment
from utils.experiments.findings import (
    COLOURS,
    comparison,
    forest,
    gaps_by_seed,
    of_shares,
    paired,
    parting,
    points,
    survives,
    verdict,
)
from utils.plots import png
from utils.stats import Interval, interval

QUESTION = Experiment("small", "Does b help (default: no)?", "default", ("b", "c", "d"))
NAMES = {"default": "default", "b": "arm b", "c": "arm c", "d": "arm d"}
START = [0.6, 0.62, 0.58, 0.64, 0.6]
NOISE = [0.01, -0.02, 0.02, -0.01, 0.01]


# ----------------------------------------------------------------------------------------- statistics


def test_the_paired_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    here, there = [0.71, 0.78, 0.64, 0.8, 0.75], [0.7, 0.7, 0.66, 0.72, 0.7]
    rows = [row_of(arm, s, v) for arm, vs in zip(TWO, (there, here), strict=True) for s, v in enumerate(vs)]
    expected = stats.ttest_rel(here, there)
    low, high = expected.confidence_interval(0.95)
    found = paired(rows[::-1], "b", "a")
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 5)
    assert found.mean == pytest.approx(sum(here) / 5 - sum(there) / 5)
    unpaired = stats.ttest_ind(here, there).confidence_interval(0.95)
    assert found.high - found.low < unpaired.high - unpaired.low, "pairing should narrow these"


def test_only_common_seeds_are_paired():
    rows = [row_of(TWO[0], s, 0.5) for s in (0, 1, 2)] + [row_of(TWO[1], s, 0.5 + s / 10) for s in (1, 2, 3)]
    assert gaps_by_seed(rows, "b", "a") == {1: pytest.approx(0.1), 2: pytest.approx(0.2)}
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        interval([1.0])


@pytest.mark.parametrize(
    "low, high, word", [(0.01, 0.1, "better"), (-0.1, -0.01, "worse"), (-0.1, 0.1, "no difference seen"), (0, 0, "no")]
)
def test_the_interval_decides_the_word(low, high, word):
    assert verdict(Interval((low + high) / 2, low, high, 5)).startswith(word)


def test_a_difference_that_survives_bonferroni_leaves_out_0_at_the_stricter_level():
    stats = pytest.importorskip("scipy.stats")
    steady = [a + 0.1 + n for a, n in zip(START, NOISE, strict=True)]
    rows = rows_with(default=START, b=steady)
    p = stats.ttest_rel(steady, START).pvalue
    assert [survives(rows, "b", "default", asked) for asked in (1, int(0.05 / p), int(0.05 / p) + 1)] == [
        True,
        True,
        False,
    ]


def test_points_have_a_sign_and_no_minus_zero():
    assert points(Interval(-0.0002, -0.0434, 0.042, 5)) == "+0.0 [-4.3, +4.2]"


# ------------------------------------------------------------------------------------------- pictures


def test_a_mean_of_shares_stays_between_0_and_1():
    low, inside, high = of_shares([0.02, 0.02, 0.23]), of_shares([0.5, 0.52]), of_shares([0.9, 1.0, 1.0])
    assert (low.low, high.high) == (0.0, 1.0) and interval([0.02, 0.02, 0.23]).low < 0
    assert low.high == interval([0.02, 0.02, 0.23]).high and inside == interval([0.5, 0.52])


def test_a_comparison_shows_seeds_and_intervals_and_no_rate_beyond_0_and_100():
    rows = rows_with(default=[0.01, 0.02, 0.3], b=[0.99, 1.0, 0.8], c=[0.61])
    figure = comparison(rows, NAMES, "default", ("b", "c"), "title")
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["default", "arm b", "arm c"]
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [3, 3, 1]
    ends = [x for c in left.containers for bar in c.lines[2] for x in bar.get_segments()[0][:, 0]]
    assert min(ends) == 0 and max(ends) == 100
    assert len([c for c in right.containers if c.lines[2]]) == 1, "an arm with a single seed has no interval"
    assert left.get_xscale() == right.get_xscale() == "linear" and png(figure)


def test_arms_part_by_their_differences_at_every_step():
    curves = [line for arm, plus in zip(TWO, (0, 0.2), strict=True) for s in (0, 1) for line in curve_of(arm, s, 0.5)]
    for line in curves:
        line["strict"] += 0.1 * line["seed"] + (0.2 + 0.1 * line["seed"] if line["arm"] == "b" else 0)
    (axes,) = parting(curves, {"a": "A", "b": "B"}, ["b"], "a").axes
    seeds, mean = [line.get_ydata() for line in axes.lines[:2]], axes.lines[2].get_ydata()
    assert [list(map(round, values)) for values in (*seeds, mean)] == [[20, 20], [30, 30], [25, 25]]
    band = axes.collections[0].get_paths()[0].get_extents()
    assert math.isclose(band.height, 2 * 12.706 * 5, rel_tol=1e-3)
    assert axes.get_title() == "B" and axes.get_ylabel() == "strict, minus A\n[points]"


def diamonds(figure):
    """(x, edge, face) of the means that the forest plot draws with an interval, from above."""
    lines = [container.lines[0] for container in figure.axes[0].containers]
    return [(line.get_xdata()[0], line.get_color(), line.get_markerfacecolor()) for line in lines]


def test_the_forest_plot_fills_what_survives():
    rows = rows_with(
        default=START,
        b=[a + 0.1 + n / 100 for a, n in zip(START, NOISE, strict=True)],
        c=[a - 0.05 + n for a, n in zip(START, NOISE, strict=True)],
        d=[a + n for a, n in zip(START, NOISE, strict=True)],
    )
    green, red, grey = COLOURS.values()
    alone, among_many = (diamonds(forest(rows, NAMES, [QUESTION], asked)) for asked in (1, 46))
    assert [(edge, face) for _, edge, face in alone] == [(green, green), (red, red), (grey, "white")]
    assert [(edge, face) for _, edge, face in among_many] == [(green, green), (red, "white"), (grey, "white")]
    assert [x for x, _, _ in alone] == pytest.approx([10.0, -4.8, 0.2], abs=0.05)


def test_the_forest_plot_says_what_its_marks_mean_and_names_every_arm():
    rows = rows_with(default=START, b=[a + 0.2 for a in START], c=[0.6, 0.7])
    figure = forest(rows, NAMES, [QUESTION], 46)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["arm b", "arm c", "arm d"]
    assert [t.get_text() for t in axes.texts] == [QUESTION.question]
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert words == [*COLOURS, "one seed", "filled or bold: survives Bonferroni (46 comparisons)", "neither: does not"]
    alone = [t.get_text() for t in forest(rows, NAMES, [QUESTION]).legends[0].get_texts()]
    assert alone == [*COLOURS, "one seed", "95% interval of the mean"], "one question alone needs no stricter test"
    assert len(axes.containers) == 2, "an arm with one seed in common has no interval"


def test_what_lies_beyond_the_edge_of_a_linear_axis_is_an_arrow_with_its_numbers():
    rows = rows_with(default=START, b=[a - 0.5 + n for a, n in zip(START, NOISE, strict=True)], c=[0.8, 0.1], d=START)
    axes = forest(rows, NAMES, [QUESTION], 46).axes[0]
    assert axes.get_xscale() == "linear" and axes.get_xlim() == (-30, 30) and "beyond 30" in axes.get_xlabel()
    arrows = [(line.get_marker(), line.get_xdata()[0]) for line in axes.lines if line.get_marker() in "<>"]
    assert arrows == [("<", -30), ("<", -30), ("<", -30), ("<", -30), (">", 30)]
    numbers = [t for t in axes.texts if t.get_text() == points(paired(rows, "b", "default"))]
    assert [t.get_fontweight() for t in numbers] == ["bold"]
    near = rows_with(default=START, b=[a + n for a, n in zip(START, NOISE, strict=True)])
    assert "beyond" not in forest(near, NAMES, [QUESTION]).axes[0].get_xlabel()
