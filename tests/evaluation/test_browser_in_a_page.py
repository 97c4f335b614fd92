"""The example browser in a real browser: a filter, a button and the marked equation, without overflow."""

import re

import pytest

from tests.browser import open_lab
from tests.rewards.test_lab_in_a_page import OVERFLOW

pytestmark = pytest.mark.browser

CELL = """
from utils.data.questions import load_questions
from utils.evaluation.errors import solutions_of
from utils.evaluation.evaluate import judge
from utils.model.policy import Sample
from utils.rewards.bank import load_bank
from utils.evaluation.browser import ExampleBrowser, pair_up

questions = {q.question: q for q in load_questions("tiny", "validation")}
verdicts = {"base": [], "trained": []}
for group in load_bank().groups:
    sample = Sample(group.completions[0], group.tokens[0], False)
    verdicts[group.policy].append(judge(questions[group.question], sample))
ExampleBrowser(pair_up(verdicts["base"], verdicts["trained"], solutions_of(questions.values())))
"""


def test_examples_are_filtered_and_paged_through(tmp_path):
    with open_lab(tmp_path) as lab:
        notebook = lab.open([CELL])
        notebook.run_next()
        notebook.wait_for_text("examples-found", "160 of 160")
        label = notebook.widget("examples-after").locator("option", has_text="arithmetic slip").inner_text()
        notebook.widget("examples-after").locator("select").select_option(label=label)
        notebook.wait_for_text("examples-found", re.search(r"\d+", label)[0] + " of 160")
        first = notebook.text("examples-view")
        notebook.click_button("examples-next")
        notebook.wait_for_change(lambda: notebook.text("examples-view"), first)
        assert "=" in notebook.widget("examples-view").locator("mark").last.inner_text()
        path = tmp_path / "examples.png"
        notebook.screenshot("example-browser", path, 1280)
        assert notebook.widget("example-browser").evaluate(OVERFLOW) == []
        assert notebook.errors == []
