"""The workshop's pages: the plan adds up, its times are the notebooks', its commands exist, its answers are right."""

import re
import shlex
from fractions import Fraction
from statistics import fmean, stdev

import pytest

import run
from utils.files import ROOT
from utils.rewards.functions import group_advantages
from utils.scripts.notebooks import NOTEBOOKS
from utils.stats import wilson_interval
from utils.training.watch import Watch

PAGES = sorted((ROOT / "workshop").glob("*.md"))
GUIDE = (ROOT / "workshop" / "GUIDE.md").read_text(encoding="utf-8")
CARDS = (ROOT / "workshop" / "CARDS.md").read_text(encoding="utf-8")
TROUBLE = (ROOT / "workshop" / "TROUBLESHOOTING.md").read_text(encoding="utf-8")


def plan():
    table = GUIDE.split("<!-- plan:")[1].split("<!-- end of plan -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[3:] if "|" in line]


def test_the_plan_fills_three_hours_without_a_gap():
    now = 0
    for start, minutes, *_ in plan():
        hours, rest = map(int, start.split(":"))
        assert 60 * hours + rest == now, start
        assert f"### {start} · " in GUIDE, "each block has its section"
        now += int(minutes)
    assert now == 180


def test_its_running_times_are_those_of_the_notebooks():
    told = {name: minutes for _, _, machine, *_ in plan() for name, minutes in re.findall(r"(\d\d): ([\d.]+)", machine)}
    assert set(told) == {"00", "02", "04", "05"}
    for path in NOTEBOOKS:
        if path.name[:2] in told:
            head = re.search(r"(?:CPU|`tiny`): ([\d.]+) min", path.read_text(encoding="utf-8"))
            assert float(told[path.name[:2]]) >= float(head[1]), f"{path.name} takes {head[1]} min by its own head"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_ones_that_run_py_knows(page, tmp_path):
    for command in re.findall(r"python3 run\.py((?: [\w./<>-]+)+)", page.read_text(encoding="utf-8")):
        words = shlex.split(command)
        read = {i for i, word in enumerate(words, start=1) if word in ("--adapter", "--base", "--board")}
        run.parse([str(tmp_path) if i in read else word for i, word in enumerate(words)])


def test_advantages_by_hand():
    rows = re.findall(r"^\| ([\d., ]+) \| \| \| \|$", CARDS, re.MULTILINE)
    groups = [[float(Fraction(number.strip())) for number in row.split(",")] for row in rows]
    assert len(groups) == 3
    one, two, dead = (group_advantages(group, 4) for group in groups)
    assert (fmean(groups[0]), stdev(groups[0])) == (0.25, 0.5) and one == pytest.approx(
        [1.5, -0.5, -0.5, -0.5], abs=0.01
    )
    assert two == pytest.approx([0.866, 0.866, -0.866, -0.866], abs=0.01) and dead == [0.0] * 4
    assert "advantages +1.5, −0.5, −0.5, −0.5" in GUIDE and "advantages ±0.866" in GUIDE
    assert group_advantages([r + 10 for r in groups[0]], 4) == pytest.approx(one, abs=0.01)
    assert group_advantages([100 * r for r in groups[0]], 4) == pytest.approx(one, abs=0.01)


def test_questions_of_the_quiz_stand_on_the_cards_and_have_answers():
    asked = re.findall(r"^\d\. (.+)$", CARDS.split("### Card 6")[1], re.MULTILINE)
    answered = dict(re.findall(r"^\d\. \*(.+?)\* (.+)$", GUIDE, re.MULTILINE))
    assert asked == list(answered) and len(asked) == 5
    low, high = wilson_interval(92, 150)
    assert "an interval of about eight points to either side" in answered[asked[3]] and 0.07 < (high - low) / 2 < 0.09
    findings = (ROOT / "assets" / "runs" / "FINDINGS.md").read_text(encoding="utf-8")
    assert "between 72.0% and 85.6%" in answered[asked[4]] and "between 72.0% and 85.6%" in findings


def test_the_alarm_is_called_what_the_page_says():
    watch, zero = Watch(), {"rewards/format_reward/mean": 0.0, "rewards/format_reward/std": 0.0}
    raised = [alarm.name for step in range(1, 40) for alarm in watch.step({"step": step, **zero})]
    assert f"`{raised[0]}`" in TROUBLE
