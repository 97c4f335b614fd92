"""An exported file stands by itself: it holds what the reward uses, and gives the same rewards."""

import json
import math
import random
import re
import subprocess
import sys
from fractions import Fraction
from itertools import chain
from statistics import fmean as average

import pytest

from utils.files import ROOT, read_jsonl
from utils.rewards.bank import Bank, load_bank
from utils.rewards.export import CannotExport, export_rewards
from utils.rewards.functions import correctness_reward, format_reward, load_rewards, on_text, total_reward

BANK = Bank(load_bank().groups[:4])
LIMIT = 200
STEP = re.compile(r"\d+\s*=\s*\d+", re.MULTILINE)
HALF = Fraction(1, 2)


def steps(text):
    return len(STEP.findall(text))


@on_text
def helped(completions, limit=LIMIT, **kwargs):
    """Uses a constant, a pattern, a helper, modules, imported names, a comprehension and a default."""
    return [average([steps(text), math.sqrt(min(len(text), limit))]) + len(list(chain([1]))) for text in completions]


@on_text
def plain(completions, **kwargs):
    return [float("=" in text) for text in completions]


def test_the_file_gives_the_same_rewards_as_the_notebook(tmp_path):
    rewards = {correctness_reward: 1.0, helped: 0.25, plain: -0.5, format_reward: 0.0}
    path = export_rewards(tmp_path / "mine.py", rewards, BANK)
    loaded = load_rewards(path)
    assert {f.__name__: w for f, w in loaded.items()} == {f.__name__: w for f, w in rewards.items()}
    messages = [[{"role": "assistant", "content": text}] for text in BANK.completions]
    assert total_reward(messages, loaded, **BANK.columns) == total_reward(BANK.completions, rewards, **BANK.columns)
    text = path.read_text(encoding="utf-8")
    assert "from utils.rewards.functions import correctness_reward" in text and "def correctness_reward" not in text
    assert "of 85 rows in order" in text and "--reward" in text
    assert not list(tmp_path.glob(".*")), "drafts are left"


def test_the_file_works_in_another_process(tmp_path):
    path = export_rewards(tmp_path / "mine.py", {helped: 1.0}, BANK)
    code = "from utils.rewards.functions import load_rewards as l; "
    code += f"print(*(f(completions=['1 = 1']) for f in l({str(path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == helped(completions=["1 = 1"])


@pytest.mark.slow
def test_run_py_trains_with_the_file(tmp_path):
    path = export_rewards(tmp_path / "mine.py", {correctness_reward: 1.0, helped: 0.25}, BANK)
    command = ["-m", "utils.scripts.commands", "train", "--profile", "tiny", "--max-steps", "1"]
    command += ["--output", str(tmp_path / "run"), "--reward", str(path)]
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = read_jsonl(tmp_path / "run" / "log.jsonl")
    assert line["rewards/helped/mean"] > 0 and "rewards/correctness_reward/mean" in line


def test_it_is_exported_again_from_what_was_loaded(tmp_path):
    first = export_rewards(tmp_path / "first.py", {helped: 1.0}, BANK)
    second = export_rewards(tmp_path / "second.py", load_rewards(first), BANK)
    assert second.read_text(encoding="utf-8") == first.read_text(encoding="utf-8")


@on_text
def uses_a_fraction(completions, **kwargs):
    return [float(HALF) for _ in completions]


@on_text
def chance(completions, **kwargs):
    return [random.random() for _ in completions]


def made_inside():
    scale = 3.0

    @on_text
    def closed(completions, **kwargs):
        return [scale for _ in completions]

    return closed


@pytest.mark.parametrize(
    "function, said",
    [
        (uses_a_fraction, "HALF is a Fraction, which cannot be written to a file"),
        (made_inside(), r"closed uses variables of the function around it \(scale\)"),
        (chance, "itself .RewardProblem: chance gave .* at first and .* when asked again"),
    ],
)
def test_what_cannot_stand_alone_is_refused_and_the_old_file_stays(function, said, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("old")
    with pytest.raises(CannotExport, match=said):
        export_rewards(path, {function: 1.0}, BANK)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_older_file_is_kept_under_a_number(tmp_path):
    for weight in (1.0, 2.0, 3.0):
        export_rewards(tmp_path / "mine.py", {plain: weight}, BANK)
    kept = {path.name: list(load_rewards(path).values()) for path in tmp_path.iterdir()}
    assert kept == {"mine-1.py": [1.0], "mine-2.py": [2.0], "mine.py": [3.0]}


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(CannotExport, match="give one that ends in .py"):
        export_rewards(tmp_path / "mine.txt", {plain: 1.0}, BANK)
