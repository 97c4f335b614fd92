"""A grid of short training runs: every arm with every seed, each run stored as soon as it is finished.

An arm is a set of settings that differs from the common `START` in what it names. Runs of one seed see the same
questions in the same order, so that two arms are compared seed by seed. The folder holds

    runs.csv          one row per finished run: rates on the held-out questions, dead groups, seconds, steps
    curves.csv        every second optimizer step of these runs
    provenance.json   versions, machine, numbers of `START`, and the rates of the untrained model

A grid may be stopped at any time; called again, it goes on with the runs that are missing. Each run takes one thread,
whatever else runs, and gives the same row alone, after another run or beside one.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import set_seed

from utils.data.questions import Question, load_questions
from utils.evaluation.evaluate import evaluate, rates
from utils.experiments.findings import Row
from utils.experiments.short_run import Trained, train_briefly
from utils.files import differences, in_use, portable, sha256, write_json, write_text
from utils.model.policy import Policy, load_policy
from utils.model.profiles import PROFILES
from utils.rewards.functions import RewardFunction, correctness_reward, format_reward
from utils.setup import machine, versions

Choice = Callable[[list[Question], int, Policy], list[Question]]

START = PROFILES["tiny"].replace(  # spelled out: the rows stay comparable when the profile's own numbers move
    steps=20,
    prompts_per_step=4,
    group_size=8,
    micro_batch=32,
    learning_rate=2e-3,
    warmup_steps=0,
    lr_power=1.0,
    max_grad_norm=1.0,
    max_completion_tokens=96,
    lora_rank=16,
    lora_alpha=32,
    beta=0.0,
    temperature=1.0,
    save_every=1_000,
)
SETTINGS = {
    "loss_type": "dapo",
    "scale_rewards": "group",
    "num_iterations": 1,
    "importance_sampling_level": "token",
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "shuffle_dataset": False,  # the arm's choice of questions decides their order
    "save_strategy": "no",
}
START_REWARDS: dict[RewardFunction, float] = {correctness_reward: 1.0, format_reward: 0.2}
NOT_LEARNT = ("name", "unsloth", "save_every", "eval_batch", "max_prompt_tokens", "context_tokens")
YOUNGER = ("prompt", "solution_steps")  # fields that came after the recorded runs; they had what START has
HELD_OUT = 500  # validation questions, the same for every run
CURVE_EVERY = 2  # optimizer steps
START_NUMBERS = (
    "steps",
    "prompts_per_step",
    "group_size",
    "learning_rate",
    "temperature",
    "lora_rank",
    "max_completion_tokens",
)

RUN_COLUMNS = {
    "arm": str,
    "seed": int,
    "settings": str,  # fingerprint of the arm's definition
    "strict": float,  # the four rates: shares of the held-out questions, greedy
    "lenient": float,
    "format": float,
    "truncated": float,
    "tokens": float,  # mean length of the greedy answers
    "dead": float,  # share of the training groups whose rewards are all equal
    "steps": int,
    "train_seconds": float,
    "prepare_seconds": float,  # what choosing the questions took
}
CURVE_COLUMNS = {
    "arm": str,
    "seed": int,
    "settings": str,
    "step": int,
    "strict": float,  # the four are means over the step's completions, sampled
    "reward": float,
    "tokens": float,
    "dead": float,
}


def as_drawn(shuffled: list[Question], count: int, policy: Policy) -> list[Question]:
    """The first `count` of the seed's shuffled training split."""
    return shuffled[:count]


@dataclass(frozen=True)
class Arm:
    """Settings under one name.

    Attributes:
        label: what figures and findings call it.
        profile: numbers that differ from `START`.
        settings: fields of `GRPOConfig` that differ from `SETTINGS`.
        rewards: reward functions and weights; strict accuracy is logged beside them in any case.
        choose: (shuffled training split, how many, base policy) -> that many questions, in the order of training.
        full_weights: train the model's own weights, no adapter.
    """

    name: str
    label: str
    profile: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    rewards: dict[RewardFunction, float] = field(default_factory=lambda: START_REWARDS)
    choose: Choice = as_drawn
    full_weights: bool = False

    def replace(self, **profile: Any) -> Arm:
        """The same arm with other profile numbers, e.g. `arm.replace(steps=10)`."""
        return dataclasses.replace(self, profile=self.profile | profile)


def fingerprint(arm: Arm, held_out: int = HELD_OUT) -> str:
    """A hash of everything named in an arm's definition, of the base model's weights, the questions and how many judge.

    Reward functions and the choice of questions enter by name and weight: what they compute is not seen.
    """
    profile = START.replace(**arm.profile)
    numbers = {k: v for k, v in dataclasses.asdict(profile).items() if k not in NOT_LEARNT}
    for name in YOUNGER:
        if numbers[name] == getattr(START, name):
            del numbers[name]
    definition = {
        "profile": numbers | {"model": portable(profile.model), "weights": _weights(profile.model)},
        "settings": SETTINGS | arm.settings,
        "rewards": {function.__name__: weight for function, weight in arm.rewards.items()},
        "choose": arm.choose.__name__,
        "questions": _questions(),
        "full_weights": arm.full_weights,
        "held_out": held_out,
    }
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def _weights(model: str) -> str:
    return sha256(Path(model) / "model.safetensors")


@functools.cache
def _questions() -> str:
    texts = [q.question for split in ("train", "validation") for q in load_questions(START.dataset, split)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------- one run


def run_arm(arm: Arm, seed: int, held_out: int = HELD_OUT) -> tuple[Row, list[Row]]:
    """Train one arm with one seed and evaluate it.

    Returns:
        The row for runs.csv and those for curves.csv.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(arm, seed, held_out)
    finally:
        torch.set_num_threads(threads)


def _run(arm: Arm, seed: int, held_out: int) -> tuple[Row, list[Row]]:
    profile = START.replace(**arm.profile)
    policy = load_policy(profile)
    set_seed(seed)
    start = time.perf_counter()
    questions = arm.choose(_shuffled(seed), profile.steps * profile.prompts_per_step, policy)
    prepared = time.perf_counter() - start
    trained = train_briefly(policy, questions, arm.rewards, seed, SETTINGS | arm.settings, arm.full_weights)
    steps = _steps(trained)
    key = {"arm": arm.name, "seed": seed, "settings": fingerprint(arm, held_out)}
    row = {
        **key,
        **judged(dataclasses.replace(trained.policy, profile=START), held_out),
        "dead": round(fmean(line["dead"] for line in steps), 4),
        "steps": trained.log[-1]["step"],
        "train_seconds": round(trained.seconds, 1),
        "prepare_seconds": round(prepared, 1),
    }
    return row, [{**key, **line} for line in steps if line["step"] % CURVE_EVERY == 1]


def _shuffled(seed: int) -> list[Question]:
    questions = load_questions(START.dataset, "train")
    random.Random(seed).shuffle(questions)
    return questions


def _steps(trained: Trained) -> list[Row]:
    """One record for each step with new completions."""
    log = {line["step"]: line for line in trained.log}
    records = []
    for rollout in trained.rollouts:
        line = log[rollout["step"]]
        records.append(
            {
                "step": rollout["step"],
                "strict": round(line["rewards/strict_metric/mean"], 4),
                "reward": round(line["reward"], 4),
                "tokens": round(line["completions/mean_length"], 2),
                "dead": round(line["frac_reward_zero_std"], 4),
            }
        )
    return records


def judged(policy: Policy, held_out: int = HELD_OUT) -> dict[str, float]:
    """The four rates and the mean length of greedy answers to the first `held_out` validation questions."""
    verdicts = evaluate(policy, load_questions(START.dataset, "validation")[:held_out])
    shares = {name: rate["rate"] for name, rate in rates(verdicts).items()}
    return {name: shares[name] for name in ("strict", "lenient", "format", "truncated")} | {
        "tokens": round(fmean(v.tokens for v in verdicts), 2)
    }


# --------------------------------------------------------------------------------------------- the grid


def run_grid(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    folder: str | Path,
    jobs: int = 1,
    held_out: int = HELD_OUT,
    progress: Callable[[int, int, Row | None], None] | None = None,
) -> list[Row]:
    """Run every arm with every seed, except the runs that the folder holds already.

    Args:
        folder: of runs.csv and its companions; made where it does not exist.
        jobs: how many runs at a time, each in a process of its own; 1 runs them in this process.
        held_out: how many validation questions judge a run.
        progress: called with (runs done, runs in all, the new row) at the start, with no row, and after each run.
    Returns:
        The rows of these arms and seeds, arm by arm.
    Raises:
        ValueError: two arms of one name, or the folder's rows come from other versions or another machine.
        InUse: another process works in the folder.
        RuntimeError: runs that failed, by name; the others are stored, and a second call tries these again.
    """
    folder, names = Path(folder), [arm.name for arm in arms]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"arms need names of their own, got {', '.join(repeated)} more than once")
    with in_use(folder):
        _check_provenance(folder, held_out)
        todo = missing(arms, seeds, folder, held_out)
        total, failed = len(arms) * len(seeds), []
        done = total - len(todo)
        if progress:
            progress(done, total, None)
        for arm, seed, result in _results(todo, jobs, held_out):
            if isinstance(result, Exception):
                failed.append(f"{arm.name} with seed {seed} ({type(result).__name__}: {result})")
                continue
            _store(folder, *result)
            done += 1
            if progress:
                progress(done, total, result[0])
        if failed:
            raise RuntimeError(
                f"{len(failed)} of {len(todo)} runs failed, call again to retry them: {'; '.join(failed)}"
            )
        return rows_of(arms, seeds, folder, held_out)


def missing(
    arms: Sequence[Arm], seeds: Sequence[int], folder: str | Path, held_out: int = HELD_OUT
) -> list[tuple[Arm, int]]:
    """(arm, seed) of the runs that the folder does not hold, seed by seed, so that a part is a smaller whole."""
    there = {_key(row) for row in read_runs(folder)}
    return [(arm, seed) for seed in seeds for arm in arms if (arm.name, seed, fingerprint(arm, held_out)) not in there]


def rows_of(arms: Sequence[Arm], seeds: Sequence[int], folder: str | Path, held_out: int = HELD_OUT) -> list[Row]:
    """The stored rows of these arms and seeds, as the arms are defined now; older definitions are left out."""
    rows = {_key(row): row for row in read_runs(folder)}
    wanted = [(arm.name, seed, fingerprint(arm, held_out)) for arm in arms for seed in seeds]
    return [rows[key] for key in wanted if key in rows]


def _results(
    todo: list[tuple[Arm, int]], jobs: int, held_out: int
) -> Iterator[tuple[Arm, int, tuple[Row, list[Row]] | Exception]]:
    """What each run gave, or the exception that ended it, in the order in which they end."""
    if jobs == 1:
        for arm, seed in todo:
            future: Future = Future()
            try:
                future.set_result(run_arm(arm, seed, held_out))
            except Exception as error:  # a run that fails must not take the others with it; run_grid raises at the end
                future.set_exception(error)
            yield arm, seed, future.exception() or future.result()
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_leave_with_parent) as pool:
        futures = {pool.submit(run_arm, arm, seed, held_out): (arm, seed) for arm, seed in todo}
        try:
            for future in as_completed(futures):
                yield *futures[future], future.exception() or future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_with_parent() -> None:
    """End this process when its parent has gone, however that ended."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# ---------------------------------------------------------------------------------------------- storage


def read_runs(folder: str | Path) -> list[Row]:
    """The rows of runs.csv; none where there is no such file."""
    return _read(Path(folder) / "runs.csv", RUN_COLUMNS)


def read_curves(folder: str | Path) -> list[Row]:
    """The rows of curves.csv that belong to a row of runs.csv."""
    finished = {_key(row) for row in read_runs(folder)}
    return [row for row in _read(Path(folder) / "curves.csv", CURVE_COLUMNS) if _key(row) in finished]


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """What provenance.json says."""
    return json.loads((Path(folder) / "provenance.json").read_text(encoding="utf-8"))


def _key(row: Row) -> tuple[str, int, str]:
    return row["arm"], row["seed"], row["settings"]


def _store(folder: Path, row: Row, curve: list[Row]) -> None:
    """Put a run in the place of an earlier one of its arm and seed; its curve first, since the row says it is whole."""
    for name, columns, new in (("curves.csv", CURVE_COLUMNS, curve), ("runs.csv", RUN_COLUMNS, [row])):
        others = [r for r in _read(folder / name, columns) if (r["arm"], r["seed"]) != (row["arm"], row["seed"])]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(others + new, key=lambda r: (r["arm"], r["seed"], r.get("step", 0))))
        write_text(folder / name, text.getvalue())


def _read(path: Path, columns: dict[str, type]) -> list[Row]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(columns):
            raise ValueError(f"{path} has the columns {reader.fieldnames}, not {list(columns)}; use another folder")
        try:
            return [{name: kind(line[name]) for name, kind in columns.items()} for line in reader]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} line {reader.line_num} is damaged ({error}); remove it and its run is done again"
            ) from error


def _check_provenance(folder: Path, held_out: int) -> None:
    """Write provenance.json, or refuse a folder whose rows were made with something else."""
    start = {name: getattr(START, name) for name in START_NUMBERS}
    now = {"versions": versions(), "machine": machine(), "threads": 1, "held_out": held_out, "start": start}
    if (folder / "provenance.json").exists():
        if other := differences(now, read_provenance(folder), ("this call", str(folder))):
            raise ValueError(f"{'; '.join(other)}. Choose another folder, so that runs made otherwise are not mixed")
        return
    write_json(folder / "provenance.json", now | {"untrained": judged(load_policy(START), held_out)})
