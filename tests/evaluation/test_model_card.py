"""The model card says what was measured, and calls the rest "not measured"."""

import html
import json
import re

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


NASTY = [
    "a | b.jsonl",
    "a\n---\nlicense: mit\n.jsonl",
    "<script>alert(1)</script>.jsonl",
    "`x` **y** _z_ [link](javascript:x) ![i](x).jsonl",
    "\\| &lt;b&gt; \r\n\u2028| | |\x00.jsonl",
    "Fragen über ½ & mehr.jsonl",
]


@pytest.mark.parametrize("name", NASTY)
def test_what_the_card_quotes_stays_text_in_its_cell(name):
    bland = model_card(SUMMARY | {"questions": "mine.jsonl", "versions": {"trl": "1"}, "seed": "0"})
    card = model_card(SUMMARY | {"questions": f"x{name}", "versions": {f"x{name}": name}, "seed": name})
    assert [line.count("|") for line in card.splitlines()] == [line.count("|") for line in bland.splitlines()]
    assert card.split("---\n")[1] == bland.split("---\n")[1] and card.count("\n---") == bland.count("\n---")
    assert set(re.findall("<[a-z/]+>", card)) == set(re.findall("<[a-z/]+>", bland)) and card.count("`") == 4
    if "/" not in name and "\x00" not in name:
        assert f"1,319, x{' '.join(name.split())} |" in html.unescape(card), "as a reader sees it"
    assert " ".join(name.split()).replace("\x00", "") in html.unescape(card).replace("\ufffd", "")


SHA, REVISION = "0" * 64, "1" * 40


@pytest.mark.parametrize(
    "model, weights, front, licence",
    [
        ("media/qwen.gguf", SHA, "license: unknown\n", "not known here; see the model's own folder"),
        ("media/stick", SHA, "license: unknown\n", "not known here; see the model's own folder"),
        ("runs/merged", SHA, "license: unknown\n", "not known here; see the model's own folder"),
        (
            "owner/name",
            REVISION,
            "license: unknown\nbase_model: owner/name\n",
            "page, https://huggingface.co/owner/name.",
        ),
        (
            "Qwen/Qwen2.5-0.5B-Instruct",
            REVISION,
            "license: apache-2.0\nbase_model: Qwen/Qwen2.5-0.5B",
            "Apache License",
        ),
    ],
)
def test_the_card_names_the_model_that_was_used_and_does_not_guess_its_licence(model, weights, front, licence):
    card = model_card(SUMMARY | {"model": model, "weights": weights})
    assert f"| base model | {model} (profile tiny) |" in card and f"| weights of the base model | {weights} |" in card
    assert card.startswith(f"---\n{front}") and licence in card.splitlines()[-1]
    assert f"# {model.rpartition('/')[2]}, trained" in card
    assert ("base_model:" in card) == (weights == REVISION) and "teaching model" not in card and "MIT" not in card


def test_the_embedded_model_keeps_its_card_when_it_is_named():
    named = model_card(SUMMARY | {"model": "assets/tiny_model", "weights": SHA})
    assert named.replace(f"| weights of the base model | {SHA} |\n", "") == model_card(SUMMARY)


def test_what_the_verdict_quotes_is_no_markup_either():
    source = "a|b<img src=x> ![p](http:e) `c`.jsonl line 4"
    row = {"source": source, "id": "0" * 16, "tokens": 9_999}
    card = model_card(SUMMARY | {"too_long": {"budget": 1_952, "questions": [row]}})
    assert not any(sign in card for sign in ("<img", "](http", "`c`", "a|b"))
    assert source in html.unescape(card)
