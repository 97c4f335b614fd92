"""The evaluation: judging, generation, the folder and what a kill leaves of it, the card and comparison."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch

from utils.data.answers import RULES
from utils.data.questions import Question, load_questions
from utils.evaluation import protocol as stored
from utils.evaluation.evaluate import (
    CHANGES,
    RATES,
    card_text,
    compare,
    compare_folders,
    comparison_text,
    evaluate,
    gain_text,
    judge,
    load_evaluation,
    rates,
    score,
    split_gain,
    too_long_text,
)
from utils.files import ROOT
from utils.model import policy as generation
from utils.model.policy import Sample, generate, load_policy
from utils.model.profiles import get_profile
from utils.stats import detectable_difference, mcnemar_exact, paired_bootstrap, wilson_interval

TINY = get_profile("tiny")
ADAPTER = ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter"


# --------------------------------------------------------------------------------------------- judging

WORKED = "<reasoning>\n3*14=42\n</reasoning>\n<answer>{}</answer>"


@pytest.mark.parametrize(
    "text, strict, lenient, well_formed",
    [
        (WORKED.format("42"), True, True, True),
        (WORKED.format("$42.00"), True, True, True),
        (WORKED.format("41"), False, False, True),
        (WORKED.format("42") + "\nI hope this helps!", False, True, False),
        ("<answer>42</answer>", False, True, False),
        ("3*14=42\nThe answer is 42.", False, True, False),
        (WORKED.format("many"), False, False, False),  # what stands in the tag decides, and it is no number
        ("I do not know.", False, False, False),
        ("", False, False, False),
    ],
)
def test_judge_keeps_strict_lenient_and_format_apart(text, strict, lenient, well_formed):
    verdict = judge(Question("3 times 14?", "42", {}), Sample(text, 12, truncated=False))
    assert (verdict.strict, verdict.lenient, verdict.format) == (strict, lenient, well_formed)


@pytest.mark.parametrize(
    "text, no_answer",
    [("I do not know.", True), ("", True), ("<answer>many</answer>", True), ("It is 41.", False), ("12 or 13", True)],
)
def test_no_answer_means_that_even_a_lenient_reader_finds_no_number(text, no_answer):
    assert judge(Question("3 times 14?", "42", {}), Sample(text, 12, truncated=False)).no_answer is no_answer


def test_a_verdict_carries_the_id_of_its_question():
    question = Question("3 times 14?", "42", {})
    assert judge(question, Sample("", 0, False)).id == question.id == Question("3 times 14?", "1", {"x": 1}).id
    assert question.id != Question("3 times 15?", "42", {}).id and len(question.id) == 16


# ------------------------------------------------------------------------------------- card and comparison


def verdicts(*strict, lenient=None):
    sample = judge(Question("?", "42", {}), Sample("", 3, truncated=False))
    return [
        dataclasses.replace(sample, question=f"question {i}", strict=s, lenient=s if lenient is None else lenient[i])
        for i, s in enumerate(strict)
    ]


def test_rates_are_means_with_counts_and_intervals():
    table = rates(verdicts(*[True] * 82, *[False] * 68))
    low, high = wilson_interval(82, 150)
    assert table["strict"] == {"rate": 82 / 150, "low": low, "high": high, "count": 82, "n": 150}
    assert tuple(table) == RATES == ("strict", "lenient", "format", "truncated", "no_answer")
    assert table["no_answer"]["rate"] == 1.0


def test_a_rate_that_was_not_recorded_claims_nothing():
    known, unknown = verdicts(True, False)
    unknown = dataclasses.replace(unknown, truncated=None)
    assert rates([known, unknown])["truncated"]["n"] == 1
    assert rates([unknown])["truncated"] == {"rate": None, "low": 0.0, "high": 1.0, "count": 0, "n": 0}


def test_compare_counts_each_pair_once_and_splits_the_gain():
    before = verdicts(True, True, False, False, False, False, lenient=(True, True, True, False, False, False))
    after = verdicts(True, False, True, True, True, False)
    found = compare(before, after)
    assert found["n"] == 6 and found["flips"] == {"fixed": 3, "broken": 1, "both": 1, "neither": 1}
    assert found["gain"] == {
        "layout": {"fixed": 1, "broken": 0},
        "working": {"fixed": 0, "broken": 0},
        "arithmetic": {"fixed": 2, "broken": 1},
    }
    assert found["mcnemar_p"] == mcnemar_exact(3, 1)
    low, high = paired_bootstrap([v.strict for v in before], [v.strict for v in after])
    assert found["difference"] == {"points": 2 / 6, "low": low, "high": high}
    assert found["detectable"]["unpaired"] == detectable_difference(6, base_rate=2 / 6)
    assert found["detectable"]["paired"] == detectable_difference(6, discordant=4 / 6)
    assert found["needed"]["paired"] > 6


WORKS, SLIPS = (f"<reasoning>\n6*7={n}\n</reasoning>\n<answer>{n}</answer>" for n in (42, 41))
LUCKY, GUESSED = (f"<reasoning>\nLet me think.\n</reasoning>\n<answer>{n}</answer>" for n in (42, 55))
IN_WORDS = "<reasoning>\nSix bags of 7 clips each make the number.\n</reasoning>\n<answer>40</answer>"
FLIPS = [  # before, after, what the flip is counted under
    ("6*7=42. The answer is 42.", WORKS, "layout"),
    ("The answer is 42.", WORKS, "layout"),  # the number was right before, worked out or not
    (GUESSED, WORKS, "working"),
    ("The answer is 55.", WORKS, "working"),
    (SLIPS, LUCKY, "working"),  # a guess in place of working
    (SLIPS, WORKS, "arithmetic"),
    (IN_WORDS, WORKS, "arithmetic"),  # working that holds no equation is working, too
    (GUESSED, LUCKY, "arithmetic"),
]


@pytest.mark.parametrize("wrong, right, name", FLIPS)
def test_a_flip_is_counted_once_and_alike_in_both_directions(wrong, right, name):
    one, other = (judge(Question("6 bags of 7?", "42", {}), Sample(text, 9, False)) for text in (wrong, right))
    for fate, pair in (("fixed", (one, other)), ("broken", (other, one))):
        gain = split_gain([pair])
        assert gain[name][fate] == 1 and sum(sum(each.values()) for each in gain.values()) == 1
    assert gain_text(split_gain([(one, other)])).startswith("By layout ")
    assert not any(sum(each.values()) for each in split_gain([(one, one), (other, other)]).values())


def test_the_split_balances_the_books_of_every_recorded_run():
    for path in (ROOT / "assets" / "runs").glob("*/seed-*/summary.json"):
        summary = json.loads(path.read_text(encoding="utf-8"))
        for compared in [summary, *([summary["svamp"]] if "svamp" in summary else [])]:
            assert compared["gain"].keys() == CHANGES.keys()
            for fate in ("fixed", "broken"):
                assert sum(each[fate] for each in compared["gain"].values()) == compared["flips"][fate]


def test_compare_of_the_published_figure():
    """82 and 92 of 150 with 38 flips: the unpaired intervals overlap, and the paired test does not decide either."""
    both, fixed, broken = 68, 24, 14
    before = verdicts(*[True] * both, *[False] * fixed, *[True] * broken, *[False] * 44)
    after = verdicts(*[True] * both, *[True] * fixed, *[False] * broken, *[False] * 44)
    found = compare(before, after)
    assert found["mcnemar_p"] == pytest.approx(0.1433, abs=1e-4)
    assert found["difference"]["low"] < 0 < found["difference"]["points"] == 10 / 150 < found["detectable"]["paired"]
    assert found["needed"]["unpaired"] == 860


def test_no_difference_needs_no_number_of_questions():
    found = compare(verdicts(True, False), verdicts(True, False))
    assert found["needed"] == {"paired": None, "unpaired": None} and found["mcnemar_p"] == 1.0
    assert compare(verdicts(True, True), verdicts(True, True))["detectable"]["unpaired"] is None


def test_compare_pairs_by_question_and_refuses_others():
    before, after = verdicts(True, True, False), verdicts(True, False, True)
    assert compare(before, after[::-1]) == compare(before, after)
    with pytest.raises(
        ValueError, match="got 3 and 2 verdicts, and 1 of them stand on one side only, first 'question 2'"
    ):
        compare(before, after[:2])
    others = [dataclasses.replace(v, gold="41") for v in after]
    with pytest.raises(ValueError, match="the gold of 'question 0' is '42' in base and '41' in trained"):
        compare(before, others)
    assert compare(before, [dataclasses.replace(v, gold="42.0") for v in after])["n"] == 3


def test_a_question_asked_twice_is_paired_twice():
    twice = [dataclasses.replace(v, question="the same?") for v in verdicts(True, False)]
    assert compare(twice, twice[::-1])["flips"] == {"fixed": 1, "broken": 1, "both": 0, "neither": 0}
    with pytest.raises(ValueError, match="one side only"):
        compare(twice, twice[:1])


# ------------------------------------------------------------------------------------------ generation


@pytest.fixture(scope="module")
def policy():
    return load_policy(TINY.replace(eval_batch=3, max_completion_tokens=24))


def test_truncated_means_cut_off_by_the_cap(policy):
    question = load_questions("tiny", "test")[:1]
    short = dataclasses.replace(policy, profile=policy.profile.replace(max_completion_tokens=4))
    (verdict,) = evaluate(short, question)
    assert verdict.truncated and verdict.tokens == 4 and not verdict.strict
    long = dataclasses.replace(policy, profile=policy.profile.replace(max_completion_tokens=300))
    (verdict,) = evaluate(long, question)
    assert not verdict.truncated and "<|im_end|>" not in verdict.completion


# ------------------------------------------------------------------------------------- what a kill leaves over


class Killed(BaseException):
    """The session ends."""


@pytest.fixture
def asked(monkeypatch):
    """How many prompts the model was given; a number in `asked.end` ends the session at that batch."""
    seen, real = SimpleNamespace(batches=[], end=None), generation._generate_batch

    def counted(policy, prompts, temperature, n):
        if len(seen.batches) == seen.end:
            raise Killed
        seen.batches.append(len(prompts))
        return real(policy, prompts, temperature, n)

    monkeypatch.setattr(generation, "_generate_batch", counted)
    return seen


EIGHT = load_questions("tiny", "test")[:8]


def card_bytes(folder):
    return (folder / "card.json").read_bytes()


@pytest.fixture
def finished(policy, tmp_path):
    """An evaluation of eight questions, in batches of three."""
    evaluate(policy, EIGHT, output=tmp_path / "done")
    return tmp_path / "done"


def test_a_killed_evaluation_goes_on_where_it_was_and_ends_in_the_same_card(policy, asked, tmp_path):
    straight, folder = evaluate(policy, EIGHT, output=tmp_path / "straight"), tmp_path / "killed"
    assert asked.batches == [3, 3, 2]
    asked.batches, asked.end = [], 2
    with pytest.raises(Killed):
        evaluate(policy, EIGHT, output=folder)
    path = folder / "completions.jsonl"
    whole = path.read_bytes()
    assert whole.count(b"\n") == 6 and (folder / "protocol.json").exists() and not (folder / "card.json").exists()
    done = []
    for cut in (0, 1, 30, len(whole) - 5, len(whole)):  # lost: nothing, a line end, part of a line, all but a bit, all
        path.write_bytes(whole[: len(whole) - cut])
        asked.batches, asked.end = [], None
        assert evaluate(policy, EIGHT, lambda *counts: done.append(counts), output=folder) == straight
        assert asked.batches == ([2] if cut == 0 else [3, 2] if cut <= 30 else [3, 3, 2]), cut
        assert card_bytes(folder) == card_bytes(tmp_path / "straight")
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        assert sorted(row["index"] for row in rows) == [*range(8)], "each answer stands there once"
    assert [counts[:2] for counts in done[:2]] == [(6, 8), (8, 8)], "the bar starts where the file ends"
    assert done[1][2] == sum(v.strict for v in straight)
    asked.batches, before = [], path.read_bytes()
    assert evaluate(policy, EIGHT, output=folder) == straight and asked.batches == [] and path.read_bytes() == before
    (folder / "card.json").unlink()
    assert evaluate(policy, EIGHT, output=folder) == straight and asked.batches == []
    assert card_bytes(folder) == card_bytes(tmp_path / "straight")


SLOW = """
import sys, time
from utils.data.questions import load_questions
from utils.evaluation.evaluate import evaluate
from utils.model import policy as generation
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
real = generation._generate_batch
def slow(*args):
    time.sleep(float(sys.argv[2]))
    return real(*args)
generation._generate_batch = slow
policy = load_policy(get_profile("tiny").replace(eval_batch=4, max_completion_tokens=24))
evaluate(policy, load_questions("tiny", "test")[:24], output=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_sigkill_at_any_moment_and_then_again_gives_the_same_card(tmp_path):
    def start(name, pause):
        return subprocess.Popen([sys.executable, "-c", SLOW, tmp_path / name, str(pause)], cwd=ROOT)

    assert start("straight", 0).wait(timeout=120) == 0
    path, kills = tmp_path / "killed" / "completions.jsonl", 0
    for lines in (4, 12):
        process, end = start("killed", 0.4), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if path.exists() and path.read_bytes().count(b"\n") >= lines:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        kills += process.wait(timeout=60) == -signal.SIGKILL
    assert kills == 2 and not (tmp_path / "killed" / "card.json").exists()
    kept = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"index": 3, "id": "')
    assert start("killed", 0).wait(timeout=120) == 0
    assert card_bytes(tmp_path / "killed") == card_bytes(tmp_path / "straight")
    assert path.read_bytes().startswith(kept), "what was answered is not asked again"


LONG = [
    Question("Tom has 3 pens and buys 4 more. " * count, "7", {"source": f"mine.jsonl line {line}"})
    for line, count in ((3, 700), (9, 400))
]


def test_questions_too_long_are_counted_apart_and_the_others_measured_as_ever(policy, asked, finished, tmp_path):
    asked.batches, folder = [], tmp_path / "with long ones"
    assert evaluate(policy, [LONG[0], *EIGHT, LONG[1]], output=folder) == load_evaluation(finished).verdicts
    assert asked.batches == [3, 3, 2]
    card = json.loads(card_bytes(folder))
    assert card == load_evaluation(folder).card and card["n"] == card["strict"]["n"] == 8
    too_long = card.pop("too_long")
    assert card == json.loads(card_bytes(finished)), "same protocol, same rates"
    assert too_long["budget"] == 2048 - 24
    assert [(row["source"], row["id"]) for row in too_long["questions"]] == [(q.row["source"], q.id) for q in LONG]
    assert all(row["tokens"] > 2048 for row in too_long["questions"])
    base, trained, found = compare_folders(finished, folder)
    assert found["n"] == 8 and "not asked    0                       2, too long" in card_text(
        {"base": base.card, "trained": trained.card}
    )
    assert "not asked" not in card_text({"base": base.card})


def test_an_evaluation_with_questions_too_long_goes_on_and_follows_its_file(policy, asked, tmp_path):
    straight = evaluate(policy, [*EIGHT, *LONG], output=tmp_path)
    for questions, left in (([*EIGHT, *LONG], 2), ([*LONG[1:], *EIGHT], 1), (EIGHT, 0), ([LONG[0], *EIGHT], 1)):
        asked.batches = []
        assert evaluate(policy, questions, output=tmp_path) == straight and asked.batches == []
        card = load_evaluation(tmp_path).card
        assert (
            json.loads(card_bytes(tmp_path)) == card
            and len(card.get("too_long", {"questions": []})["questions"]) == left
        )


def test_nothing_is_left_out_where_no_folder_would_say_so(policy, asked, tmp_path):
    with pytest.raises(ValueError, match="the prompt of mine.jsonl line 3 has [0-9,]+ tokens, and a context of 2,048"):
        evaluate(policy, [*EIGHT, *LONG])
    with pytest.raises(ValueError, match="none of 2 questions fits: the prompt of mine.jsonl line 3 has"):
        evaluate(policy, LONG, output=tmp_path / "none")
    assert asked.batches == [] and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "count, named", [(1, "It is a 1 with 2,001."), (5, "They are a 1 with 2,001, a 2 with 2,002,")]
)
def test_the_sentence_names_the_first_few(count, named):
    rows = [{"source": f"a {i}", "id": "…", "tokens": 2_000 + i} for i in range(1, count + 1)]
    said = too_long_text(1_000, {"budget": 1_952, "questions": rows})
    assert (
        said.startswith(f"{count} of {1_000 + count:,} questions do") and "fit 1,952 tokens" in said and named in said
    )
    assert "all rates are over the other 1,000" in said and ("2 more, named in protocol.json" in said) == (count == 5)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"profile": TINY.replace(max_completion_tokens=25)}, "token_cap is 24 in {} and 25 in this call"),
        (
            {"profile": TINY.replace(max_completion_tokens=24, model="Qwen/x")},
            "model is 'assets/tiny_model' .weights [0-9a-f]{{12}}. in {} and 'Qwen/x' .weights None. in this call",
        ),
        (
            {"profile": TINY.replace(max_completion_tokens=24, dtype="float16")},
            "dtype is 'float32' in {} and 'float16'",
        ),
        (
            {"adapter": ADAPTER},
            "adapter is None in {} and 'assets/runs/tiny/seed-0/adapter' .weights [0-9a-f]{{12}}. in this call",
        ),
        ({"engine": "unsloth"}, "engine is 'transformers' in {} and 'unsloth' in this call"),
    ],
)
def test_answers_of_another_model_or_protocol_are_refused_by_name(policy, finished, change, reason):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    expected = f"holds answers of another evaluation: {reason.format(finished)}.*Mend: name another folder"
    with pytest.raises(ValueError, match=expected):
        evaluate(dataclasses.replace(policy, **change), EIGHT, output=finished)
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def test_another_prompt_weights_or_questions_are_another_evaluation(policy, finished):
    with pytest.raises(ValueError, match="system_prompt is 'Work .* and 'Write <reasoning>your steps.* in"):
        asked = dataclasses.replace(policy, profile=policy.profile.replace(prompt="one line"))
        evaluate(asked, EIGHT, output=finished)
    gold = [dataclasses.replace(EIGHT[0], gold="-1"), *EIGHT[1:]]
    for others in (EIGHT[:5], EIGHT[::-1], gold):
        with pytest.raises(ValueError, match="revision is '[0-9a-f]{64}' in .*done and '[0-9a-f]{64}' in this call"):
            evaluate(policy, others, output=finished)
    header = json.loads((finished / "protocol.json").read_bytes())
    (finished / "protocol.json").write_text(json.dumps(header | {"weights": "0" * 64}))
    with pytest.raises(ValueError, match="model is 'assets/tiny_model' .weights 000000000000. in"):
        evaluate(policy, EIGHT, output=finished)


@pytest.mark.parametrize("name", ["completions.jsonl", "card.json"])
def test_a_file_of_the_user_s_is_not_overwritten(policy, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name} without protocol.json.*name another folder"):
        evaluate(policy, EIGHT[:1], output=tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize(
    "content", ["{}", "[]", '["protocol"]', "plain", '{"protocol": null}', "\u00ff", "\0" * 9, "", "[" * 99_999]
)
def test_a_protocol_file_of_another_kind_is_refused_and_left_alone(policy, finished, content):
    (finished / "protocol.json").write_bytes(content.encode("latin-1"))
    for use in (lambda: evaluate(policy, EIGHT, output=finished), lambda: load_evaluation(finished)):
        with pytest.raises(ValueError, match="protocol.json is damaged, or not of an evaluation"):
            use()
    assert (finished / "protocol.json").read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize(
    "damage, reason",
    [
        ({"questions": -1}, "questions must be a number of them, got '-1'"),
        ({"questions": True}, "questions must be a number of them, got 'True'"),
        ({"questions": float("inf")}, "questions must be a number of them, got 'inf'"),
        ({"model": []}, r"model must be a text, got '..'"),
        ({"adapter": 7}, "adapter must be a text, got '7'"),
        ({"model": "half \ud83d"}, "surrogates not allowed"),
        ({"strict": {"rate": 1.0}}, "missing or unknown: strict"),
        ({"n": 300}, "missing or unknown: n"),
        ({"too_long": {}}, "too_long must name a budget and the source, id and tokens of each, got {}"),
        ({"too_long": None}, "too_long must name a budget"),
        ({"too_long": {"budget": 9, "questions": [{"id": "a"}]}}, "too_long must name a budget"),
        ({"protocol": []}, "a protocol has the fields"),
        ({"protocol.seed": "x"}, "seed of a protocol must be int . None, got 'x'"),
        ({"protocol.token_cap": True}, "token_cap of a protocol must be int, got 'True'"),
        ({"protocol.token_cap": 9.5}, "token_cap of a protocol must be int, got '9.5'"),
        ({"protocol.rules": ["1"]}, "rules of a protocol must be str"),
        ({"protocol.decoding": None}, "decoding of a protocol must be str, got 'None'"),
    ],
)
def test_a_protocol_file_with_a_wrong_entry_is_named_with_it(finished, damage, reason):
    path = finished / "protocol.json"
    header = json.loads(path.read_bytes())
    for name, value in damage.items():
        (header["protocol"] if "." in name else header)[name.rpartition(".")[2]] = value
    path.write_text(json.dumps(header))
    for use in (load_evaluation, score):
        with pytest.raises(ValueError, match=f"protocol.json is damaged, .*{reason}.*; name another folder"):
            use(finished)


@pytest.mark.parametrize(
    "line, damage, reason",
    [
        (3, lambda row: b"{not json", "line 3: not a JSON row"),
        (3, lambda row: b"\xff\xfe", "line 3: not a JSON row"),
        (3, lambda row: b'"text"', "line 3: a row is an object"),
        (3, lambda row: row | {"completion": None}, "line 3: 'completion' must be str, got 'None'"),
        (3, lambda row: row | {"tokens": "many"}, "line 3: 'tokens' must be int, got 'many'"),
        (3, lambda row: row | {"tokens": True}, "line 3: 'tokens' must be int"),
        (3, lambda row: row | {"tokens": -1}, "line 3: 'tokens' must be from 0 to 9,007,199,254,740,992, got -1"),
        (3, lambda row: row | {"tokens": 10**400}, "line 3: 'tokens' must be from 0 to 9,007"),
        (3, lambda row: row | {"seconds": float("inf")}, "line 3: not a JSON row .Infinity is no JSON number"),
        (3, lambda row: row | {"seconds": float("nan")}, "line 3: not a JSON row .NaN is no JSON number"),
        (3, lambda row: row | {"index": True}, "line 3: 'index' must be int, got 'True'"),
        (3, lambda row: b"[" * 99_999, "line 3: not a JSON row"),
        (3, lambda row: b"\0" * 9, "line 3: not a JSON row"),
        (
            3,
            lambda row: row | {"completion": "Another."},
            "line 3: it was altered after it was written.*remove that line",
        ),
        (
            3,
            lambda row: row | {"completion": "Another.", "answer_sha256": None},
            "line 3: its answer_sha256 was taken out",
        ),
        (3, lambda row: row | {"tokens": row["tokens"] + 1}, "line 3: it was altered"),
        (3, lambda row: row | {"truncated": not row["truncated"]}, "line 3: it was altered"),
        (3, lambda row: row | {"question": "Another?"}, "line 3: it was altered"),
        (3, lambda row: row | {"gold": "-7"}, "line 3: it was altered"),
        (3, lambda row: row | {"answer_sha256": "0" * 16}, "line 3: it was altered"),
        (3, lambda row: row | {"truncated": "no"}, "line 3: 'truncated' must be bool, got 'no'"),
        (3, lambda row: row | {"gold": "many"}, "line 3: no gold number"),
        (3, lambda row: row | {"question": " "}, "line 3: a row needs a non-empty text 'question'"),
        (3, lambda row: {k: v for k, v in row.items() if k != "index"}, "line 3: it has no index"),
        (3, lambda row: row | {"protocol": "abc"}, "line 3: given under protocol 'abc', and protocol.json says"),
    ],
)
def test_a_damaged_line_is_named_and_the_file_left_alone(policy, finished, line, damage, reason):
    path = finished / "completions.jsonl"
    rows = path.read_bytes().split(b"\n")
    damaged = damage(json.loads(rows[line - 1]))
    rows[line - 1] = damaged if isinstance(damaged, bytes) else json.dumps(damaged).encode()
    path.write_bytes(b"\n".join(rows))
    before = path.read_bytes()
    for use in (lambda: evaluate(policy, EIGHT, output=finished), lambda: load_evaluation(finished)):
        with pytest.raises(ValueError, match=f"completions.jsonl, {reason}"):
            use()
    assert path.read_bytes() == before


def test_a_line_that_is_not_of_these_questions_or_stands_there_twice(policy, finished):
    path = finished / "completions.jsonl"
    *rows, _ = path.read_bytes().split(b"\n")
    row = old_row(rows[0])
    path.write_bytes(b"\n".join([json.dumps(row | {"gold": "-7"}).encode(), *rows[1:], b""]))
    with pytest.raises(ValueError, match="line 1: not question [0-9] of those asked; remove that line"):
        evaluate(policy, EIGHT, output=finished)
    with pytest.raises(ValueError, match="the questions or golds in .* were altered: revision is"):
        load_evaluation(finished)
    other = json.dumps(row | {"completion": "Another."}).encode()
    path.write_bytes(b"\n".join([*rows, other, b""]))
    for use in (lambda: evaluate(policy, EIGHT, output=finished), lambda: load_evaluation(finished)):
        with pytest.raises(ValueError, match=f"line 9: index {row['index']} stands in line 1 as well"):
            use()
    path.write_bytes(b"\n".join([*rows[1:], b""]))
    with pytest.raises(ValueError, match="not finished: 7 of 8 questions are answered; call run.py evaluate"):
        load_evaluation(finished)
    evaluate(policy, EIGHT, output=finished)
    assert load_evaluation(finished).card["n"] == 8, "removing the line was the mend"


def old_row(line):
    """A row as versions before the hash wrote it."""
    return {name: value for name, value in json.loads(line).items() if name != "answer_sha256"}


def test_answers_that_two_evaluations_of_an_older_version_both_wrote_count_once(policy, asked, finished):
    path, card = finished / "completions.jsonl", card_bytes(finished)
    rows = [old_row(line) for line in path.read_bytes().split(b"\n") if line]
    both = [row | {"seconds": row["seconds"] + n} for row in rows for n in (0, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in both))
    before = path.read_bytes()
    assert load_evaluation(finished).card == json.loads(card) == score(finished).card and path.read_bytes() == before
    asked.batches = []
    evaluate(policy, EIGHT, output=finished)
    assert asked.batches == [] and card_bytes(finished) == card
    assert [json.loads(line) for line in path.read_bytes().split(b"\n") if line] == rows, "the copies are gone"


def test_a_line_that_is_being_written_does_not_hide_how_far_the_evaluation_is(finished):
    path = finished / "completions.jsonl"
    whole = path.read_bytes()
    last = whole.rstrip().rpartition(b"\n")[2]
    for cut in range(2, len(last), 7):
        path.write_bytes(whole[:-cut])
        with pytest.raises(ValueError, match="is not finished: 7 of 8 questions are answered"):
            load_evaluation(finished)
    path.write_bytes(whole[:-1])
    assert load_evaluation(finished).card["n"] == 8, "a last line needs no line end"


def test_altered_answers_may_be_judged_on_purpose(finished, tmp_path):
    rows = [json.loads(line) for line in (finished / "completions.jsonl").read_bytes().split(b"\n") if line]
    kept = [{name: row[name] for name in ("question", "gold")} | {"completion": "It is 7."} for row in rows]
    assert score(foreign(tmp_path / "mine", kept)).card["n"] == 8
    reordered = [dict(sorted(row.items())) for row in rows]
    (finished / "completions.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in reordered))
    assert load_evaluation(finished).card["n"] == 8, "another order of fields and other line ends alter no answer"


# ------------------------------------------------------------------------------- stored, loaded, scored again


def test_what_is_loaded_is_what_was_evaluated(policy, tmp_path):
    straight = evaluate(policy, EIGHT, output=tmp_path)
    loaded = load_evaluation(tmp_path)
    assert loaded.verdicts == straight and loaded.seconds > 0
    assert loaded.card == json.loads(card_bytes(tmp_path)) == score(tmp_path).card
    assert loaded.card["protocol_hash"] == loaded.protocol.hash and loaded.card["n"] == 8
    assert (loaded.card["model"], loaded.card["adapter"]) == ("assets/tiny_model", None)
    assert loaded.card["mean_tokens"] == sum(v.tokens for v in straight) / 8
    assert {name: loaded.card[name] for name in RATES} == rates(straight)
    assert str(ROOT) not in (tmp_path / "protocol.json").read_text() + card_bytes(tmp_path).decode()
    row = json.loads((tmp_path / "completions.jsonl").read_bytes().split(b"\n")[0])
    needed = {"id", "question", "gold", "completion", "tokens", "truncated", "seconds", "protocol"}
    assert needed <= row.keys() and row["protocol"] == loaded.protocol.hash


def test_loading_judges_anew_and_other_rules_ask_for_a_score(finished, monkeypatch):
    card, completions = card_bytes(finished), (finished / "completions.jsonl").read_bytes()
    for module in ("utils.evaluation.protocol", "utils.evaluation.protocol"):
        monkeypatch.setattr(f"{module}.RULES", "new")
    with pytest.raises(
        ValueError, match=f"judged by rules '{RULES}', now they are 'new'; judge them again: run.py score"
    ):
        load_evaluation(finished)
    write, written = stored.write_json, []
    monkeypatch.setattr(stored, "write_json", lambda *args: written.append(args))  # cut short between the two files
    stored.restamp(finished)
    monkeypatch.setattr(stored, "write_json", write)
    assert len(written) == 1
    scored = score(finished)
    assert scored.protocol.rules == "new" and json.loads(card_bytes(finished)) == scored.card
    assert scored.card == json.loads(card) | {
        "protocol": scored.card["protocol"],
        "protocol_hash": scored.protocol.hash,
    }
    rows = [json.loads(text)["completion"] for text in completions.split(b"\n") if text]
    assert all("answer_sha256" in json.loads(text) for text in (finished / "completions.jsonl").open("rb"))
    assert rows == [json.loads(text)["completion"] for text in (finished / "completions.jsonl").open("rb")]
    assert load_evaluation(finished).card == scored.card


def foreign(folder, rows, end="\n", start=""):
    folder.mkdir()
    text = start + "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    (folder / "completions.jsonl").write_bytes(text.encode())
    return folder


def test_completions_from_elsewhere_need_three_fields(tmp_path):
    rows = [
        {"question": "3 * 14?", "gold": "42", "completion": WORKED.format("42"), "model": "theirs"},
        {"question": "a\u2028b\u0085c?", "gold": "so\n#### 1,000", "completion": "\u2028It is 1000.\r\n🙂", "id": 7},
        {"question": "3 * 14?", "gold": 42, "completion": ""},
        {"question": "half of 5?", "gold": 2.5, "completion": "x" * 500_000 + " 5/2"},
    ]
    for name, style in {"plain": {}, "windows": {"end": "\r\n", "start": "\ufeff"}}.items():
        folder = foreign(tmp_path / name, rows, **style)
        card = score(folder).card
        assert [card[rate]["count"] for rate in RATES] == [1, 3, 1, 0, 1]
        assert card["truncated"]["n"] == 0 and card["mean_tokens"] is None and card["protocol"] is None
        assert card == json.loads(card_bytes(folder)) and load_evaluation(folder).seconds is None
    last = (tmp_path / "plain" / "completions.jsonl").read_bytes()
    (tmp_path / "plain" / "completions.jsonl").write_bytes(last.rstrip())
    assert load_evaluation(tmp_path / "plain").card["n"] == 4, "a last line needs no line end"
    assert [v.gold for v in load_evaluation(tmp_path / "plain").verdicts] == ["42", "1,000", "42", "2.5"]


def test_completions_from_elsewhere_with_more_fields(tmp_path):
    rows = [{"question": f"{i}?", "gold": "1", "completion": "1", "tokens": i, "truncated": i > 2} for i in range(4)]
    card = load_evaluation(foreign(tmp_path / "a", rows)).card
    assert card["mean_tokens"] == 1.5 and card["truncated"]["count"] == 1 and card["truncated"]["n"] == 4


def test_questions_asked_twice_odd_characters_and_empty_answers_survive_the_folder(policy, tmp_path, monkeypatch):
    texts = ["Tom has 3 pens?", "Tom has 3 pens?", "a\u2028b\u0085c\x00 ٣ 🙂?", "Tom has 3 pens?", "long?"]
    questions = [Question(text, "1,000", {}) for text in texts]
    replies = iter(["", "\u2028 1000", "#### 1000\r\n", "1000 \ud7ff\x00", "9" * 500_000])
    batch = lambda policy, prompts, t, n: [[Sample(next(replies), 5, False)] for _ in prompts]  # noqa: E731
    monkeypatch.setattr(generation, "_generate_batch", batch)
    verdicts = evaluate(policy, questions, output=tmp_path)
    assert len({v.completion for v in verdicts}) == 5 and [v.question for v in verdicts] == texts
    assert load_evaluation(tmp_path).verdicts == verdicts == evaluate(policy, questions, output=tmp_path)
    assert compare(verdicts, verdicts)["n"] == 5


# ----------------------------------------------------------------------------------- two folders, one protocol


@pytest.fixture
def two(policy, tmp_path):
    evaluate(policy, EIGHT, output=tmp_path / "a")
    evaluate(dataclasses.replace(policy, adapter=ADAPTER), EIGHT, output=tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def test_two_folders_of_one_protocol_are_compared(two):
    base, trained, found = compare_folders(*two)
    assert found == compare(base.verdicts, trained.verdicts) and trained.card["adapter"].endswith("seed-0/adapter")


@pytest.mark.parametrize("field, value", [("token_cap", 99), ("system_prompt", "?"), ("rules", "0"), ("seed", 3)])
def test_two_protocols_are_refused_by_field_and_values(two, field, value):
    path = two[1] / "protocol.json"
    header = json.loads(path.read_bytes())
    was, header["protocol"][field] = header["protocol"][field], value
    path.write_text(json.dumps(header))
    with pytest.raises(ValueError) as error:
        compare_folders(*two)
    assert f"{field} is {was!r} in {two[0]} and {value!r} in {two[1]}. Mend: " in str(error.value)


def test_a_folder_without_a_protocol_is_compared_with_its_like_alone(two, tmp_path):
    (two[1] / "protocol.json").unlink()
    assert compare_folders(*two)[2]["n"] == 8, "its lines still name the hash"
    rows = [{"question": f"{i}?", "gold": "1", "completion": "1"} for i in range(4)]
    a, b = foreign(tmp_path / "c", rows), foreign(tmp_path / "d", rows[::-1])
    assert compare_folders(a, b)[2]["flips"]["neither"] == 4
    with pytest.raises(
        ValueError, match="nothing says that the two were measured alike: the protocol is '[0-9a-f]{12}'"
    ):
        compare_folders(two[0], a)
    with pytest.raises(ValueError, match="completions.jsonl is empty; it needs a JSON row a line"):
        score(foreign(tmp_path / "f", []))
    mixed = foreign(tmp_path / "e", [rows[0] | {"protocol": "x"}, rows[1] | {"protocol": "y"}])
    with pytest.raises(ValueError, match="mixes protocols: 'x' in line 1, 'y' in line 2"):
        load_evaluation(mixed)


# ------------------------------------------------------------------------------------------------------- vLLM


class Engine:
    """The tiny model behind the calls of Unsloth's vLLM model."""

    def __init__(self, policy):
        self.policy, self.config, self.calls, self.loras = policy, policy.model.config, [], []

    def load_lora(self, folder):
        self.loras.append(folder)
        return f"request {len(self.loras)}"

    def fast_generate(self, prompts, sampling_params, lora_request, use_tqdm):
        assert not use_tqdm, "one bar is enough"
        self.calls.append((len(prompts), lora_request))
        tokenizer, outputs = self.policy.tokenizer, []
        for prompt in prompts:
            inputs = torch.tensor([prompt["prompt_token_ids"]])
            rows = self.policy.model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                max_new_tokens=sampling_params.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=sampling_params.stop_token_ids,
            )
            ids = tuple(rows[0, inputs.shape[1] :].tolist())  # with the end mark, as vLLM gives them
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)] * sampling_params.n))
        return outputs


@pytest.fixture
def vllm(policy, monkeypatch):
    module = ModuleType("vllm")
    module.SamplingParams = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(generation, "VLLM_BATCH", 6)
    return dataclasses.replace(policy, engine="unsloth+vllm", model=Engine(policy))


def test_vllm_gets_large_batches_in_order_and_counts_tokens_as_the_other_engines_do(policy, vllm):
    done = []
    assert evaluate(vllm, EIGHT, lambda *counts: done.append(counts[:2])) == evaluate(policy, EIGHT)
    assert vllm.model.calls == [(6, None), (2, None)] and done == [(0, 8), (6, 8), (8, 8)]
    assert [len(group) for group in generate(vllm, EIGHT, temperature=1.0, n=3)] == [3] * 8
    assert [size for size, _ in vllm.model.calls[2:]] == [2, 2, 2, 2], "six completions in one call"


def test_vllm_gets_the_adapter_once_and_goes_on_after_a_kill(vllm, tmp_path):
    policy = dataclasses.replace(vllm, adapter=ADAPTER)
    straight = evaluate(policy, EIGHT, output=tmp_path)
    assert policy.model.loras == [str(policy.adapter)]
    assert policy.model.calls == [(6, "request 1"), (2, "request 1")]
    path = tmp_path / "completions.jsonl"
    os.truncate(path, path.stat().st_size - 1)
    assert evaluate(policy, EIGHT, output=tmp_path) == straight
    assert policy.model.calls[2:] == [(2, "request 2")], "only the chunk that was cut short"


def test_three_questions_are_said_to_be_too_few():
    few = [judge(Question(f"{i}?", "4", {}), Sample("The answer is 4.", 5, False)) for i in range(3)]
    assert "3 questions are too few to notice a true gain" in comparison_text(compare(few, few))
    many = [judge(Question(f"{i}?", "4", {}), Sample(f"The answer is {i}.", 5, False)) for i in range(300)]
    assert "300 questions notice, four times in five, a true gain of" in comparison_text(compare(many, many))


@pytest.mark.parametrize("content", ["array", "gzip"])
def test_a_file_of_answers_is_looked_at_before_anything_is_cut_from_it(policy, finished, content):
    path = finished / "completions.jsonl"
    rows = path.read_bytes()
    if content == "array":
        path.write_text(json.dumps([json.loads(line) for line in rows.splitlines()]))
    else:
        path.write_bytes(gzip.compress(rows))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="it needs one JSON row a line"):
        evaluate(policy, EIGHT, output=finished)
    assert path.read_bytes() == before


def test_answers_to_other_places_than_those_asked_are_refused(finished):
    path = finished / "completions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"index": row["index"] + 1}) + "\n" for row in rows))
    with pytest.raises(ValueError, match="its indexes are not those of 8 questions from 0 on"):
        load_evaluation(finished)
