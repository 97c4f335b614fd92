"""The questions asked of the tiny model, each answered by short runs over seeds.

Every experiment changes one thing and compares with its reference. Runs that two experiments share are made once.
`python -m utils.scripts.experiments` runs them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data.answers import extract_answer
from utils.data.numbers import to_number
from utils.data.questions import Question
from utils.evaluation.evaluate import correct_counts
from utils.experiments.findings import Row
from utils.experiments.grid import HELD_OUT, START, Arm, read_runs, rows_of, run_grid
from utils.files import ROOT
from utils.model.policy import Policy
from utils.rewards.functions import Completion, classic_rewards, correctness_reward, format_reward, text_of

REFERENCE_RUNS = ROOT / "assets" / "runs" / "experiments"
SEEDS = 5
TRIES = 8  # samples per question that measure a base pass rate


@dataclass(frozen=True)
class Experiment:
    """A question and the arms that answer it.

    Attributes:
        question: one sentence that ends with what the reference has: "(default: …)?", or "(reference: …)?".
        reference: the arm that the others are compared with.
        arms: names of `ARMS`, without the reference.
        also: a further column of the rows that the question is about.
    """

    name: str
    question: str
    reference: str
    arms: tuple[str, ...]
    also: str | None = None


# ------------------------------------------------------------------------- choices of questions, rewards


def easy_first(shuffled: list[Question], count: int, policy: Policy) -> list[Question]:
    """The questions that `as_drawn` takes, those with the fewest steps of working first."""
    return sorted(shuffled[:count], key=lambda question: question.row["steps"])


def hard_first(shuffled: list[Question], count: int, policy: Policy) -> list[Question]:
    """The same questions the other way round."""
    return easy_first(shuffled, count, policy)[::-1]


def with_spread(shuffled: list[Question], count: int, policy: Policy) -> list[Question]:
    """The first `count` questions that the base model answers rightly in some of `TRIES` samples, but not in all.

    The others' groups would have been dead (all right or all wrong) at the start of training.

    Raises:
        ValueError: the split holds too few of them.
    """
    chosen: list[Question] = []
    for start in range(0, len(shuffled), count):
        candidates = shuffled[start : start + count]
        counts = correct_counts(policy, candidates, n=TRIES)
        chosen += [question for question, right in zip(candidates, counts, strict=True) if 0 < right < TRIES]
        if len(chosen) >= count:
            return chosen[:count]
    raise ValueError(f"only {len(chosen)} of {len(shuffled)} questions have a spread, {count} were asked for")


def proximity_reward(completions: list[Completion], gold: list[str], **kwargs: Any) -> list[float]:
    """1 for the gold number, less by the relative error for another one, at least 0: a reward for being near."""
    return [_nearness(text_of(c), to_number(g)) for c, g in zip(completions, gold, strict=True)]


def _nearness(text: str, gold: Any) -> float:
    stated = to_number(extract_answer(text, "lenient"))
    return 0.0 if stated is None else float(1 - min(1, abs(stated - gold) / max(1, abs(gold))))


# --------------------------------------------------------------------------------- arms and experiments


def _group(size: int) -> Arm:
    prompts = START.completions_per_step // size
    return Arm(f"group_{size}", f"groups of {size}", profile={"group_size": size, "prompts_per_step": prompts})


def _step(completions: int, rate: float = START.learning_rate) -> Arm:
    """As many completions in all as `START`, in steps of another size."""
    name, label = f"step_{completions}", f"{completions} a step"
    if rate != START.learning_rate:
        name, label = f"{name}_lr_{rate:g}", f"{label}, rate {rate:g}"
    numbers = {
        "steps": START.steps * START.completions_per_step // completions,
        "prompts_per_step": completions // START.group_size,
        "micro_batch": completions,
        "learning_rate": rate,
    }
    return Arm(name, label, profile=numbers)


def _rank(rank: int) -> Arm:
    return Arm(f"rank_{rank}", f"LoRA rank {rank}", profile={"lora_rank": rank, "lora_alpha": 2 * rank})


def _rate(rate: float) -> Arm:
    return Arm(f"lr_{rate:g}", f"learning rate {rate:g}", profile={"learning_rate": rate})


def _full(rate: float) -> Arm:
    return Arm(f"full_{rate:g}", f"full weights, rate {rate:g}", profile={"learning_rate": rate}, full_weights=True)


def _temperature(value: float) -> Arm:
    return Arm(f"temperature_{value:g}", f"temperature {value:g}", profile={"temperature": value})


def _together(temperature: float, completions: int, rate: float) -> Arm:
    """Settings that were better alone, at once."""
    arm = _step(completions, rate).replace(temperature=temperature)
    name, label = f"t{temperature:g}_{completions}_{rate:g}", f"temperature {temperature:g}, {completions} a step"
    return dataclasses.replace(arm, name=name, label=f"{label}, rate {rate:g}")


def _long(name: str, label: str, **changes: Any) -> Arm:
    """As long as the profile tiny trains, 16 completions a step at temperature 0.7, with a rate that falls early."""
    short = _together(0.7, 16, 2e-3)
    numbers = {"steps": 4 * short.profile["steps"], "lr_power": 2.0} | changes
    return dataclasses.replace(short.replace(**numbers), name=name, label=label)


TWICE = {"num_iterations": 2, "loss_type": "grpo"}
SEQUENCE = TWICE | {"importance_sampling_level": "sequence"}
SMALL_PASSES = {"micro_batch": 8}

ARMS = {
    arm.name: arm
    for arm in (
        Arm("default", "default"),
        *map(_group, (2, 4, 16)),
        *map(_step, (8, 16, 64)),
        _step(8, START.learning_rate / 2),
        Arm("loss_grpo", "grpo (mean per completion)", settings={"loss_type": "grpo"}),
        Arm("loss_dr_grpo", "dr_grpo (fixed length)", settings={"loss_type": "dr_grpo"}),
        Arm("loss_bnpo", "bnpo, 4 passes of 8", profile=SMALL_PASSES, settings={"loss_type": "bnpo"}),
        Arm("small_passes", "dapo, 4 passes of 8", profile=SMALL_PASSES),
        Arm("twice", "each batch used twice", settings=TWICE),
        Arm("gspo", "GSPO, clip 0.2", settings=SEQUENCE),
        Arm("gspo_narrow", "GSPO, clip 0.0003/0.0004", settings=SEQUENCE | {"epsilon": 3e-4, "epsilon_high": 4e-4}),
        Arm("scale_batch", "scaled by the batch", settings={"scale_rewards": "batch"}),
        Arm("scale_none", "not scaled", settings={"scale_rewards": "none"}),
        Arm("kl_0.001", "KL 0.001", profile={"beta": 0.001}),
        Arm("kl_0.04", "KL 0.04", profile={"beta": 0.04}),
        Arm("correctness_only", "correctness only", rewards={correctness_reward: 1.0}),
        Arm("format_0.5", "correctness + 0.5 format", rewards={correctness_reward: 1.0, format_reward: 0.5}),
        Arm("classic", "classic set", rewards=classic_rewards),
        Arm("format_only", "format only", rewards={format_reward: 1.0}),
        Arm("proximity", "proximity + 0.2 format", rewards={proximity_reward: 1.0, format_reward: 0.2}),
        Arm("cap_24", "cap of 24 tokens", profile={"max_completion_tokens": 24}),
        Arm("cap_40", "cap of 40 tokens", profile={"max_completion_tokens": 40}),
        *map(_rate, (5e-4, 1e-3, 4e-3, 8e-3)),
        *map(_rank, (4, 64)),
        *map(_full, (3e-4, 1e-3)),
        *map(_temperature, (0.5, 0.7, 1.3)),
        _together(0.5, 32, 4e-3),
        _together(0.5, 16, 2e-3),
        _together(0.7, 16, 2e-3),
        _together(0.5, 8, 1e-3),
        _long("long", "long, 0.002 falls by the square"),
        _long("long_even", "long, 0.002 falls evenly", lr_power=1.0),
        _long("long_hot", "long, temperature 1", temperature=1.0),
        _long(
            "long_32",
            "long, 32 a step, 0.0015 falls evenly",
            steps=4 * START.steps,
            prompts_per_step=4,
            micro_batch=32,
            learning_rate=1.5e-3,
            lr_power=1.0,
        ),
        Arm("easy_first", "easy questions first", choose=easy_first),
        Arm("hard_first", "hard questions first", choose=hard_first),
        Arm("with_spread", "no dead groups at the start", choose=with_spread),
    )
}

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "group_size",
            f"How many completions per question, at {START.completions_per_step} completions a step (default: 8)?",
            "default",
            ("group_2", "group_4", "group_16"),
            also="dead",
        ),
        Experiment(
            "step_size",
            f"Many small steps or few large ones, of {START.steps * START.completions_per_step} completions in all "
            f"(default: {START.completions_per_step} a step)?",
            "default",
            ("step_8", "step_8_lr_0.001", "step_16", "step_64"),
        ),
        Experiment(
            # In one pass a step, as the default makes it, bnpo is dapo; in four, dapo only rounds differently.
            "loss_type",
            "How is the loss averaged over tokens (default: dapo, one pass of 32)?",
            "default",
            ("loss_grpo", "loss_dr_grpo", "loss_bnpo", "small_passes"),
            also="tokens",
        ),
        Experiment(
            # With one update for each batch the ratio is 1 and both levels have the same gradient.
            "gspo",
            "Is the ratio taken per token or per sequence (GSPO), with each batch used twice (reference: per token)?",
            "twice",
            ("gspo", "gspo_narrow", "loss_grpo"),
        ),
        Experiment(
            "reward_scaling",
            "What are advantages divided by (default: the group's standard deviation)?",
            "default",
            ("scale_batch", "scale_none"),
        ),
        Experiment("kl", "Does a KL term help (default: none)?", "default", ("kl_0.001", "kl_0.04")),
        Experiment(
            "rewards",
            "What is rewarded (default: correctness + 0.2 format)?",
            "default",
            ("correctness_only", "format_0.5", "classic", "format_only", "proximity"),
            also="format",
        ),
        Experiment(
            "token_cap",
            f"What does a cap too small in training cost (default: {START.max_completion_tokens}; judged under that)?",
            "default",
            ("cap_24", "cap_40"),
            also="tokens",
        ),
        Experiment(
            "learning_rate",
            f"Which learning rate (default: {START.learning_rate:g})?",
            "default",
            ("lr_0.0005", "lr_0.001", "lr_0.004", "lr_0.008"),
        ),
        Experiment(
            "weights",
            f"Which rank of LoRA, or all weights (default: rank {START.lora_rank})?",
            "default",
            ("rank_4", "rank_64", "full_0.0003", "full_0.001"),
        ),
        Experiment(
            "temperature",
            "At which temperature are completions sampled (default: 1)?",
            "default",
            ("temperature_0.5", "temperature_0.7", "temperature_1.3"),
            also="dead",
        ),
        Experiment(
            "curriculum",
            "The same questions in another order (default: random)?",
            "default",
            ("easy_first", "hard_first"),
        ),
        Experiment(
            "dead_groups",
            f"Only questions with right and wrong answers among {TRIES} of the base model (default: any)?",
            "default",
            ("with_spread",),
            also="dead",
        ),
        Experiment(
            "together",
            "What do settings that were better alone give at once (default: none of them)?",
            "default",
            ("t0.5_32_0.004", "t0.5_16_0.002", "t0.7_16_0.002", "t0.5_8_0.001"),
            also="dead",
        ),
        Experiment(
            "full_length",
            "At four times the length: another fall of the rate, temperature or step (reference: the profile tiny's)?",
            "long",
            ("long_even", "long_hot", "long_32"),
            also="dead",
        ),
    )
}


def arms_of(experiments: Sequence[Experiment]) -> list[Arm]:
    """The arms of these experiments, each once, references first where they are named first."""
    return [ARMS[name] for name in dict.fromkeys(name for e in experiments for name in (e.reference, *e.arms))]


def run(
    experiments: Sequence[Experiment],
    seeds: Sequence[int] = range(SEEDS),
    folder: str | Path = REFERENCE_RUNS,
    jobs: int = 1,
    progress: Callable[[int, int, Row | None], None] | None = None,
) -> list[Row]:
    """`run_grid` of all arms of these experiments."""
    return run_grid(arms_of(experiments), seeds, folder, jobs, HELD_OUT, progress)


LABELS = {arm.name: arm.label for arm in ARMS.values()}


def stored(folder: str | Path = REFERENCE_RUNS) -> list[Row]:
    """The rows that a folder holds of the arms as they are defined now."""
    seeds = sorted({row["seed"] for row in read_runs(folder)})
    return rows_of(list(ARMS.values()), seeds, folder)
