"""The board: a file is trained once for each seed, a broken one is a line, and the second seed is told in words."""

import re

import pytest

from utils.evaluation.evaluate import rate
from utils.experiments import short_run
from utils.files import read_jsonl
from utils.plots import png
from utils.rewards.bank import load_bank
from utils.rewards.export import export_rewards
from utils.rewards.functions import REWARDS
from utils.scripts import board as script
from utils.scripts.board import Entry, Unfit, board, judged_apart, lesson

RIGHT = {"good": (160, 150), "other": (150, 158), "poor": (90, 60)}  # of 200, with seed 0 and 1


def measured(count):
    """What a training leaves, without one."""
    return {
        "functions": {"f": 1.0},
        "bench": [60, 85],
        "dead": 0.25,
        "lights": ["a wrong answer can win"],
        "reward": [0.5, 0.75],
        "untrained": rate(130, 200),
        "strict": rate(count, 200),
    }


@pytest.fixture
def trainings(monkeypatch):
    """Trainings that take no time: which were asked for, as (name, seed); a file that says "broken" cannot serve."""
    asked = []

    def judged(path, seed, tell):
        asked.append((path.stem, seed))
        tell("step 1 of 20")
        if "broken" in path.read_text():
            raise Unfit("mine returned None <i> for completion 3")
        if "interrupt" in path.read_text():
            raise KeyboardInterrupt
        return measured(RIGHT[path.stem][seed])

    monkeypatch.setattr(script, "judged_apart", judged)
    monkeypatch.setattr(script, "png", lambda figure: b"a picture")
    return asked


@pytest.fixture
def folder(tmp_path):
    for name in RIGHT:
        (tmp_path / f"{name}.py").write_text(f"# {name}\n")
    (tmp_path / "a<b>.py").write_text("broken\n")
    (tmp_path / "_notes.py").write_text("not a reward\n")
    return tmp_path


def silent(text, end=""):
    """Where it stands, unheard."""


def test_the_board_ranks_what_can_be_trained_and_names_what_cannot(folder, trainings, capsys):
    entries = board(folder, 0, silent)
    assert [entry.name for entry in entries] == ["good", "other", "poor", "a<b>"]
    said = capsys.readouterr().out
    first = said.splitlines()[0]
    assert "4 of 4 files are run now, with seed 0. They are Python and do on this machine what you may do" in first
    assert "_notes" not in said and all(f"{name}.py" in first for name in RIGHT)
    assert re.search(
        r"good +60 of 85 +25% +1\. 80\.0% \[73\.9, 85\.0\] +0\.50 to 0\.75 +0 +a wrong answer can win", said
    )
    assert re.search(r"a<b> .*not trained: mine returned None <i> for completion 3", said)
    assert "Untrained: strict 65.0% [58.2, 71.3]" in said and "train again with --seed 1" in said


def test_the_page_is_one_file_and_escapes_what_it_shows(folder, trainings, monkeypatch):
    board(folder, 0, silent)
    monkeypatch.setattr(script, "png", png)
    board(folder, 0, silent)
    page = (folder / "board.html").read_text(encoding="utf-8")
    assert "a&lt;b&gt;" in page and "None &lt;i&gt;" in page and "<b>" not in page and "<i>" not in page
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", page) and "<script" not in page and "http-equiv" not in page
    assert page.count("<tr>") == 5 and page.endswith("</html>")


def test_what_was_judged_is_not_trained_again_and_what_changed_is(folder, trainings):
    board(folder, 0, silent)
    (folder / "good.py").rename(folder / "other name.py")
    trainings.clear()
    assert [entry.name for entry in board(folder, 0, silent)][0] == "other name"
    assert trainings == [("a<b>", 0)], "what cannot serve is tried again: a package may have been missing"
    (folder / "poor.py").write_text("# better now\n")
    trainings.clear()
    board(folder, 0, silent)
    assert ("poor", 0) in trainings and ("other", 0) not in trainings


def test_two_files_of_one_content_are_trained_once(folder, trainings):
    (folder / "twin.py").write_bytes((folder / "good.py").read_bytes())
    entries = {entry.name: entry.strict(0) for entry in board(folder, 0, silent)}
    assert entries["twin"] == entries["good"] and ("twin", 0) not in trainings


def test_other_settings_are_trained_anew(folder, trainings, monkeypatch):
    board(folder, 0, silent)
    trainings.clear()
    monkeypatch.setattr(script, "settings", lambda: "of another version")
    board(folder, 0, silent)
    assert len(trainings) == 4


def test_ctrl_c_keeps_what_is_finished(folder, trainings, capsys):
    (folder / "other.py").write_text("interrupt\n")
    with pytest.raises(KeyboardInterrupt):
        board(folder, 0, silent)
    assert [row["strict"]["count"] for row in read_jsonl(folder / "board.jsonl")] == [160]
    assert re.search(r"good +60 of 85", capsys.readouterr().out) and "waits" in (folder / "board.html").read_text()


def test_the_second_seed_stands_beside_the_first_and_the_order_is_told(folder, trainings, capsys):
    board(folder, 0, silent)
    capsys.readouterr()
    entries = board(folder, 1, silent)
    said = capsys.readouterr().out
    assert re.search(r"good .* 1\. 80\.0% \[73\.9, 85\.0\] +2\. 75\.0% \[", said)
    assert re.search(r"other .* 2\. 75\.0% \[.*\] +1\. 79\.0% \[", said)
    assert lesson(entries) == (
        "From seed 0 to seed 1, 1 of 3 pairs of rewards turned round (place of good from 1 to 2, other from 2 to 1). "
        "poor alone moved by 15.0 points between these seeds; the first two of seed 0 are 5.0 points apart."
    )
    assert lesson(entries) in said and "seed 1" in said


def entry(name, *counts):
    return Entry(name, {seed: measured(count) for seed, count in enumerate(counts) if count is not None})


@pytest.mark.parametrize(
    "entries, told",
    [
        ([], ""),
        ([Entry("a", problem="no")], ""),
        (
            [entry("a", 100, 110), entry("b", 90, 100)],
            "0 of 1 pairs of rewards turned round; every reward kept its place.",
        ),
        ([entry("a", 100, 110), entry("b", 100, 90)], "0 of 1 pairs of rewards turned round (place of b from 1 to 2)."),
        ([entry("a", 100, None), entry("b", 90, 100)], "fewer than two files in common, so no order to compare."),
        ([entry("a", 100, 90, 100), entry("b", 90, 100, 90)], "From seed 1 to seed 2, 1 of 1 pairs of rewards turned"),
    ],
)
def test_the_lesson_is_what_the_numbers_say(entries, told):
    assert told in lesson(entries)
    assert told or lesson(entries) == ""


def test_a_folder_without_rewards_and_a_damaged_record_are_named(tmp_path, trainings):
    with pytest.raises(ValueError, match="holds no .py file; put rewards there"):
        board(tmp_path, 0, silent)
    (tmp_path / "good.py").touch()
    (tmp_path / "board.jsonl").write_text("{")
    with pytest.raises(ValueError, match="board.jsonl is damaged .*move it away"):
        board(tmp_path, 0, silent)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, reason",
    [
        ("import os\nos._exit(0)\n", "loading it ends the whole process; take out what exits"),
        (
            "def f(completions, **kwargs):\n    return [None] * len(completions)\nREWARDS = {f: 1.0}\n",
            "f returned None",
        ),
    ],
)
def test_a_file_that_cannot_serve_ends_its_own_process_alone(text, reason, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(Unfit, match=reason) as found:
        judged_apart(path, 0, lambda doing: None)
    assert str(path) not in str(found.value), "its name stands in the first column"


def judged_here(path, seed, tell):
    """`judged_apart` in this process, where the training can be made shorter."""
    try:
        return script._measured(path, seed, lambda doing, limit_s: tell(doing))
    except ValueError as error:
        raise Unfit(str(error)) from error


@pytest.mark.slow
def test_two_rewards_are_trained_and_a_broken_one_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(short_run, "PROFILE", short_run.PROFILE.replace(steps=2, prompts_per_step=2, micro_batch=16))
    monkeypatch.setattr(short_run, "HELD_OUT", 8)
    monkeypatch.setattr(script, "judged_apart", judged_here)
    export_rewards(tmp_path / "default.py", REWARDS, load_bank())
    (tmp_path / "layout.py").write_text(
        "from utils.rewards.functions import format_reward\n\n"
        "def layout(completions, **kwargs):\n"
        "    return format_reward([[dict(message) for message in c] for c in completions])  # as from TRL\n\n"
        "REWARDS = {layout: 1.0}\n"
    )
    (tmp_path / "broken.py").write_text("REWARDS = {}\n")
    entries = {entry.name: entry for entry in board(tmp_path, 3, silent)}
    assert "must define REWARDS" in entries["broken"].problem and not entries["broken"].results
    found = {name: entries[name].results[3] for name in ("default", "layout")}
    assert found["default"]["bench"][0] == found["default"]["bench"][1] > found["layout"]["bench"][0]
    assert "a wrong answer can win" in found["layout"]["lights"] and not found["default"]["lights"]
    assert found["default"]["untrained"] == found["layout"]["untrained"] and found["layout"]["strict"]["n"] == 8
    assert found["layout"]["functions"] == {"layout": 1.0}
