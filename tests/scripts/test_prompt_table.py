"""The recorded comparison of system prompts: counted from the stored completions, and what notebook 01 says of it."""

import json
from itertools import cycle, islice
from statistics import fmean, pstdev

import pytest

from utils.data.prompts import PROMPTS, SYSTEM_PROMPT
from utils.evaluation.protocol import ANSWERS, read_answers, read_header
from utils.files import ROOT
from utils.rewards.functions import REWARDS, correctness_reward, format_reward
from utils.scripts.prompts import RUNS, rates
from utils.stats import wilson_interval
from utils.training.watch import WINDOW, alarms

CHOSEN = "layout and example"
TABLE = json.loads((RUNS / "table.json").read_text(encoding="utf-8"))


def folder(name):
    return RUNS / name.replace(",", "").replace(" ", "-")


def interval(name, what):
    return wilson_interval(TABLE["prompts"][name][what], TABLE["prompts"][name]["n"])


@pytest.mark.parametrize("name", PROMPTS)
def test_the_table_is_that_of_the_stored_completions(name):
    assert rates(read_answers(folder(name) / ANSWERS)) == TABLE["prompts"][name]
    header = read_header(folder(name))
    assert header["protocol"]["system_prompt"] == PROMPTS[name]
    assert header["protocol"]["token_cap"] == TABLE["cap"] and header["questions"] == TABLE["prompts"][name]["n"] == 200


def test_all_prompts_were_asked_alike():
    headers = [read_header(folder(name)) for name in PROMPTS]
    assert len({header["weights"] for header in headers}) == 1
    differ = [{k: v for k, v in h["protocol"].items() if k not in ("system_prompt", "template")} for h in headers]
    assert all(protocol == differ[0] for protocol in differ)


def test_the_chosen_prompt_is_followed_more_often_than_any_other_beyond_chance():
    assert PROMPTS[CHOSEN] == SYSTEM_PROMPT
    others = [interval(name, "format")[1] for name in PROMPTS if name != CHOSEN]
    assert interval(CHOSEN, "format")[0] > max(others) and interval(CHOSEN, "format")[0] > 0.1


def test_what_notebook_01_says_of_the_others():
    format_of = {name: counts["format"] for name, counts in TABLE["prompts"].items()}
    assert format_of["words"] == 0, "a reward for the layout would have nothing to pay"
    assert max(format_of[name] for name in ("one line", "layout, urged", "two examples")) <= 5
    assert format_of["layout"] < format_of["example"] < format_of[CHOSEN], "both together do it"
    low, high = interval(CHOSEN, "lenient")
    assert low < interval("words", "lenient")[1] and interval("words", "lenient")[0] < high, "hardly the maths"


def groups_of_16(answers):
    """`WINDOW` of them, over and over the answers."""
    endless = cycle(answers)
    return [list(islice(endless, 16)) for _ in range(WINDOW)]


@pytest.mark.parametrize("name, dead", [("words", ["format_reward"]), ("one line", ["format_reward"]), (CHOSEN, [])])
def test_the_alarm_for_a_part_that_never_fires(name, dead):
    """Steps of 16 completions that the model really wrote, as the trainer would log them."""
    answers = read_answers(folder(name) / ANSWERS)
    history = []
    for step, some in enumerate(groups_of_16(answers), 1):
        columns = {"gold": [a.question.gold for a in some], "truncated": [a.sample.truncated for a in some]}
        record = {"step": step}
        for reward in (correctness_reward, format_reward):
            paid = reward([a.sample.text for a in some], **columns)
            record |= {f"rewards/{reward.__name__}/mean": fmean(paid), f"rewards/{reward.__name__}/std": pstdev(paid)}
        history.append(record)
    fired = [alarm.name for alarm in alarms(history, REWARDS) if "does not fire" in alarm.name]
    assert fired == [f"{part} does not fire" for part in dead]


def test_what_the_readme_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "kept by none of 200 completions" in text and TABLE["prompts"]["words"]["format"] == 0
    assert f"and by {TABLE['prompts'][CHOSEN]['format']} under the one that shows" in text
