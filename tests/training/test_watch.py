"""Alarms and the loss panel: quiet on the recorded healthy runs, loud on copies of them that were damaged."""

import copy
import itertools
import json
import math
from statistics import fmean, stdev

import pytest
from transformers import TrainerControl, TrainerState

from utils.files import ROOT, read_jsonl, write_jsonl
from utils.model.profiles import get_profile
from utils.rewards.functions import correctness_reward, format_reward, strict_metric
from utils.training.grpo import train
from utils.training.watch import WINDOW, Alarms, LiveTable, Watch, alarms, panel, why_loss_is_zero

LOGS = sorted((ROOT / "assets" / "runs" / "tiny").glob("*/log.jsonl"))


def damaged(changes, since=40):
    """The first recorded run with `changes` {metric: function of its value} in all records after step `since`."""
    history = copy.deepcopy(read_jsonl(LOGS[0]))
    for record in history[since:]:
        for key, change in changes.items():
            record[key] = change(record[key])
    return history


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.parent.name)
def test_no_alarm_on_a_healthy_run(path):
    history = read_jsonl(path)
    assert len(history) == get_profile("tiny").steps and alarms(history) == []


DAMAGE = {
    "format_reward does not fire": (
        {f"rewards/format_reward/{k}": lambda v: 0.0 for k in ("mean", "std")},
        40 + WINDOW,
    ),
    "reward collapsed": ({"reward": lambda v: 0.3 * v}, None),
    "completions shrank": ({"completions/mean_length": lambda v: 0.2 * v}, None),
    "completions explode": ({"completions/mean_length": lambda v: 3 * v}, None),
    "cut off at the cap": ({"completions/clipped_ratio": lambda v: 0.4}, None),
    "dead groups": ({"frac_reward_zero_std": lambda v: 0.95}, None),
    "loss is not finite": ({"loss": lambda v: math.nan}, 41),
    "gradient is not finite": ({"grad_norm": lambda v: math.inf}, 41),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_raises_its_alarm_and_no_other(name):
    changes, step = DAMAGE[name]
    (alarm,) = alarms(damaged(changes))
    assert alarm.name == name and 40 < alarm.step <= 60 and (step is None or alarm.step == step)
    assert any(c.isdigit() for c in alarm.seen) or "nan" in alarm.seen
    assert len(alarm.mend) > 20 and str(alarm).startswith(f"step {alarm.step}: {name}: {alarm.seen}")


def test_values_seen_are_the_runs_own():
    (alarm,) = alarms(damaged({"completions/clipped_ratio": lambda v: 0.4}, since=0))
    assert alarm.step == WINDOW and "40% over 20 steps, 25%" in alarm.seen


def test_a_part_may_be_silent_for_a_while_or_have_no_weight():
    silent = {f"rewards/format_reward/{k}": lambda v: 0.0 for k in ("mean", "std")}
    assert alarms(damaged(silent, since=get_profile("tiny").steps - WINDOW + 1)) == []
    assert alarms(damaged(silent), {correctness_reward: 1.0, format_reward: 0.0, strict_metric: 0.0}) == []


@pytest.mark.parametrize("mean, spread", [(1.0, 0.0), (0.0, 1.0)], ids=["the same to all", "as much as it takes"])
def test_a_part_that_pays_does_fire(mean, spread):
    paid = {"rewards/format_reward/mean": lambda v: mean, "rewards/format_reward/std": lambda v: spread}
    assert alarms(damaged(paid)) == []


@pytest.mark.parametrize("steps, raised", [((1, 2), None), ((1, 2, 4), None), ((1, 2, 3), 3), ((30,), 30)])
def test_float16_may_overflow_twice_in_the_first_steps(steps, raised):
    history = damaged({})
    for step in steps:
        history[step - 1]["grad_norm"] = math.inf
    assert [a.step for a in alarms(history)] == ([raised] if raised else [])


def test_a_sparse_reward_that_flickers_has_not_collapsed():
    """One hit in a few steps and then none: the drop is within the scatter of single steps."""
    hits = itertools.chain([0.05, 0.0, 0.0, 0.0] * 10, itertools.repeat(0.0))
    assert "reward collapsed" not in [a.name for a in alarms(damaged({"reward": lambda v: next(hits)}, since=0))]


@pytest.mark.parametrize("later, raised", [(0.6, []), (0.4, ["reward collapsed"])])
def test_half_of_the_best_reward_is_the_limit(later, raised):
    history = [{"step": i, "reward": 1.0 if i <= 30 else later} for i in range(1, 71)]
    assert [alarm.name for alarm in alarms(history)] == raised


def test_a_step_without_a_reward_does_not_spoil_the_window():
    history = damaged({"reward": lambda v: 0.3 * v})
    history[45]["reward"] = math.nan  # None from every reward function
    assert [alarm.name for alarm in alarms(history)] == ["reward collapsed"]


def test_metrics_that_an_engine_does_not_log_do_not_stop_the_run():
    assert alarms([{"step": i, "reward": 1.0} for i in range(1, 50)]) == []


def test_a_step_costs_a_window_and_not_the_history():
    watch = Watch()
    for record in read_jsonl(LOGS[0]) * 10:
        watch.step(record)
    assert len(watch.window) == WINDOW


# ------------------------------------------------------------------- a model that ignores the layout

WORDINGS = {  # as instruct models answer "She buys 6 bags of 5 apples and eats 12 of them. How many are left?"
    "a box": [
        r"She buys 6 * 5 = 30 apples. After eating 12, 30 - 12 = 18 are left. The answer is \boxed{18}.",
        "To find how many are left:\n\n\\[ 6 \\times 5 = 30 \\]\n\\[ 30 - 12 = 18 \\]\n\n\\[ \\boxed{18} \\]",
    ],
    "prose": [
        "She starts with 30 apples in total and eats 12, so she has 18 apples left.",
        "**Step 1:** 6 bags hold 6 x 5 = 30 apples.\n**Step 2:** 30 - 12 = 18.\n\n**Answer: 18**",
        "Let's think step by step.\n1. Apples bought: 30\n2. Apples eaten: 12\nTherefore, 17 apples are left.",
    ],
    "code": [
        "```python\nbags, apples, eaten = 6, 5, 12\nprint(bags * apples - eaten)\n```\nThe output is 18.",
        "def left():\n    return 6 * 5 - 12\n\n# 18",
    ],
    "half of the layout": [
        "Reasoning: 6 * 5 = 30, and 30 - 12 = 18.\nAnswer: 18",
        "<reasoning>6 * 5 = 30, 30 - 12 = 18</reasoning>\n\nThe final number is 18.",
        "18</answer>",
    ],
}
EVERY_WORDING = [text for texts in WORDINGS.values() for text in texts]
IN_THE_LAYOUT = "<reasoning>\n6 * 5 = 30\n30 - 12 = 18\n</reasoning>\n<answer>18</answer>"


def writing(texts, steps=WINDOW, completions=16):
    """The records of a run whose model writes these in turn."""
    turn, records = itertools.cycle(texts), []
    for step in range(1, steps + 1):
        written = [next(turn) for _ in range(completions)]
        record = {"step": step}
        for reward in (correctness_reward, format_reward):
            paid = reward(written, gold=["18"] * completions)
            record |= {f"rewards/{reward.__name__}/mean": fmean(paid), f"rewards/{reward.__name__}/std": stdev(paid)}
        records.append(record)
    return records


@pytest.mark.parametrize("texts", [*WORDINGS.values(), EVERY_WORDING], ids=[*WORDINGS, "all of them"])
def test_a_layout_that_nobody_keeps_is_told_after_the_first_window(texts):
    (alarm,) = alarms(writing(texts))
    assert (alarm.name, alarm.step) == ("format_reward does not fire", WINDOW)
    assert alarm.seen == f"0 for every completion of {WINDOW} steps" and "Read some completions" in alarm.mend
    assert alarms(writing(texts, steps=WINDOW - 1)) == []


def test_a_layout_that_one_in_ten_keeps_is_none():
    assert len(EVERY_WORDING) == 10
    assert alarms(writing([*EVERY_WORDING[:9], IN_THE_LAYOUT], steps=3 * WINDOW)) == []


@pytest.mark.parametrize("hit", [1, 7, WINDOW])
def test_a_single_hit_puts_it_off_by_a_window(hit):
    before = writing(EVERY_WORDING, steps=hit)[: hit - 1]
    records = [*before, *writing([IN_THE_LAYOUT, *EVERY_WORDING], 1), *writing(EVERY_WORDING, 2 * WINDOW)]
    for step, record in enumerate(records, 1):
        record["step"] = step
    assert [(alarm.name, alarm.step) for alarm in alarms(records)] == [("format_reward does not fire", hit + WINDOW)]


@pytest.mark.slow
def test_training_tells_it_under_trls_own_names(tmp_path, capsys):
    """Four tokens hold no layout, and no answer."""
    profile = get_profile("tiny").replace(steps=WINDOW, group_size=4, micro_batch=8, max_completion_tokens=4)
    train(profile, tmp_path)
    said = capsys.readouterr().out
    for part in ("correctness_reward", "format_reward"):
        assert said.count(f"ALARM step {WINDOW}: {part} does not fire: 0 for every completion of {WINDOW} steps") == 1


# -------------------------------------------------------------------------------------- the callback


def feed(callback, history, folder):
    class Args:
        output_dir = str(folder)

    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(Args, state, control)
    for record in history:
        state.global_step = record["step"]
        callback.on_log(Args, state, control, logs={k: v for k, v in record.items() if k != "step"})
    callback.on_log(Args, state, control, logs={"train_runtime": 1.0})  # TRL's last line: no metrics of a step


def test_callback_prints_each_alarm_once_when_it_becomes_true(tmp_path, capsys):
    history = damaged({"frac_reward_zero_std": lambda v: 0.95})
    (alarm,) = alarms(history)
    callback = Alarms()
    feed(callback, history[: alarm.step - 1], tmp_path)
    assert capsys.readouterr().out == ""
    feed(callback, history[alarm.step - 1 :], tmp_path)
    assert capsys.readouterr().out == f"ALARM {alarm}\n"


def test_callback_of_a_resumed_run_knows_what_came_before(tmp_path, capsys):
    history = damaged({"frac_reward_zero_std": lambda v: 0.95})
    (alarm,) = alarms(history)
    write_jsonl(tmp_path / "log.jsonl", history[: alarm.step - 3])
    feed(Alarms(), history[alarm.step - 3 :], tmp_path)
    assert capsys.readouterr().out == f"ALARM {alarm}\n"


def test_callback_shows_html_in_a_notebook(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("utils.training.watch.in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda what: shown.append(what.data))
    feed(Alarms(), damaged({"loss": lambda v: math.nan}), tmp_path)
    assert len(shown) == 1 and shown[0].startswith("<p><b>Alarm</b> step 41: loss is not finite")


# ----------------------------------------------------------------------------------------- the panel


def test_panel_speaks_with_the_runs_own_numbers():
    history = read_jsonl(LOGS[0])
    said = " ".join(why_loss_is_zero(history))
    size = sum(abs(r["loss"]) for r in history) / len(history)
    dead = [sum(r["frac_reward_zero_std"] for r in part) / 20 for part in (history[:20], history[-20:])]
    assert f"is {size:.3f} in size" in said and "no KL term" in said
    assert f"{dead[0]:.0%} at first and {dead[1]:.0%} at last" in said
    for part in ("correctness_reward", "format_reward", "strict_metric", "working_metric"):
        assert f"Part {part}:" in said


def test_kl_is_told_when_there_is_any():
    history = [r | {"kl": 0.001 * r["step"]} for r in read_jsonl(LOGS[0])[:70]]
    said = " ".join(why_loss_is_zero(history))
    assert "beta is not 0" in said and "0.0105 at first and 0.0605 at last" in said and "no KL term" not in said
    zero = [r | {"kl": 0.0} for r in read_jsonl(LOGS[0])]  # an engine may log it all the same
    assert "no KL term" in " ".join(why_loss_is_zero(zero))


def test_a_zero_that_hides_a_nan_is_told():
    history = damaged({"loss": lambda v: 0.0, "grad_norm": lambda v: math.nan})
    assert "in step 41 the gradient is not finite" in " ".join(why_loss_is_zero(history))
    assert "not finite" not in " ".join(why_loss_is_zero(damaged({"loss": lambda v: 0.0})))


def test_panel_is_escaped_and_holds_the_alarms():
    history = [json.loads(json.dumps(r).replace("format_reward", "<b>x")) for r in read_jsonl(LOGS[0])]
    page = panel(history)
    assert "&lt;b&gt;x" in page and "<b>x" not in page and "No alarm." in page
    page = panel(damaged({"loss": lambda v: math.nan}))
    assert "<b>step 41: loss is not finite" in page and "No alarm." not in page


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="history is empty"):
        why_loss_is_zero([])


# ----------------------------------------------------------------------------------------- the table


def test_only_our_own_rewards_are_shown_in_percent(tmp_path, capsys):
    def correctness_reward_of_a_learner(completions, **kwargs):
        return [3.0 for _ in completions]

    correctness_reward_of_a_learner.__name__ = "correctness_reward"
    line = {"step": 1, "rewards/correctness_reward/mean": 2.81, "rewards/format_reward/mean": 0.25, "reward": 2.81}
    for rewards, said in ((None, "correct 281%"), ({correctness_reward_of_a_learner: 1.0}, "correct 2.81")):
        feed(LiveTable(1, rewards=rewards), [line], tmp_path)
        assert f"reward 2.81  {said}  format 25%  strict -" in capsys.readouterr().out
