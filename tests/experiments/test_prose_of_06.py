"""What notebook 06 says in words, held against the recorded rows and against its own outputs."""

import math
import re
from statistics import fmean, stdev

import pytest

from tests.pages import Page
from utils.experiments.catalogue import EXPERIMENTS, REFERENCE_RUNS, stored
from utils.experiments.findings import EDGE, by_seed, comparisons, gaps_by_seed, paired, parting, verdict
from utils.experiments.grid import START, read_curves, read_provenance
from utils.stats import t_quantile

PAGE = Page("06_experiments")
says, printed = PAGE.says, PAGE.printed
BETTER, WORSE, UNSEEN = "better", "worse", "no difference seen"


@pytest.fixture(scope="module")
def rows():
    return stored()


def words(rows, name, metric="strict"):
    """Arm -> the word that an experiment's interval allows."""
    return {arm: verdict(paired(rows, arm, EXPERIMENTS[name].reference, metric)) for arm in EXPERIMENTS[name].arms}


def test_whose_numbers_these_are(rows):
    says("0.9 million parameters", "runs of some seconds to little more than a minute")
    seconds = [row["train_seconds"] for row in rows]
    assert 1 < min(seconds) and 60 < max(seconds) < 75
    assert f"{len(rows)} recorded runs" in printed("PROFILE = ")


def test_how_many_seeds():
    says("many standard deviations wide", "halving the interval takes two and a half to four times the runs, the more")
    half = {n: t_quantile(0.95, n - 1) / math.sqrt(n) for n in (2, 5, 13, 10, 30, 40)}
    assert half[2] > 5 and half[2] - half[5] > 0.8 * (half[2] - half[30])
    assert half[13] / half[5] == pytest.approx(0.5, abs=0.02) and half[40] / half[10] == pytest.approx(0.5, abs=0.06)
    assert f"half width = {half[5]:5.2f}" in printed("for n in (2, 3, 5")


def test_what_pairing_removes(rows):
    says("removes nearly all of the luck", "Without scaling they part, and it removes some", "and it removes none")
    says("five pairs leave fewer degrees of freedom than two heaps of five")
    assert t_quantile(0.95, 4) > t_quantile(0.95, 8)

    def left(arm):
        """The spread of paired differences as a share of that of unrelated runs."""
        alone = math.hypot(*(stdev(by_seed(rows, name).values()) for name in ("default", arm)))
        return stdev(gaps_by_seed(rows, arm, "default").values()) / alone

    assert left("kl_0.001") < 0.05 and 0.5 < left("scale_none") < 0.8 and left("group_4") > 0.95
    assert "spread of a difference" in printed('for arm in ("group_4", "scale_none"')


def test_the_live_grid():
    says("has it complete, or nearly, and falls behind in *strict*; its answers grow shorter")
    line = re.compile(r"(\w+) +(\d) +([\d.]+)% +([\d.]+)% +([\d.]+) ")
    live = {(arm, seed): tuple(map(float, rest)) for arm, seed, *rest in line.findall(printed("arms = [ARMS"))}
    assert len(live) == 6
    for seed in "012":
        default, alone = live["default", seed], live["format_only", seed]
        assert alone[1] >= 99 and alone[0] < default[0] - 10 and alone[2] < 0.8 * default[2]


def test_rewards(rows):
    says("Pay for the wrong thing shows up as *red*", "The classic set, with all the defects", "is ahead")
    found = words(rows, "rewards")
    assert found["format_only"] == WORSE and found["classic"] == BETTER and found["proximity"] == UNSEEN
    says("in the lenient column the others lie within a point of each other, in the strict column they do not")
    arms = ["default", *(arm for arm in EXPERIMENTS["rewards"].arms if arm != "format_only")]
    spread = {}
    for metric in ("strict", "lenient"):
        means = [100 * fmean(by_seed(rows, arm, metric).values()) for arm in arms]
        spread[metric] = max(means) - min(means)
    assert spread["lenient"] < 1 and spread["strict"] > 20


def test_when_arms_part(rows):
    says(
        "Pay for the layout alone is behind from step 5 to the end",
        "Pay for correctness alone is behind only from step 13 on",
        "The band of the classic set holds 0 throughout, although its greedy answers were better",
    )
    names = ["correctness_only", "classic", "format_only"]
    figure = parting(read_curves(REFERENCE_RUNS), {name: name for name in ("default", *names)}, names, "default")
    behind = {}
    for axes in figure.axes:
        corners = axes.collections[0].get_paths()[0].vertices
        steps = sorted({x for x, _ in corners})
        tops = {step: max(y for x, y in corners if x == step) for step in steps}
        behind[axes.get_title()] = [step for step in steps if tops[step] < 0]
        if axes.get_title() == "classic":
            assert all(min(y for x, y in corners if x == step) < 0 for step in steps)
    assert behind["format_only"] == list(range(5, 20, 2)) and behind["correctness_only"] == list(range(13, 20, 2))
    assert behind["classic"] == []


def test_the_barn_door(rows):
    says("Every interval holds 0, and one is as wide as a barn door: it leaves the picture on both sides")
    assert set(words(rows, "step_size").values()) == {UNSEEN}
    found = {arm: paired(rows, arm, "default") for arm in EXPERIMENTS["step_size"].arms}
    assert [arm for arm, f in found.items() if f.low < -EDGE / 100 and f.high > EDGE / 100] == ["step_8"]
    says("One seed has lost the layout, though hardly the maths", "the other arm of 8 shows no such run")
    strict, lenient = (by_seed(rows, "step_8", metric) for metric in ("strict", "lenient"))
    lost = min(strict, key=strict.get)
    assert strict[lost] < 0.3 < min(v for s, v in strict.items() if s != lost) - 0.4
    assert lenient[lost] > max(0.85, min(lenient.values()))
    assert min(by_seed(rows, "step_8_lr_0.001").values()) > 0.8


def test_the_placebo(rows):
    says("They lie on 0 sharp", "One of these four arms is coloured")
    assert set(gaps_by_seed(rows, "small_passes", "default").values()) == {0.0}
    assert [word for word in words(rows, "loss_type").values() if word != UNSEEN] == [WORSE]


def test_the_token_cap(rows):
    says(
        "the answers have a third of the default's length",
        "in four of the five runs next to nothing",
        "under the full cap of 96 tokens",
    )
    tokens = {arm: fmean(by_seed(rows, arm, "tokens").values()) for arm in ("default", "cap_24")}
    assert 0.25 < tokens["cap_24"] / tokens["default"] < 0.4 and START.max_completion_tokens == 96
    assert sorted(by_seed(rows, "cap_24").values())[3] < 0.03
    says("The interval of the other cap holds 0")
    assert words(rows, "token_cap") == {"cap_24": WORSE, "cap_40": UNSEEN}


def test_the_winner_of_one_seed():
    says(
        "Five seeds choose five different winners. One of them loses on the other seeds", "the arm with the runaway run"
    )
    line = re.compile(r"seed (\d): (.+?) +[-+][\d.]+ points; on the other seeds +([-+][\d.]+)")
    lines = line.findall(printed("names = sorted"))
    assert len(lines) == len({winner for _, winner, _ in lines}) == 5
    assert [(seed, winner) for seed, winner, others in lines if float(others) < 0] == [("4", "8 a step")]
    says("whoever had tried only that last seed")


def test_false_alarms_and_bonferroni(rows):
    says("all but sure to find *something*", "Only two differences are left, both far beyond the edge")
    assert int(re.search(r"at least one in (\d+)%", printed("rng, asked"))[1]) > 85
    asked = comparisons(list(EXPERIMENTS.values()), rows)
    assert printed("rng, asked").startswith(f"{len(asked)} comparisons")
    found = {arm: paired(rows, arm, e.reference, confidence=1 - 0.05 / len(asked)) for e, arm in asked}
    left = {arm for arm, f in found.items() if verdict(f) != UNSEEN}
    assert left == {"format_only", "cap_24"} and printed("level, coloured").count("also at Bonferroni's level") == 2
    sizes = sorted(abs(f.mean) for f in found.values())
    assert sizes[-2] > 2 * sizes[-3] and sizes[-2] > 0.3, "by far the largest"


def test_what_else_was_asked():
    says(f"the differences of all {len(EXPERIMENTS)} questions, four of which you have seen", "the others are about")
    seen = {name for name in EXPERIMENTS if f'("{name}")' in "".join(cell.source for cell in PAGE.code)}
    assert len(seen) == 4
    listed = PAGE.prose.split("the others are about ")[1].split(". Each")[0]
    assert len(re.split(r", and |, ", listed)) == len(EXPERIMENTS) - len(seen)


def test_the_plan_of_exercise_2():
    says("For a spread of 4 points and 2 points to either side the answer is 18: more than three times what")
    half = {n: t_quantile(0.95, n - 1) * 4 / math.sqrt(n) for n in (17, 18)}
    assert half[18] <= 2 < half[17] and 18 > 3 * 5
    assert read_provenance(REFERENCE_RUNS)["held_out"] == 500 and "500 held-out questions" in printed("default = ")
