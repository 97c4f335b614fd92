"""The recorded runs, and the README that shows them."""

from utils.files import ROOT
from utils.scripts.record import MARKERS, README, recorded, results_table


def test_the_readme_shows_the_recorded_runs_and_nothing_else():
    shown = README.read_text(encoding="utf-8").split(MARKERS[0])[1].split(MARKERS[1])[0].strip()
    assert shown == results_table(recorded())
    assert (ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter").is_dir()


def test_every_recorded_seed_keeps_the_promise():
    for summary in recorded():
        assert summary["trained"]["strict"]["rate"] >= 0.85 and summary["mcnemar_p"] < 1e-6
        assert summary["train_seconds"] <= 180
