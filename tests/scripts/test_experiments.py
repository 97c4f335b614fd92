"""The page and its command; and the recorded rows, asked whether every sentence and number of the page still holds."""

import re
from statistics import fmean, median, stdev

import numpy as np
import pytest
from PIL import Image

from tests.experiments.made_up import rows_with
from utils.experiments import catalogue, grid
from utils.experiments.catalogue import ARMS, EXPERIMENTS, LABELS, Experiment
from utils.experiments.findings import paired, verdict
from utils.experiments.grid import read_runs
from utils.files import ROOT
from utils.model.policy import load_policy
from utils.scripts import experiments as script
from utils.scripts.experiments import CONCLUSIONS, agreement, conclude, page, write_findings

QUESTION = [Experiment("small", "Does b help (default: no)?", "default", ("b", "c", "d"), also="dead")]
NAMES = {"default": "default", "b": "arm b", "c": "arm c", "d": "arm d"}
FACTS = {
    "versions": {"trl": "1.2.0"},
    "machine": "m",
    "held_out": 500,
    "untrained": {"strict": 0.4},
    "start": {"steps": 16},
}

# --------------------------------------------------------------------------------------------- the page


def test_findings_are_worded_by_the_numbers():
    start = [0.6, 0.62, 0.58, 0.64, 0.6]
    noise = [0.01, -0.02, 0.02, -0.01, 0.01]
    rows = rows_with(
        default=start,
        b=[a + 0.1 + n / 100 for a, n in zip(start, noise, strict=True)],
        c=[a + n for a, n in zip(start, noise, strict=True)],
    )
    text = page(QUESTION, NAMES, rows, FACTS, "p.png", ["**So.** It is."])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines[2:]] == [
        "| _Does b help (default: no)?_ `small` |  |  |  | dead groups 25% |",
        "| arm b | **+10.0** | **[+10.0, +10.0]** | **better** | 25% |",
        "| arm c | +0.2 | [-1.8, +2.2] | no difference seen | 25% |",
        "| arm d |  |  | not measured |  |",
    ]
    assert "\npython -m utils.scripts.experiments small --output runs/again\n" in text
    assert "n = 5 seeds unless it says otherwise" in text and "15 runs of 3 arms over 5 seeds" in text
    assert "untrained it is 40.0%" in text and "**The default:** steps 16." in text
    assert "Of 2 intervals 1 leave out 0, and 0 under the lenient reading, which forgives the layout; about 0.1" in text
    assert "](p.png)\n" in text and "## What to conclude\n\n1. **So.** It is.\n" in text
    assert "conclude" not in page(QUESTION, NAMES, rows, FACTS, "p.png")
    worse = page(QUESTION, NAMES, rows_with(default=start, b=[a - 0.1 for a in start]), FACTS, "p.png")
    assert "| arm b | **-10.0** |" in worse and "| **worse** |" in worse


def test_few_seeds_are_said_and_reproduced():
    text = page(QUESTION, NAMES, rows_with(default=[0.6, 0.7, 0.65], b=[0.61, 0.72, 0.7]), FACTS, "p.png")
    assert re.search(r"\| arm b \| [^|]+ \| \[[^|]+\],\sn\s=\s3 \|", text)
    assert "\npython -m utils.scripts.experiments small --seeds 3 --output runs/again\n" in text
    alone = page(QUESTION, NAMES, rows_with(default=[0.6], b=[0.6]), FACTS, "p.png")
    assert "| arm b |  |  | not measured |" in alone and "Of 0 intervals" in alone


def test_runs_made_again_are_compared_by_key():
    rows = rows_with(default=[0.6, 0.7], b=[0.5])
    again = rows_with(default=[0.6, 0.72], c=[0.1])
    assert "1 of 2 runs give the reference's strict rate, the largest difference is 2.0 points" in agreement(
        again, rows
    )
    assert "none of these" in agreement(rows_with(c=[0.1]), rows)


# ------------------------------------------------------------------------------------------ the command


def test_the_command_names_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        script.main(["group_sise"])
    assert re.search("no experiment group_sise; there are group_size, ", capsys.readouterr().err)


def test_the_command_runs_stores_and_writes_findings(calls, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "HELD_OUT", 8)
    monkeypatch.setattr(script, "stored", read_runs)
    script.main(["kl", "--seeds", "2", "--jobs", "1", "--output", str(tmp_path)])
    assert sorted(calls) == [(a, s) for a in ("default", "kl_0.001", "kl_0.04") for s in (0, 1)]
    said = capsys.readouterr().out
    assert "6 runs, 0 of them done already" in said and "FINDINGS.md" in said
    text = (tmp_path / "FINDINGS.md").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "| KL 0.001 | +0.0 | [+0.0, +0.0], n = 2 | no difference seen |" in text
    assert "](findings.png)" in text and Image.open(tmp_path / "findings.png").size[0] > 900
    assert "`group_size`" not in text, "what was not asked here should not be listed"
    assert "conclude" not in text, "the conclusions are about the reference runs"
    assert LABELS["kl_0.04"] == "KL 0.04"


# ------------------------------------------------------------------------------------- the recorded rows


@pytest.fixture(scope="module")
def recorded():
    return catalogue.stored()


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The page and the picture written once more from a copy of the recorded rows, laid out as in assets/."""
    folder = tmp_path_factory.mktemp("assets").resolve() / "runs" / "experiments"
    folder.mkdir(parents=True)
    for path in catalogue.REFERENCE_RUNS.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "REFERENCE_RUNS", folder)
        return write_findings(folder)


def test_the_page_is_what_the_rows_say(recorded, again):
    text = (ROOT / "assets" / "runs" / "FINDINGS.md").read_text(encoding="utf-8")
    assert again.read_text(encoding="utf-8") == text
    facts = grid.read_provenance(catalogue.REFERENCE_RUNS)
    experiments, picture = list(EXPERIMENTS.values()), "../figures/findings.png"
    assert text == page(experiments, LABELS, recorded, facts, picture, conclude(recorded))


def test_the_picture_is_what_the_rows_say(again):
    """Up to the shade of single pixels at the edges of letters, which another processor may round otherwise."""
    here, there = (
        np.asarray(Image.open(path).convert("RGB"), dtype=int)
        for path in (ROOT / "assets" / "figures" / "findings.png", again.parents[1] / "figures" / "findings.png")
    )
    assert here.shape == there.shape and 1_600 <= here.shape[1] <= 2_000, "twice the width of a page"
    assert abs(here - there).max() < 40


class Asked:
    """The recorded rows, by arithmetic of its own."""

    def __init__(self, rows):
        self.rows = rows

    def seeds(self, arm, metric="strict"):
        return [row[metric] for row in sorted(self.rows, key=lambda r: r["seed"]) if row["arm"] == arm]

    def mean(self, arm, metric="strict"):
        return fmean(self.seeds(arm, metric))

    def gaps(self, arm, reference="default"):
        return [100 * (a - b) for a, b in zip(self.seeds(arm), self.seeds(reference), strict=True)]

    def gap(self, arm):
        return f"{fmean(self.gaps(arm)):+.1f}"

    def word(self, arm, reference="default", metric="strict", confidence=0.95):
        return verdict(paired(self.rows, arm, reference, metric, confidence))

    def survivors(self):
        pairs = [(e.reference, arm) for e in EXPERIMENTS.values() for arm in e.arms]
        level = 1 - 0.05 / len(pairs)
        return {arm for there, arm in pairs if self.word(arm, there, confidence=level) != "no difference seen"}

    def better(self):
        return {arm for e in EXPERIMENTS.values() for arm in e.arms if self.word(arm, e.reference) == "better"}


def one_run(asked):
    seeds = asked.seeds("default")
    return [f"{min(seeds):.1%}", f"{max(seeds):.1%}", f"{100 * (max(seeds) - min(seeds)):.1f}"]


def three_things(asked):
    ruined = ("cap_24", "format_only", "lr_0.008")
    assert {asked.word(arm) for arm in ruined} == {"worse"} and asked.survivors() == {"cap_24", "format_only"}
    assert ARMS["lr_0.008"].profile["learning_rate"] == 4 * grid.START.learning_rate
    assert ARMS["cap_24"].profile["max_completion_tokens"] == 24
    others = [(e.reference, arm) for e in EXPERIMENTS.values() for arm in e.arms if arm not in ruined]
    largest = max(abs(fmean(asked.gaps(arm, there))) for there, arm in others)
    assert 2 * largest < abs(fmean(asked.gaps("lr_0.008")))
    return ["24", *map(asked.gap, ruined[:2]), asked.gap("lr_0.008"), "95%", f"{largest:.1f}"]


def better_laid_out(asked):
    better = asked.better()
    assert {asked.word(arm, metric="lenient") for arm in better} == {"no difference seen"}
    assert all(asked.mean(arm, "format") > asked.mean("default", "format") for arm in better)
    assert not better & asked.survivors()
    return [str(len(better)), "95%", str(len(better))]


def rewards_and_layout(asked):
    arms = ("correctness_only", "default", "format_0.5", "classic")
    layout, lenient = ([asked.mean(arm, metric) for arm in arms] for metric in ("format", "lenient"))
    assert layout == sorted(layout)
    shares = [f"{share:.0%}" for share in layout]
    return [shares[0], shares[1], "0.2", shares[2], "0.5", shares[3], f"{min(lenient):.1%}", f"{max(lenient):.1%}"]


def no_difference_is_a_result(asked):
    names = ("group_size", "kl", "gspo", "reward_scaling", "curriculum")
    pairs = [(EXPERIMENTS[name].reference, arm) for name in names for arm in EXPERIMENTS[name].arms]
    pairs += [("default", "loss_dr_grpo")]
    assert {asked.word(arm, there) for there, arm in pairs} == {"no difference seen"}
    t = 2.776445  # Student's, 95%, 4 degrees of freedom
    halves = [t * stdev(asked.gaps(arm, e.reference)) / 5**0.5 for e in EXPERIMENTS.values() for arm in e.arms]
    return [f"{median(halves):.1f}"]


def placebo(asked):
    assert asked.seeds("small_passes") == asked.seeds("default")
    assert grid.START.completions_per_step == 4 * ARMS["small_passes"].profile["micro_batch"]
    return ["4"]


def dead_groups(asked):
    assert asked.word("temperature_0.5") == "better" and "temperature_0.5" not in asked.survivors()
    assert asked.word("with_spread") == "no difference seen" and asked.mean("with_spread") < asked.mean("default")
    dead, usual, spread = (asked.mean(arm, "dead") for arm in ("temperature_0.5", "default", "with_spread"))
    assert spread >= usual, "dead all the same"
    wait = f"{asked.mean('with_spread', 'prepare_seconds'):.1f}"
    filtered = [asked.gap("with_spread"), wait, f"{spread:.0%}"]
    return [f"{dead:.0%}", "0.5", f"{usual:.0%}", asked.gap("temperature_0.5"), "95%", *filtered]


def accident(asked):
    seeds, lenient, calm = asked.seeds("step_8"), asked.seeds("step_8", "lenient"), asked.seeds("step_8_lr_0.001")
    low = seeds.index(min(seeds))
    assert sorted(seeds)[1] > 3 * seeds[low] and asked.seeds("step_8", "format")[low] < 0.5 < 0.85 < lenient[low]
    assert ARMS["step_8_lr_0.001"].profile["learning_rate"] == grid.START.learning_rate / 2
    wide = sorted(asked.seeds("rank_64"))
    ends = [f"{share:.1%}" for share in (min(seeds), max(seeds), min(calm))]
    return ["8", *ends, "64", f"{wide[0]:.1%}", f"{wide[1]:.1%}"]


def not_additive(asked):
    both = paired(asked.rows, "t0.5_16_0.002", "default")
    assert both.high < fmean(asked.gaps("temperature_0.5")) / 100 + fmean(asked.gaps("step_16")) / 100
    return ["0.5", asked.gap("temperature_0.5"), "16", asked.gap("step_16"), asked.gap("t0.5_16_0.002")]


def by_construction(asked):
    assert grid.START.completions_per_step == 4 * ARMS["loss_bnpo"].profile["micro_batch"]
    question = EXPERIMENTS["gspo"]
    passes = [ARMS[arm].settings.get("num_iterations", 1) for arm in (question.reference, *question.arms[:2])]
    assert grid.SETTINGS["num_iterations"] == 1 and passes == [2, 2, 2]
    return ["1", "4"]


def early_and_late(asked):
    long, ahead = EXPERIMENTS["full_length"], ("t0.7_16_0.002", "format_0.5")
    arms = (long.reference, *long.arms)
    made = {name: {**vars(grid.START), **ARMS[name].profile} for name in (*arms, "default", ahead[0])}
    counts = {name: m["steps"] * m["prompts_per_step"] * m["group_size"] for name, m in made.items()}
    assert {counts[arm] for arm in arms} == {4 * counts["default"]}
    assert all(
        made["long"][name] == made[ahead[0]][name] for name in ("prompts_per_step", "learning_rate", "temperature")
    )
    assert {asked.word(arm, long.reference) for arm in long.arms} == {"no difference seen"}
    assert {share for arm in arms for share in asked.seeds(arm, "format")} == {1.0}
    assert {asked.word(arm) for arm in ahead} == {"better"} and not asked.survivors() & {*ahead}
    assert list(ARMS["long"].rewards.values()) == [1.0, 0.2]
    means = [asked.mean(arm) for arm in arms]
    ends = [f"{min(means):.1%}", f"{max(means):.1%}"]
    return [*ends, asked.gap(ahead[0]), "95%", "0.2", "0.5", asked.gap(ahead[1]), "95%"]


def hypotheses(asked):
    assert {asked.word(arm) for arm in EXPERIMENTS["kl"].arms} == {"no difference seen"}
    still_to_come = {m: asked.mean("long", m) - asked.mean("default", m) for m in ("lenient", "format")}
    assert still_to_come["format"] > 3 * still_to_come["lenient"] > 0, "layout is learnt later than maths"
    model = load_policy(grid.START).model
    return [f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"]


CLAIMS = {  # headline -> its claims, asserted; it returns the numbers of the sentence in their order
    "One run proves little": one_run,
    "Three things ruin a run": three_things,
    "What is better here is better laid out": better_laid_out,
    "Rewards decide whether the layout comes along": rewards_and_layout,
    "No difference seen is a result": no_difference_is_a_result,
    "The placebo did nothing": placebo,
    "Dead groups are a symptom, not a verdict": dead_groups,
    "A mean can hide an accident": accident,
    "Gains do not add up": not_additive,
    "Some settings cannot differ by construction": by_construction,
    "Early is not late": early_and_late,
    "For any other model these are hypotheses, not measurements": hypotheses,
}


def test_every_conclusion_has_its_claims_checked():
    assert [re.match(r"\*\*(.+?)[.:]?\*\*", text)[1] for text in CONCLUSIONS] == list(CLAIMS)


@pytest.mark.parametrize("headline", CLAIMS)
def test_the_conclusions_still_hold(headline, recorded):
    text = conclude(recorded)[list(CLAIMS).index(headline)]
    assert re.findall(r"[-+]?\d+(?:\.\d+)?%?", text) == CLAIMS[headline](Asked(recorded))


def test_the_words_of_single_arms_still_hold(recorded):
    """What the profiles and other pages rely on, beyond the sentences."""
    word = Asked(recorded).word
    assert {word(arm) for arm in ("kl_0.001", "kl_0.04", "loss_dr_grpo", "loss_bnpo", "lr_0.001")} == {
        "no difference seen"
    }
    assert word("format_0.5") == word("temperature_0.5") == word("t0.7_16_0.002") == "better"
