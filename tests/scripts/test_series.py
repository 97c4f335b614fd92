"""The main job, for real: every notebook executed, a model trained, and the result as good as promised."""

import json

import pytest

from utils.data.tiny_world import SHIFTS
from utils.evaluation.evaluate import compare_folders, rates
from utils.evaluation.sampling import curves, read_ballots
from utils.scripts.commands import run_series
from utils.scripts.notebooks import NOTEBOOKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("series") / "latest"
    return output, run_series(output)


def test_grpo_brings_out_what_the_model_can_do(run):
    _, summary = run
    assert 0.45 <= summary["base"]["strict"]["rate"] <= 0.60
    assert summary["trained"]["strict"]["rate"] >= 0.85
    assert summary["mcnemar_p"] < 1e-6
    assert summary["n_test"] == 1_319


def test_everything_promised_is_left_behind(run):
    output, summary = run
    assert sorted(path.name for path in (output / "notebooks").glob("*.ipynb")) == [path.name for path in NOTEBOOKS]
    assert (output / "training" / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((output / "summary.json").read_text(encoding="utf-8")) == summary
    assert {
        "profile",
        "seed",
        "versions",
        "n_test",
        "base",
        "trained",
        "flips",
        "mcnemar_p",
        "train_steps",
        "train_seconds",
        "total_seconds",
    } <= summary.keys()
    assert (output / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 7


def test_the_answers_are_kept_so_that_no_later_question_needs_the_model(run):
    output, summary = run
    base, trained, comparison = compare_folders(output / "base", output / "trained")
    assert {who: rates(e.verdicts) for who, e in (("base", base), ("trained", trained))} == {
        who: summary[who] for who in ("base", "trained")
    }
    assert comparison["flips"] == summary["flips"] and base.header["protocol_hash"] == summary["protocol_hash"]
    for shift in SHIFTS:
        assert compare_folders(output / "base" / f"tiny-{shift}", output / "trained" / f"tiny-{shift}")[2]["n"] > 0
    for who in ("base", "trained"):
        assert curves(read_ballots(output / who / "samples" / "completions.jsonl")) == summary["sampling"][who]
