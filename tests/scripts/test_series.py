"""The main job, for real: every notebook executed, a model trained, and the result as good as promised."""

import json

import nbformat
import pytest

from utils.data.tiny_world import SHIFTS
from utils.evaluation.evaluate import compare_folders, rates
from utils.evaluation.sampling import curves, read_ballots
from utils.files import ROOT
from utils.scripts.commands import run_series
from utils.scripts.notebooks import NOTEBOOKS, NotebookFailed, execute
from utils.scripts.record import MARKERS, README, recorded, results_table

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


def test_a_failing_notebook_is_named_and_kept(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("x / 0")])
    nbformat.write(notebook, tmp_path / "bad.ipynb")
    with pytest.raises(NotebookFailed, match=r"bad.ipynb, code cell 2: ZeroDivisionError: division by zero"):
        execute(tmp_path / "bad.ipynb", tmp_path / "out.ipynb", {})
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[1].outputs[0].ename == "ZeroDivisionError"


def test_the_readme_shows_the_recorded_runs_and_nothing_else():
    shown = README.read_text(encoding="utf-8").split(MARKERS[0])[1].split(MARKERS[1])[0].strip()
    assert shown == results_table(recorded())
    assert (ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter").is_dir()


def test_every_recorded_seed_keeps_the_promise():
    for summary in recorded():
        assert summary["trained"]["strict"]["rate"] >= 0.85 and summary["mcnemar_p"] < 1e-6
        assert summary["train_seconds"] <= 180
