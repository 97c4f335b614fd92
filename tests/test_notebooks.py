"""The notebooks as committed: valid, executed in order, clean outputs, one set-up cell."""

import json
import os
import re
from pathlib import Path
from statistics import fmean

import nbformat
import pytest

from utils.data.answers import parse_completion
from utils.data.questions import load_questions, solution_steps
from utils.evaluation.errors import transitions
from utils.evaluation.evaluate import compare_folders, gain_text, load_evaluation
from utils.files import ROOT, read_json, read_jsonl, sha256
from utils.model.profiles import PROFILES, get_profile, pick_profile
from utils.rewards.bank import REAL, Bank, lights, load_bank, part_scores, rescore
from utils.rewards.functions import REWARDS, classic_integer, classic_rewards, correctness_reward, format_reward
from utils.rewards.groups import is_dead
from utils.scripts.notebooks import NOTEBOOKS, WITH_EXERCISES
from utils.stats import interval, mcnemar_exact
from utils.training.preflight import FIRST_LOOK, duration, estimate_seconds
from utils.training.trained import find_training

LAPTOP = ROOT / "assets" / "runs" / "laptop"

NAMES = [
    "00_start_here",
    "01_data_prep",
    "02_reward_design",
    "03_grpo_from_scratch",
    "04_grpo_training",
    "05_evaluation",
    "06_experiments",
]
FORBIDDEN = {
    "machine path": re.compile(r"/(root|home|tmp|work|Users)/[\w.]"),
    "token": re.compile(r"hf_[A-Za-z0-9]{20,}|write_token"),
    "eval or exec": re.compile(r"(?<![.\w])(eval|exec)\("),
    "remote code": re.compile(r"trust_remote_code\s*=\s*True"),
}


def test_the_series_is_complete():
    assert [n.stem for n in NOTEBOOKS] == NAMES


@pytest.fixture(params=WITH_EXERCISES, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_it_is_valid_and_was_executed_top_to_bottom(notebook):
    nbformat.validate(notebook)
    assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert not [o for c in code_cells(notebook) for o in c.outputs if o.output_type == "error"]
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_private_or_unsafe_is_in_it(notebook, what):
    outputs_and_code = json.dumps([[c.source, c.outputs] for c in code_cells(notebook)])
    assert not FORBIDDEN[what].search(outputs_and_code)


def test_the_anatomy(notebook):
    first, code = notebook.cells[0].source, code_cells(notebook)
    assert first.startswith("# ") and "colab-badge.svg" in first
    assert "set_up()" in code[0].source
    assert any("GRPO_PROFILE" in c.source for c in code)
    lengths = sorted(len(c.source.splitlines()) for c in code)
    assert lengths[-1] <= 40, f"a code cell of {lengths[-1]} lines: split it or move it to utils/"
    prose = sum(c.cell_type == "markdown" for c in notebook.cells)
    assert prose >= len(code), f"{prose} cells of prose to {len(code)} of code: merge code, or say what it shows"


@pytest.mark.parametrize("path", WITH_EXERCISES, ids=lambda path: path.stem)
def test_its_page_loads_at_once(path):
    size = path.stat().st_size / 1000
    assert size <= 400, f"{size:.0f} KB: draw fewer pictures, or store less HTML"


def test_the_set_up_cell_is_the_same_everywhere():
    cells = {code_cells(nbformat.read(path, as_version=4))[0].source for path in WITH_EXERCISES}
    assert len(cells) == 1


# ------------------------------------------------------------------------------------ what they say of the real model


def prose(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())


def printed(name):
    """All text that a notebook's cells print, one after the other."""
    cells = code_cells(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4))
    return "\n".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def summary():
    return read_json(LAPTOP / "seed-0" / "summary.json", "")


def test_00_tells_the_real_gain_as_it_is(summary):
    base, trained = summary["base"], summary["trained"]
    gains = {mark: 100 * (trained[mark]["rate"] - base[mark]["rate"]) for mark in ("strict", "lenient")}
    assert "Strict and lenient rise by nearly the same, and their intervals" in prose("00_start_here")
    assert abs(gains["strict"] - gains["lenient"]) < 3
    assert all(base[mark]["high"] < trained[mark]["low"] for mark in gains)
    other = read_json(LAPTOP / "seed-1" / "summary.json", "")["trained"]
    assert "the other gained less than a third of this" in prose("00_start_here")
    assert all(0 < 100 * (other[mark]["rate"] - base[mark]["rate"]) < gains[mark] / 3 for mark in gains)
    assert "mostly keeps the layout from the start" in prose("00_start_here") and base["format"]["low"] > 0.5
    assert "still wrong more often than right" in prose("00_start_here") and trained["lenient"]["high"] < 0.5


def test_04_tells_the_real_run_as_it_was(summary):
    page, log = prose("04_grpo_training"), read_jsonl(LAPTOP / "seed-0" / "log.jsonl")
    tens = [log[start : start + 10] for start in range(0, len(log), 10)]
    means = {
        name: [fmean(line[metric] for line in ten) for ten in tens]
        for name, metric in (
            ("format", "rewards/format_reward/mean"),
            ("correct", "rewards/correctness_reward/mean"),
            ("tokens", "completions/mean_length"),
        )
    }
    assert "The layout is learnt within the first ten steps" in page and means["format"][0] < 0.9 < means["format"][1]
    assert "Being right takes much longer" in page and fmean(means["correct"][-5:]) > fmean(means["correct"][:3]) + 0.1
    assert "The length falls, comes back, and falls a little at the end" in page
    first, fallen, later, last = means["tokens"][0], means["tokens"][1], max(means["tokens"][3:]), means["tokens"][-1]
    assert fallen < 0.8 * first < first < later and fallen < last < first
    rollouts, part = read_jsonl(LAPTOP / "seed-0" / "rollouts.jsonl.gz"), len(log) // 5
    kinds = []
    for start in range(0, len(log), part):
        groups = [group for record in rollouts[start : start + part] for group in record["groups"]]
        right = [group["parts"]["correctness_reward"][0] for group in groups if is_dead(group)]
        kinds.append((sum(right) / len(groups), (len(right) - sum(right)) / len(groups)))
    assert "failures shared by all, from the first step to the last" in page and all(r < w for r, w in kinds)
    assert "the right ones among them grow and the others become a little fewer" in page
    assert kinds[0][0] < kinds[-1][0] and 0 < kinds[0][1] - kinds[-1][1] < 0.1
    assert "About a third of the completions" in page and 0.28 < fmean(map(sum, kinds)) < 0.4
    rates = {
        int(n): [both[who]["rate"] for who in ("base", "trained")] for n, both in summary["by_solution_steps"].items()
    }
    assert "carries over to four" in page and rates[4][1] > 2 * rates[4][0]
    assert "one test question in seven" in page and round(1 / summary["base"]["strict"]["rate"]) == 7


def test_04_tells_how_two_seeds_parted():
    page, output = prose("04_grpo_training"), printed("04_grpo_training")
    seeds = [LAPTOP / f"seed-{seed}" for seed in range(2)]
    rates = [[line["learning_rate"] for line in read_jsonl(seed / "log.jsonl")] for seed in seeds]
    other = [step for step, (a, b) in enumerate(zip(*rates, strict=False), 1) if a != pytest.approx(b)]
    assert "differs from the first run's from step 56 on only" in page and other[0] == 56
    assert "for 128 steps" in page and len(rates[1]) == 128

    rows = re.findall(r"^ *\d+ – +\d+ +(\d+) +(\d+) +(\d+)% +(\d+)%$", output, re.MULTILINE)
    long, short, more, fewer = zip(*(map(int, row) for row in rows), strict=True)
    assert "Within 32 steps the two part and never meet again" in page and len(rows) == 8
    assert all(b < 0.8 * a for a, b in zip(long[1:], short[1:], strict=True))
    assert "goes on writing as much as it began with" in page and 0.95 < fmean(long[2:]) / long[0] < 1.2
    assert "about two thirds of that, and it gets fewer right" in page and 0.6 < fmean(short[2:]) / short[0] < 0.72
    assert all(b < a for a, b in zip(more, fewer, strict=True))

    pays = re.findall(r"seed-\d: (\S+) in (\d+) without a right answer, (\S+) in (\d+) others", output)
    assert "its length is hardly paid either way" in page and all(abs(float(others)) < 0.1 for _, _, others, _ in pays)
    assert "Such groups pull every run towards short answers" in page and all(float(pay[0]) < -0.4 for pay in pays)
    kept, lost = {True: [], False: []}, []
    for seed, pay in zip(seeds, pays, strict=True):
        groups = [g for record in read_jsonl(seed / "rollouts.jsonl.gz")[:32] for g in record["groups"]]
        groups = [g for g in groups if not is_dead(g) and not any(g["parts"]["correctness_reward"])]
        assert len(groups) == int(pay[1])
        for group in groups:
            texts = sorted(
                zip(group["completions"], group["parts"]["format_reward"], strict=True), key=lambda t: len(t[0])
            )
            for place, (text, clean) in enumerate(texts):
                kept[place < len(texts) / 2].append(clean)
                lost += [text] * (clean == 0)
    assert "mostly the long completions that lose it" in page and fmean(kept[True]) - fmean(kept[False]) > 0.25
    assert (
        "most of them because they never come to an answer tag" in page
        and fmean("</answer>" not in t for t in lost) > 2 / 3
    )
    assert "this fifth of a point" in page and REWARDS[format_reward] == 0.2
    assert "four questions a step" in page and get_profile("laptop").prompts_per_step == 4


def test_04_tells_what_a_hundred_steps_more_brought():
    page, output = prose("04_grpo_training"), printed("04_grpo_training")
    further = LAPTOP / "seed-0-on"
    told, run = (read_json(further / name, "") for name in ("settings.json", "training.json"))
    start = get_profile("laptop").warmup_steps
    log, before = (read_jsonl(folder / "log.jsonl") for folder in (further, LAPTOP / "seed-0"))
    assert told["adapter"] == sha256(LAPTOP / "seed-0" / "adapter" / "adapter_model.safetensors")
    assert "`run.py train --profile laptop --adapter assets/runs/laptop/seed-0/adapter --seed 2" in page
    assert "--max-steps 100 --scale-rewards batch`" in page and told["scale_rewards"] == "batch"
    assert (run["seed"], run["steps"], len(log)) == (2, 100, 100)
    assert log[start]["learning_rate"] == pytest.approx(before[start]["learning_rate"], rel=0.01), "from its top again"
    assert "This one was planned for 120 steps and shortened at step 50" in page
    assert run["schedules"] == [{"from_step": 1, "max_steps": 120}, {"from_step": 51, "max_steps": 100}]
    table = output.split("    steps   tokens   layout   right\n")[1]
    rows = re.findall(r"^ *\d+ – +\d+ +(\d+) +(\d+)% +(\d+)%$", table.split("\n\n")[0], re.MULTILINE)
    tokens, layout, right = zip(*(map(int, row) for row in rows), strict=True)
    assert len(rows) == 5 and "The completions grow again" in page and sorted(tokens) == list(tokens)
    assert tokens[-1] > 1.2 * tokens[0] and "the layout loosens" in page and layout[-1] < layout[0] - 4
    assert "no trend of right answers" in page and max(right) - min(right) < 10
    assert "a line is 80 questions" in page and 20 * get_profile("laptop").prompts_per_step == 80
    change = compare_folders(LAPTOP / "seed-0" / "test", further / "test")[2]
    assert "a little more, by an interval that holds 0" in page
    assert change["difference"]["low"] < 0 < change["difference"]["points"]
    flips = change["flips"]
    assert "for every five questions won, four got lost" in page and round(5 * flips["broken"] / flips["fixed"]) == 4
    assert (
        "from the one to the other {:+.1f} points [{:+.1f}, {:+.1f}]".format(
            *(100 * change["difference"][name] for name in ("points", "low", "high"))
        )
        in output
    )


def test_04_tells_which_remedies_were_left():
    page, output, further = prose("04_grpo_training"), printed("04_grpo_training"), LAPTOP / "seed-0-on"
    five, eight = (
        read_jsonl(LAPTOP / "tried" / name / "log.jsonl") for name in ("five-times-the-rate", "eight-questions-a-step")
    )
    planned = [log[-1]["max_steps"] for log in (five, eight)]
    assert f"(`--learning-rate 5e-4 --max-steps {planned[0]}`, left after {len(five)} steps)" in page
    assert f"(`--prompts-per-step 8 --max-steps {planned[1]}`, left after {len(eight)})" in page
    fallen = eight[-1]["learning_rate"] / max(line["learning_rate"] for line in eight)
    assert "its learning rate had fallen to half in its last one" in page and 0.4 < fallen < 0.6
    row = r"^  (?:right|layout) +(\d+)% instead of (\d+)%, (\S+) points \[(\S+), (\S+)\] over (\d+) questions$"
    told = [list(map(float, found)) for found in re.findall(row, output, re.MULTILINE)]
    (rate, rate_layout), (steady, steady_layout) = told[:2], told[2:]
    assert "Larger steps fall behind" in page and rate[4] < 0 and "nine points fewer right answers" in page
    assert round(rate[2]) == round(rate_layout[2]) == -9, "and as much of the layout"
    lost = 1 - five[7]["rewards/format_reward/mean"]
    assert "in its eighth step two thirds of the completions had none" in page and 0.6 < lost < 0.72
    assert "no difference in right answers that 112 questions could tell" in page and steady[3] < 0 < steady[4]
    assert steady[5] == 112 and "the layout loosened here, too" in page and steady_layout[4] < 0
    again = read_jsonl(LAPTOP / "tried" / "seed-0-in-both-types.jsonl")
    right = {kind: [fmean(row[kind]) for row in again] for kind in ("float32", "bfloat16")}
    types = interval([100 * (a - b) for a, b in zip(*right.values(), strict=True)])
    assert (
        f"on the first {len(again)} of these questions, got {fmean(right['float32']):.0%} right in float32 and "
        f"{fmean(right['bfloat16']):.0%} in bfloat16, {types.mean:.1f} points [{types.low:.1f}, {types.high:.1f}] apart"
    ) in page
    order = [group["question"] for r in read_jsonl(further / "rollouts.jsonl.gz") for group in r["groups"]]
    assert [row["question"] for row in again] == order[: len(again)]
    log, gain = read_jsonl(further / "log.jsonl"), read_json(further / "summary.json", "")["difference"]
    dead, profile = fmean(line["frac_reward_zero_std"] for line in log), get_profile("laptop")
    assert "four questions, of which two or three teach" in page and 2 < (1 - dead) * profile.prompts_per_step < 3
    assert "is at less than 17" in page and 0.16 < gain["points"] < 0.17
    steps = len(log) + len(read_jsonl(LAPTOP / "seed-0" / "log.jsonl"))
    assert f"have seen {steps * profile.completions_per_step:,} completions altogether" in page


def test_04_tells_what_the_batchs_spread_does_to_the_length():
    page, output = prose("04_grpo_training"), printed("04_grpo_training")
    row = r"^ *\d+ – +\d+ +(\d+) +(\d+) +(\d+)% +(\d+)% +(\d+)% +(\d+)%$"
    rows = [list(map(int, found)) for found in re.findall(row, output, re.MULTILINE)]
    pays = [float(pay) for pay in re.findall(r"^divided by the \w+'s: (\S+) in", output, re.MULTILINE)]
    assert "seed 1 once more, for 24 steps" in page and len(rows) == 3 and len(pays) == 2
    assert "about a third of what it was" in page and 0.28 < pays[1] / pays[0] < 0.4
    assert "almost half as long again" in page and 1.4 < rows[-1][1] / rows[-1][0] < 1.5
    assert "the layout, which is learnt more slowly" in page and rows[0][2] < rows[0][3]
    assert all(batch < group for _, _, group, batch, *_ in rows[1:])
    assert "eight steps are 32 questions" in page and 8 * get_profile("laptop").prompts_per_step == 32
    log = read_jsonl(LAPTOP / "seed-0" / "log.jsonl")[16:24]
    assert "seed 0 stayed long without any remedy" in page
    assert fmean(line["completions/mean_length"] for line in log) > 1.2 * rows[-1][0]
    assert "no difference can be seen" in page and 0 < rows[-1][5] - rows[-1][4] < 5


def test_04_names_the_times_that_the_preflight_names():
    laptop = {dtype: PROFILES["laptop"].replace(dtype=dtype) for dtype in ("bfloat16", "float32")}
    for profile, told in (
        (laptop["bfloat16"], "`laptop`, a real model there: {}, a first look of 20 steps {}"),
        (laptop["float32"], "on a processor without bfloat16 {} and {} (from measured steps)"),
        (PROFILES["t4"], "`t4`: {}, a first look {}"),
    ):
        seconds, _ = estimate_seconds(profile)
        first_look = duration(seconds * FIRST_LOOK / profile.steps)
        assert told.format(duration(seconds), first_look) in prose("04_grpo_training")


def test_05_tells_the_real_gain_as_it_is(summary):
    page, gain, flips = prose("05_evaluation"), summary["gain"], summary["flips"]
    assert "next to nothing of the gain is *layout*, nothing is *working*" in page
    assert gain["layout"]["fixed"] < 0.05 * flips["fixed"] and gain["working"] == {"fixed": 0, "broken": 0}
    assert "most had been a *wrong plan*" in page and "Some had been cut off at the token cap" in page
    [before] = re.findall(r"what the fixed ones were before: (.*)", printed("05_evaluation"))
    kinds = {kind: int(n) for n, kind in (each.split(" ", 1) for each in before.split(", "))}
    assert sum(kinds.values()) == flips["fixed"] and 0.05 < kinds["truncated"] / flips["fixed"] < 0.3
    assert kinds["wrong plan"] > 0.5 * flips["fixed"]
    assert "the base is cut off at the token cap more often" in page
    assert summary["base"]["truncated"]["low"] > summary["trained"]["truncated"]["high"]
    assert "a fifth as many questions broke as were fixed" in page
    assert 0.18 < flips["broken"] / flips["fixed"] < 0.22
    svamp = summary["svamp"]
    assert "Less than half of the gain carries over" in page
    assert 0 < svamp["difference"]["low"] and svamp["difference"]["points"] < 0.5 * summary["difference"]["points"]
    assert "seven questions broke for every ten that were fixed" in page
    assert round(10 * svamp["flips"]["broken"] / svamp["flips"]["fixed"]) == 7


def test_05_tells_the_second_training_as_it_is(summary):
    page, twin = prose("05_evaluation"), read_json(LAPTOP / "seed-1" / "summary.json", "")
    first, gain, svamp = summary["difference"], twin["difference"], twin["svamp"]["difference"]
    assert "The gain above has an interval of five points" in page and 0.045 < first["high"] - first["low"] < 0.055
    assert "leave little doubt of that" in page and gain["low"] > 0 and twin["mcnemar_p"] < 0.001
    assert "lies far below the other's interval" in page and gain["high"] < first["low"]
    assert "on SVAMP none is to be seen: that interval holds 0" in page and svamp["low"] < 0 < svamp["high"]
    assert "further apart than twice the width of the first interval" in page
    assert first["points"] - gain["points"] > 2 * (first["high"] - first["low"])
    tokens = [load_evaluation(LAPTOP / who / "test").card["mean_tokens"] for who in ("seed-0", "seed-1")]
    assert "the twin writes little more than half as much" in page and 0.5 < tokens[1] / tokens[0] < 0.6


def test_05_tells_the_real_samples_as_they_are(summary):
    page, shown, sampled = prose("05_evaluation"), printed("05_evaluation"), summary["sampling"]
    gain = sampled["gain"]["pass"]
    for k in (1, 8):
        before, after = (sampled[who]["pass"]["mean"][k - 1] for who in ("base", "trained"))
        mean, low, high = (100 * gain[part][k - 1] for part in ("mean", "low", "high"))
        assert f"pass@{k}: {before:.1%} -> {after:.1%}, a gain of {mean:.1f} points [{low:.1f}, {high:.1f}]" in shown
    assert "The gain is nearly the same for one sample as for eight" in page
    assert gain["low"][7] < gain["mean"][0] < gain["high"][7] and gain["low"][7] > 0
    assert "more questions came within reach of eight tries than went out of it" in page
    assert sampled["gain"]["reach"]["gained"] > sampled["gain"]["reach"]["lost"]
    assert "Our eight samples of 200 questions" in page and sampled["gain"]["questions"] == 200
    steps = {int(n): found for n, found in read_json(LAPTOP / "base" / "by_solution_steps.json", "").items()}

    def none(rows):
        return sum(row["none"] for row in rows) / sum(sum(row.values()) for row in rows)

    assert "on most of these questions not one of the base's eight samples was right" in page
    assert none(steps.values()) > 0.5
    assert "With two steps that holds for two questions in five, with four and more for over four in five" in page
    assert 0.37 < none([steps[2]]) < 0.43 and none([row for n, row in steps.items() if n >= 4]) > 0.8


def test_05_stops_before_it_loads_a_model_where_there_is_nothing_to_judge(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "t4")
    monkeypatch.setenv("GRPO_RUN_DIR", str(tmp_path))
    cells = code_cells(nbformat.read(ROOT / "notebooks" / "05_evaluation.ipynb", as_version=4))
    at = next(i for i, cell in enumerate(cells) if "find_training(" in cell.source)
    assert not any(call in cell.source for cell in cells[: at + 1] for call in ("load_policy(", "evaluate(", "ask("))
    names = {"os": os, "Path": Path, "root": ROOT}
    names |= {"get_profile": get_profile, "pick_profile": pick_profile, "find_training": find_training}
    with pytest.raises(FileNotFoundError, match='Run notebook 04 .* MIRROR .* PROFILE = "tiny"'):
        exec(cells[at].source, names)


def test_05_tells_the_tiny_gain_as_it_is():
    page, shown = prose("05_evaluation"), printed("05_evaluation")
    change = r"By layout (\d+) fixed and (\d+) broken, where only one .*? (\d+) and (\d+), .*? (\d+) and (\d+)"
    gain = [int(n) for n in re.search(change, shown).groups()]
    assert "On `tiny` nearly the whole gain is one habit" in page
    assert gain[2] - gain[3] > 0.8 * (sum(gain[::2]) - sum(gain[1::2]))
    line = r"both show working +[\d,]+ questions, .*: (\d+) fixed, (\d+) broken, p = ([\d.e-]+)"
    fixed, broken, p = map(float, re.search(line, shown).groups())
    assert "Where both work, more was broken than fixed, and hardly by chance" in page
    assert "with the other two recorded seeds it is the same" in page
    for seed in (0, 1, 2):
        path = ROOT / "assets" / "runs" / "tiny" / f"seed-{seed}" / "summary.json"
        recorded = read_json(path, "")["gain"]["arithmetic"]
        assert recorded["fixed"] < recorded["broken"] and mcnemar_exact(**recorded) < 0.05
    assert fixed < broken and p < 0.05 and p == pytest.approx(mcnemar_exact(int(fixed), int(broken)), rel=0.05)
    table = {name: (int(a), int(b)) for name, a, b in re.findall(r"\n(guess|arithmetic slip) +(\d+) +(\d+)  ", shown)}
    assert "guesses are gone and slips have nearly tripled" in page
    assert table["guess"][1] == 0 and 2.5 < table["arithmetic slip"][1] / table["arithmetic slip"][0] < 3
    assert "Few had been lucky guesses on `tiny`" in page
    [(all_broken, lucky)] = re.findall(r"of the (\d+) broken ones, (\d+) had been a guess that came out right", shown)
    assert int(all_broken) == sum(gain[1::2]) and int(lucky) == gain[3] < 0.1 * int(all_broken)
    sets = dict(re.findall(r"\ntiny-(\w+) .*?'fixed': (\d+, 'broken': \d+)", shown))
    net = {name: int(text.split(",")[0]) - int(text.split()[-1]) for name, text in sets.items()}
    assert "next to nothing carries over to longer stories and larger numbers, and a part to other wording" in page
    assert max(net["longer"], net["larger"]) < 0.02 * 250 and net["reworded"] > 0.1 * 250


def test_05_tells_how_difficulty_and_samples_matter(summary):
    page, by_steps = prose("05_evaluation"), {}
    steps = [min(8, solution_steps(question.row["answer"])) for question in load_questions("tiny", "test")]
    for who in ("base", "seed-0"):
        verdicts = load_evaluation(ROOT / "assets" / "runs" / "tiny" / who / "test").verdicts
        marks = {n: [v.strict for v, of in zip(verdicts, steps, strict=True) if of == n] for n in (2, 4)}
        by_steps[who] = fmean(marks[2]) - fmean(marks[4])
    assert "From two steps on the base falls steeply, and up to four the trained model slowly" in page
    assert by_steps["base"] > 0.3 > 0.15 > by_steps["seed-0"] > 0
    assert "A real model does not guess, and both its curves fall" in page
    for who in ("base", "trained"):
        real = [both[who]["rate"] for both in summary["by_solution_steps"].values()]
        assert real[:5] == sorted(real[:5], reverse=True) and max(real[5:]) < 0.1
    sampled = re.findall(r"(?:base|trained) +pass@1 ([\d.]+)%, pass@16 ([\d.]+)%", printed("05_evaluation"))
    (one, most), (one_after, most_after) = (map(float, pair) for pair in sampled)
    assert "*concentrated* (so on `tiny`)" in page and one_after - one > 20 and abs(most_after - most) < 3


def test_05_tells_where_the_slips_of_tiny_come_from():
    tiny = ROOT / "assets" / "runs" / "tiny"
    base, trained, comparison = compare_folders(tiny / "base" / "test", tiny / "seed-0" / "test")
    moved = transitions(base.verdicts, trained.verdicts)
    slips = sum(count for (_before, after), count in moved.items() if after == "arithmetic slip")
    assert "more than half of the slips after training stand where a guess stood before" in prose("05_evaluation")
    assert moved["guess", "arithmetic slip"] > 0.5 * slips
    assert gain_text(comparison["gain"]) in printed("05_evaluation")


def test_02_tells_the_real_bank_as_it_is():
    page, kinds = prose("02_reward_design"), {}
    for group in load_bank(REAL).groups:
        kinds.setdefault((group.policy, group.prompt), []).append(group)
    banks = {kind: Bank(tuple(groups)) for kind, groups in kinds.items()}

    def share(kind, has):
        return fmean(map(has, banks[kind].completions))

    def alive(kind, function):
        values = part_scores(banks[kind], function)
        return fmean(len(set(values[i : i + 8])) > 1 for i in range(0, len(values), 8))

    words = [(who, "words") for who in ("base", "trained")]
    shown = [(who, PROFILES["laptop"].prompt) for who in ("base", "trained")]
    assert "no completion keeps the layout, before training or after" in page
    assert all(share(kind, lambda text: parse_completion(text).well_formed) == 0 for kind in words)
    assert "few open an answer tag" in page and all(
        share(kind, lambda text: "<answer>" in text) < 0.2 for kind in words
    )
    assert "half are cut off" in page
    assert all(0.5 < fmean(cut for g in banks[kind].groups for cut in g.truncated) < 0.6 for kind in words)
    kept = [share(kind, lambda text: parse_completion(text).well_formed) for kind in shown]
    assert "most keep it from the start" in page and kept[0] > 0.5
    right = [fmean(part_scores(banks[kind], correctness_reward)) for kind in shown]
    assert "nearly always keeps the layout and is right three times as often" in page
    assert kept[1] > 0.9 and 2.7 < right[1] / right[0] < 3.5
    assert "under `words` it still never keeps it" in page
    assert "tells no group apart" in page and all(alive(kind, format_reward) == 0 for kind in words)
    dead = [f for f in classic_rewards if not any(alive(kind, f) for kind in kinds)]
    assert "Two parts of the classic set are dead on *every* row" in page and len(dead) == 2
    liveliest = max(classic_rewards, key=lambda function: alive(words[0], function))
    assert "Its liveliest part under `words` pays for any whole number" in page and liveliest is classic_integer
    base = banks[shown[0]]
    drift = next(
        x for x in lights(base, rescore(base, list(REWARDS), list(REWARDS.values()))) if x.name == "length drift"
    )
    assert "shorter completions earn more" in page and drift.lit and "the shorter one earns more" in drift.found
