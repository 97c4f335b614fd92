"""Our verdicts beside lm-eval's and math-verify's: the rules as published, and every disagreement accounted for."""

import importlib.util
import json
import sys
import time

import pytest

from tests import math_verify_judge
from tests.data.test_transfer import real
from tests.math_verify_judge import judge_all
from utils.data.questions import Question, load_questions, read_questions
from utils.evaluation.agreement import LM_EVAL, agreement, matches, read
from utils.evaluation.evaluate import judge
from utils.model.policy import Sample
from utils.rewards.bank import load_bank

needs_math_verify = pytest.mark.skipif(
    not importlib.util.find_spec("math_verify"),
    reason=f"{math_verify_judge.PIN} is not installed; see requirements-dev",
)
STRICT, FLEXIBLE = LM_EVAL


def verdict(completion, gold="42"):
    return judge(Question("How many?", gold, {}), Sample(completion, 9, False))


def laid_out(answer, reasoning="6 * 7 = 42"):
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>{answer}</answer>"


# --------------------------------------------------------------------------------------------------- lm-eval's rules

# text, what strict-match finds, what flexible-extract finds: worked out by hand from the two published patterns
READINGS = [
    ("#### 42", "42", "42"),
    ("#### -1,234.5 dollars", "-1,234.5", "-1,234.5"),
    ("#### 1\n#### 2", "1", "2"),  # strict takes the first match, flexible the last
    ("####42", None, "42"),  # strict wants the space
    ("#### $42", None, "$42"),  # and no dollar
    ("#### 42.", "42.", "42."),
    ("#### ,", ",", None),  # one sign is too little for the first branch, and no digit for the second
    ("the answer is 7", None, "7"),
    ("it costs $7.", None, "$7."),
    ("7 ... and so on", None, "..."),  # three stops make a "number"
    ("−7", None, "7"),  # U+2212 is no sign to it
    ("3/4", None, "4"),
    ("٤٢", None, None),  # [0-9] means ASCII
    ("no number", None, None),
    ("", None, None),
]


@pytest.mark.parametrize("text, strict, flexible", READINGS)
def test_the_published_patterns_find(text, strict, flexible):
    assert (read(LM_EVAL[STRICT], text), read(LM_EVAL[FLEXIBLE], text)) == (strict, flexible)


@pytest.mark.parametrize(
    "reading, gold, right",
    [
        ("42", "42", True),
        ("1,000", "1000", True),
        ("$1000.", "1,000", True),
        ("42.0", "42", False),
        ("042", "42", False),
        ("42..", "42", False),  # one stop is taken off, not two
        ("...", "42", False),
        (None, "42", False),
        ("-42", "42", False),
    ],
)
def test_the_match_is_of_characters(reading, gold, right):
    assert matches(reading, gold) is right


# ----------------------------------------------------------------------------------------------------------- the table

FIVE = [
    verdict(laid_out("42")),  # all but lm-eval's strict rule, which wants ####
    verdict(laid_out("42") + "\nThat took 3 steps."),  # right in the tag, but more text: its last number is 3
    verdict("#### 42"),  # no tags
    verdict(laid_out("41")),  # wrong for all
    verdict("no idea"),
]


def test_each_reading_is_counted_beside_each_rule():
    table, _ = agreement(FIVE)
    counts = {(row.mode, row.other): (row.both, row.only_ours, row.only_theirs, row.neither) for row in table}
    assert counts == {
        ("strict", STRICT): (0, 1, 1, 3),
        ("strict", FLEXIBLE): (1, 0, 1, 3),
        ("lenient", STRICT): (1, 2, 0, 2),
        ("lenient", FLEXIBLE): (2, 1, 0, 2),
    }
    assert [row.rate for row in table] == [3 / 5, 4 / 5, 3 / 5, 4 / 5]
    assert all(row.n == 5 and row.unjudged == 0 for row in table)


def test_every_disagreement_is_listed_with_both_readings():
    table, listed = agreement(FIVE)
    assert len(listed) == sum(row.only_ours + row.only_theirs for row in table)
    (one,) = [d for d in listed if (d.mode, d.other) == ("lenient", FLEXIBLE)]
    assert (one.our_reading, one.their_reading, one.ours, one.theirs) == ("42", "3", True, False)
    assert (one.id, one.question, one.gold, one.completion) == (FIVE[1].id, "How many?", "42", FIVE[1].completion)


def test_no_verdicts_are_refused_and_too_few_of_another_scorer():
    with pytest.raises(ValueError, match="no verdicts"):
        agreement([])
    with pytest.raises(ValueError, match="zip"):
        agreement(FIVE, {"mine": [("42", True)]})


@pytest.mark.parametrize("unit", ["-", "1", "#### ", "$,.", "#### -", "1 ", "-$", "<answer>"])
def test_half_a_million_hostile_characters_take_no_time(unit):
    text, start = (unit * 500_000)[:500_000], time.process_time()
    table, _ = agreement([verdict(text)])
    assert len(table) == 4 and time.process_time() - start < 5


# --------------------------------------------------------------------------------------------------------- math-verify


def by_math_verify(verdicts):
    return {"math-verify": judge_all([(v.completion, v.gold) for v in verdicts])}


def test_without_math_verify_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.8.0")
    with pytest.raises(
        ImportError, match=f"found 0.8.0; run `{sys.executable} -m pip install {math_verify_judge.PIN}`"
    ):
        judge_all([("42", "42")])


@pytest.mark.slow
@needs_math_verify
def test_math_verify_judges_and_a_text_that_keeps_it_busy_costs_that_text_alone(monkeypatch):
    monkeypatch.setattr(math_verify_judge, "SECONDS", 2.0)
    cases = [
        ("It is 42.", "42"),
        (r"\boxed{10^{10^{10}}}", "42"),
        (r"\boxed{\frac{84}{2}}", "42"),
        ("41", "42"),
        ("", "1"),
    ]
    start = time.monotonic()
    judged = judge_all(cases)
    assert [right for _, right in judged] == [True, None, True, False, False]
    assert judged[0][0] == "42" and judged[1] == (None, None) and judged[4][0] is None
    assert time.monotonic() - start < 60


@pytest.mark.slow
@needs_math_verify
def test_what_is_not_judged_counts_neither_way(monkeypatch):
    monkeypatch.setattr(math_verify_judge, "SECONDS", 2.0)
    verdicts = [verdict("It is 42."), verdict(r"\boxed{10^{10^{10}}} or 42")]
    table, listed = agreement(verdicts, by_math_verify(verdicts))
    row = next(row for row in table if (row.mode, row.other) == ("lenient", "math-verify"))
    assert (row.n, row.unjudged, row.both, row.rate) == (2, 1, 1, 1.0)
    assert all(d.completion == "It is 42." for d in listed if d.other == "math-verify")


@needs_math_verify
def test_any_text_reaches_math_verify():
    assert [right for _, right in judge_all([("\ud800\n\0", "1"), ("it is\n5", "5")])] == [False, True]


# ---------------------------------------------------------------------------------------------------------- real texts


@pytest.fixture(scope="module")
def bank():
    groups = load_bank().groups
    return [
        judge(Question(group.question, group.gold, {}), Sample(text, tokens, False))
        for group in groups
        for text, tokens in zip(group.completions, group.tokens, strict=True)
    ]


def test_on_the_bank_the_lenient_reading_is_flexible_extract_and_the_strict_one_is_stricter(bank):
    table = {(row.mode, row.other): row for row in agreement(bank)[0]}
    assert table["lenient", FLEXIBLE].rate == 1.0
    assert table["strict", FLEXIBLE].only_ours == 0 < table["strict", FLEXIBLE].only_theirs
    assert table["lenient", STRICT].both == 0, "nobody here writes ####"


@pytest.mark.slow
@needs_math_verify
def test_on_the_bank_math_verify_misses_short_tags_and_reads_past_wrong_ones(bank):
    table, listed = agreement(bank, by_math_verify(bank))
    row = next(row for row in table if (row.mode, row.other) == ("lenient", "math-verify"))
    assert row.unjudged == 0 and row.only_ours > 0 < row.only_theirs and row.rate > 0.98
    cases = [d for d in listed if (d.mode, d.other) == ("lenient", "math-verify")]
    assert len(cases) == row.only_ours + row.only_theirs
    untagged = [d.completion for d in cases if f"<answer>{d.our_reading}</answer>" not in d.completion]
    assert not untagged, "in all of them our reading is the one tagged"


def published():
    path = real("GSM8K_DIR", "example_model_solutions.jsonl")
    test = load_questions("gsm8k", "test")
    with path.open(encoding="utf-8") as lines:
        for question, line in zip(test, lines, strict=True):
            for sample in json.loads(line).values():
                if isinstance(sample, dict):
                    yield judge(question, Sample(sample["solution"], 0, False))


def test_on_the_published_samples_lenient_and_flexible_agree_everywhere():
    verdicts = list(published())
    table = {(row.mode, row.other): row for row in agreement(verdicts)[0]}
    row = table["lenient", FLEXIBLE]
    assert (row.n, row.both, row.neither, row.rate) == (5276, 2001, 3275, 1.0)


@pytest.mark.parametrize("split, count", [("train", 7473), ("test", 1319)])
def test_gsm8ks_own_solutions_are_right_by_both_of_lm_evals_rules(split, count):
    path = real("GSM8K_DIR", f"{split}.jsonl")
    verdicts = [judge(q, Sample(q.row["answer"], 0, False)) for q in read_questions(path)]
    table = {(row.mode, row.other): row for row in agreement(verdicts)[0]}
    assert (table["lenient", STRICT].both, table["lenient", FLEXIBLE].both) == (count, count)
