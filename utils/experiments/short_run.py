"""A short training under some rewards, and what came of it: what the Reward Lab tries out and every grid repeats.

Runs of one seed start from the same adapter and see the same questions in the same order, so that two of them differ
by what was changed alone. They are judged by what no reward can bend: strict accuracy, on the completions of each step
and, greedily, on held-out questions at the end.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from utils.data.questions import Question, load_questions
from utils.evaluation.evaluate import evaluate, rates
from utils.files import read_jsonl
from utils.model.policy import Policy, load_policy
from utils.model.profiles import PROFILES, Profile
from utils.rewards.functions import RewardFunction, strict_metric
from utils.training.grpo import build_trainer, training_questions

PROFILE = PROFILES["tiny"].replace(steps=20, prompts_per_step=4, micro_batch=32)
HELD_OUT = 200  # the last questions of the validation split; the bank holds its first

OnStep = Callable[[list[dict[str, Any]], int], None]


@dataclass(frozen=True)
class Trained:
    """What a brief training left: the policy, the records of its log.jsonl and rollouts.jsonl, and its seconds."""

    policy: Policy
    log: list[dict[str, Any]]
    rollouts: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True)
class Run:
    """A finished short run: one metrics record per step, and the rates on held-out questions before and after it."""

    history: list[dict[str, Any]]
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]


class _EachStep(TrainerCallback):
    def __init__(self, on_step: OnStep, stopped: Callable[[], bool]):
        self.on_step, self.stopped, self.history = on_step, stopped, []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "reward" in logs:
            self.history.append({"step": state.global_step, **logs})
            self.on_step(self.history, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= self.stopped()


def train_briefly(
    policy: Policy,
    questions: Sequence[Question],
    rewards: dict[RewardFunction, float],
    seed: int,
    settings: dict[str, Any] | None = None,
    full_weights: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train `policy` for its profile's steps and keep nothing on disk.

    Args:
        policy: a base model; it is changed.
        rewards: functions and weights; strict accuracy is logged beside them, whether it is among them or not.
        settings, full_weights, callbacks: as `build_trainer` takes them.
    """
    settings = {"save_strategy": "no"} | (settings or {})
    with tempfile.TemporaryDirectory() as folder:
        weights = {strict_metric: 0.0} | rewards
        trainer = build_trainer(policy, questions, folder, seed, weights, callbacks, settings, full_weights)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        log, rollouts = (read_jsonl(Path(folder) / name) for name in ("log.jsonl", "rollouts.jsonl"))
    engine = policy.engine.removeprefix("vllm+")  # which reads adapters from a folder, and here is none
    return Trained(Policy(trainer.model.eval(), policy.tokenizer, policy.profile, engine), log, rollouts, seconds)


def held_out() -> list[Question]:
    """The questions that judge a short run."""
    return load_questions(PROFILE.dataset, "validation")[-HELD_OUT:]


@functools.cache
def _untrained(profile: Profile, count: int) -> dict[str, dict[str, float]]:
    """The rates of the base model; asked once, since every run starts from it."""
    return rates(evaluate(load_policy(profile), held_out()))


def short_run(
    rewards: dict[RewardFunction, float], on_step: OnStep, seed: int = 0, stopped: Callable[[], bool] = lambda: False
) -> Run | None:
    """Train the tiny model briefly under these rewards, and evaluate it before and after.

    Args:
        on_step: called after each step with the records so far and the number of steps in all;
            `rewards/strict_metric/mean` is the judge's column.
        seed: of adapter, questions and sampling.
        stopped: asked after each step whether to end here.
    Returns:
        None where it was stopped before its last step.
    """
    before, policy = _untrained(PROFILE, HELD_OUT), load_policy(PROFILE)
    questions = training_questions(PROFILE, policy.tokenizer)
    trained = train_briefly(policy, questions, rewards, seed, callbacks=[_EachStep(on_step, stopped)])
    if len(trained.log) < PROFILE.steps:
        return None
    return Run(trained.log, before, rates(evaluate(trained.policy, held_out())))
