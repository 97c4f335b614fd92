"""The pictures of an evaluation: what stands in them, to the bar, label and cell, also at the ends of the scale."""

import dataclasses
import random

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from utils.evaluation import figures as pictures
from utils.evaluation.errors import ERROR_TYPES, RIGHT
from utils.evaluation.evaluate import CHANGES, RATES, Verdict, compare, rates
from utils.evaluation.sampling import ballot, calibration, curves, gain_curves
from utils.plots import BLUE, GREEN, GREY, RED, png, runs_beside
from utils.stats import wilson_interval

MINUS = "\N{MINUS SIGN}"
KINDS = tuple(name for name, _meaning in ERROR_TYPES)
BAD = Verdict("i", "q", "7", "x", 40, strict=False, lenient=False, format=False, truncated=False, no_answer=False)
GOOD = dataclasses.replace(BAD, strict=True, lenient=True, format=True, tokens=20)
UNTAGGED = dataclasses.replace(BAD, lenient=True)


def asked(*verdicts):
    return [dataclasses.replace(v, id=str(i), question=f"question {i}") for i, v in enumerate(verdicts)]


BASE = asked(*[GOOD] * 50, *[UNTAGGED] * 20, *[BAD] * 30)
TRAINED = asked(*[GOOD] * 45, *[BAD] * 5, *[GOOD] * 20, *[GOOD] * 10, *[BAD] * 20)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def bars(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def overlaps(figure, axes):
    """Pairs of texts in the axes that lie on one another."""
    renderer = figure.canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]


def drawn(figure):
    """The figure, laid out; and wide enough for a page, not wider."""
    assert png(figure)[:4] == b"\x89PNG"
    FigureCanvasAgg(figure).draw()
    assert 850 <= 110 * figure.get_figwidth() <= 900
    return figure


# ------------------------------------------------------------------------------------------- card and flips


def test_the_card_shows_every_rate_with_its_interval():
    figure = drawn(pictures.card_figure(rates(BASE), rates(TRAINED)))
    (axes,) = figure.axes
    shown = [(to_hex(bar.get_facecolor()).upper(), round(bar.get_width())) for bar in bars(axes)]
    assert shown == [(GREY, 50), (GREY, 70), (GREY, 50), (GREY, 0), (GREY, 0)] + [(BLUE, 75)] * 3 + [(BLUE, 0)] * 2
    low, high = wilson_interval(75, 100)
    assert f"75.0%  [{100 * low:.1f}, {100 * high:.1f}]" in texts(axes)
    assert len(bars(axes)) == 2 * len(RATES) and len(axes.get_yticks()) == len(RATES)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base", "trained"]
    swatches = [to_hex(patch.get_facecolor()).upper() for patch in axes.get_legend().get_patches()]
    assert swatches == [GREY, BLUE]
    assert not overlaps(figure, axes)


def test_the_card_at_the_ends_of_the_scale():
    worst = dataclasses.replace(BAD, truncated=True, no_answer=True)
    figure = drawn(pictures.card_figure(rates(asked(*[worst] * 5)), rates(asked(*[GOOD] * 5))))
    assert texts(figure.axes[0]).count("100.0%  [56.6, 100.0]") == 5 == texts(figure.axes[0]).count("0.0%  [0.0, 43.4]")
    assert not overlaps(figure, figure.axes[0])


def test_a_rate_that_stored_completions_do_not_tell_is_named_so():
    unknown = asked(*[dataclasses.replace(GOOD, truncated=None)] * 5)
    axes = drawn(pictures.card_figure(rates(unknown), rates(unknown))).axes[0]
    assert texts(axes).count("not recorded") == 2 and len(bars(axes)) == 8


def test_the_flips_and_the_steps_from_before_to_after():
    figure = drawn(pictures.flips_figure(compare(BASE, TRAINED)))
    strip, steps = figure.axes
    assert [bar.get_width() for bar in bars(strip)] == [45, 30, 5, 20]
    assert [bar.get_x() for bar in bars(strip)] == [0, 45, 75, 80]
    assert "fixed: 30 (30.0%)" in [text.get_text() for text in strip.get_legend().get_texts()]
    layout, working, arithmetic = [(50, 20), (70, 0)], [(70, 0), (70, 0)], [(70, 10), (80, -5)]
    shown = [(bar.get_y(), bar.get_height()) for bar in bars(steps)]
    assert shown == [(0, 50), *layout, *working, *arithmetic, (0, 75)]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars(steps)] == [GREY, *[GREEN, RED] * 3, BLUE]
    assert texts(steps) == ["50\n50.0%", "+20", "0", "0", "0", "+10", f"{MINUS}5", "75\n75.0%"]
    assert [label.get_text().split(":")[0] for label in steps.get_xticklabels()] == ["base", *CHANGES, "trained"]
    assert "+25.0 points" in steps.get_title() and "McNemar p = " in steps.get_title()


@pytest.mark.parametrize(
    ("base", "trained"),
    [(GOOD, GOOD), (BAD, BAD), (BAD, GOOD), (GOOD, BAD), (UNTAGGED, GOOD)],
    ids=["right", "wrong", "fixed", "broken", "layout"],
)
def test_the_flips_of_five_alike(base, trained):
    figure = drawn(pictures.flips_figure(compare(asked(*[base] * 5), asked(*[trained] * 5))))
    _strip, steps = figure.axes
    assert bars(steps)[-1].get_height() == 5 * trained.strict and not overlaps(figure, steps)
    assert f"{MINUS}0" not in "".join(texts(steps)) + steps.get_title() and "+0" not in steps.get_title()
    assert all(tick == round(tick) for tick in steps.get_yticks())


# ------------------------------------------------------------------------------------------- the matrix


def test_differences_stand_beside_no_difference():
    rows = {"few": {"points": 0.05, "low": -0.01, "high": 0.11}, "many": {"points": 0.05, "low": 0.03, "high": 0.07}}
    figure = drawn(pictures.differences_figure(rows))
    (axes,) = figure.axes
    assert texts(axes) == [f"+5.0  [{MINUS}1.0, +11.0]", "+5.0  [+3.0, +7.0]"] and not overlaps(figure, axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["few", "many"]
    ends = [[round(x) for x in bar.get_paths()[0].vertices[:, 0]] for bar in axes.collections]
    assert ends == [[-1, 11], [3, 7]] and axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [to_hex(bar.get_color()[0]).upper() for bar in axes.collections] == [GREY, BLUE]


MOVED = {
    (RIGHT, RIGHT): 604,
    (RIGHT, "no tag"): 20,
    ("no tag", RIGHT): 100,
    ("arithmetic slip", RIGHT): 200,
    ("arithmetic slip", "arithmetic slip"): 60,
    ("truncated", RIGHT): 8,
    ("unparsable", "dropped step"): 8,
}


def test_rare_errors_come_together_and_nothing_is_lost():
    assert pictures.merge_rare(MOVED) == {
        ("right", "right"): 604,
        ("right", "no tag"): 20,
        ("no tag", "right"): 100,
        ("arithmetic slip", "right"): 200,
        ("arithmetic slip", "arithmetic slip"): 60,
        ("rare errors", "right"): 8,
        ("rare errors", "rare errors"): 8,
    }
    assert len(pictures.merge_rare({(RIGHT, RIGHT): 1000, **{(RIGHT, kind): 30 for kind in KINDS}})) == 1 + len(KINDS)
    alone = {(RIGHT, RIGHT): 99, ("truncated", RIGHT): 1, ("no tag", RIGHT): 0}
    assert pictures.merge_rare(alone) == {("right", "right"): 99, ("truncated", "right"): 1}
    hopeless = {(RIGHT, "truncated"): 1, ("truncated", "truncated"): 998, ("no tag", "truncated"): 1}
    assert pictures.merge_rare(hopeless) == hopeless  # right is no error, however rare
    with pytest.raises(ValueError, match="no transitions"):
        pictures.merge_rare({(RIGHT, RIGHT): 0})


def names_beside(axes):
    """Row names and column names, "all" for the totals included; both in their order."""
    assert [*axes.get_xticks()] == [*axes.get_yticks()] == list(range(len(axes.get_xticks())))
    rows, columns = axes.get_yticklabels(), axes.get_xticklabels()
    return [text.get_text() for text in rows], [text.get_text().replace("\n", " ") for text in columns]


def table(axes):
    """What stands in the matrix: {(row name, column name): text}, totals included."""
    rows, columns = names_beside(axes)
    return {(rows[y], columns[x]): text.get_text() for text in axes.texts for x, y in [text.get_position()]}


def cells(axes):
    """Its squares: {(row name, column name): patch}; each reaches over the middle of its place alone."""
    rows, columns = names_beside(axes)
    places = {(rows[round(b.get_center()[1])], columns[round(b.get_center()[0])]): b for b in bars(axes)}
    assert len(places) == len(bars(axes)) == (len(rows) - 1) ** 2
    assert all(0.8 < b.get_width() < 1 and 0.8 < b.get_height() < 1 for b in bars(axes))
    return places


def test_the_cells_hold_the_transitions_and_the_margins_their_totals():
    figure = drawn(pictures.transition_matrix(MOVED))
    (axes,) = figure.axes
    rows, columns = names_beside(axes)
    assert rows == columns == ["right", "arithmetic slip", "no tag", "rare errors", "all"]
    shown, merged = table(axes), pictures.merge_rare(MOVED)
    inside = {pair: int(text) for pair, text in shown.items() if "all" not in pair}
    assert inside == merged
    for name in rows[:-1]:
        across = sum(count for (before, _after), count in merged.items() if before == name)
        down = sum(count for (_before, after), count in merged.items() if after == name)
        assert (
            shown[name, "all"] == f"{across}\n{across / 10:.1f}%" and shown["all", name] == f"{down}\n{down / 10:.1f}%"
        )
    assert shown["all", "all"] == "1,000" and len(shown) == len(axes.texts) == len(merged) + 9
    assert axes.get_ylabel() == "before" and axes.get_xlabel() == "after"
    assert axes.yaxis_inverted() and not axes.xaxis_inverted()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["right both times: 604", "fixed: 308", "broken: 20", "wrong both times: 68"]


def test_a_cell_has_the_colour_of_its_fate_deeper_with_more_questions_and_the_diagonal_is_framed():
    axes = drawn(pictures.transition_matrix(MOVED)).axes[0]
    merged, depths = pictures.merge_rare(MOVED), {}
    for (before, after), cell in cells(axes).items():
        assert (cell.get_linewidth() > 1) == (before == after)
        if (before, after) in merged:
            fate = ["neither", "fixed", "broken", "both"][2 * (before == RIGHT) + (after == RIGHT)]
            assert to_hex(cell.get_facecolor()).upper() == pictures.FATES[fate][1]
            depths[merged[before, after]] = cell.get_facecolor()[3]
        else:
            assert to_hex(cell.get_facecolor()) == "#ffffff"
    assert [depths[count] for count in sorted(depths)] == sorted(set(depths.values())) and len(depths) == 6
    assert 0.3 < min(depths.values()) < max(depths.values()) < 0.9  # seen beside white, and black is read on it
    fates = [colour for _name, colour in pictures.FATES.values()]
    assert fates == [BLUE, GREEN, RED, "#D9D9D9"]


@pytest.mark.parametrize(
    "moved",
    [
        {(RIGHT, RIGHT): 5},
        {("truncated", RIGHT): 5},
        {(RIGHT, "truncated"): 5},
        {(RIGHT, RIGHT): 1200, **{(kind, RIGHT): 34 + i for i, kind in enumerate(KINDS)}, (RIGHT, "truncated"): 1},
        {(RIGHT, RIGHT): 1000, **{(RIGHT, kind): 30 for kind in KINDS}},
        {(a, b): 1 for a in (RIGHT, *KINDS) for b in (RIGHT, *KINDS)},
        {(a, b): 500 for a in (RIGHT, *KINDS) for b in (RIGHT, *KINDS)},
        {(a, b): random.Random(f"{a}{b}").choice([0, 1, 3, 30, 80]) for a in (RIGHT, *KINDS) for b in (RIGHT, *KINDS)},
        {(a, b): 80 for a in KINDS[:7] for b in KINDS[:7]},
        {(a, b): 80 for a in KINDS[5:] for b in KINDS[5:]},
    ],
    ids="all_right all_fixed all_broken before after alike many mixed seven others".split(),
)
def test_nothing_in_the_matrix_is_clipped_or_lies_on_another(moved):
    figure = drawn(pictures.transition_matrix(moved))
    (axes,) = figure.axes
    assert not overlaps(figure, axes)
    renderer = figure.canvas.get_renderer()
    around = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label, axes.title]
    boxes = [text.get_window_extent(renderer) for text in (*around, *figure.legends[0].get_texts())]
    assert not [a for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    for text in axes.texts:
        (x, y), box = text.get_position(), text.get_window_extent(renderer)
        (left, bottom), (right, top) = axes.transData.transform([(x - 0.5, y + 0.5), (x + 0.5, y - 0.5)])
        assert left <= box.x0 and box.x1 <= right and bottom <= box.y0 and box.y1 <= top, text.get_text()


# --------------------------------------------------------------------------------- many samples a question


def sampled(*rights, n=8):
    return [ballot(str(i), "7", ["7"] * right + ["8"] * (n - right)) for i, right in enumerate(rights)]


def test_pass_curves_show_the_curves_and_the_gain():
    base, trained = sampled(*[2] * 20, *[0] * 10), sampled(*[8] * 20, *[0] * 10)
    figure = drawn(pictures.pass_curves(curves(base), curves(trained), gain_curves(base, trained)))
    rate, added = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in rate.lines}
    assert list(lines) == ["base: pass@k", "base: maj@k", "trained: pass@k", "trained: maj@k"]
    assert lines["base: pass@k"][0] == pytest.approx(100 * 20 / 30 / 4)
    assert lines["base: pass@k"][-1] == lines["trained: pass@k"][-1] == pytest.approx(100 * 20 / 30)
    assert len(rate.collections) == 4 and len(added.collections) == 2  # the bands
    gain = added.lines[0].get_ydata()
    assert gain[0] == pytest.approx(50) and gain[-1] == 0
    assert "30 questions, lenient" in rate.get_title() and "0 gained, 0 lost" in added.get_title()
    assert "no change of ability shown" in added.get_title()


@pytest.mark.parametrize(
    ("base", "trained", "said"), [(0, 8, "ability added"), (8, 0, "ability lost"), (8, 8, "no change of ability")]
)
def test_the_title_says_what_the_test_says(base, trained, said):
    def title(questions):
        a, b = sampled(*[base] * questions), sampled(*[trained] * questions)
        return pictures.pass_curves(curves(a), curves(b), gain_curves(a, b)).axes[1].get_title()

    assert said in title(6)
    assert "no change of ability shown" in title(5)  # five of five are a p-value of 0.06


def test_one_sample_is_a_point():
    one = curves(sampled(1, 0, n=1))
    axes = drawn(pictures.pass_curves(one, one, gain_curves(sampled(1, 0, n=1), sampled(1, 0, n=1)))).axes[0]
    assert all(line.get_marker() == "." for line in axes.lines)


def test_calibration_shows_bins_intervals_and_numbers():
    base = calibration(sampled(*[8] * 6, *[6] * 3, *[2] * 4))
    figure = drawn(pictures.calibration_figure(base, calibration([ballot("q", "7", ["none"] * 8)])))
    left, right = figure.axes
    points = left.lines[1]
    assert points.get_xdata().tolist() == [75, 100] and points.get_ydata().tolist() == pytest.approx([300 / 7, 100])
    assert texts(left) == ["7", "6"] and "calibration error 17 points" in left.get_title()
    assert right.get_title() == "trained: no answers" and not texts(right)


def test_the_numbers_of_full_bins_stand_apart():
    full = calibration(sampled(*range(1, 9)) * 1200)
    figure = drawn(pictures.calibration_figure(full, full))
    assert len(texts(figure.axes[0])) == 5 and not overlaps(figure, figure.axes[0])


# ----------------------------------------------------------------------------- length, and training's reward


def lengths(*pairs):
    return [dataclasses.replace(GOOD if right else BAD, tokens=tokens) for tokens, right in pairs]


def test_length_bins_hold_every_completion_once():
    rng = random.Random(0)
    base = lengths(*((rng.randrange(10, 60), rng.random() < 0.5) for _ in range(301)))
    trained = lengths(*((rng.randrange(20, 90), rng.random() < 0.8) for _ in range(301)))
    table = pictures.length_bins(base, trained)
    assert len(table) == 6 and table[0]["from"] == 10 and table[-1]["to"] == 89
    assert all(before["to"] + 1 == after["from"] for before, after in zip(table, table[1:], strict=False))
    sizes = [sum(row[name]["n"] for name in ("base", "trained") if row[name]) for row in table]
    assert sum(sizes) == 602 and max(sizes) < 1.25 * min(sizes)
    assert sum(row["base"]["count"] for row in table if row["base"]) == sum(v.strict for v in base)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_length_bins_of_a_few(count):
    table = pictures.length_bins(lengths(*[(96, False)] * count), lengths(*[(20, True)] * count))
    assert sum(row["base"]["n"] for row in table if row["base"]) == count
    assert sum(row["trained"]["n"] for row in table if row["trained"]) == count
    assert table[0]["base"] is None and table[0]["trained"]["rate"] == 1


def test_length_bins_need_lengths():
    with pytest.raises(ValueError, match="token counts"):
        pictures.length_bins([dataclasses.replace(GOOD, tokens=None)], [GOOD])
    with pytest.raises(ValueError, match="needs completions"):
        pictures.length_bins([], [])


def test_accuracy_by_length_names_the_numbers():
    axes = drawn(pictures.length_accuracy(lengths(*[(96, False)] * 4), lengths(*[(20, True)] * 3))).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20\n0 | 3", "21\N{EN DASH}96\n4 | 0"]
    base, trained = (container.lines[0] for container in axes.containers)
    assert base.get_ydata().tolist() == [0] and trained.get_ydata().tolist() == [100]


def test_reward_above_held_out_accuracy():
    history = [{"step": i, "reward": 0.1 * i, "rewards/strict_metric/mean": 0.05 * i} for i in range(1, 9)]
    held = {8: _held(45), 0: _held(20), 4: _held(40)}
    top, below = drawn(pictures.reward_and_accuracy(history, held)).axes
    assert top.lines[0].get_ydata() == pytest.approx([0.1 * i for i in range(1, 9)])
    held_out = below.containers[0].lines[0]
    assert held_out.get_xdata().tolist() == [0, 4, 8] and held_out.get_ydata().tolist() == [40, 80, 90]
    assert "n = 50" in below.containers[0].get_label() and top.get_xlim() == below.get_xlim()


def _held(count, n=50):
    low, high = wilson_interval(count, n)
    return {"rate": count / n, "low": low, "high": high, "n": n}


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_short_runs_have_ticks_at_whole_steps_only(steps):
    figure = runs_beside({"mine": [{"step": 1, "rewards/strict_metric/mean": 0.5}]}, steps)
    png(figure)
    assert all(tick == round(tick) for axes in figure.axes for tick in axes.get_xticks())
