"""The example browser without a browser: filters as a pure function, widgets as Python objects."""

import re
import time

import pytest

from utils.data.questions import to_question
from utils.evaluation.browser import ExampleBrowser, example_table, pair_up, select
from utils.evaluation.errors import solutions_of
from utils.evaluation.evaluate import judge
from utils.model.policy import Sample

ATTACK = "</pre></td><script>alert(1)</script><img src=x onerror=alert(2)>"
RIGHT = "<reasoning>\n3*4=12\n</reasoning>\n<answer>12</answer>"
SLIP = "<reasoning>\n3*4=13 & more\n</reasoning>\n<answer>13</answer>"
QUESTIONS = [
    to_question({"question": f"Is {i} < 9? <b>", "answer": "3*4=<<3*4=12>>12\n#### 12"}, f"row {i}") for i in range(5)
]
BEFORE = [SLIP, RIGHT, RIGHT, ATTACK, "The answer is 12. " + "So it is. " * 50]
AFTER = [RIGHT, "<reasoning>\n3+4=7\n</reasoning>\n<answer>7</answer>", RIGHT, ATTACK + " 5", RIGHT]


def verdicts(texts, questions=QUESTIONS):
    return [judge(q, Sample(text, len(text) // 4, False)) for q, text in zip(questions, texts, strict=True)]


@pytest.fixture
def examples():
    return pair_up(verdicts(BEFORE), verdicts(AFTER), solutions_of(QUESTIONS))


def places(examples, chosen):
    return [examples.index(e) for e in chosen]


def test_each_filter_and_all_together(examples):
    assert [e.flip for e in examples] == ["fixed", "broken", "both", "neither", "fixed"]
    assert select(examples) == examples
    assert places(examples, select(examples, flip="fixed")) == [0, 4]
    assert places(examples, select(examples, before="right")) == [1, 2]
    assert places(examples, select(examples, after="wrong operation")) == [1]
    assert places(examples, select(examples, before="no tag", after="right")) == [4]
    assert places(examples, select(examples, flip="fixed", before="arithmetic slip")) == [0]
    assert select(examples, flip="broken", before="no tag") == []
    length = examples[4].length
    assert length == len(BEFORE[4])
    assert places(examples, select(examples, length=(length, length))) == [4]
    assert places(examples, select(examples, length=(0, length - 1))) == [0, 1, 2, 3]


def test_an_unknown_filter_is_named(examples):
    with pytest.raises(ValueError, match="flip is 'mended'; use 'all' or one of 'fixed'"):
        select(examples, flip="mended")
    with pytest.raises(ValueError, match="before is 'slip'"):
        select(examples, before="slip")


def test_the_table_escapes_everything_and_marks_the_equation(examples):
    table = example_table(examples)
    assert "<script" not in table and "<img" not in table and "&lt;script&gt;" in table
    assert "Is 0 &lt; 9? &lt;b&gt;" in table
    assert table.count("<pre") == table.count("</pre>") == 10 and table.count("<tr>") == table.count("</tr>") == 6
    assert "arithmetic slip</b>: 3*4 is 12, not 13" in table
    assert "<mark><b>3*4=13</b></mark> &amp; more" in table
    assert re.sub(r"<[^>]*>", "", example_table(examples[:1])).count("Is 0") == 1


def test_a_place_in_hostile_text_is_escaped_too(examples):
    hostile = "<reasoning>\n3*4=<<3*4=13>>13 <script>\n</reasoning>\n<answer>13</answer>"
    (example,) = pair_up(verdicts([hostile], QUESTIONS[:1]), verdicts([RIGHT], QUESTIONS[:1]))
    assert "&lt;&lt;<mark><b>3*4=13</b></mark>&gt;&gt;13 &lt;script&gt;" in example_table([example])
    inside = r"3 \text{<script>alert(1)</script>} \times 4 = 13"
    (example,) = pair_up(verdicts([inside], QUESTIONS[:1]), verdicts([RIGHT], QUESTIONS[:1]))
    table = example_table([example])
    assert r"<mark><b>3 \text{&lt;script&gt;" in table and "<script" not in table


def test_completions_without_token_counts_are_shown(examples):
    unknown = [judge(QUESTIONS[0], Sample(SLIP, None, None))]
    table = example_table(pair_up(unknown, verdicts([RIGHT], QUESTIONS[:1])))
    assert f"{len(SLIP)} characters" in table and f"{len(RIGHT) // 4} tokens" in table


def test_two_evaluations_of_other_questions_are_refused():
    with pytest.raises(ValueError, match="needs the same questions"):
        pair_up(verdicts(BEFORE), verdicts(AFTER[:3], QUESTIONS[:3]))


def test_the_widgets_choose(examples):
    browser = ExampleBrowser(examples)
    assert browser.found.value == "5 of 5" and browser.view.value == example_table(examples[:1])
    assert dict(browser.flip.options)["fixed (2)"] == "fixed"
    browser.flip.value = "fixed"
    assert browser.found.value == "2 of 5" and browser.position.max == 2
    browser.next.click()
    assert browser.position.value == 2 and browser.view.value == example_table([examples[4]])
    assert browser.next.disabled and not browser.previous.disabled
    browser.next.click()
    assert browser.position.value == 2
    browser.previous.click()
    assert browser.view.value == example_table([examples[0]]) and browser.previous.disabled
    browser.next.click()
    browser.flip.value = "all"
    assert browser.position.value == 1 and browser.view.value == example_table(examples[:1])
    browser.before.value = "no tag"
    assert browser.position.value == 1 and browser.view.value == example_table([examples[4]])
    browser.after.value = "wrong operation"
    assert browser.found.value == "0 of 5" and "No example passes" in browser.view.value
    assert browser.next.disabled and browser.previous.disabled
    browser.flip.value = browser.before.value = "all"
    assert browser.view.value == example_table([examples[1]])
    browser.after.value = "all"
    browser.length.value = (examples[4].length, examples[4].length)
    assert browser.found.value == "1 of 5" and browser.view.value == example_table([examples[4]])


def test_the_slider_chooses_too(examples):
    browser = ExampleBrowser(examples)
    browser.position.value = 4
    assert browser.view.value == example_table([examples[3]]) and "<script" not in browser.view.value


def test_a_whole_test_set_is_browsed_at_once():
    questions = [to_question({"question": f"{i}?", "answer": "3*4=12\n#### 12"}, f"row {i}") for i in range(1_319)]
    start = time.process_time()
    examples = pair_up(verdicts([SLIP] * 1_319, questions), verdicts([RIGHT] * 1_319, questions))
    browser = ExampleBrowser(examples)
    made = time.process_time() - start
    start = time.process_time()
    browser.flip.value = "fixed"
    browser.next.click()
    assert browser.position.max == 1_319
    assert made < 10 and time.process_time() - start < 0.5


def test_no_example_at_all():
    assert "No example" in ExampleBrowser([]).view.value
