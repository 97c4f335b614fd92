"""The grid: what is stored, what is run again, what is never mixed; and two arms really trained."""

import dataclasses
import json
import multiprocessing

import pytest

from tests.experiments.made_up import TWO, row_of
from utils.experiments import catalogue, grid
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
from utils.files import InUse
from utils.rewards.functions import correctness_reward

SHORT = {"steps": 2, "warmup_steps": 1, "prompts_per_step": 2, "micro_batch": 16, "max_completion_tokens": 32}


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


def test_two_grids_in_one_folder_lose_no_rows_of_each_other(calls, hold, tmp_path):
    other = hold(tmp_path)
    with pytest.raises(InUse, match=f"in use by process {other.pid} on "):
        run_grid(TWO, range(2), tmp_path, held_out=8)
    other.communicate("\n")
    assert not calls and len(run_grid(TWO, range(2), tmp_path, held_out=8)) == 4


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
        {"profile": {"prompt": "layout"}},
        {"settings": {"loss_type": "grpo"}},
        {"rewards": {correctness_reward: 0.5}},
        {"choose": catalogue.easy_first},
        {"full_weights": True},
    ],
)
def test_the_fingerprint_sees_each_part_of_a_definition(change):
    assert fingerprint(dataclasses.replace(TWO[0], **change)) != fingerprint(TWO[0])
    assert fingerprint(TWO[0], 8) != fingerprint(TWO[0], 9)
    assert fingerprint(dataclasses.replace(TWO[0], label="other words")) == fingerprint(TWO[0])


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


# ------------------------------------------------------------------------------------------- real training


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


@pytest.mark.slow
def test_two_arms_are_trained_and_judged(trained):
    arms, folder, rows = trained
    assert [r["arm"] for r in rows] == ["adapter", "full"] and all(r["steps"] == 2 for r in rows)
    assert all(0 <= r["strict"] <= r["lenient"] <= 1 and r["train_seconds"] > 0 for r in rows)
    first = {line["arm"]: line for line in read_curves(folder) if line["step"] == 1}
    assert first["adapter"]["tokens"] == first["full"]["tokens"], "both start from the same model and questions"
    untrained = grid.read_provenance(folder)["untrained"]
    judged = [{k: r[k] for k in untrained} for r in rows]
    assert judged[1] != untrained, "full weights at this rate should have moved the answers"


@pytest.mark.slow
def test_a_run_gives_the_same_row_in_another_order_and_process(trained, tmp_path):
    arms, folder, rows = trained
    again = run_grid(arms[::-1], [0], tmp_path, jobs=2, held_out=16)
    assert same(again[::-1], rows)
    assert (tmp_path / "curves.csv").read_text() == (folder / "curves.csv").read_text()
    assert not multiprocessing.active_children()


@pytest.mark.slow
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
