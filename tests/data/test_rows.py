"""Rows: every digit of a number, no half characters, and each other kind of file refused by its name."""

import bz2
import gzip
import io
import json
import lzma
import re
import subprocess
import sys
import zipfile

import pandas
import pytest

from utils.data.questions import Question, load_questions, read_questions, to_question
from utils.data.rows import number_text, parse_row
from utils.evaluation.protocol import read_answers

ROWS = [
    {"question": 'He said "3, 4";\nhow many\tis that?', "answer": "1,000"},
    {"question": "Ça coûte 2 €, ou 3?", "answer": "so\n#### 3"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = pandas.DataFrame(ROWS)


def zipped():
    with zipfile.ZipFile(content := io.BytesIO(), "w") as archive:
        archive.writestr("mine.jsonl", LINES)
    return content.getvalue()


FORMATS = {
    "array": (json.dumps(ROWS, indent=1), "a JSON array of 2 rows"),
    "array on one line": (json.dumps(ROWS), "a JSON array of 2 rows"),
    "array, a row a line": ("[\n" + LINES.strip().replace("\n{", ",\n{") + "\n]", "a JSON array of 2 rows"),
    "array, cut off": (json.dumps(ROWS, indent=1)[:-9], "a JSON array, and a damaged one"),
    "pretty rows": ("\n".join(json.dumps(row, indent=2) for row in ROWS), "pretty-printed JSON"),
    "one pretty row": (json.dumps(ROWS[0], indent=2), "pretty-printed JSON"),
    "rows in an object": (json.dumps({"data": ROWS}, indent=2), "pretty-printed JSON"),
    "csv": (TABLE.to_csv(index=False), "CSV"),
    "csv with a mark": ("\ufeff" + TABLE.to_csv(index=False), "CSV"),
    "semicolons": (TABLE.to_csv(index=False, sep=";"), "CSV with semicolons"),
    "tsv": (TABLE.to_csv(index=False, sep="\t"), "TSV"),
    "python": ("\n".join(map(repr, ROWS)), "Python and not JSON"),
    "yaml": ('- question: "1 + 1?"\n  answer: 2\n', "YAML"),
    "a web page": ("\n<!DOCTYPE html><html>…</html>", "HTML or XML"),
    "git-lfs": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
    "gzip": (gzip.compress(LINES.encode()), "compressed .gzip."),
    "bzip2": (bz2.compress(LINES.encode()), "compressed .bzip2."),
    "xz": (lzma.compress(LINES.encode()), "compressed .xz."),
    "zip": (zipped(), "a zip archive or an Excel workbook"),
    "parquet": (TABLE.to_parquet(), "a Parquet file"),
    "utf-16": (LINES.encode("utf-16"), "in UTF-16"),
    "utf-16 without a mark": (LINES.encode("utf-16-le"), "binary, or in UTF-16"),
    "utf-32": (LINES.encode("utf-32"), "in UTF-16 or UTF-32"),
}


@pytest.mark.parametrize("content, found", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("read, name", [(read_questions, "mine.jsonl"), (read_answers, "completions.jsonl")])
def test_another_kind_of_file_is_refused_by_its_name(tmp_path, content, found, read, name):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=f"{name} is {found}.*it needs one JSON row a line. Mend: "):
        read(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["array", "array, a row a line", "csv", "csv with a mark", "semicolons", "tsv", "parquet"]
)
def test_the_command_named_makes_rows_of_it(tmp_path, kind):
    path, content = tmp_path / "it's mine", FORMATS[kind][0]
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError) as error:
        read_questions(path)
    command = str(error.value).partition("Mend: ")[2]
    assert command.startswith("python -c ")
    subprocess.run(command.replace("python", f'"{sys.executable}"', 1), shell=True, cwd=tmp_path, check=True)
    questions = read_questions(tmp_path / "rows.jsonl")
    assert [(q.question, q.gold) for q in questions] == [(ROWS[0]["question"], "1,000"), (ROWS[1]["question"], "3")]


def test_a_folder_is_called_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder; give a JSONL file"):
        read_questions(tmp_path)


ROW = '{"question": "1 + 1?", "answer": 2}'


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"question": "1 + 1?", "answer": NaN}', "NaN is no JSON number"),
        ('{"question": "1 + 1?", "answer": 2, "score": -Infinity}', "-Infinity is no JSON number"),
        ('{"question": "1 + 1?", "answer": 2, "answer": 3}', "the key 'answer' stands in it twice"),
        ("\ufeff" + ROW, "a byte-order mark stands before it: were two files joined"),
        ('{"question": "1 + 1?", "answer": ' + "7" * 5_000 + "}", "an integer of 5,000 digits; put that in quotes"),
        ('{"question": ' + "[" * 100_000, "nested too deeply"),
        (ROW + ROW, "Extra data"),
        (ROW + ",", "Extra data"),
        ('{"question": "1 + 1?", "answer": 2 // two', "delimiter"),
        ('{"question": "1 \0 1?", "answer": 2}', "Invalid control character"),
    ],
)
def test_what_is_no_row_is_named_by_file_line_and_reason(tmp_path, line, reason):
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{ROW}\n{line}\n{ROW}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"mine.jsonl line 2: not a JSON row .*{reason}.*it needs one JSON row a line"):
        read_questions(path)


@pytest.mark.parametrize(
    "written, gold",
    [
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("12345678901234567.89", "12345678901234567.89"),
        ("1234567890123456789012345678901234567890.50", "1234567890123456789012345678901234567890.5"),
        ("1e400", "1" + "0" * 400),
        ("2.5E-7", "0.00000025"),
        ("-8.000", "-8"),
        ("100", "100"),
        ("0.0", "0"),
        ("9" * 4_300, "9" * 4_300),
    ],
)
def test_a_json_number_keeps_all_its_digits_in_questions_and_in_answers(tmp_path, written, gold):
    path, answers = tmp_path / "mine.jsonl", tmp_path / "completions.jsonl"
    path.write_text(f'{{"question": "?", "answer": {written}}}')
    answers.write_text(f'{{"question": "?", "gold": {written}, "completion": "", "seconds": 0.25}}')
    assert [q.gold for q in read_questions(path)] == [gold]
    (answer,) = read_answers(answers)
    assert answer.question.gold == gold and answer.seconds == 0.25


def test_a_number_of_a_dataset_is_written_as_python_shows_it():
    assert [number_text(value) for value in (0.1, 1e22, 7, -0.5, True, "7.0", None)] == [
        *("0.1", "10000000000000000000000", "7", "-0.5"),
        *(True, "7.0", None),
    ]


@pytest.mark.parametrize(
    "written", ["1e999999999", "1e-999999999", "1e99999999999999999999", "1" + "0" * 400 + "e9999"]
)
def test_a_number_beyond_all_measure_is_not_written_out_and_is_no_gold(tmp_path, written):
    assert number_text(parse_row(written)) == written
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{{"question": "?", "answer": {written}}}')
    with pytest.raises(ValueError, match="mine.jsonl line 1: no gold number"):
        read_questions(path)


def test_a_fraction_is_still_a_float():
    row = parse_row('{"answer": 0.5}')
    assert row["answer"] == 0.5 and json.dumps(row) == '{"answer": 0.5}'


HALF = "\\ud83d"  # as JSON writes it


@pytest.mark.parametrize(
    "name, line, where",
    [
        ("mine.jsonl", f'{{"question": "a {HALF} b", "answer": 2}}', "mine.jsonl line 2: 'question' holds"),
        ("mine.jsonl", f'{{"question": "a", "answer": "{HALF} #### 2"}}', "mine.jsonl line 2: 'answer' holds"),
        ("mine.jsonl", '{"question": "\\udc00\\ud800", "answer": 2}', "mine.jsonl line 2: 'question' holds"),
        (
            "completions.jsonl",
            f'{{"question": "a", "gold": 2, "completion": "It is {HALF}"}}',
            "completions.jsonl, line 2: 'completion' holds",
        ),
        (
            "completions.jsonl",
            f'{{"question": "{HALF}", "gold": 2, "completion": ""}}',
            "completions.jsonl, line 2: 'question' holds",
        ),
    ],
)
def test_half_a_character_is_refused_by_file_and_line(tmp_path, name, line, where):
    path, whole = (
        tmp_path / name,
        '{"question": "\\ud83d\\ude00?", "answer": 2, "gold": 2, "completion": "\\ud83d\\ude00"}',
    )
    path.write_text(f"{whole}\n{line}\n")
    read = read_questions if name == "mine.jsonl" else read_answers
    with pytest.raises(ValueError, match=f"{where} .*half of a surrogate pair, after .*mend or remove the line"):
        read(path)
    path.write_text(whole)
    (found,) = read(path)
    assert (found if isinstance(found, Question) else found.question).question == "\N{GRINNING FACE}?"


def test_half_a_character_of_a_dataset_and_one_in_bytes_are_refused_too(tmp_path):
    with pytest.raises(ValueError, match="hub row 3: 'question' holds"):
        to_question({"question": "a \ud83d", "answer": "2"}, "hub row 3")
    path = tmp_path / "mine.jsonl"
    path.write_bytes(ROW.encode() + b"\n" + ROW.replace("1 + 1", "\ud83d").encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match="mine.jsonl is not UTF-8 in line 2"):
        read_questions(path)


def test_every_embedded_question_can_be_written_down():
    for q in load_questions("tiny", "test"):
        assert re.fullmatch(r"-?\d+", q.gold) and q.question.encode()
