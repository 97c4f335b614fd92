"""The Reward Lab in a real browser, by mouse and keyboard, at two page widths.

`SCREENSHOTS=assets/figures python3 run.py test tests/rewards/test_lab_in_a_page.py` also renews the README's picture.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.browser import open_lab
from utils.rewards.bank import REAL, TINY, banks

pytestmark = pytest.mark.browser

CELLS = [
    """
from utils.experiments import short_run
from utils.rewards.lab import RewardLab

short_run.PROFILE = short_run.PROFILE.replace(steps=3, prompts_per_step=2, micro_batch=16)
short_run.HELD_OUT = 16
lab = RewardLab(short_run=short_run.short_run)
lab
""",
    """
@lab.reward
def brief(completions, **kwargs):
    return [1 / (70 - len(text)) for text in completions]
""",
    """
@lab.reward
def brief(completions, **kwargs):
    return [-len(text) / 200 for text in completions]
""",
]
OVERFLOW = """box => [...box.querySelectorAll('*')].filter(
    e => e.getBoundingClientRect().right > box.getBoundingClientRect().right + 1
).map(e => e.tagName + '.' + e.className + ' ' + Math.round(e.getBoundingClientRect().right))"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    with open_lab(tmp_path_factory.mktemp("lab")) as lab:
        notebook = lab.open(CELLS)
        notebook.run_next()
        yield notebook
        assert notebook.errors == []


@pytest.fixture
def lab(notebook):
    """The same lab for each test, with the default weights."""
    notebook.click_button("lab-reset")
    notebook.wait_for_text("lab-bench", "85 of 85 rows in order")
    return notebook


def test_a_slider_is_moved_and_the_numbers_and_lights_follow(lab):
    assert "○ a wrong answer can win: no" in lab.text("lab-effect")
    lab.move_slider("lab-weight-format_reward", 10)
    lab.wait_for_text("lab-effect", "● a wrong answer can win")
    assert "85 of 85" not in lab.text("lab-bench") and "what is wrong" in lab.text("lab-bench")
    lab.click_button("lab-next")
    lab.wait_for_text("lab-table", "⇄")


def test_a_completion_is_edited_and_scored(lab):
    lab.write_text("lab-text", "I do not know.")
    lab.wait_for_text("lab-live", "1 × 0")
    lab.write_text("lab-text", "<reasoning>\n<script>alert(1)</script>\n</reasoning>\n<answer>12</answer>")
    lab.wait_for_text("lab-live", "0.2 × 1")


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_overflows(lab, width, tmp_path):
    lab.move_slider("lab-weight-format_reward", 10)
    lab.click_button("lab-next")
    lab.wait_for_text("lab-table", "⇄")
    lab.write_text("lab-text", "<reasoning>\nI guess.\n</reasoning>\n<answer>12</answer>")
    lab.wait_for_text("lab-live", "1.2 × 1")
    path = tmp_path / f"reward_lab_{width}.png"
    lab.screenshot("reward-lab", path, width)
    assert path.stat().st_size > 20_000
    lab.page.set_viewport_size({"width": width, "height": 1000})
    assert lab.widget("reward-lab").evaluate(OVERFLOW) == []
    if width == 1280 and (folder := os.environ.get("SCREENSHOTS")):
        shutil.copy(path, Path(folder) / "reward_lab.png")


@pytest.mark.skipif(REAL not in banks(), reason="the bank of the real model is not recorded yet")
def test_another_bank_is_chosen_and_back(lab):
    choice = lab.widget("lab-source").locator("select")
    choice.select_option(REAL)
    lab.wait_for_text("lab-about", "layout and example")
    assert lab.widget("reward-lab").evaluate(OVERFLOW) == []
    choice.select_option(TINY)
    lab.wait_for_text("lab-about", "assets/tiny_model")


def test_a_broken_reward_is_refused_and_a_good_one_joins(lab):
    lab.run_next()
    lab.wait_for_text("lab-message", "refused: brief raised ZeroDivisionError")
    assert lab.widget("lab-weight-brief").count() == 0
    lab.run_next()
    lab.wait_for_text("lab-message", "brief is in the table")
    lab.move_slider("lab-weight-brief", -2)
    lab.wait_for_text("lab-effect", "● length drift")


def test_what_if_trains_with_live_curves_and_ends_in_a_verdict(lab):
    lab.click_button("lab-train")
    first = lab.wait_for_change(lambda: lab.picture("lab-curves") if lab.widget("lab-curves").is_visible() else "", "")
    lab.wait_for_change(lambda: lab.picture("lab-curves"), first)
    lab.wait_for_text("lab-message", "training with yours rewards", timeout_s=240)
    lab.wait_for_text("lab-verdict", "16 held-out questions", timeout_s=240)
    assert "The strict intervals of default and yours" in lab.text("lab-verdict")
    assert lab.widget("reward-lab").evaluate(OVERFLOW) == []
