"""The lab without a browser: sliders, texts and buttons as Python objects. test_lab_in_a_page.py drives it in one."""

from functools import partial

import numpy as np
import pytest

from utils.data.prompts import PROMPTS
from utils.experiments import short_run
from utils.rewards.bank import BANKS, FILE, REAL, TINY, Bank, Group, load_bank, rescore
from utils.rewards.functions import REWARDS, load_rewards
from utils.rewards.lab import NEW_WEIGHT, RewardLab, live_table, verdict_table
from utils.scripts.record import save_bank


@pytest.fixture(scope="module")
def bank():
    return Bank(load_bank().groups[:8] + load_bank().groups[-8:])


@pytest.fixture
def lab(bank):
    return RewardLab(bank, short_run=short_run.short_run)


def test_it_starts_from_the_default_where_nothing_has_changed(lab):
    assert lab.rewards == REWARDS
    assert "<b>0</b> of 128" in lab.effect.value and "85 of 85 rows in order" in lab.bench.value


def test_a_slider_scores_the_whole_bank_again(lab):
    lab.sliders["format_reward"].value = 2.0
    assert "● a wrong answer can win" in lab.effect.value and "<b>0</b> of 128" not in lab.effect.value
    assert "85 of 85" not in lab.bench.value and "what is wrong" in lab.bench.value
    assert lab.scores() == rescore(lab.bank, list(lab.rewards), list(lab.rewards.values()))
    lab.reset.click()
    assert lab.rewards == REWARDS and "85 of 85" in lab.bench.value


def test_another_group_brings_its_question_and_best_completion(lab):
    lab.policy.value = "trained"
    lab.group.value = 3
    group = lab.bank.groups[8 + 3]
    assert group.question.split(".")[0] in lab.table.value and lab.text.value in group.completions


def test_the_next_changed_group_is_found_whichever_policy_it_is_of(lab):
    lab.next.click()
    assert "no advantage has changed" in lab.message.value
    lab.sliders["correctness_reward"].value = -1.0  # turns every group with right and wrong answers
    seen = []
    for _ in range(320):
        lab.next.click()
        seen.append((lab.policy.value, lab.group.value))
        assert "⇄" in lab.table.value
    assert {policy for policy, _ in seen} == {"base", "trained"}


def test_what_was_typed_stays_when_the_group_changes(lab):
    first = lab.text.value
    lab.group.value = 1
    assert lab.text.value != first
    lab.text.value = "mine"
    lab.group.value = 2
    assert lab.text.value == "mine"


def test_a_reward_that_fails_in_the_bench_only_is_refused_too(lab, capsys):
    @lab.reward
    def unit(completions, **kwargs):
        return [1 / len(text) for text in completions]

    assert "unit" not in lab.sliders and "ZeroDivisionError" in capsys.readouterr().out


def test_numpy_floats_work_and_a_default_name_is_taken(lab, capsys):
    @lab.reward
    def words(completions, **kwargs):
        return [np.float32(text.count(" ") / 100) for text in completions]

    lab.sliders["words"].value = 0.3
    assert {type(total) for total in lab.scores().totals} == {float}

    @lab.reward
    def format_reward(completions, **kwargs):
        return [1.0 for _ in completions]

    assert "is the name of a default reward" in capsys.readouterr().out and lab.functions["format_reward"] in REWARDS


def test_what_a_file_may_hold_the_lab_takes_too_and_refuses_what_it_may_not(lab, capsys):
    def long(completions, by, **kwargs):
        completions[:] = [text[:by] for text in completions]
        return np.array([len(text) for text in completions])

    def leaves(completions, **kwargs):
        raise SystemExit

    lab.reward(partial(long, by=9))
    assert "long" in lab.sliders and set(lab.scores().parts["long"]) <= set(map(float, range(10)))
    lab.reward(leaves)
    lab.reward(lambda completions, **kwargs: [0.0 for _ in completions])
    said = capsys.readouterr().out
    assert "refused: leaves raised SystemExit" in said and "has no name of its own" in said and len(lab.sliders) == 5


def test_a_text_of_ones_own_is_scored_as_it_is_typed(lab):
    gold = lab.bank.groups[0].gold
    lab.text.value = "I do not know."
    assert "<b>0</b></td></tr></table>" in lab.live.value
    lab.text.value = f"<reasoning>\nx = {gold}\n</reasoning>\n<answer>{gold}</answer>"
    assert "<b>1.2</b></td></tr></table>" in lab.live.value and "place 1 of 9" in lab.live.value


def test_model_text_is_escaped(lab):
    lab.text.value = "<script>alert(1)</script>"
    assert "<script>" not in lab.live.value + lab.table.value + lab.bench.value


def test_a_good_reward_gets_a_slider_and_a_better_version_replaces_it(lab):
    @lab.reward
    def brief(completions, **kwargs):
        return [-len(text) / 100 for text in completions]

    assert lab.sliders["brief"].value == NEW_WEIGHT and brief in lab.rewards
    assert "brief" in lab.table.value and "brief" in lab.live.value
    first = lab.scores().totals

    @lab.reward  # noqa: F811
    def brief(completions, **kwargs):
        return [0.0 for _ in completions]

    assert len(lab.weights.children) == 5 and lab.scores().totals != first


def test_a_broken_reward_is_refused_with_the_completion_that_broke_it(lab, capsys):
    @lab.reward
    def ratio(completions, gold, **kwargs):
        return [1 / (len(text) - len(lab.bank.completions[5])) for text in completions]

    assert "ratio" not in lab.sliders and "refused: ratio raised ZeroDivisionError" in lab.message.value
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_a_reward_that_fails_on_an_edited_text_only_says_so(lab):
    @lab.reward
    def picky(completions, **kwargs):
        return [1.0 if text != "boom" else {}["boom"] for text in completions]

    lab.text.value = "boom"
    assert "picky raised KeyError" in lab.live.value
    lab.text.value = "fine"
    assert "KeyError" not in lab.live.value


def test_export_writes_a_file_that_loads(lab, tmp_path):
    @lab.reward
    def brief(completions, **kwargs):
        return [-len(text) / 100 for text in completions]

    lab.path.value = str(tmp_path / "mine.py")
    lab.export.click()
    assert "written and tested: python3 run.py train" in lab.message.value
    assert [f.__name__ for f in load_rewards(tmp_path / "mine.py")] == list(lab.functions)
    lab.path.value = str(tmp_path / "mine.txt")
    lab.export.click()
    assert "give one that ends in .py" in lab.message.value


@pytest.mark.slow
def test_what_if_trains_both_and_shows_curves_and_verdict(lab, monkeypatch):
    short = short_run.PROFILE.replace(steps=2, prompts_per_step=2, micro_batch=16)
    monkeypatch.setattr(short_run, "PROFILE", short)
    monkeypatch.setattr(short_run, "HELD_OUT", 8)
    lab.sliders["format_reward"].value = 0.0
    lab.train.click()
    assert lab.train.description == "Stop"
    lab.training.join(timeout=300)
    assert bytes(lab.curves.value).startswith(b"\x89PNG") and lab.curves.layout.display == ""
    assert all(word in lab.verdict.value for word in ("before", "default", "yours", "8 held-out questions"))
    assert lab.train.description.startswith("What if")
    default = lab._default_run
    lab.train.click()
    lab.training.join(timeout=300)
    assert lab._default_run is default, "the default run depends on nothing that the sliders change"


def test_the_verdict_has_the_rates_before_and_after_each_run_in_their_places(bank):
    """Runs with rates that tell them apart; what real ones give may be alike after a few steps."""

    def at(rate):
        found = {"rate": rate, "low": rate - 0.05, "high": rate + 0.05, "n": 200}
        return {name: found for name in ("strict", "lenient", "format")}

    left = [short_run.Run([], at(0.6), at(0.8)), short_run.Run([], at(0.6), at(0.3))]
    asked = []
    lab = RewardLab(bank, short_run=lambda rewards, on_step, stopped: asked.append(rewards) or left.pop(0))
    lab.sliders["format_reward"].value = 0.0
    lab.train.click()
    lab.training.join(timeout=60)
    assert asked == [REWARDS, lab.rewards] and lab.rewards != REWARDS
    assert lab.verdict.value == verdict_table({"before": at(0.6), "default": at(0.8), "yours": at(0.3)})


def test_without_a_short_run_there_is_no_button_for_it(bank, lab):
    def buttons(box):
        return [child for child in box.children if hasattr(child, "children") for child in (child, *buttons(child))]

    def shown(lab):
        return [child for box in buttons(lab.box) for child in box.children if child is lab.train]

    assert shown(lab) and not shown(RewardLab(bank))


@pytest.mark.slow
def test_what_if_stops_at_the_second_click(lab, monkeypatch):
    lab.train.click()
    lab.train.click()
    lab.training.join(timeout=300)
    assert "stopped" in lab.message.value and lab.verdict.value == ""


def test_what_an_edited_text_would_be_in_its_group():
    shown = live_table({"a": 1.0, "b": 0.5}, {"a": 1.0, "b": 0.2}, [1.2, 0.0, 1.0])
    assert "0.2 × 0.5" in shown and "<b>1.1</b>" in shown and "place 2 of 4" in shown


def test_the_verdict_speaks_of_intervals():
    def rates(low, rate, high):
        return {name: {"low": low, "rate": rate, "high": high, "n": 200} for name in ("strict", "lenient", "format")}

    apart = {"before": rates(0.4, 0.5, 0.6), "default": rates(0.7, 0.8, 0.9), "yours": rates(0.1, 0.2, 0.3)}
    assert "do not overlap" in verdict_table(apart)
    both = verdict_table(apart | {"third": rates(0.6, 0.7, 0.8)})
    assert both.count("do not overlap") == both.count("overlap:") == 1 and "default and third" in both
    assert "cannot tell them apart" in verdict_table(apart | {"yours": rates(0.6, 0.7, 0.8)})


# ------------------------------------------------------------------------------------------------- several banks

CLIPS = "Natalia sold 48 clips in April and half as many in May. How many clips did she sell in both months?"
AS_A_REAL_MODEL_WRITES = [  # the completion, whether the cap cut it off, and what the default pays for it; gold is 72
    ("<reasoning>\n48 / 2 = 24\n48 + 24 = 72\n</reasoning>\n<answer>72</answer>", False, 1.2),
    ("In all she sold\n\\[ 48 + \\frac{48}{2} = 72 \\]\nso the answer is \\(\\boxed{72}\\).", False, 1.0),
    ("1. **April**: 48 clips.\n2. **May**: half of that, 24.\n\n**Total: 72 clips**", False, 1.0),
    ("<reasoning>\n48 + 24 = 72\n</reasoning>\n<answer>Natalia sold 72 clips.</answer>", False, 1.2),
    ("```python\napril = 48\nmay = april // 2\nprint(april + may)\n```\nThis prints `72`.", False, 1.0),
    ("<reasoning>\nApril: 48\nMay: 24\n48 + 24 = 72\n<answer>72</answer>", False, 1.0),
    ("<reasoning>\nTo find the sum:\n\n1. In April she sold 48 clips.\n\n72.", True, 0.0),
    ("<reasoning>\n48 + 48 * 2 = 144\n</reasoning>\n<answer>144</answer>", False, 0.2),
]


@pytest.fixture
def real(tmp_path, monkeypatch):
    """A second bank: three groups of a base model, under two prompts, and one of a trained model."""
    texts, cut, _ = zip(*AS_A_REAL_MODEL_WRITES, strict=True)
    asked = [("base", "words"), ("base", "words"), ("base", "layout and example"), ("trained", "layout and example")]
    groups = [Group(who, CLIPS, "72", texts, tuple(map(len, texts)), prompt, cut) for who, prompt in asked]
    save_bank(groups, tmp_path / "real", {"model": "models/Qwen <0.5B>"})
    monkeypatch.setitem(BANKS, REAL, tmp_path / "real")
    return Bank(tuple(groups))


@pytest.fixture
def both(real):
    return RewardLab(short_run=short_run.short_run)


def widgets_of(box):
    return [box, *(each for child in getattr(box, "children", ()) for each in widgets_of(child))]


def test_a_choice_of_banks_is_there_where_there_are_several(bank, both, monkeypatch, tmp_path):
    assert both.source in widgets_of(both.box) and both.source.options == (TINY, REAL)
    monkeypatch.setitem(BANKS, REAL, tmp_path / "nothing")
    for lab in (RewardLab(), RewardLab(bank)):
        assert lab.source not in widgets_of(lab.box) and lab.about in widgets_of(lab.box)


def test_the_other_bank_is_scored_with_what_the_default_pays_for_each_kind_of_text(both):
    both.policy.value, both.group.value = "trained", 150
    both.source.value = REAL
    assert both.scores().totals[:8] == [paid for _, _, paid in AS_A_REAL_MODEL_WRITES]
    assert (both.policy.value, both.group.value, both.group.max) == ("trained", 0, 0)
    assert "Natalia" in both.table.value and "<b>0</b> of 32" in both.effect.value
    assert both.text.value == AS_A_REAL_MODEL_WRITES[0][0] and "<b>1.2</b></td></tr></table>" in both.live.value
    both.policy.value = "base"
    assert both.group.max == 2 and "Natalia" in both.table.value
    both.source.value = TINY
    assert both.scores() == rescore(load_bank(), list(REWARDS), list(REWARDS.values())) and both.group.max == 159


def test_a_bank_of_the_base_model_alone_is_shown_whatever_was_chosen_before(both, real, tmp_path):
    save_bank([group for group in real.groups if group.policy == "base"], tmp_path / "real", {})
    both.policy.value, both.group.value = "trained", 150
    both.source.value = REAL
    assert both.policy.options == ("base",) and (both.policy.value, both.group.value, both.group.max) == ("base", 0, 2)
    both.source.value = TINY
    assert both.policy.options == ("base", "trained") and both.group.max == 159


def test_the_view_says_whose_completions_they_are_and_how_they_were_asked_for(both):
    assert "2,560 completions of assets/tiny_model in groups of 8" in both.about.value
    assert both.about.value.count("1,280 with “words”") == 2 and "prompt “words”" in both.table.value
    both.source.value = REAL
    assert "32 completions of models/Qwen &lt;0.5B&gt; in groups of 8, by prompt: " in both.about.value
    assert "base 16 with “words” and 8 with “layout and example”; trained 8 with “layout" in both.about.value
    assert "prompt “words”" in both.table.value
    both.group.value = 2
    assert "prompt “layout and example”" in both.table.value


def test_what_was_cut_off_is_marked_and_paid_alike_in_table_and_text_field(both):
    both.source.value = REAL
    cut = AS_A_REAL_MODEL_WRITES[6][0]
    assert both.table.value.count("(cut off)") == 1 and "72. <i>(cut off)</i>" in both.table.value
    both.text.value = cut
    assert "<b>0</b></td></tr></table>" in both.live.value
    both.text.value = cut + " "  # one's own text is whole
    assert "<b>1</b></td></tr></table>" in both.live.value


def test_sliders_text_and_own_rewards_stay_when_the_bank_changes(both, capsys):
    @both.reward
    def brief(completions, **kwargs):
        return [-len(text) / 100 for text in completions]

    both.sliders["brief"].value, both.sliders["format_reward"].value = 0.3, 1.0
    both.text.value = "mine"
    for name in (REAL, TINY, REAL):
        both.source.value = name
        assert both.rewards == REWARDS | {both.functions["format_reward"]: 1.0, brief: 0.3}
        assert both.text.value == "mine" and "brief" in both.live.value and not both.sliders["brief"].disabled
        assert both.scores() == rescore(both.bank, list(both.rewards), list(both.rewards.values()))
    assert both.message.value.count("refused") == 0 == capsys.readouterr().out.count("refused")


def test_a_reward_that_fails_on_the_other_bank_waits_until_it_suits(both, tmp_path):
    """Such a one as works on the tiny model's texts alone."""

    def scored(completions, **kwargs):
        return [1.0 if "```" not in text else 1 / 0 for text in completions]

    both.reward(scored)
    both.sliders["scored"].value = 0.4
    both.source.value = REAL
    assert "refused on this bank: scored raised ZeroDivisionError" in both.message.value
    assert "python" in both.message.value and "Traceback" not in both.message.value, "the completion is quoted"
    assert both.rewards == REWARDS and both.sliders["scored"].disabled and "scored" not in both.live.value
    both.sliders["format_reward"].value = 1.0
    assert both.scores().totals[0] == 2.0
    both.path.value = str(tmp_path / "mine.py")
    both.export.click()
    assert "written and tested, without scored, refused on this bank: python3 run.py" in both.message.value
    both.source.value = TINY
    assert both.sliders["scored"].value == 0.4 and not both.sliders["scored"].disabled and len(both.rewards) == 5
    assert "refused" not in both.message.value
    both.source.value = REAL

    @both.reward  # mended
    def scored(completions, **kwargs):
        return [1.0 for _ in completions]

    assert not both.sliders["scored"].disabled and both.rewards[scored] == 0.4


def test_a_reward_is_told_what_was_cut_off_and_which_system_message_it_was(both):
    @both.reward
    def told(completions, prompts, truncated, **kwargs):
        words = [PROMPTS["words"] == asked[0]["content"] for asked in prompts]
        return [float(cut) + 2 * asked for cut, asked in zip(truncated, words, strict=True)]

    assert set(both.scores().parts["told"]) == {2.0}, "of the tiny model nothing is known to be cut off"
    both.source.value = REAL
    assert both.scores().parts["told"] == 2 * [2, 2, 2, 2, 2, 2, 3, 2] + 2 * [0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"version https://git-lfs.github.com/spec/v1", "Not a gzipped file"),
        (None, "Compressed file ended"),
        ("gone", "no bank of completions"),
    ],
)
def test_a_bank_that_cannot_be_read_leaves_the_one_that_is_shown(both, tmp_path, content, said):
    path = tmp_path / "real" / FILE
    path.unlink() if content == "gone" else path.write_bytes(content or path.read_bytes()[:100])
    both.source.value = REAL
    assert both.source.value == TINY and "assets/tiny_model" in both.about.value
    assert f"{REAL} is not shown: " in both.message.value and said in both.message.value


def test_whatever_bank_is_shown_what_if_says_that_it_trains_the_tiny_model(both, real):
    def notes(lab):
        return [each for each in widgets_of(lab.box) if "trains the embedded tiny" in str(getattr(each, "value", ""))]

    both.source.value = REAL
    assert len(notes(both)) == 1 and not notes(RewardLab(real))
