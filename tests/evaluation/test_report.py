"""summary.json and report.html: complete, self-contained, and safe with anything that a model or a user wrote."""

import json
import re

import pytest

from utils.evaluation.evaluate import CHANGES, Verdict, rates
from utils.evaluation.report import (
    EXAMPLES,
    NOT_PROVED,
    chance_text,
    held_out,
    model_card,
    summarise,
    verdict_line,
    write_report,
)
from utils.evaluation.sampling import ballot, curves, gain_curves

NEEDED = {
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
}
ATTACK = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"


def verdict(question, strict, completion="<reasoning>\n3+4=7\n</reasoning>\n<answer>7</answer>"):
    return Verdict("0" * 16, question, "7", completion, 5, strict, strict, True, truncated=False, no_answer=False)


BASE = [verdict("a" + ATTACK, False, ATTACK), verdict("b", True), verdict("c", False, "3+5=8")]
TRAINED = [verdict("a" + ATTACK, True), verdict("b", False, ATTACK), verdict("c", False, "3+5=8")]
HISTORY = [{"step": i, "reward": 0.1 * i, "rewards/correctness_reward/mean": 0.1 * i} for i in (1, 2, 3)]


def summary(**more):
    return summarise("tiny", {"trl": "1"}, BASE, TRAINED, **{"seed": 0, "train_steps": 3, "train_seconds": 1.5} | more)


@pytest.fixture
def written(tmp_path):
    def write(solutions=None, **more):
        """The page, and what is left of it without its pictures."""
        page = write_report(tmp_path, summary(**more), HISTORY, BASE, TRAINED, solutions).read_text(encoding="utf-8")
        assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == summary(**more)
        return page, re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)

    return write


def test_the_summary_holds_what_it_must():
    assert NEEDED <= summary().keys()
    assert summary()["flips"] == {"fixed": 1, "broken": 1, "both": 0, "neither": 1} and summary()["mcnemar_p"] == 1.0
    for who in ("base", "trained"):
        for name in ("strict", "lenient", "format", "truncated", "no_answer"):
            r = summary()[who][name]
            assert 0 <= r["low"] <= r["rate"] <= r["high"] <= 1


def test_the_report_needs_nothing_else_and_runs_nothing(written):
    page, text = written(protocol={"system_prompt": ATTACK, "seed": None}, protocol_hash="0123456789ab")
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in text and not re.search(r"(src|href)=['\"](?!data:)", text)
    assert "<script" not in text and "<img src=x" not in text
    assert text.count("&lt;script&gt;") >= 4, "of a question, of both models' answers, of the prompt"
    assert "teaching model" in text and "1 fixed, 1 broken" in text and "Had training made no difference" in text


def test_the_report_says_how_it_was_measured_and_what_it_does_not_prove(written):
    _, text = written(protocol={"token_cap": 96, "seed": None}, protocol_hash="0123456789ab", base_pass={"pass@1": 0.5})
    rows = {"protocol hash": "0123456789ab", "protocol: token cap": "96", "protocol: seed": "none"}
    rows |= {"base pass@1, sampled, strict": "50.0%", "training steps": "3"}
    assert [name for name, value in rows.items() if f"<th>{name}</th><td>{value}</td>" not in text] == []
    assert all(sentence in text for sentence in NOT_PROVED)
    assert [f"<h2>{title}: 1 of 3 questions</h2>" in text for _flip, title in EXAMPLES] == [True] * 3


def test_an_error_is_named_and_a_solution_tells_more(written):
    plain, plain_text = written()
    told, told_text = written(solutions={"c": "3-5=<<3-5=-2>>-2\n#### -2"})
    assert "wrong plan" in plain_text
    assert "wrong operation" in told_text and "wrong plan" not in told_text
    pictures = zip(plain.split("data:image/png;")[1:], told.split("data:image/png;")[1:], strict=True)
    differing = [i for i, (a, b) in enumerate(pictures) if a.split("'")[0] != b.split("'")[0]]
    assert differing == [4], "the matrix of the errors, and no other picture"


def test_samples_are_drawn_where_there_are_some(written):
    votes = [ballot(str(i), "7", [f"<answer>{n}</answer>" for n in (7, 7, 8)]) for i in range(4)]
    sampling = {"base": curves(votes), "trained": curves(votes), "gain": gain_curves(votes, votes)}
    page, text = written(sampling=sampling)
    assert page.count("data:image/png;base64,") == 7 and "Ability added, or concentrated?" in text


def test_held_out_points_are_base_checkpoints_and_trained_model():
    between = {"step": 2, **rates(BASE)["format"]}
    points = held_out(summary(held_out=[between]), 3)
    assert points == {0: rates(BASE)["strict"], 2: between, 3: rates(TRAINED)["strict"]}
    assert list(held_out(summary(), 3)) == [0, 3]


def test_a_base_alone_is_summed_up_too():
    assert "strict 33.3%" in verdict_line(summarise("tiny", {}, BASE))


@pytest.mark.parametrize(
    "p, said",
    [
        (1e-9, "come fewer than one time in a million."),
        (0.0385, "come about one time in 26."),
        (0.00052, "come about one time in 1,900."),
        (0.8, "come as often as not."),
    ],
)
def test_the_test_is_told_in_words(p, said):
    assert said in chance_text({"mcnemar_p": p})


def test_the_gain_is_split_in_the_page_and_on_the_card(written):
    told = "By layout 0 fixed and 0 broken, where only one answer shows working 0 and 0, by arithmetic 1 and 1."
    text = written()[1]
    assert told in text and told in model_card(summary())
    assert all(f"<li>{name}: {meaning}</li>" in text for name, meaning in CHANGES.items())
    old = summary() | {"gain": {"format_fixed": 0, "maths_fixed": 1, "broken": 1}}
    assert "By layout" not in model_card(old), "of a run before the split was three"


def test_a_time_that_was_not_recorded_is_not_zero(written):
    assert "<th>training time</th><td>not recorded</td>" in written(train_seconds=None)[1]


def test_the_verdict_says_which_questions_were_not_asked():
    too_long = {"budget": 1952, "questions": [{"source": "mine.jsonl line 7", "id": "0", "tokens": 20113}]}
    alone = summarise("tiny", {}, BASE, too_long=too_long)
    for line in (verdict_line(alone), verdict_line(summary(too_long=too_long))):
        assert "1 of 4 questions does not fit 1,952 tokens and is not asked" in line
        assert line.endswith("It is mine.jsonl line 7 with 20,113.")
    assert "not asked" not in verdict_line(summary())
