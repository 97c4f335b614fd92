"""The model card says what was measured, and calls the rest "not measured"."""

import json

import pytest

from utils.evaluation.report import model_card
from utils.files import ROOT
from utils.model.profiles import PROFILES

SUMMARY = json.loads((ROOT / "assets/runs/tiny/seed-0/summary.json").read_text(encoding="utf-8"))


def test_the_card_holds_what_was_measured():
    card = model_card(SUMMARY)
    trained, flips, steps = SUMMARY["trained"]["strict"], SUMMARY["flips"], SUMMARY["train_steps"]
    after = f"{100 * trained['rate']:.1f}% [{100 * trained['low']:.1f}, {100 * trained['high']:.1f}]"
    changed = f"{flips['fixed']} fixed, {flips['broken']} broken"
    for fact in ("58.8% [56.1, 61.4]", after, changed, "p < 1e-6", "1,319", f"| {steps}, 0 |"):
        assert fact in card
    assert f"trl {SUMMARY['versions']['trl']}" in card and "teaching model" in card and "MIT" in card
    assert card.count("not measured") == 1, "only what exports do"
    assert card.startswith("---\nlicense: mit\n") and str(ROOT) not in card


def test_what_was_not_measured_is_called_so():
    base_only = {key: SUMMARY[key] for key in ("profile", "versions", "n_test", "base")} | {"profile": "t4"}
    card = model_card(base_only)
    for line in ("seed | not measured, not measured |", "| training time | not measured |", "p-value: not measured"):
        assert line in card
    assert "| strict | 58.8% [56.1, 61.4] | not measured |" in card
    assert "base_model: Qwen/Qwen2.5-3B-Instruct\n" in card and "qwen-research" in card
    assert "None" not in card


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_a_card_with_a_licence(name):
    yaml = model_card(SUMMARY | {"profile": name}).split("---\n")[1]
    assert "license: " in yaml and (name == "tiny" or f"base_model: {PROFILES[name].model}" in yaml)


def test_a_path_of_this_machine_does_not_get_into_the_card():
    assert "mine.jsonl" in model_card(SUMMARY | {"questions": "/home/me/mine.jsonl", "adapter": "/home/me/a"})
    assert "/home" not in model_card(SUMMARY | {"questions": "/home/me/mine.jsonl", "adapter": "/home/me/a"})
