"""Stock TRL on the tiny model, and the learning rates that are best for it.

    python -m tests.benchmarks.stock        # the search: about 20 minutes on two quiet cores

`stock_trainer` is a plain `GRPOTrainer`: our model, questions, reward functions with their weights, group size and
token cap; everything else stands at TRL's default, among it 8 completions a step, gradient checkpointing, and a
learning rate that falls to zero over three epochs, which no run here comes near the end of. Three settings differ to
TRL's advantage or for silence: float32 (its bfloat16 is no faster on this model and refuses to start on some CPUs),
no progress bar, no checkpoints.

The search trains with each of RATES from each of SEEDS, an adapter of our rank or all weights, and writes every
evaluation to assets/runs/stock_search.csv. `best` reads it.
"""

from __future__ import annotations

import csv
import io
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, set_seed

from utils.data.questions import load_questions
from utils.evaluation.evaluate import evaluate
from utils.files import ROOT, write_text
from utils.model.policy import Policy, add_lora, load_policy
from utils.model.profiles import PROFILES
from utils.rewards.functions import REWARDS
from utils.training.grpo import build_dataset

TARGET = 0.8  # strict accuracy on the test split
FIRST = 500  # test questions that judge at each pause; the others are asked only where these reach the target
RATES = {"LoRA": (1e-3, 1.5e-3, 2e-3, 3e-3), "full": (1e-4, 2e-4, 3e-4, 5e-4)}
STEPS, EVERY = 60, 4  # of the search: optimizer steps a run may take, and between two evaluations
SEARCH = ROOT / "assets" / "runs" / "stock_search.csv"
SEEDS = (100, 101, 102)  # none of those that speed.py judges with
LOST = (24, 0.6)  # a run below this accuracy after so many steps is given up


def stock_trainer(kind: str, rate: float, seed: int, output: str) -> Any:
    """A `GRPOTrainer` as TRL's documentation builds it; `kind` is "LoRA" (our rank) or "full" (all weights)."""
    from trl import GRPOConfig, GRPOTrainer

    profile = PROFILES["tiny"]
    set_seed(seed)
    policy = load_policy(profile)
    config = GRPOConfig(
        output_dir=output,
        learning_rate=rate,
        num_generations=profile.group_size,
        max_completion_length=profile.max_completion_tokens,
        reward_weights=list(REWARDS.values()),
        seed=seed,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=add_lora(policy, seed) if kind == "LoRA" else policy.model,
        args=config,
        processing_class=policy.tokenizer,
        train_dataset=build_dataset(load_questions(profile.dataset, "train"), profile.system_prompt),
        reward_funcs=list(REWARDS),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Watch(TrainerCallback):
    """Counts training seconds and, where `due(step, seconds)`, evaluates with the clock stopped.

    Training ends at the target, or where `lost(step, seconds, strict)`.

    Attributes:
        seen: (step, seconds, strict accuracy) of each evaluation.
        reached: whether the last of them is at the target on the whole test split.
    """

    def __init__(self, due: Callable[[int, float], bool], lost: Callable[[int, float, float], bool]):
        self.due, self.lost = due, lost
        self.seen: list[tuple[int, float, float]] = []
        self.seconds, self.reached, self.policy = 0.0, False, load_policy(PROFILES["tiny"])
        self.questions = load_questions("tiny", "test")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.seconds += time.perf_counter() - self.started
        if self.due(state.global_step, self.seconds):
            strict = self.strict(model)
            self.seen.append((state.global_step, self.seconds, strict))
            self.reached = strict >= TARGET
            control.should_training_stop |= self.reached or self.lost(state.global_step, self.seconds, strict)
        self.started = time.perf_counter()

    def strict(self, model: Any) -> float:
        """Greedy strict accuracy: on the first questions where these miss the target, else on the whole split."""
        policy = Policy(model, self.policy.tokenizer, self.policy.profile, self.policy.engine)
        right = [verdict.strict for verdict in evaluate(policy, self.questions[:FIRST])]
        if statistics.fmean(right) >= TARGET:
            right += [verdict.strict for verdict in evaluate(policy, self.questions[FIRST:])]
        return statistics.fmean(right)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of the same keys as a table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def searched(kind: str, rate: float, seed: int) -> list[dict[str, Any]]:
    """The evaluations of one run of the search."""
    watch = Watch(
        due=lambda step, seconds: step % EVERY == 0,
        lost=lambda step, seconds, strict: step >= STEPS or (step >= LOST[0] and strict < LOST[1]),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = stock_trainer(kind, rate, seed, folder)
        trainer.add_callback(watch)
        trainer.train()
    print(f"{kind:<4} {rate:<6g} seed {seed}  " + " ".join(f"{s}:{100 * a:.1f}" for s, _, a in watch.seen), flush=True)
    return [
        {"weights": kind, "learning_rate": rate, "seed": seed, "step": step, "strict": round(strict, 4)}
        | {"reached": watch.reached and step == watch.seen[-1][0]}
        for step, _, strict in watch.seen
    ]


def best(kind: str) -> float:
    """The learning rate with the fewest steps to the target in the search: their median over seeds, then their mean.

    A run that did not get there counts as one that would have at twice STEPS.
    """
    with SEARCH.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["weights"] == kind]

    def steps(rate: str) -> tuple[float, float]:
        reached = dict.fromkeys((row["seed"] for row in rows if row["learning_rate"] == rate), 2 * STEPS)
        for row in rows:
            if row["learning_rate"] == rate and row["reached"] == "True":
                reached[row["seed"]] = int(row["step"])
        return statistics.median(reached.values()), statistics.fmean(reached.values())

    return float(min({row["learning_rate"] for row in rows}, key=steps))


def main() -> None:
    ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # -h, or a wrong argument, runs nothing
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for kind, rates in RATES.items():
            for rate in rates:
                rows += searched(kind, rate, seed)
                write_csv(SEARCH, rows)
    print(", ".join(f"{kind}: {best(kind):g}" for kind in RATES))


if __name__ == "__main__":
    main()
