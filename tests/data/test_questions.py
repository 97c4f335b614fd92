"""Loading questions: good rows in, bad rows named, nothing dropped."""

import json

import pytest

from utils.data.audit import shared_questions
from utils.data.questions import Question, hold_out, load_questions, read_questions, strip_annotations
from utils.data.tiny_world import SPLIT_SIZES


def write(tmp_path, *lines):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def row(question="How many?", answer="1+1=<<1+1=2>>2\n#### 2"):
    return json.dumps({"question": question, "answer": answer}, ensure_ascii=False)


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_the_tiny_world_loads(split):
    questions = load_questions("tiny", split)
    assert len(questions) == SPLIT_SIZES[split]
    assert questions[0].row["source"] == f"tiny {split} row 0"


@pytest.mark.parametrize(
    "name, split", [("gsm9k", "test"), ("tiny", "dev"), ("svamp", "train"), ("tiny-longer", "train")]
)
def test_unknown_names_are_refused_with_the_choices(name, split):
    with pytest.raises(ValueError, match="must be one of"):
        load_questions(name, split)


def test_a_line_separator_inside_a_row_does_not_cut_it(tmp_path):
    questions = read_questions(write(tmp_path, row("two\u2028lines"), "", row("next")))
    assert [q.question for q in questions] == ["two\u2028lines", "next"]


def test_a_bare_number_will_do_as_an_answer(tmp_path):
    assert read_questions(write(tmp_path, row(answer="1,000")))[0].gold == "1,000"


@pytest.mark.parametrize(
    "answer, gold",
    [
        (42, "42"),
        (-7, "-7"),
        (0, "0"),
        (8.0, "8"),
        (2.5, "2.5"),
        (1e22, "10000000000000000000000"),
        (1000, "1000"),
        (12345678901234567890, "12345678901234567890"),
        ("#### 1,000", "1,000"),
        ("work\n#### -3", "-3"),
        ("#### 0.75", "0.75"),
        ("-3", "-3"),
    ],
)
def test_a_gold_may_be_a_json_number_and_comes_out_in_plain_digits(tmp_path, answer, gold):
    (question,) = read_questions(write(tmp_path, row(answer=answer)))
    assert question.gold == gold and question.row["answer"] == answer


@pytest.mark.parametrize("answer", [True, False, None, [42], float("nan"), float("inf")])
def test_what_is_no_number_is_no_gold(tmp_path, answer):
    with pytest.raises(ValueError, match="questions.jsonl line 1"):
        read_questions(write(tmp_path, row(answer=answer)))


def test_a_file_from_windows_reads_like_any_other(tmp_path):
    path = tmp_path / "Fragen für morgen.jsonl"
    lines = [row("one"), "", row("two\u2028lines \u0085 here"), row("one")]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    questions = read_questions(str(path))
    assert [q.question for q in questions] == ["one", "two\u2028lines \u0085 here", "one"]
    assert [q.row["source"].rpartition(" ")[2] for q in questions] == ["1", "3", "4"]


def test_a_file_in_another_encoding_says_so(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(row("à la carte").encode("latin-1"))
    with pytest.raises(ValueError, match="latin.jsonl is not UTF-8"):
        read_questions(path)


@pytest.mark.parametrize("bad", ['{"question": "q", "answer": ' + "1" * 5_000 + "}", "[" * 100_000])
def test_json_that_python_refuses_is_named_like_any_bad_row(tmp_path, bad):
    with pytest.raises(ValueError, match="questions.jsonl line 1: not a JSON row"):
        read_questions(write(tmp_path, bad))


@pytest.mark.parametrize(
    "bad, reason",
    [
        ("{not json", "not a JSON row"),
        ('["a", "list"]', "needs a non-empty text 'question'"),
        ('{"question": "q"}', "needs a non-empty text 'answer'"),
        ('{"question": "  ", "answer": "#### 1"}', "needs a non-empty text 'question'"),
        (row(answer="no number here"), "number"),
        (row(answer="#### "), "number"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, bad, reason):
    with pytest.raises(ValueError, match=f"questions.jsonl line 2.*{reason}"):
        read_questions(write(tmp_path, row(), bad))


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        read_questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="holds no rows"):
        read_questions(write(tmp_path, ""))


def test_gsm8k_comes_from_the_folder_named(tmp_path, monkeypatch):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(row(f"{split} {i}") + "\n" for i in range(501)), encoding="utf-8"
        )
    monkeypatch.setenv("GSM8K_DIR", str(tmp_path))
    assert len(load_questions("gsm8k", "test")) == 501
    train, validation = load_questions("gsm8k", "train"), load_questions("gsm8k", "validation")
    assert (len(train), len(validation)) == (1, 500) and not shared_questions(train, validation)


def test_the_hold_out_is_seeded_and_refuses_too_many():
    questions = [Question(str(i), "1", {}) for i in range(20)]
    rest, held = hold_out(questions, 5, seed=1)
    assert hold_out(questions, 5, seed=1) == (rest, held) != hold_out(questions, 5, seed=2)
    assert sorted(rest + held, key=lambda q: int(q.question)) == questions
    with pytest.raises(ValueError, match="20 of 20"):
        hold_out(questions, 20)


def test_a_leak_is_found_under_other_punctuation():
    a, b = (
        [Question("Tom has 3 pens.", "3", {})],
        [Question("tom has 3 pens?", "3", {}), Question("Tom has 4 pens.", "4", {})],
    )
    assert shared_questions(a, b) == ["tom has 3 pens?"]


def test_annotations_are_stripped():
    assert strip_annotations("She has 4*12=<<4*12=48>>48 rolls, $<<1=1>>1.") == "She has 4*12=48 rolls, $1."
