"""Beyond the test set: SVAMP, GSM-Symbolic, wrong labels and leaks; on small files, and on real ones where they are.

The tests on real data need GSM8K_DIR, a folder with train.jsonl, test.jsonl and example_model_solutions.jsonl, and
SVAMP_DIR, one with SVAMP.json.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import types
from fractions import Fraction
from pathlib import Path

import pytest

from utils.data.answers import is_correct
from utils.data.audit import (
    WRONG_LABELS,
    _alike,
    _grams,
    _masked,
    leaks,
    question_key,
    without_wrong_labels,
    wrong_label,
)
from utils.data.numbers import to_number
from utils.data.questions import (
    GSM_SYMBOLIC_PIN,
    GSM_SYMBOLIC_SIZE,
    Question,
    join_sentences,
    load_questions,
    read_questions,
)
from utils.files import ROOT


def real(variable: str, name: str) -> Path:
    path = Path(os.environ.get(variable, ""), name)
    if not os.environ.get(variable) or not path.is_file():
        pytest.skip(f"{variable} is {os.environ.get(variable)!r}; set it to a folder that holds {name}")
    return path


def question(text: str, gold: str = "1") -> Question:
    return Question(text, gold, {})


# ------------------------------------------------------------------------------------------------------------ SVAMP

PROBLEM = {"ID": "chal-7", "Body": "Dan has $ 4", "Question": "How much is it?", "Answer": 4.0, "Equation": "4.0"}


def svamp_file(tmp_path, monkeypatch, content):
    (tmp_path / "SVAMP.json").write_text(content, encoding="utf-8")
    monkeypatch.setenv("SVAMP_DIR", str(tmp_path))


@pytest.mark.parametrize(
    "body, asked, whole",
    [
        ("He has 2.", "How many?", "He has 2. How many?"),
        ("He has 2", "How many?", "He has 2. How many?"),
        (" He has 2 ", " How many? ", "He has 2. How many?"),
        ("He had 2! Did he?", "How many?", "He had 2! Did he? How many?"),
        ("He has 2. If he buys 3 more", "How many are there?", "He has 2. If he buys 3 more, how many are there?"),
        ("If he buys 3 more", "How many are there?", "If he buys 3 more, how many are there?"),
        ("If he buys 3. He sells 2", "How many are there?", "If he buys 3. He sells 2. How many are there?"),
        ("Iffy sells 2", "How many?", "Iffy sells 2. How many?"),
        ("", "How many?", "How many?"),
    ],
)
def test_story_and_question_become_one_text(body, asked, whole):
    assert join_sentences(body, asked) == whole


def test_svamp_comes_from_the_folder_named(tmp_path, monkeypatch):
    svamp_file(tmp_path, monkeypatch, json.dumps([PROBLEM]))
    (q,) = load_questions("svamp", "test")
    assert (q.question, q.gold) == ("Dan has $ 4. How much is it?", "4")
    assert q.row["source"] == "SVAMP.json row 0" and q.row["Answer"] == 4.0


@pytest.mark.parametrize(
    "content, error",
    [
        ("{", "SVAMP.json is not JSON"),
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ('[{"Body": "b"}]', "SVAMP.json row 0 needs the texts Body and Question"),
        (json.dumps([PROBLEM, PROBLEM | {"Answer": "many"}]), "SVAMP.json row 1: no gold number"),
        (json.dumps([PROBLEM | {"Answer": None}]), "SVAMP.json row 0: a row needs a non-empty text 'answer'"),
        (json.dumps([PROBLEM | {"Body": None}]), "SVAMP.json row 0 needs the texts"),
    ],
)
def test_a_bad_svamp_file_is_refused(tmp_path, monkeypatch, content, error):
    svamp_file(tmp_path, monkeypatch, content)
    with pytest.raises(ValueError, match=error):
        load_questions("svamp", "test")


def test_a_folder_without_svamp_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SVAMP_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no SVAMP.json in SVAMP_DIR"):
        load_questions("svamp", "test")


def test_without_a_folder_both_parts_of_the_hubs_svamp_are_joined_in_the_first_order(monkeypatch):
    hub = {"train": [PROBLEM | {"ID": "chal-10", "Answer": "3.0"}], "test": [PROBLEM | {"ID": "chal-9"}, PROBLEM]}
    monkeypatch.delenv("SVAMP_DIR", raising=False)
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: {"ChilleD/SVAMP": hub}[name][split])
    questions = load_questions("svamp", "test")
    assert [q.row["ID"] for q in questions] == ["chal-7", "chal-9", "chal-10"]
    assert [to_number(q.gold) for q in questions] == [4, 4, 3] and questions[0].row["source"] == "ChilleD/SVAMP row 0"


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.delenv("SVAMP_DIR", raising=False)
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: 1 / 0)
    with pytest.raises(ConnectionError, match="set SVAMP_DIR"):
        load_questions("svamp", "test")


def test_every_gold_of_svamp_is_its_equations_value_but_one():
    real("SVAMP_DIR", "SVAMP.json")
    questions = load_questions("svamp", "test")
    assert len({q.id for q in questions}) == len(questions) == 1_000
    assert all(q.gold.isdigit() for q in questions)
    assert all(re.search(r"[.?!,] \S[^.?!]*(\?|3)$", q.question) and "  " not in q.question for q in questions)
    assert [q.row["ID"] for q in questions if value(q.row["Equation"]) != int(q.gold)] == ["chal-680"]


def value(equation: str) -> Fraction:
    """( 4.0 - ( 2.0 + 1.0 ) ): every operation stands in brackets of its own."""
    inner = re.compile(r"\( (-?[\d./]+) ([-+*/]) (-?[\d./]+) \)")
    do = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
    while "(" in equation:
        equation = inner.sub(lambda m: str(do[m[2]](Fraction(m[1]), Fraction(m[3]))), equation)
    return Fraction(equation)


# ----------------------------------------------------------------------------------------------------- GSM-Symbolic


def test_gsm_symbolic_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(ImportError, match=f"found none; run `{sys.executable} -m pip install {GSM_SYMBOLIC_PIN}`"):
        load_questions("gsm-symbolic", "test")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1.24")
    with pytest.raises(ImportError, match="found 0.1.24"):
        load_questions("gsm-symbolic", "test")


def test_gsm_symbolic_is_asked_for_by_size_and_seed_and_loses_only_the_extra_instruction(monkeypatch):
    class Made(list):
        task_indices = [46, 27]

    def create_dataset(name, size, seed):
        assert (name, size, seed) == ("gsm_symbolic", GSM_SYMBOLIC_SIZE, 0)
        tail = " Give the result as your final answer. Do not include units."
        return Made(
            {"question": text + tail, "answer": answer, "metadata": {"answer_cot": "c"}}
            for text, answer in (("How much water?", "14"), ("How much money?", "9281.25"))
        )

    package = types.ModuleType("reasoning_gym")
    package.create_dataset = create_dataset
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)
    monkeypatch.setattr("importlib.metadata.version", lambda name: GSM_SYMBOLIC_PIN.partition("==")[2])
    questions = load_questions("gsm-symbolic", "test")
    assert [(q.question, q.gold) for q in questions] == [("How much water?", "14"), ("How much money?", "9281.25")]
    assert questions[0].row["source"] == f"{GSM_SYMBOLIC_PIN} gsm_symbolic seed 0 row 0"
    assert [q.row["template"] for q in questions] == [46, 27]


def test_gsm_symbolic_as_the_package_makes_it():
    pytest.importorskip("reasoning_gym", reason=f"{GSM_SYMBOLIC_PIN} is not installed; `pip install` it")
    questions = load_questions("gsm-symbolic", "test")
    assert len({q.id for q in questions}) == GSM_SYMBOLIC_SIZE and len({q.row["template"] for q in questions}) == 85
    assert not any("Do not include units" in q.question for q in questions)
    assert [q.gold for q in questions if to_number(q.gold).denominator != 1] == ["9281.25"]
    text = "".join(q.id + q.gold for q in questions)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "cd1e5782b472888dcf2a2a2ddfdf726f9f2fea2883de33713fd180a0a01e5c94"
    )


def test_importing_the_modules_imports_no_optional_package():
    optional = {"datasets", "math_verify", "reasoning_gym", "sympy", "torch"}
    modules = "utils.evaluation.agreement, utils.data.questions, utils.data.audit"
    code = f"import {modules}, sys; print(sorted({optional!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


# ----------------------------------------------------------------------------------------------------- wrong labels


def test_wrong_labels_are_found_by_their_text_and_left_out_openly(monkeypatch):
    known = WRONG_LABELS[0]
    text, other = question("Each  eats 4\n apples. ", known.printed), question("Each eats 5 apples.", known.printed)
    monkeypatch.setattr("utils.data.audit._BY_KEY", {question_key("Each eats 4 apples."): known})
    assert without_wrong_labels([other, text, other]) == ([other, other], [text])
    assert wrong_label(text) is known and wrong_label(other) is None
    assert wrong_label(question(text.question, f"{known.printed}.0")) is known, "the same number, written otherwise"
    assert wrong_label(question(text.question, known.right)) is None, "mended already"


def test_the_list_of_wrong_labels_is_sound():
    assert len({label.key for label in WRONG_LABELS}) == len(WRONG_LABELS)
    for label in WRONG_LABELS:
        assert label.right is None or to_number(label.right) != to_number(label.printed)
        assert re.fullmatch("[0-9a-f]{16}", label.key) and label.reason


@pytest.mark.parametrize("split, count", [("train", 2), ("test", 4)])
def test_every_wrong_label_stands_where_it_is_said_to(split, count):
    questions = read_questions(real("GSM8K_DIR", f"{split}.jsonl"))
    here = [label for label in WRONG_LABELS if label.split == split]
    assert len(here) == count
    for label in here:
        assert wrong_label(questions[label.row]) is label and questions[label.row].gold == label.printed
    kept, left_out = without_wrong_labels(questions)
    assert left_out == [questions[label.row] for label in here] and len(kept) == len(questions) - count


def test_the_right_golds_follow_from_the_questions():
    """Worked out here from the numbers of the questions, apart from the reasons in the list."""
    worked_out = {
        ("test", 454): 2 * 4 * 30,
        ("test", 952): (23 - 8) * 60 // 15 * 30,
        ("test", 1309): (430 + 320) + 430 + (300 + 400) + 300,
        ("train", 4796): 20 + 5 * 20,
        ("train", 7401): 7000 * 3 // 4 + 5000 * 4 // 5 + 3000 // 2,
    }
    assert worked_out == {(label.split, label.row): int(label.right) for label in WRONG_LABELS if label.right}


# ------------------------------------------------------------------------------------------------------------ leaks

STORY = "Ann bought stamps at the post office. She bought {} red stamps and {} blue stamps. How many stamps are there?"


def test_each_pair_is_found_under_the_first_kind_that_holds():
    train = [
        question("What is 3 + 4?"),
        question(STORY.format(3, 4)),
        question("Nothing like the others at all, is it?"),
    ]
    test = [
        question(STORY.format(3, 4).upper().replace(".", "!")),
        question(STORY.format("1,200", 0.5)),
        question(STORY.format(3, 4).replace("Ann", "Bob").replace("red", "pink")),
        question("A farmer walks around a square field with a side of 20 feet. How far does the farmer walk?"),
    ]
    found = leaks(train, test)
    assert {kind: [pair[:2] for pair in pairs] for kind, pairs in found.items()} == {
        "exact": [(0, 1)],
        "masked": [(1, 1)],
        "near": [(2, 1)],
    }
    assert 0.35 <= found["near"][0].similarity < 1


def test_short_questions_and_empty_lists_are_no_trouble():
    assert leaks([], []) == leaks([question("3?")], []) == {"exact": [], "masked": [], "near": []}
    assert [pair[:2] for pair in leaks([question("3?")], [question("4?")])["masked"]] == [(0, 0)]


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_a_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        leaks([], [], threshold)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_the_index_finds_every_pair_that_a_search_of_all_pairs_finds(threshold):
    train, test = load_questions("tiny", "train")[:400], load_questions("tiny", "test")[:150]
    grams = [[_grams(_masked(q.question)) for q in side] for side in (train, test)]
    everything = {
        (j, i)
        for j, b in enumerate(grams[1])
        for i, a in enumerate(grams[0])
        if len(a & b) >= threshold * len(a | b) - 1e-12
    }
    found = leaks(train, test, threshold)
    assert everything and {pair[:2] for pairs in found.values() for pair in pairs} == everything


def test_the_index_finds_a_text_inside_a_longer_one_though_all_it_shares_is_common():
    whole, part = (frozenset((str(i),) for i in range(start, 30)) for start in (10, 23))  # 7 of 20 grams: just 0.35
    fillers = [frozenset([gram]) for gram in part]
    assert [pair[:2] for pair in _alike([*fillers, whole], [part], 0.35)] == [(0, 7)]


def test_the_tiny_worlds_templates_show():
    found = leaks(load_questions("tiny", "train"), load_questions("tiny", "test"))
    assert found["exact"] == []
    assert (len(found["masked"]), len({pair.test for pair in found["near"]})) == (18, 777)


def test_the_known_near_duplicates_of_gsm8k_are_found_and_no_others():
    train, test = (read_questions(real("GSM8K_DIR", f"{split}.jsonl")) for split in ("train", "test"))
    found = leaks(train, test)
    assert found["exact"] == found["masked"] == []
    assert {pair[:2] for pair in found["near"]} == {(602, 1314), (602, 5162), (632, 20), (824, 3726), (974, 2600)}


# ------------------------------------------------------------------------------------------------ published accuracy


@pytest.mark.parametrize(
    "model, accuracy",
    [
        ("6b_finetuning", 0.2168),
        ("6b_verification", 0.3904),
        ("175b_finetuning", 0.3472),
        ("175b_verification", 0.5625),
    ],
)
def test_the_lenient_reading_reproduces_the_published_accuracies(model, accuracy):
    path = real("GSM8K_DIR", "example_model_solutions.jsonl")
    with path.open(encoding="utf-8") as lines:
        samples = [json.loads(line)[model]["solution"] for line in lines]
    golds = [q.gold for q in load_questions("gsm8k", "test")]
    right = sum(is_correct(sample, gold, "lenient") for sample, gold in zip(samples, golds, strict=True))
    assert round(right / len(golds), 4) == accuracy
