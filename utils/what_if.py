"""What if we trained with this reward? A short run under it beside one under the default, from the same seed.

Both runs start from the base model, see the same questions in the same order, and are judged by what neither reward
can bend: strict accuracy, on the completions of each step and, greedily, on held-out questions at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from utils.data import Question, load_questions
from utils.evaluation import evaluate, rates
from utils.policy import Policy, load_policy
from utils.profiles import get_profile
from utils.rewards import RewardFunction, strict_metric
from utils.training import build_trainer, run_training, training_questions

PROFILE = get_profile("tiny").replace(steps=20, prompts_per_step=4, micro_batch=32, save_every=1_000)
HELD_OUT = 200  # the last questions of the validation split; the bank holds its first


@dataclass(frozen=True)
class Run:
    """A finished short run: one metrics record per step, and the rates on the held-out questions."""

    history: list[dict[str, Any]]
    rates: dict[str, dict[str, float]]


class Stopped(Exception):
    """The user ended a run before its last step."""


class _EachStep(TrainerCallback):
    def __init__(self, on_step: Callable[[list[dict[str, Any]]], None], stopped: Callable[[], bool]):
        self.on_step, self.stopped, self.history = on_step, stopped, []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "reward" in logs:
            self.history.append({"step": state.global_step, **logs})
            self.on_step(self.history)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= self.stopped()


def held_out() -> list[Question]:
    return load_questions(PROFILE.dataset, "validation")[-HELD_OUT:]


def short_run(
    rewards: dict[RewardFunction, float],
    on_step: Callable[[list[dict[str, Any]]], None],
    seed: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """Train the tiny model briefly under these rewards and evaluate it.

    Args:
        rewards: reward functions and weights; strict accuracy is logged beside them, whether it is among them or not.
        on_step: called after each step with the records so far; `rewards/strict_metric/mean` is the judge's column.
        seed: of adapter, questions and sampling; runs of one seed differ by their rewards alone.
        stopped: asked after each step whether to end here.
    Raises:
        Stopped: `stopped` said so.
    """
    policy = load_policy(PROFILE)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            policy,
            training_questions(PROFILE, policy.tokenizer),
            folder,
            seed,
            {strict_metric: 0.0} | rewards,
            callbacks=[_EachStep(on_step, stopped)],
        )
        history = run_training(trainer).history
    if len(history) < PROFILE.steps:
        raise Stopped
    return Run(history, _rates(Policy(trainer.model.eval(), policy.tokenizer, PROFILE, policy.engine), held_out()))


def base_rates() -> dict[str, dict[str, float]]:
    """The same rates before any training."""
    return _rates(load_policy(PROFILE), held_out())


def _rates(policy: Policy, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    return rates(evaluate(policy, questions))
