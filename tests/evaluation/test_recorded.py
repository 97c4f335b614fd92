"""Recorded answers: completions.jsonl.gz in the place of completions.jsonl, read and checked alike, not added to."""

import gzip
import json
import random

import pytest

from utils.data.questions import load_questions
from utils.evaluation.evaluate import compare_folders, evaluate, load_evaluation, score
from utils.evaluation.protocol import pack, read_answers, unpack
from utils.evaluation.sampling import collect, read_ballots
from utils.files import ROOT
from utils.model import policy as generation
from utils.model.policy import load_policy
from utils.model.profiles import get_profile

QUESTIONS = load_questions("tiny", "test")[:6]


@pytest.fixture(scope="module")
def policy():
    return load_policy(get_profile("tiny").replace(max_completion_tokens=24))


@pytest.fixture(scope="module")
def asked(policy, tmp_path_factory):
    """A greedy evaluation and two samples a question, as they come."""
    folder = tmp_path_factory.mktemp("asked")
    evaluate(policy, QUESTIONS, output=folder / "greedy")
    collect(policy, QUESTIONS, folder / "pass", n=2)
    return folder


@pytest.fixture
def recorded(asked, tmp_path):
    for name in ("greedy", "pass"):
        pack(asked / name, tmp_path / name)
    return tmp_path


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def repack(folder, change):
    """Alter the text inside the compressed file."""
    path = folder / "completions.jsonl.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def test_packed_answers_are_read_as_if_they_were_not(asked, recorded):
    plain, packed = load_evaluation(asked / "greedy"), load_evaluation(recorded / "greedy")
    assert (packed.verdicts, packed.header, packed.seconds) == (plain.verdicts, plain.header, plain.seconds)
    path = recorded / "pass" / "completions.jsonl"
    assert read_ballots(path) == read_ballots(asked / "pass" / path.name) == read_ballots(f"{path}.gz")
    for pair in ((asked, recorded), (recorded, asked), (recorded, recorded)):
        *_, comparison = compare_folders(*(folder / "greedy" for folder in pair))
        assert comparison["n"] == 6 and comparison["flips"]["fixed"] == comparison["flips"]["broken"] == 0


def test_packing_gives_the_same_bytes_and_unpacking_what_was_there(asked, recorded, tmp_path):
    for name, files in (("greedy", {"protocol.json", "card.json"}), ("pass", {"protocol.json"})):
        pack(asked / name, tmp_path / "again" / name)
        unpack(recorded / name, tmp_path / "back" / name)
        assert content(tmp_path / "again" / name) == content(recorded / name)
        assert content(recorded / name).keys() == files | {"completions.jsonl.gz"}
        assert content(tmp_path / "back" / name) == {
            file: text for file, text in content(asked / name).items() if file != ".in-use"
        }


def test_where_both_lie_the_plain_file_counts(asked, recorded):
    unpack(recorded / "greedy", recorded / "greedy")
    (recorded / "greedy" / "completions.jsonl.gz").write_bytes(b"no longer needed")
    assert load_evaluation(recorded / "greedy").verdicts == load_evaluation(asked / "greedy").verdicts


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda text: text.replace(b'"truncated": true', b'"truncated": false', 1), "line 3: it was altered after"),
        (lambda text: text.replace(b'"tokens": 24', b'"tokens": "24"', 1), "line 3: 'tokens' must be int"),
        (lambda text: b"[" + text, "line 1: not a JSON row"),
        (lambda text: text.partition(b"\n")[2], "is not finished: 5 of 6 questions are answered"),
        (lambda text: text[:-9], "is not finished: 5 of 6 questions are answered"),
        (lambda text: b"", "is not finished: 0 of 6"),
        (lambda text: text + text.split(b"\n")[0].replace(b'"index": ', b'"index": 9'), "is not finished: 7 of 6"),
        (lambda text: text.replace(b'"protocol": "', b'"protocol": "0', 1), "line 1: given under protocol '0"),
    ],
)
def test_its_lines_are_checked_as_those_of_the_plain_file(recorded, change, said):
    repack(recorded / "greedy", change)
    for use in (load_evaluation, lambda folder: compare_folders(folder, folder)):
        with pytest.raises(ValueError, match=f"greedy(/completions.jsonl.gz,)? {said}"):
            use(recorded / "greedy")


def harms(whole):
    """A compressed file cut short, added to, and with single bits turned over."""
    yield from (whole[:length] for length in (1, 2, 9, 10, 11, len(whole) // 2, len(whole) - 9, len(whole) - 1))
    yield whole + b"more"
    yield b"version https://git-lfs.github.com/spec/v1\n"
    yield b"not compressed at all"
    draw = random.Random(0)
    for place in draw.sample(range(10, len(whole)), 100):
        yield whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]


def test_a_damaged_file_is_named_with_the_mend(recorded, tmp_path):
    path = recorded / "greedy" / "completions.jsonl.gz"
    for harmed in harms(path.read_bytes()):
        path.write_bytes(harmed)
        for use in (load_evaluation, score, lambda folder: unpack(folder, tmp_path / "back")):
            with pytest.raises(
                ValueError, match=r"greedy/completions.jsonl.gz is damaged \(.+\); copy it again, whole"
            ):
                use(path.parent)
        with pytest.raises(ValueError, match="completions.jsonl.gz is damaged"):
            read_answers(path)
    assert not (tmp_path / "back" / "completions.jsonl").exists()


@pytest.mark.parametrize("without", ["", "protocol.json"])
def test_nothing_is_asked_anew_beside_recorded_answers(policy, recorded, monkeypatch, without):
    monkeypatch.setattr(generation, "_generate_batch", lambda *args: pytest.fail("it was asked"))
    for name, ask in (("greedy", evaluate), ("pass", collect)):
        folder = recorded / name
        (folder / without).unlink() if without else None
        before = content(folder)
        with pytest.raises(ValueError, match=f"{name}/completions.jsonl.gz holds recorded answers, .*: gunzip compl"):
            ask(policy, QUESTIONS, **{"output" if ask is evaluate else "folder": folder})
        assert {name: text for name, text in content(folder).items() if name != ".in-use"} == before
    if not without:
        unpack(recorded / "greedy", recorded / "copy")
        evaluate(policy, QUESTIONS, output=recorded / "copy")  # the mend


def test_other_rules_put_recorded_answers_under_them_and_leave_them_packed(recorded, monkeypatch):
    monkeypatch.setattr("utils.evaluation.protocol.RULES", "new")
    before = load_text(recorded)
    assert score(recorded / "greedy").protocol.rules == "new"
    assert content(recorded / "greedy").keys() == {"protocol.json", "card.json", "completions.jsonl.gz"}
    assert load_text(recorded) == before and load_evaluation(recorded / "greedy").card["n"] == 6


def load_text(recorded):
    lines = gzip.decompress((recorded / "greedy" / "completions.jsonl.gz").read_bytes()).splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "protocol"} for line in lines]


def test_everything_recorded_under_assets_can_be_read():
    for path in (ROOT / "assets" / "runs").glob("**/protocol.json"):
        assert read_answers(path.with_name("completions.jsonl")), path
