"""The workshop's pages: the plan adds up and fits, its sections and commands exist, its answers are right."""

import csv
import re
import shlex
from fractions import Fraction
from statistics import fmean, stdev

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

import run
from tests.pages import Page
from utils.data.questions import load_questions
from utils.files import ROOT, read_json, read_jsonl
from utils.model.profiles import PROFILES
from utils.rewards.bank import lights, load_bank, rescore
from utils.rewards.functions import correctness_reward, format_reward, group_advantages, total_reward
from utils.scripts.board import write_page
from utils.scripts.bundle import install_text
from utils.scripts.notebooks import NOTEBOOKS
from utils.scripts.series import head_of, reading_minutes
from utils.stats import wilson_interval
from utils.training.watch import COLUMNS, CUT_OFF, DEAD, Watch

PAGES = sorted((ROOT / "workshop").glob("*.md"))
GUIDE = (ROOT / "workshop" / "GUIDE.md").read_text(encoding="utf-8")
CARDS = (ROOT / "workshop" / "CARDS.md").read_text(encoding="utf-8")
TROUBLE = (ROOT / "workshop" / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
RUNS = ROOT / "assets" / "runs"
HUNT = nbformat.read(ROOT / "workshop" / "bug_hunt.ipynb", as_version=4)
SWITCH = 0.5  # minutes from one block to the next
READ = {  # notebook: (the sections that its block reads, minutes of its cards, tasks and questions)
    "00": (
        [
            "What we build",
            "When is an answer right?",
            "The base model",
            "From five to a batch",
            "Is the better behaviour in there?",
            "One turn of the loop, by hand",
        ],
        2,
    ),
    "02": (
        [
            "1. The reward is the whole lesson plan",
            "2. Four completions",
            "3. The format reward: draft, repair, final",
            "A table of texts is a test",
            "5. Putting the parts together",
            "The wrong way: a point for every good sign",
            "The right way: correctness dominates",
            "Each known defect, wrong way and right way",
            "The bench: the whole catalogue",
            "7. The Reward Lab",
            "A reward of your own",
        ],
        12,
    ),
    "04": (
        [
            "2. A number not to watch",
            "3. Train",
            "4. Look into a group",
            "Groups that teach nothing",
            "5. The same with a real model",
        ],
        1.5,
    ),
    "05": (
        [
            "2. One protocol, twice",
            "The lesson of the 150 questions",
            "4. Flips",
            "5. Errors, read",
            "6. Many answers instead of one: ability, or habit?",
            "11. What these numbers do not prove",
        ],
        3,
    ),
}


def sections(path):
    """{heading: its cells}; before the first heading it is ""."""
    found, heading = {"": []}, ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            found[heading].append(cell)
            continue
        for part in filter(str.strip, re.split(r"^(?=###? )", cell.source, flags=re.MULTILINE)):
            if head := re.match(r"###? (.+)", part):
                heading = head[1]
            found.setdefault(heading, []).append(new_markdown_cell(part))
    return found


def notebook(number):
    return next(path for path in NOTEBOOKS if path.name.startswith(number))


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
            head = re.search(r"CPU: ([\d.]+) min", path.read_text(encoding="utf-8"))
            assert float(told[path.name[:2]]) >= float(head[1]), f"{path.name} takes {head[1]} min by its own head"


@pytest.mark.parametrize("number", READ)
def test_what_is_read_fits_its_block(number):
    [minutes] = [int(row[1]) for row in plan() if row[2].startswith(f"{number}:")]
    there, (read, others) = sections(notebook(number)), READ[number]
    reading = reading_minutes(new_notebook(cells=[cell for heading in read for cell in there[heading]]))
    assert reading + others + SWITCH <= minutes, f"{reading:.1f} minutes to read"
    if number == "02":
        five = [cell for heading in read if not heading.startswith(("7", "A rew")) for cell in there[heading]]
        assert f"({reading_minutes(new_notebook(cells=five)):.0f} minutes)" in GUIDE


def test_sections_that_the_pages_name_are_there():
    quoted = set(re.findall(r'"([A-Z][^".]+\??)"', GUIDE))
    headings = {path.name[:2]: list(sections(path)) for path in NOTEBOOKS}
    for heading in READ["00"][0]:
        assert f'"{heading}"' in GUIDE
    for number, heading in (
        ("00", "Exercises"),
        ("00", "One turn of the loop, by hand"),
        ("02", "A reward of your own"),
        ("02", "What a real model writes"),
        ("05", "The lesson of the 150 questions"),
    ):
        assert heading in headings[number] and heading in quoted
    for page, number, section, about in (
        (GUIDE, "02", 3, "format"),
        (GUIDE, "02", 6, "advantages"),
        (GUIDE, "02", 7, "Lab"),
        (GUIDE, "02", 8, "What if"),
        (GUIDE, "04", 4, "group"),
        (GUIDE, "04", 5, "real model"),
        (TROUBLE, "02", 3, "format"),
        (TROUBLE, "03", 6, "loss"),
        (TROUBLE, "04", 1, "numbers"),
        (TROUBLE, "04", 4, "group"),
        (TROUBLE, "04", 8, "compare"),
    ):
        assert any(h.startswith(f"{section}. ") and about in h for h in headings[number]), (number, section)
        assert page is GUIDE or f"notebook {number}, section {section}" in page
    assert "Will the model follow it?" in headings["01"] and "Will the model follow it?" in TROUBLE


def test_the_first_four_code_cells_of_00_end_with_the_picture_and_ask_no_network():
    code = Page("00_start_here").code[:4]
    assert "four code cells of 00, down to the picture of the four boxes" in GUIDE
    assert "set_up()" in code[0].source and "4  nudge" in code[3].source
    assert not re.search("load_policy|load_questions", "".join(re.sub("import .*", "", c.source) for c in code))


def test_preparing_takes_what_the_guide_says():
    minutes = sum(head_of(nbformat.read(notebook(n), as_version=4), n).read for n in READ)
    hunt = HUNT.cells[0].source
    assert 300 < minutes + int(re.search(r"all fourteen take about (\d+)", hunt)[1]) and "over five hours" in GUIDE
    assert "2 GB" in hunt and "the bug hunt's 2" in GUIDE and "the bug hunt 2" in TROUBLE


def test_six_pieces_of_the_hunt_fill_its_block():
    titles = re.findall(r"^## (\d+) · .+, (\d+) min\)", "\n".join(c.source for c in HUNT.cells), re.MULTILINE)
    minutes = {int(piece): int(spent) for piece, spent in titles}
    assert len(minutes) == 14 and {1, 2, 3, 5, 11} < set(minutes) and "1, 2, 3, 5 and 11 need the least" in GUIDE
    room = 30 - 5 - 3  # the show of hands; the introduction and the set-up
    quick = sorted(minutes.values())
    assert sum(quick[:6]) <= room < sum(quick[:7]) and "six is very good" in GUIDE
    assert not re.search("log_softmax|ratio|logps", "".join(piece_code(n) for n in (1, 2, 3, 5, 11)))


def piece_code(piece):
    """The broken function of a piece of the hunt."""
    at = next(i for i, cell in enumerate(HUNT.cells) if cell.source.startswith(f"## {piece} · "))
    return HUNT.cells[at + 1].source


def test_the_cards_are_one_sheet():
    lines = CARDS.splitlines()
    assert len(lines) <= 2 * 60 and max(map(len, lines)) <= 90, "printed as text in 9 points, A4 takes 90 by 60"


def test_the_boards_page_stands_still_once_it_is_through(tmp_path):
    moving = [write_page(tmp_path, [], running=running).read_text(encoding="utf-8") for running in (True, False)]
    assert ["http-equiv='refresh'" in page for page in moving] == [True, False]


def test_the_stick_is_installed_from_in_three_lines():
    assert "the three lines of its `INSTALL.md`" in GUIDE
    assert len(install_text([]).split("```\n")[1].splitlines()) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_ones_that_run_py_knows(page, tmp_path):
    for command in re.findall(r"(?:python3|py) run\.py((?: [\w./<>,-]+)+)", page.read_text(encoding="utf-8")):
        words = shlex.split(command)
        read = {i for i, word in enumerate(words, start=1) if word in ("--adapter", "--base", "--board")}
        read |= {i for i, word in enumerate(words) if words[0] == "compare" and i}
        run.parse([str(tmp_path) if i in read else word for i, word in enumerate(words)])


def test_advantages_by_hand():
    rows = re.findall(r"^- `([\d., ]+)` mean _+ deviation _+ advantages _+ _+ _+ _+$", CARDS, re.MULTILINE)
    groups = [[float(Fraction(number.strip())) for number in row.split(",")] for row in rows]
    assert len(groups) == 3
    one, two, dead = (group_advantages(group, 4) for group in groups)
    assert (fmean(groups[0]), stdev(groups[0])) == (0.25, 0.5) and one == pytest.approx(
        [1.5, -0.5, -0.5, -0.5], abs=0.01
    )
    assert two == pytest.approx([0.866, 0.866, -0.866, -0.866], abs=0.01) and dead == [0.0] * 4
    assert "advantages +1.5, −0.5, −0.5, −0.5" in GUIDE and "advantages ±0.866" in GUIDE
    assert f"mean {fmean(groups[1]):.1f}, standard deviation {stdev(groups[1]):.3f}" in GUIDE
    assert f"mean {fmean(groups[2]):.1f}, standard deviation {stdev(groups[2]):.0f}, all advantages 0" in GUIDE
    assert group_advantages([r + 10 for r in groups[0]], 4) == pytest.approx(one, abs=0.01)
    assert group_advantages([100 * r for r in groups[0]], 4) == pytest.approx(one, abs=0.01)


def test_questions_of_the_quiz_stand_on_the_cards_and_have_answers():
    asked = re.findall(r"^\d\. (.+)$", CARDS.split("### Card 6")[1], re.MULTILINE)
    answered = dict(re.findall(r"^\d\. \*(.+?)\* (.+)$", GUIDE, re.MULTILINE))
    assert asked == list(answered) and len(asked) == 5
    assert "an interval of about eight points to either side" in answered[asked[3]]
    for right, told in ((82, "54.66"), (92, "61.33")):
        low, high = wilson_interval(right, 150)
        assert 0.075 < (high - low) / 2 < 0.085 and told in asked[3] and abs(right / 1.5 - float(told)) < 0.01
    findings = (RUNS / "FINDINGS.md").read_text(encoding="utf-8")
    assert "between 72.0% and 85.6%" in answered[asked[4]] and "between 72.0% and 85.6%" in findings


def test_the_alarm_is_called_what_the_page_says():
    watch, zero = Watch(), {"rewards/format_reward/mean": 0.0, "rewards/format_reward/std": 0.0}
    raised = [alarm.name for step in range(1, 40) for alarm in watch.step({"step": step, **zero})]
    assert f"`{raised[0]}`" in TROUBLE


# ------------------------------------------------------------------------------------------- answers and what is said


def test_card_1_and_the_question_to_the_room_are_answered_by_00():
    page = Page("00_start_here")
    for mode, share in re.findall(r"batch +n=256 +(strict|lenient) +([\d.]+) %", page.printed("for rate, r in rates")):
        assert f"{mode}ly {share}%" in GUIDE
    found = re.findall(r"greedy strict (\w+)\)  rewards ([\d. ]+?)  mean", page.printed("rewards = [total_reward"))
    right = [sum(reward in ("1.0", "1.2") for reward in rewards.split()) for _, rewards in found]
    assert len(right) == 5 and min(right) > 0 and "And 5 of 5" in GUIDE
    assert found[4][0] == "wrong" and right[4] == 4 and "right in problem 5, greedily wrong? (Four.)" in GUIDE
    assert all(len(set(rewards.split())) > 1 for _, rewards in found) and "there is none here" in GUIDE


def test_card_2_is_right_for_every_gold():
    cheapest = "<reasoning>.</reasoning><answer>0</answer>"
    assert f"`{cheapest}`, or any other character and number: 0.2." in GUIDE
    assert total_reward([cheapest], gold=["39"]) == [0.2]
    for i in range(len(cheapest)):
        assert total_reward([cheapest[:i] + cheapest[i + 1 :]], gold=["39"]) == [0.0], "no character can be left out"
    bank, lit = load_bank(), {}
    for weight in (0.9, 1.0):
        scores = rescore(bank, [correctness_reward, format_reward], [1.0, weight])
        lit[weight] = "a wrong answer can win" in {light.name for light in lights(bank, scores) if light.lit}
    assert lit == {0.9: False, 1.0: True} and "From 1.0 on" in GUIDE and "*a wrong answer can win*" in GUIDE


def test_card_4_is_answered_by_04_and_the_recorded_seeds():
    printed = Page("04_grpo_training").printed("def first_and_last")
    for name, word in (("loss", "loss"), ("reward", "reward"), ("tokens per completion", "tokens")):
        first, last = map(float, re.search(rf"^{name} +(-?[\d.]+) +(-?[\d.]+)$", printed, re.MULTILINE).groups())
        digits = 0 if word == "tokens" else 2
        both = [f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−") for value in (first, last)]
        assert f"{word} {' and '.join(both)}" in GUIDE
        assert name != "loss" or f"it was {both[0]} at first and 0 at the end" in GUIDE
    seeds = [read_json(RUNS / "tiny" / f"seed-{seed}" / "summary.json", "") for seed in range(3)]
    after = [f"{seed['trained']['strict']['rate']:.1%}" for seed in seeds]
    assert {f"{seed['base']['strict']['rate']:.1%}" for seed in seeds} == {"58.8%"} and "Strict before 58.8%" in GUIDE
    assert f"after (three recorded seeds) {min(after)} to {max(after)}" in GUIDE


def test_card_5_is_answered_by_05():
    page = Page("05_evaluation")
    rows = re.findall(r"base (?:right|wrong) +([\d,]+) +([\d,]+)", page.printed("trained right   trained wrong"))
    (kept, broken), (fixed, never) = [[int(n.replace(",", "")) for n in row] for row in rows]
    wrong, right = fixed + never, kept + broken
    assert f"{fixed} of {wrong} wrong ones, {100 * fixed / wrong:.0f} of 100" in GUIDE
    assert f"{broken} of {right} right ones, {100 * broken / right:.0f} of 100" in GUIDE
    sampled = re.findall(r"pass@1 ([\d.]+%), pass@16 ([\d.]+%)", page.printed("ballots = {who"))
    ones, sixteens = (" and ".join(pair) for pair in zip(*sampled, strict=True))
    assert f"pass@16 {sixteens}, pass@1 {ones}" in GUIDE and "(pass@16)" in CARDS


def test_rewards_far_apart_kept_their_order_in_the_recorded_runs():
    with open(RUNS / "experiments" / "runs.csv", encoding="utf-8", newline="") as file:
        strict = {(row["arm"], row["seed"]): float(row["strict"]) for row in csv.DictReader(file)}
    arms = ("classic", "format_0.5", "default", "correctness_only")
    assert "the classic set, formats of 0.5 and 0.2, and no format came in this order with each of five seeds" in GUIDE
    seeds = sorted({seed for arm, seed in strict if arm == "classic"})
    assert len(seeds) == 5
    for seed in seeds:
        rates = [strict[arm, seed] for arm in arms]
        assert rates == sorted(rates, reverse=True) and len(set(rates)) == 4


# ------------------------------------------------------------------------------------------------- troubleshooting


def test_messages_that_the_page_explains_are_given():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "run.py", ROOT / "utils" / "setup.py"))
    for message in (
        "run.py: needs Python 3.11 or newer",
        "the bundle has no torch",
        "damaged in",
        "not installed",
        "restart needed",
        "No space left",
    ):
        assert f"`{message}`" in TROUBLE and message in sources, message


def test_what_the_page_tells_to_look_at_is_there():
    log = read_jsonl(RUNS / "tiny" / "seed-0" / "log.jsonl")
    assert {"grad_norm", "frac_reward_zero_std", "reward"} <= log[0].keys()
    assert {"cut off", "dead groups"} <= COLUMNS.keys() and "`cut off`" in TROUBLE and "`dead groups`" in TROUBLE
    assert f"above {CUT_OFF:.0%}, where an alarm rings" in TROUBLE and f"the alarm rings at {DEAD:.0%}" in TROUBLE
    window = [fmean(line["frac_reward_zero_std"] for line in log[i : i + 20]) for i in range(len(log) - 19)]
    assert 0.5 < max(window) <= 0.75 and "`dead groups` above 75% for long" in TROUBLE
    row = load_questions("tiny", "train")[0]
    assert row.row["answer"].endswith(f"#### {row.gold}") and 'load_questions("tiny", "train")[0].gold' in TROUBLE
    assert "weights" in read_json(RUNS / "laptop" / "base" / "test" / "protocol.json", "")
    assert PROFILES["tiny"].replace(micro_batch=8).micro_batch == 8 and "replace(micro_batch=8)" in TROUBLE
    for name in re.findall(r"`(\w+)` down|more `(\w+)`", TROUBLE):
        assert hasattr(PROFILES["tiny"], "".join(name))
