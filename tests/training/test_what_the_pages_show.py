"""Notebooks 03 and 04 as committed: what their prose says of a number stands in the output beside it."""

import re

import pytest

from tests.pages import Page
from utils.model.profiles import PROFILES
from utils.training.memory import lora_tensors, model_config, parameters


@pytest.fixture(scope="module")
def scratch():
    return Page("03_grpo_from_scratch")


@pytest.fixture(scope="module")
def training():
    return Page("04_grpo_training")


def test_03_fewer_than_a_hundred_lines(scratch):
    assert "in fewer than a hundred lines" in scratch.prose
    assert int(scratch.printed("lines of GRPO").split()[0]) < 100


def test_03_clipping(scratch):
    up, down = re.findall(r"\[\[.*?\]\]", scratch.printed("gradient at ratio 0.5, 1.0, 1.5"))
    assert "The answers are no and yes" in scratch.prose and up == "[[-0.5, -1.0, 0.0]]" and down == "[[0.0, 1.0, 1.5]]"


def test_03_the_comparison_with_trl_could_fail(scratch):
    assert "About half of the tokens lie outside the range" in scratch.prose
    assert 0.4 < int(scratch.printed("of the tokens have a ratio outside").split("%")[0]) / 100 < 0.6
    compared = scratch.printed("def compare(loss_type, beta)")
    apart = [float(n) for n in re.findall(r"TRL \S+ apart (\S+)", compared)]
    assert "Four comparisons, no error" in scratch.prose and len(apart) == 4 and max(apart) < 1e-6
    smallest = [float(n) for n in re.findall(r"smallest (\S+)", compared)]
    assert "none of them is simply zero" in scratch.prose and min(smallest) > 0


def test_03_the_loss_is_zero_and_its_gradient_is_not(scratch):
    toy = scratch.printed("four_advantages = ")
    assert "sum 0.00" in toy and "loss 0.00" in toy and "[-0.37, 0.09, 0.09, 0.18]" in toy
    assert "makes the first completion more probable and the other three less" in scratch.prose
    dapo, grpo = re.findall(r"loss (\S+)\s+length of its gradient (\S+)", scratch.printed("for mean in MEANS:"))
    assert abs(float(grpo[0])) < 1e-5 < abs(float(dapo[0])) and float(grpo[1]) > 0.01
    assert f"{float(dapo[0]):.4f}" == f"{scratch.numbers('minus the length-weighted', 'advantage: ')[0]:.4f}"


def test_03_the_mask(scratch):
    shown = re.findall(
        r"(with|without)\s+mask: length of the gradient (\S+)", scratch.printed("+ 40 columns of padding")
    )
    kept, gone = ([n for kind, n in shown if kind == which] for which in ("with", "without"))
    assert "With the mask the padding is invisible" in scratch.prose and len(set(kept)) == 1
    assert "depends on how long the longest completion happened to be" in scratch.prose and len(set(gone)) == 2


def test_03_what_thirty_steps_show_and_what_they_do_not(scratch):
    losses = [float(n) for n in re.findall(r"loss (\S+)", scratch.printed("history = train("))]
    assert "the loss comes near zero" in scratch.prose and abs(losses[-1]) < 0.05 < abs(losses[0])
    ends = re.findall(r"interval (\S+) to ([\d.]+)\)", scratch.printed("third = STEPS // 3"))
    (first_low, first_high), (last_low, last_high) = (map(float, pair) for pair in ends)
    assert ("overlap" in scratch.prose) is (first_high > last_low)
    low, high = scratch.numbers("held_out_rewards()", "interval ")
    assert "it went better" in scratch.prose and low > 0


def test_03_the_curves(scratch):
    thirds = re.findall(r"^(\S.*?)\s+(\d+\.\d+)\s+\d+\.\d+\s+(\d+\.\d+)$", scratch.printed("mean of each third"), re.M)
    gain = {name: float(last) - float(first) for name, first, last in thirds}
    assert "right answers become more and the completions longer" in scratch.prose
    assert gain["correct"] > 0 and gain["tokens"] > 0
    assert "the layout, mostly kept from the start, gains less" in scratch.prose and gain["format"] < gain["correct"]
    assert "The dead groups (in the middle) become more" in scratch.prose and gain["dead groups"] > 0


def test_04_the_run(training):
    rows = dict(
        re.findall(r"^(\S.*?)\s{2,}(-?\d+\.\d+\s+-?\d+\.\d+)$", training.printed("first_and_last(history)"), re.M)
    )
    first, last = ({name: float(pair.split()[i]) for name, pair in rows.items()} for i in (0, 1))
    assert "The reward rises, and the loss does not fall along with it" in training.prose
    assert first["reward"] < last["reward"] and first["loss"] <= last["loss"]
    assert "it usually falls" in training.prose and last["entropy [nats per token]"] < first["entropy [nats per token]"]


def test_04_its_dead_groups(training):
    found = re.findall(r"–\s+\d+\s+\d+\s+(\d+)%\s+(\d+)%", training.printed("def dead_groups"))
    right, other = ([int(pair[i]) for pair in found] for i in (0, 1))
    assert "its dead groups are mostly successes shared by all, and training makes more of them" in training.prose
    assert sum(right) > 3 * sum(other) and right[-1] > right[0]


def test_04_the_loss_without_a_model(training):
    logged, ours = training.numbers("from lengths and advantages", "of step 1: logged")
    assert abs(logged - ours) < 0.002


def test_04_the_saved_adapter(training):
    same, of, bare, _ = training.numbers("the same answer: {same}", "answer: ")
    assert "The same answers, letter for letter, and a bare model that gives some others" in training.prose
    assert same == of == 16 > bare


def test_04_the_share_of_parameters_that_lora_trains(training):
    def share(profile):
        config = model_config(profile.model)
        return sum(lora_tensors(config, profile.lora_rank)) / sum(parameters(config))

    assert "that is about one percent of them, on the tiny one a larger share" in training.prose
    assert 0.008 < share(PROFILES["t4"]) < 0.012 and share(PROFILES["tiny"]) > 0.1


def test_the_zero_loss_lesson_stands_once(scratch, training):
    assert "A balance with equal weights" in scratch.prose and "A balance with equal weights" not in training.prose
    assert "[03, section 6](03_grpo_from_scratch.ipynb)" in training.prose
    assert "## 6. Why the loss says nothing" in scratch.prose
