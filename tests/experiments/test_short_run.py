"""Two short runs side by side: same start, same questions; the default run is the same whatever runs beside it."""

import dataclasses

import pytest

from utils.evaluation.evaluate import evaluate, rates
from utils.experiments import short_run
from utils.rewards.bank import load_bank
from utils.rewards.functions import REWARDS, format_reward


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(
        short_run, "PROFILE", dataclasses.replace(short_run.PROFILE, steps=2, prompts_per_step=2, micro_batch=16)
    )
    monkeypatch.setattr(short_run, "HELD_OUT", 8)


@pytest.mark.slow
def test_a_short_run_reports_each_step_and_is_judged_by_strict_accuracy(short):
    seen = []
    run = short_run.short_run({format_reward: 1.0}, lambda history, steps: seen.append((len(history), steps)))
    assert seen == [(1, 2), (2, 2)] and len(run.history) == 2
    assert all("rewards/strict_metric/mean" in line for line in run.history)
    for strict in (run.before["strict"], run.after["strict"]):
        assert strict["n"] == 8 and 0 <= strict["low"] <= strict["rate"] <= 1


@pytest.mark.slow
def test_the_rates_after_are_those_of_the_model_that_was_trained(short, monkeypatch):
    asked = []

    def watched(policy, questions):
        verdicts = evaluate(policy, questions)
        asked.append((hasattr(policy.model, "peft_config"), rates(verdicts)))
        return verdicts

    monkeypatch.setattr(short_run, "evaluate", watched)
    run = short_run.short_run(REWARDS, lambda history, steps: None)
    assert asked[-1] == (True, run.after), "the adapter's answers, asked last"
    assert all(found == run.before for trained, found in asked if not trained)


@pytest.mark.slow
def test_one_seed_gives_one_run_and_runs_differ_by_their_rewards(short):
    first, again, other = (
        short_run.short_run(r, lambda history, steps: None) for r in (REWARDS, REWARDS, {format_reward: 1.0})
    )
    judged = "rewards/strict_metric/mean", "completions/mean_length"
    assert [[line[key] for key in judged] for line in first.history] == [
        [line[key] for key in judged] for line in again.history
    ]
    assert first.history[0]["completions/mean_length"] == other.history[0]["completions/mean_length"]


@pytest.mark.slow
def test_it_stops_when_asked(short):
    assert short_run.short_run(REWARDS, lambda history, steps: None, stopped=lambda: True) is None


def test_the_held_out_questions_are_not_in_the_bank():
    assert not {q.question for q in short_run.held_out()} & {group.question for group in load_bank().groups}
