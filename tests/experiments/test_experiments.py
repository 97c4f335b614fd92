"""The grid: what is stored, what is run again, what is compared; statistics against scipy; two arms really trained."""

import dataclasses
import json
import math
import multiprocessing
import re

import pytest

from utils.experiments import catalogue as experiments
from utils.experiments import findings as experiment_plots
from utils.experiments import grid
from utils.experiments.catalogue import ARMS, EXPERIMENTS, LABELS, Experiment
from utils.experiments.findings import gaps_by_seed, paired, verdict
from utils.experiments.grid import (
    CURVE_COLUMNS,
    RUN_COLUMNS,
    Arm,
    fingerprint,
    missing,
    read_curves,
    read_runs,
    run_grid,
)
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.plots import png
from utils.rewards.functions import correctness_reward
from utils.scripts.experiments import agreement, page
from utils.stats import Interval, interval, t_inside, t_quantile

TWO = [Arm("a", "first"), Arm("b", "second", settings={"scale_rewards": "none"})]
SHORT = {"steps": 2, "warmup_steps": 1, "prompts_per_step": 2, "micro_batch": 16, "max_completion_tokens": 32}


def row_of(arm, seed, strict=0.5, settings=None):
    rest = {"lenient": 0.6, "format": 0.9, "truncated": 0.0, "tokens": 30.0, "dead": 0.25, "steps": 2}
    seconds = {"train_seconds": 1.5, "prepare_seconds": 0.0}
    return (
        {"arm": arm.name, "seed": seed, "settings": settings or fingerprint(arm, 8), "strict": strict} | rest | seconds
    )


def curve_of(arm, seed, strict=0.5):
    key = {"arm": arm.name, "seed": seed, "settings": fingerprint(arm, 8)}
    return [key | {"step": s, "strict": strict, "reward": 0.7, "tokens": 30.0, "dead": 0.0} for s in (1, 3)]


@pytest.fixture
def calls(monkeypatch):
    """Runs that take no time: which were asked for; `calls.fail` names one that raises."""

    class Calls(list):
        fail = None

    made = Calls()

    def run_arm(arm, seed, held_out):
        made.append((arm.name, seed))
        if made.fail == (arm.name, seed):
            raise made.error
        strict = 0.5 + 0.01 * seed + 0.1 * (arm.name == "b")
        return row_of(arm, seed, strict), curve_of(arm, seed, strict)

    monkeypatch.setattr(grid, "run_arm", run_arm)
    monkeypatch.setattr(grid, "judged", lambda policy, held_out: {"strict": 0.4})
    return made


# ----------------------------------------------------------------------------------------- the grid


def test_every_arm_runs_with_every_seed_once(calls, tmp_path):
    seen = []
    rows = run_grid(TWO, range(3), tmp_path, held_out=8, progress=lambda *state: seen.append(state[:2]))
    assert sorted(calls) == [(arm, seed) for arm in "ab" for seed in range(3)]
    assert [(r["arm"], r["seed"]) for r in rows] == [(arm, seed) for arm in "ab" for seed in range(3)]
    assert seen == [(done, 6) for done in range(7)]
    assert rows == read_runs(tmp_path) and list(rows[0]) == list(RUN_COLUMNS)
    assert rows[1] == row_of(TWO[0], 1, 0.51), "what is read should be what was stored, types included"
    curves = read_curves(tmp_path)
    assert len(curves) == 12 and list(curves[0]) == list(CURVE_COLUMNS) and curves[0]["step"] == 1


def test_a_killed_grid_goes_on_with_what_is_missing(calls, tmp_path):
    calls.fail, calls.error = ("a", 1), KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_grid(TWO, range(2), tmp_path, held_out=8)
    assert calls == [("a", 0), ("b", 0), ("a", 1)]
    calls.clear()
    calls.fail = None
    rows = run_grid(TWO, range(3), tmp_path, held_out=8)
    assert calls == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert len(rows) == len(read_runs(tmp_path)) == 6
    calls.clear()
    assert run_grid(TWO, range(3), tmp_path, held_out=8) == rows and not calls


def test_a_kill_between_curve_and_row_leaves_no_trace(calls, tmp_path):
    run_grid(TWO, [0], tmp_path, held_out=8)
    runs = (tmp_path / "runs.csv").read_text().splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join(runs[:-1]))  # the curve of b is there, its row is not
    assert {line["arm"] for line in read_curves(tmp_path)} == {"a"}
    run_grid(TWO, [0], tmp_path, held_out=8)
    assert calls[-1] == ("b", 0) and len(calls) == 3
    assert len(read_curves(tmp_path)) == 4


def test_a_run_that_fails_is_named_and_the_others_are_kept(calls, tmp_path):
    calls.fail, calls.error = ("a", 0), RuntimeError("nan in the logits")
    with pytest.raises(RuntimeError, match=r"1 of 4 runs failed.*a with seed 0 \(RuntimeError: nan in the logits\)"):
        run_grid(TWO, range(2), tmp_path, held_out=8)
    assert len(read_runs(tmp_path)) == 3
    calls.clear()
    calls.fail = None
    assert len(run_grid(TWO, range(2), tmp_path, held_out=8)) == 4 and calls == [("a", 0)]


def test_a_changed_definition_is_not_mixed_with_old_rows(calls, tmp_path):
    run_grid(TWO, range(2), tmp_path, held_out=8)
    changed = [TWO[0], TWO[1].replace(learning_rate=1e-3)]
    assert [(arm.name, seed) for arm, seed in missing(changed, range(2), tmp_path, 8)] == [("b", 0), ("b", 1)]
    assert grid.rows_of(changed, range(2), tmp_path, 8) == grid.rows_of(TWO[:1], range(2), tmp_path, 8)
    calls.clear()
    rows = run_grid(changed, range(2), tmp_path, held_out=8)
    assert calls == [("b", 0), ("b", 1)] and len(read_runs(tmp_path)) == 4
    assert {r["settings"] for r in rows if r["arm"] == "b"} == {fingerprint(changed[1], 8)}


@pytest.mark.parametrize(
    "change",
    [
        {"profile": {"steps": 17}},
        {"settings": {"loss_type": "grpo"}},
        {"rewards": {correctness_reward: 0.5}},
        {"choose": experiments.easy_first},
        {"full_weights": True},
    ],
)
def test_the_fingerprint_sees_each_part_of_a_definition(change):
    assert fingerprint(dataclasses.replace(TWO[0], **change)) != fingerprint(TWO[0])
    assert fingerprint(TWO[0], 8) != fingerprint(TWO[0], 9)
    assert fingerprint(dataclasses.replace(TWO[0], label="other words")) == fingerprint(TWO[0])


def test_all_definitions_differ():
    assert len({fingerprint(arm) for arm in ARMS.values()}) == len(ARMS)
    for experiment in EXPERIMENTS.values():
        assert {experiment.reference, *experiment.arms} <= ARMS.keys() and experiment.reference not in experiment.arms
    used = {name for e in EXPERIMENTS.values() for name in (e.reference, *e.arms)}
    assert used == ARMS.keys(), "an arm that no experiment asks for is run for nothing"
    shared = experiments.arms_of(list(EXPERIMENTS.values()))
    assert len(shared) == len(ARMS), "a shared arm should be listed once"


def test_rows_of_other_versions_are_not_mixed(calls, tmp_path):
    run_grid(TWO, [0], tmp_path, held_out=8)
    facts = grid.read_provenance(tmp_path)
    assert facts["untrained"] == {"strict": 0.4} and facts["versions"]["trl"] and facts["threads"] == 1
    (tmp_path / "provenance.json").write_text(json.dumps(facts | {"machine": "an abacus"}))
    with pytest.raises(ValueError, match="machine is .* in this call and 'an abacus' in .* Choose another folder"):
        run_grid(TWO, [1], tmp_path, held_out=8)


def test_a_damaged_table_is_named(calls, tmp_path):
    run_grid(TWO, [0], tmp_path, held_out=8)
    path = tmp_path / "runs.csv"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"runs.csv line 3 is damaged"):
        run_grid(TWO, [0], tmp_path, held_out=8)
    path.write_text("arm,strict\n")
    with pytest.raises(ValueError, match="has the columns"):
        read_runs(tmp_path)


def test_arms_need_names_of_their_own(tmp_path):
    with pytest.raises(ValueError, match="got a more than once"):
        run_grid([TWO[0], TWO[0]], [0], tmp_path)


# -------------------------------------------------------------------------------------- real training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two short arms, one of full weights with an override, run in this process."""
    arms = [
        Arm("adapter", "adapter", profile=SHORT, settings={"loss_type": "grpo"}),
        Arm("full", "full", profile=SHORT | {"learning_rate": 5e-3}, full_weights=True),
    ]
    folder = tmp_path_factory.mktemp("grid")
    return arms, folder, run_grid(arms, [0], folder, held_out=16)


def same(one, other):
    timed = ("train_seconds", "prepare_seconds")
    return [{k: v for k, v in row.items() if k not in timed} for row in one] == [
        {k: v for k, v in row.items() if k not in timed} for row in other
    ]


def test_two_arms_are_trained_and_judged(trained):
    arms, folder, rows = trained
    assert [r["arm"] for r in rows] == ["adapter", "full"] and all(r["steps"] == 2 for r in rows)
    assert all(0 <= r["strict"] <= r["lenient"] <= 1 and r["train_seconds"] > 0 for r in rows)
    first = {line["arm"]: line for line in read_curves(folder) if line["step"] == 1}
    assert first["adapter"]["tokens"] == first["full"]["tokens"], "both start from the same model and questions"
    untrained = grid.read_provenance(folder)["untrained"]
    judged = [{k: r[k] for k in untrained} for r in rows]
    assert judged[1] != untrained, "full weights at this rate should have moved the answers"


def test_a_run_gives_the_same_row_in_another_order_and_process(trained, tmp_path):
    arms, folder, rows = trained
    again = run_grid(arms[::-1], [0], tmp_path, jobs=2, held_out=16)
    assert same(again[::-1], rows)
    assert (tmp_path / "curves.csv").read_text() == (folder / "curves.csv").read_text()
    assert not multiprocessing.active_children()


def test_one_update_a_batch_makes_some_settings_equal():
    """With one pass a step bnpo is dapo, and the ratio of 1 makes the sequence level the token level."""
    base = Arm("x", "x", profile=SHORT | {"steps": 3, "learning_rate": 2e-2})
    names = ("strict", "tokens", "dead", "format")

    def outcome(**settings):
        row, curve = grid.run_arm(dataclasses.replace(base, settings=settings), 0, held_out=32)
        return [row[name] for name in names], [line["tokens"] for line in curve]

    dapo = outcome()
    assert outcome(loss_type="bnpo") == dapo
    assert outcome(loss_type="grpo") != dapo, "else this test sees nothing"


def test_orders_and_filters_choose_from_the_same_questions():
    shuffled = grid._shuffled(0)
    assert shuffled != grid._shuffled(1) and shuffled == grid._shuffled(0)
    drawn, easy, hard = (
        choose(shuffled, 40, None) for choose in (grid.as_drawn, experiments.easy_first, experiments.hard_first)
    )
    assert sorted(q.question for q in drawn) == sorted(q.question for q in easy) == sorted(q.question for q in hard)
    steps = [q.row["steps"] for q in easy]
    assert steps == sorted(steps) and steps[0] < steps[-1] and easy == hard[::-1]


def test_dead_questions_are_left_out(monkeypatch):
    shuffled = grid._shuffled(0)
    rights = {q.question: i % 9 for i, q in enumerate(shuffled)}  # 0 to 8 of 8
    monkeypatch.setattr(
        "utils.evaluation.evaluate.correct_counts", lambda policy, questions, n: [rights[q.question] for q in questions]
    )
    chosen = experiments.with_spread(shuffled, 100, load_policy(grid.START))
    assert len(chosen) == 100 and all(0 < rights[q.question] < 8 for q in chosen)
    assert chosen == [q for q in shuffled if 0 < rights[q.question] < 8][:100]


def test_the_proximity_reward_pays_for_being_near():
    replies = ["<reasoning>a</reasoning><answer>42</answer>", "The answer is 40.", "36", "Nothing.", "9" * 400]
    paid = experiments.proximity_reward(replies, gold=["42"] * 4 + ["1"])
    assert paid[0] == 1 and 1 > paid[1] > paid[2] > 0 and paid[3:] == [0, 0]


# ----------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9985])
def test_t_quantiles_are_scipys(df, confidence):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(confidence, df) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)
    assert t_inside(1.7, df) == pytest.approx(1 - 2 * stats.t.sf(1.7, df), abs=1e-12)


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


# ------------------------------------------------------------------------------------ page and pictures


QUESTION = [Experiment("small", "Does b help?", "default", ("b", "c", "d"), also="dead")]
NAMES = {"default": "default", "b": "arm b", "c": "arm c", "d": "arm d"}
FACTS = {
    "versions": {"trl": "1.2.0"},
    "machine": "m",
    "held_out": 500,
    "untrained": {"strict": 0.4},
    "start": {"steps": 16},
}


def rows_with(**values):
    return [row_of(Arm(name, name), s, v, "x") for name, many in values.items() for s, v in enumerate(many)]


def test_findings_are_worded_by_the_numbers():
    start = [0.6, 0.62, 0.58, 0.64, 0.6]
    noise = [0.01, -0.02, 0.02, -0.01, 0.01]
    rows = rows_with(
        default=start,
        b=[a + 0.1 + n / 100 for a, n in zip(start, noise, strict=True)],
        c=[a + n for a, n in zip(start, noise, strict=True)],
    )
    text = page(QUESTION, NAMES, rows, FACTS)
    line = next(line for line in text.splitlines() if line.startswith("- "))
    assert "**arm b +10.0 [+10.0, +10.0] better**" in line
    assert "; arm c +0.2 [-1.8, +2.2] no difference seen;" in line and "arm d not measured" in line
    assert "`python -m utils.experiments.catalogue small --output runs/again`" in line and "n = 5 seeds" in line
    assert "Dead groups: default 25%, arm b 25%" in line
    assert (
        "untrained it is 40.0%" in text
        and "The default: steps 16." in text
        and "Of 2 intervals 1 leave out 0, and 0 under the lenient reading, which forgives the layout; about 0.1"
        in text
    )
    worse = page(QUESTION, NAMES, rows_with(default=start, b=[a - 0.1 for a in start]), FACTS)
    assert "arm b -10.0" in worse and "worse" in worse


def test_few_seeds_are_said_and_reproduced():
    text = page(QUESTION, NAMES, rows_with(default=[0.6, 0.7, 0.65], b=[0.61, 0.72, 0.7]), FACTS)
    assert "n = 3 seeds. `python -m utils.experiments.catalogue small --seeds 3 --output runs/again`" in text
    alone = page(QUESTION, NAMES, rows_with(default=[0.6], b=[0.6]), FACTS)
    assert "arm b not measured" in alone and "Of 0 intervals" in alone


def test_runs_made_again_are_compared_by_key():
    rows = rows_with(default=[0.6, 0.7], b=[0.5])
    again = rows_with(default=[0.6, 0.72], c=[0.1])
    assert "1 of 2 runs give the reference's strict rate, the largest difference is 2.0 points" in agreement(
        again, rows
    )
    assert "none of these" in agreement(rows_with(c=[0.1]), rows)


def test_figures_show_seeds_and_intervals():
    rows = rows_with(default=[0.6, 0.62, 0.58], b=[0.7, 0.73, 0.66], c=[0.61])
    figure = experiment_plots.comparison(rows, NAMES, "default", ("b", "c"), "title")
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["default", "arm b", "arm c"]
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [3, 3, 1]
    assert len(right.containers) == 1, "one arm has an interval, the one with a single seed has none"
    assert png(figure) and png(experiment_plots.overview(rows, NAMES, QUESTION))
    curves = [line for arm in TWO for s in (0, 1) for line in curve_of(arm, s, 0.5 + s / 10)]
    bands = experiment_plots.curves_with_bands(curves, {"a": "A", "b": "B"}, ("a", "b"))
    assert [round(y) for y in bands.axes[0].lines[0].get_ydata()] == [55, 55]
    assert math.isclose(bands.axes[0].collections[0].get_paths()[0].get_extents().height, 2 * 12.706 * 5, rel_tol=1e-3)


def test_the_command_names_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        experiments.main(["group_sise"])
    assert re.search("no experiment group_sise; there are group_size, ", capsys.readouterr().err)


def test_the_command_runs_stores_and_writes_findings(calls, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiments, "HELD_OUT", 8)
    monkeypatch.setattr(experiments, "stored", lambda folder: read_runs(folder))
    experiments.main(["kl", "--seeds", "2", "--jobs", "1", "--output", str(tmp_path)])
    assert sorted(calls) == [(a, s) for a in ("default", "kl_0.001", "kl_0.04") for s in (0, 1)]
    said = capsys.readouterr().out
    assert "6 runs, 0 of them done already" in said and "FINDINGS.md" in said
    assert "KL 0.001 +0.0 [+0.0, +0.0] no difference seen" in (tmp_path / "FINDINGS.md").read_text()
    assert LABELS["kl_0.04"] == "KL 0.04"


# ------------------------------------------------------------------------------------- the recorded rows


@pytest.fixture(scope="module")
def recorded():
    return experiments.stored()


def test_every_question_was_asked_with_five_seeds_of_todays_arms(recorded):
    seen = {(row["arm"], row["seed"]) for row in recorded}
    assert seen >= {(arm, seed) for arm in ARMS for seed in range(experiments.SEEDS)}


def test_the_page_is_what_the_rows_say(recorded):
    folder = experiments.REFERENCE_RUNS
    facts = grid.read_provenance(folder)
    text = page(list(EXPERIMENTS.values()), LABELS, recorded, facts, experiments.CONCLUSIONS)
    assert (folder.parent / "FINDINGS.md").read_text(encoding="utf-8") == text


def test_the_conclusions_still_hold(recorded):
    def word(arm):
        return verdict(paired(recorded, arm, "default"))

    assert {arm: word(arm) for arm in ("cap_24", "lr_0.008", "format_only")} == dict.fromkeys(
        ("cap_24", "lr_0.008", "format_only"), "worse"
    )
    assert {word(arm) for arm in ("kl_0.001", "kl_0.04", "loss_dr_grpo", "loss_bnpo", "lr_0.001")} == {
        "no difference seen"
    }
    assert word("format_0.5") == word("temperature_0.5") == word("t0.7_16_0.002") == "better"
    long = EXPERIMENTS["full_length"]
    assert {verdict(paired(recorded, arm, long.reference)) for arm in long.arms} == {"no difference seen"}


def test_tiny_has_the_numbers_of_the_long_runs():
    assert get_profile("tiny").replace(save_every=grid.START.save_every) == grid.START.replace(**ARMS["long"].profile)
