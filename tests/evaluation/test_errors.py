"""Why an answer is wrong: each case with its reason; equations read exactly; any text in linear time."""

import json
import os
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest

from utils.data.questions import load_questions, to_question
from utils.evaluation.equations import equations
from utils.evaluation.errors import ERROR_TYPES, diagnose, error_type, solutions_of, transitions, why
from utils.evaluation.evaluate import compare, judge
from utils.model.policy import Sample
from utils.rewards.bank import load_bank

BOXES = "Max has 4*13=<<4*13=52>>52 notes.\nHalf of them is 52/2=<<52/2=26>>26.\nThen 26+36=<<26+36=62>>62.\n#### 62"


def laid_out(working, answer):
    return f"<reasoning>\n{working}\n</reasoning>\n<answer>{answer}</answer>"


CASES = [  # completion, gold, solution, truncated, category, reason
    ("4*13=52, 52/2=26, 26+36=62. The answer is 62.", "62", BOXES, False, "no tag", "right number, no tags"),
    (laid_out("26+36=62", 62) + "\nI hope this helps!", "62", BOXES, False, "no tag", "text after the answer"),
    ("The answer is 62. Let me check: 4*13", "62", BOXES, True, "no tag", "right, though cut off: layout alone"),
    ("<reasoning>\n4*13=42, the answer is 62", "62", BOXES, True, "no tag", "right in spite of a slip"),
    ("The answer is 60.", "62", BOXES, False, "guess", "a wrong number without tags is no layout error"),
    ("<reasoning>\nMax has 4*13=52 notes. Half of", "62", BOXES, True, "truncated", "cut off in the working"),
    ("<reasoning>\nMax has", "62", BOXES, True, "truncated", "cut off before any number"),
    (laid_out("4*13=52", 52) + " and so on", "62", BOXES, True, "dropped step", "the answer was stated before the cut"),
    ("I do not know.", "62", BOXES, False, "no answer", "no number anywhere"),
    ("", "62", BOXES, False, "no answer", "nothing at all"),
    (laid_out("4*13=52", "5 or 6"), "62", BOXES, False, "unparsable", "two numbers compete"),
    (laid_out("4*13=52", "fifty"), "62", BOXES, False, "unparsable", "a word in the tag"),
    ("The answer is 41 or 42.", "62", BOXES, False, "unparsable", "two numbers in a sentence"),
    (laid_out("Let me think.", 216), "62", BOXES, False, "guess", "words alone are no working"),
    (laid_out("Let x be 3. Then 2x + 3 = 7.", 5), "62", BOXES, False, "other", "a working with an unknown"),
    (laid_out("26+36=62", 63), "62", BOXES, False, "answer not copied", "the working ends in the gold"),
    (laid_out("4*13=42\n26+36=62", 63), "62", BOXES, False, "answer not copied", "... whatever stands before"),
    (laid_out("4*13=52\n52+36=88", 89), "62", BOXES, False, "answer not copied", "88 is stated as 89"),
    (laid_out("4*13=52\n52/2=26\n26+36=52", 52), "62", BOXES, False, "arithmetic slip", "26+36 is not 52"),
    (laid_out("4*13=42\n42/2=21\n21+36=57", 57), "62", BOXES, False, "arithmetic slip", "a slip carried on"),
    (laid_out("4+13=18\n18/2=9\n9+36=45", 45), "62", BOXES, False, "arithmetic slip", "a fact before an inference"),
    (laid_out("4*13=52\n52/2=26\n26-36=-10", -10), "62", BOXES, False, "wrong operation", "26-36 for 26+36"),
    (laid_out("10+4=14\n14-5=9", 9), "11", "10-4=6\n6+5=11\n#### 11", False, "wrong operation", "signs exchanged"),
    (laid_out("13+50=63", 63), "62", BOXES, False, "wrong operation", "13 is to be multiplied, not added to"),
    (laid_out("4*13=52\n52/2=26\n26+36=62\n62+4=66", 66), "62", BOXES, False, "wrong operation", "one + too many"),
    (laid_out("4*13=52\n52+36=88", 88), "62", BOXES, False, "dropped step", "the half is forgotten"),
    (laid_out("4*13=52\n52/2=26", 26), "62", BOXES, False, "dropped step", "stopped early"),
    (laid_out("4*31=124\n124/2=62\n62+36=98", 98), "62", BOXES, False, "wrong numbers", "31 for 13"),
    (laid_out("8*8=64", 64), "62", BOXES, False, "wrong numbers", "fewer steps, but about nothing in the question"),
    (laid_out("4*13=52\n52+36=88", 88), "62", None, False, "wrong plan", "no solution to compare with"),
    (laid_out("4*13=52\n52+36=88", 88), "62", "#### 62", False, "wrong plan", "the bare gold is no solution"),
    ("She pays $1,200 / 4 = $400.\nA: 400", "300", None, False, "arithmetic slip", "dollars and commas"),
    ("It is <<3*14=43>>43 eggs.\n#### 43", "42", None, False, "arithmetic slip", "an annotation"),
    (
        r"\[ 3 \times \frac{1}{2} = 2 \] The answer is \boxed{2}",
        "1.5",
        None,
        False,
        "wrong plan",
        "1.5 is rounded to 2",
    ),
    (r"\( 16 - 3 - 4 = 8 \) so \boxed{8}", "18", None, False, "arithmetic slip", "LaTeX"),
]


@pytest.mark.parametrize("completion, gold, solution, truncated, category, reason", CASES, ids=[c[-1] for c in CASES])
def test_each_completion_has_one_category(completion, gold, solution, truncated, category, reason):
    assert why(completion, gold, solution, truncated).name == category, reason


def test_every_category_is_among_the_cases_and_explained():
    assert {case[4] for case in CASES} == {name for name, _ in ERROR_TYPES}
    assert all(meaning and "\n" not in meaning for _, meaning in ERROR_TYPES)


EQUATIONS = [  # text, what is read: (value, stated, holds)
    ("3 * 14 = 42", [(42, 42, True)]),
    ("3 eggs/day x 7 days = 21 eggs", [(21, 21, True)]),
    ("He earns $1,250 + $50 = $1,300.", [(1300, 1300, True)]),
    ("48/2 = <<48/2=24>>24 clips, then 24 + 8 = 31", [(24, 24, True), (32, 31, False)]),
    ("4*50k = <<4*50k=20000>>200,000", [(200_000, 200_000, True)]),  # said again rightly
    ("3 * 4 = 12 + 5 = 17", [(12, 12, True), (17, 17, True)]),  # a running calculation
    ("12 * (3 + 2) = 12 * 5 = 60", [(60, 60, True), (60, 60, True)]),
    ("100 / 3 = 33.33", [(Fraction(100, 3), Fraction("33.33"), True)]),  # rounded
    ("100 / 3 = 33.4", [(Fraction(100, 3), Fraction("33.4"), True)]),  # less than 0.1 away
    ("100 / 3 = 33.5", [(Fraction(100, 3), Fraction("33.5"), False)]),
    ("7 / 2 = 3", [(Fraction(7, 2), 3, True)]),  # cut off to a whole number
    ("7 - 2 = 4", [(5, 4, False)]),  # nothing to round
    ("20% of 50 = 10", [(10, 10, True)]),
    ("100% - 40% = 60%", [(Fraction(3, 5), 60, True)]),
    ("3/8 * 100% = 37.5%", [(Fraction(3, 8), Fraction("37.5"), True)]),
    ("5 * 20 cents = $1", [(100, 1, True)]),
    ("1 1/2 * 4 = 6", [(6, 6, True)]),
    ("½ * 10 = 5 and 1½ * 2 = 3", [(5, 5, True), (3, 3, True)]),
    ("30 minutes / 60 = 1/2 of an hour", [(Fraction(1, 2), Fraction(1, 2), True)]),
    ("2(3+4) = 14", [(14, 14, True)]),
    ("-3 + 5 = 2", [(2, 2, True)]),
    ("2**5 = 32, 2^5 = 32", [(32, 32, True), (32, 32, True)]),
    ("3 times 4 equals 12", [(12, 12, True)]),
    ("10 minus 4 equals 7", [(6, 7, False)]),
    ("120 - 60 = $60 million", [(60, 60_000_000, True)]),  # millions are meant on both sides
    (r"\frac{48}{2} = 24 \text{ clips}", [(24, 24, True)]),
    (r"\( 5 \times \$3 = \$15 \)", [(15, 15, True)]),
    ("- 5 + 3 = 8", [(8, 8, True)]),  # a bullet, not a sign
    ("**3 + 4 = 7**", [(7, 7, True)]),
    ("He pays $5 (10 / 2 = 5) each", [(5, 5, True)]),
    ("5 apples and 3 + 4 = 7 pears", [(7, 7, True)]),
    ("3 * 4 =\n12", [(12, 12, True)]),
    ("3 * 4 = 12\n5 + 5 = 10", [(12, 12, True), (10, 10, True)]),
    ("2x + 3 = 7", []),  # unknowns
    ("x + 5a - 6 = 150", []),
    ("the original number + 12 - 18 = 45", []),  # something before the plus
    ("one/0.6 = 2", []),
    ("the price * 3 + 2 = 6", []),
    ("2:15 + 2:38 = 4:53", []),  # times
    ("sqrt(16) + √9 = 7", []),
    ("5! + 1 = 121", []),
    ("x = 42, total = 7", []),  # nothing to check
    ("1 / 0 = 5", []),
    ("28% of them because 100 - 72 = 28", [(28, 28, True)]),
    ("9^9^9^9 = 1", []),
    ("a 10-year-old has 24-hour care: 5 + 5 = 10", [(10, 10, True)]),
    ("This is `__import__('os').system('false')` + 1 = 2", []),
]


@pytest.mark.parametrize("text, expected", EQUATIONS, ids=[text[:40] for text, _ in EQUATIONS])
def test_equations_are_read_and_checked(text, expected):
    found = equations(text)
    assert [(e.value, e.result, e.holds) for e in found] == expected
    assert all(text[e.start : e.end] == e.text for e in found)


def test_the_false_equation_is_pointed_at():
    completion = laid_out("4*13=52\n26 + 36 = 52 notes", 52)
    finding = why(completion, "62")
    assert completion[finding.start : finding.end] == "26 + 36 = 52"
    assert finding.note == "26 + 36 is 62, not 52"


HOSTILE = [
    "1+" * 60_000,
    "1=" * 60_000,
    "(" * 500_000,
    "(1+" * 166_000 + ")" * 1_000 + "=1",
    "9" * 500_000,
    "1,234" * 100_000,
    "<<" * 250_000,
    "<<1+1=" * 20_000,
    "<<1+1=2>>" * 12_000,
    r"\frac{" * 80_000,
    r"\frac{1}{2}" * 45_000,
    "2^" * 80_000,
    "(" * 100_000 + "1" + ")" * 100_000 + " * 2 = 3",
    "a " * 250_000,
    "a-" * 250_000,
    "1 % of " * 70_000,
    "1 1/2 " * 80_000,
    "\n" * 500_000,
    "3 + 4 = 8\n" * 12_000,
    "é½²" * 166_000,
    "\\" * 500_000,
    "\\text{" * 80_000,
    "1 and " * 80_000,
    "1 000" * 100_000,
    "- " * 250_000,
    "\ud800" * 1_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE, ids=[repr(text[:12]) for text in HOSTILE])
def test_hostile_texts_take_linear_time(text):
    def seconds(part):
        start = time.process_time()
        why(part + " The answer is 5.", "62", BOXES)
        return time.process_time() - start

    tenth, whole = seconds(text[: len(text) // 10]), seconds(text)
    assert whole < 30 * max(tenth, 0.05), f"{tenth:.2f} s for a tenth, {whole:.2f} s for all"


def test_the_category_of_a_verdict():
    question = to_question({"question": "How many notes?", "answer": BOXES}, "row 1")
    right = judge(question, Sample(laid_out("26+36=62", 62), 9, False))
    wrong = judge(question, Sample(laid_out("52/2=26", 26), 9, False))
    cut = judge(question, Sample("<reasoning>\n52/2=26", 9, True))
    assert error_type(right) is None and diagnose(right) is None
    assert error_type(wrong) == "wrong plan"
    assert error_type(wrong, BOXES) == "dropped step"
    assert error_type(cut, BOXES) == "truncated"


@pytest.fixture(scope="module")
def bank_verdicts():
    questions = {q.question: q for q in load_questions("tiny", "validation")}
    verdicts = {"base": [], "trained": []}
    for group in load_bank().groups:
        sample = Sample(group.completions[0], group.tokens[0], truncated=False)
        verdicts[group.policy].append(judge(questions[group.question], sample))
    return verdicts["base"], verdicts["trained"], solutions_of(questions.values())


def test_transitions_count_every_pair_and_agree_with_the_comparison(bank_verdicts):
    base, trained, solutions = bank_verdicts
    flow = transitions(base, trained, solutions)
    assert sum(flow.values()) == len(base) == 160
    comparison = compare(base, trained)
    assert flow["right", "right"] == comparison["flips"]["both"] > 0
    assert sum(n for (before, after), n in flow.items() if before != "right" == after) == comparison["flips"]["fixed"]
    assert flow["no tag", "right"] == comparison["gain"]["layout"]["fixed"] > 0
    assert not any("wrong plan" in pair for pair in flow)
    without = transitions(base, trained)
    assert any("wrong plan" in pair for pair in without) and sum(without.values()) == 160


def test_transitions_of_other_questions_are_refused(bank_verdicts):
    base, trained, _ = bank_verdicts
    with pytest.raises(ValueError, match="needs the same questions"):
        transitions(base, trained[:-1])


def test_the_embedded_model_never_makes_an_error_without_a_name(bank_verdicts):
    base, trained, solutions = bank_verdicts
    names = {error_type(v, solutions.get(v.question)) for v in base + trained}
    assert names <= {None, *(name for name, _ in ERROR_TYPES)} - {"other", "wrong plan"}


def test_true_equations_of_gsm8k_are_not_called_false():
    folder = Path(os.environ.get("GSM8K_DIR", ""))
    if not (folder / "test.jsonl").is_file():
        pytest.skip("GSM8K_DIR does not hold test.jsonl")
    with (folder / "test.jsonl").open(encoding="utf-8") as lines:
        answers = [json.loads(line)["answer"] for line in lines]
    for texts in (answers, [re.sub(r"<<[^<>]*>>", "", text) for text in answers]):
        found = [e for text in texts for e in equations(text)]
        assert len(found) > 4_000
        assert sum(not e.holds for e in found) / len(found) < 0.005
