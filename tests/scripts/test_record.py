"""The recorded runs, and the README that shows them."""

import shutil

from utils.files import ROOT, read_json, write_json
from utils.scripts.record import MARKERS, README, RUNS, recorded, rescore, results_table


def test_the_readme_shows_the_recorded_runs_and_nothing_else():
    shown = README.read_text(encoding="utf-8").split(MARKERS[0])[1].split(MARKERS[1])[0].strip()
    assert shown == results_table(recorded())
    assert (ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter").is_dir()


def test_every_recorded_seed_keeps_the_promise():
    for summary in recorded():
        assert summary["trained"]["strict"]["rate"] >= 0.85 and summary["mcnemar_p"] < 1e-6
        assert summary["train_seconds"] <= 180


def test_the_summaries_say_what_the_stored_answers_say(tmp_path):
    for who in ("base", "seed-0"):
        shutil.copytree(RUNS / who / "test", tmp_path / who / "test")
    stored = read_json(RUNS / "seed-0" / "summary.json", "")
    write_json(tmp_path / "seed-0" / "summary.json", stored | {"gain": None, "trained": None, "mcnemar_p": 1.0})
    rescore(tmp_path)
    assert read_json(tmp_path / "seed-0" / "summary.json", "") == stored


def test_the_readme_tells_of_what_kind_the_gain_is():
    summary, page = recorded()[0], " ".join(README.read_text(encoding="utf-8").split())
    layout, working, arithmetic = (summary["gain"][kind] for kind in ("layout", "working", "arithmetic"))
    told = f"Of the {summary['flips']['fixed']} questions that seed 0 fixed, {layout['fixed']} were fixed by layout,"
    guessed = f"{working['fixed']} by working where the base model guesses"
    assert f"{told} {guessed}, and {arithmetic['fixed']} by arithmetic, which broke {arithmetic['broken']}" in page
    assert working["fixed"] > layout["fixed"] > arithmetic["broken"] > arithmetic["fixed"], "what it learnt is told so"
