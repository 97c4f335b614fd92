"""Where a training step on the tiny model spends its time, with stock calls and with shared prompts.

    python -m tests.benchmarks.profile_step                  # about 2 minutes on two quiet cores
    python -m tests.benchmarks.profile_step --model DIR      # a real model, profile laptop: about 5 minutes

Two trainers of the same numbers take turns: one as `build_trainer` makes it ("after"), one whose model has its own
`generate` and `forward` back ("before"). Their learning rate is 0, so that both stay with the base model's
completions. Parts are timed around TRL's own methods; what is left of a step, from the end of the one before, is "TRL
and data". Medians of STEPS steps are written to assets/runs/step_profile.csv and drawn in
assets/figures/step_profile.png, and beside them two floors, which no change of the calls can go below:

    arithmetic    The multiplications a step cannot do without, over the rate at which this machine multiplies two
                  MATRIX x MATRIX matrices, measured here: a distinct prompt is read once in the rollout and once in
                  the loss, a completion token likewise, and the gradient passes through all of them once, since the
                  weights under the adapter get none. Adapters themselves (rank 16) are left out, and so are norms.
    framework     A step of the same completions with a model of one block, eight numbers wide, and one token each.

With a real model there is only one trainer, for stock calls need more memory than such a machine has: REAL_STEPS steps
of 8 completions, of up to REAL_CAP tokens, to each of REAL_PROMPTS questions of GSM8K, written to
assets/runs/step_profile_qwen_TYPE.csv, since what a step costs depends on the type that the processor multiplies.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import TrainerCallback
from transformers.utils import logging

from tests.benchmarks.speed import QUESTIONS, random_policy
from tests.benchmarks.stock import write_csv
from utils.data.questions import Question, load_questions
from utils.files import ROOT, read_jsonl, write_bytes
from utils.model.policy import load_policy
from utils.model.profiles import PROFILES, get_profile
from utils.plots import BLUE, GREY, ORANGE, new_axes, png
from utils.setup import machine
from utils.training.grpo import build_trainer

STEPS, MATRIX = 12, 1_024
REAL_STEPS, REAL_PROMPTS, REAL_CAP = 6, 2, 200
SPREAD = {"median": statistics.median, "fastest": min, "slowest": max}
REST = "TRL and data"
PARTS = ("rollout", "scoring", "log-probs forward", "backward", "optimizer", REST)


class StepClock(TrainerCallback):
    """Seconds of each part of each step; the first of them warms up."""

    def __init__(self, trainer: Any):
        self.spent: Counter[str] = Counter()
        self.steps: list[dict[str, float]] = []
        self._around(trainer, "_generate", "rollout")
        self._around(trainer, "_calculate_rewards", "scoring")
        self._around(trainer, "_get_per_token_logps_and_entropies", "log-probs forward")
        self._around(trainer.accelerator, "backward", "backward")
        self._around(trainer.accelerator, "clip_grad_norm_", "optimizer")
        self.trainer = trainer

    def _around(self, thing: Any, name: str, part: str) -> None:
        function: Callable[..., Any] = getattr(thing, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[part] += time.perf_counter() - start

        setattr(thing, name, timed)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._around(self.trainer.optimizer, "step", "optimizer")
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        spent = {part: self.spent[part] for part in PARTS if part != REST}
        self.steps.append(spent | {REST: now - self.started - sum(spent.values())})
        self.spent.clear()
        self.started = now


def profiled(
    policy: Any, shared: bool, steps: int, folder: str, seed: int = 0, questions: Sequence[Question] = QUESTIONS
) -> tuple[StepClock, Any]:
    """The clock of a short run, and its trainer."""
    policy.profile = policy.profile.replace(steps=steps, lr_power=1.0)  # the rate of 0 has no other way to fall
    settings = {"learning_rate": 0.0, "save_strategy": "no"}
    trainer = build_trainer(policy, questions, Path(folder), seed, settings=settings)
    if not shared:
        del trainer.model.generate, trainer.model.forward
    clock = StepClock(trainer)
    trainer.add_callback(clock)
    trainer.train()
    return clock, trainer


def matmul_rate(dtype: torch.dtype = torch.float32) -> float:
    """Multiplications and additions per second of two matrices, the median of 15 products."""
    a, b = torch.rand(2, MATRIX, MATRIX).to(dtype)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / statistics.median(times)


def step_flops(model: Any, prompts: list[int], completions: list[list[int]]) -> float:
    """Operations a step cannot do without.

    Args:
        prompts: tokens of each distinct prompt.
        completions: tokens of each of their completions.
    """
    config = model.config
    weights = sum(p.numel() for name, p in model.named_parameters() if "layers" in name and "lora_" not in name)
    attention = 2 * 2 * config.num_hidden_layers * config.hidden_size  # scores and sums, for each token looked at
    head = 2 * config.vocab_size * config.hidden_size
    forward = 0.0
    for prompt, group in zip(prompts, completions, strict=True):
        forward += 2 * weights * prompt + attention * prompt**2 / 2 + head
        forward += sum(2 * weights * n + attention * (prompt * n + n**2 / 2) + head * n for n in group)
    return 3 * forward  # the rollout, the loss, and its gradient


def arithmetic_floor(trainer: Any) -> tuple[float, float]:
    """Seconds for the operations of one batch, and the rate they were divided by."""
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    prompts = batch["prompt_mask"].sum(1).tolist()
    lengths = batch["completion_mask"].sum(1).tolist()
    size, rate = trainer.num_generations, matmul_rate(trainer.model.dtype)
    groups = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    return step_flops(trainer.model, prompts[::size], groups) / rate, rate


def framework_floor() -> float:
    """Seconds of a step with next to no model."""
    profile = PROFILES["tiny"].replace(max_completion_tokens=1)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "max_window_layers": 1}
    policy = random_policy(profile, **shape, layer_types=["full_attention"])
    with tempfile.TemporaryDirectory() as folder:
        clock, _ = profiled(policy, True, STEPS, folder)
    return statistics.median(sum(step.values()) for step in clock.steps[1:])


def figure_of(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Each part of a step with stock calls and with shared prompts, the whole step, and the floors, in seconds.

    Args:
        rows: as step_profile.csv has them.
    """
    found = {(row["step"], row["part"]): float(row["seconds"]) for row in rows if row["step"] != "machine"}
    both = {"before": ("stock calls", GREY), "after": ("shared prompts", BLUE)}
    whole = {step: sum(seconds for (name, _), seconds in found.items() if name == step) for step in both}
    parts = sorted(PARTS, key=lambda part: -found["before", part])
    floors = {key: seconds for key, seconds in found.items() if key[0].startswith("floor")}
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = new_axes(
        figure, title="where a step on the tiny model spends its time", x="seconds, medians", y="", grid="x"
    )
    for shift, (step, (label, colour)) in zip((-0.2, 0.2), both.items(), strict=True):
        values = [whole[step], *(found[step, part] for part in parts)]
        drawn = axes.barh([place + shift for place in range(len(values))], values, 0.36, color=colour, label=label)
        axes.bar_label(drawn, fmt="%.3f", padding=3, fontsize=8)
    places = range(len(parts) + 1, len(parts) + 1 + len(floors))
    drawn = axes.barh(places, list(floors.values()), 0.36, color=ORANGE, label="no change of the calls goes below")
    axes.bar_label(drawn, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(range(places.stop), ["whole step", *parts, *(key[0] for key in floors)])
    axes.axhline(0.5, color=GREY, linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def real(model: str) -> None:
    """Profile a real model's step."""
    profile = get_profile("laptop", model)
    policy = load_policy(profile.replace(prompts_per_step=REAL_PROMPTS, max_completion_tokens=REAL_CAP))
    with tempfile.TemporaryDirectory() as folder:
        clock, trainer = profiled(policy, True, REAL_STEPS, folder, questions=load_questions("gsm8k", "train")[:64])
        lengths = [line["completions/mean_length"] for line in read_jsonl(Path(folder) / "log.jsonl")[1:]]
    steps = clock.steps[1:]
    parts = {part: statistics.median(step[part] for step in steps) for part in PARTS}
    arithmetic, rate = arithmetic_floor(trainer)
    whole = [sum(step.values()) for step in steps]
    where = f"{machine()}, {torch.get_num_threads()} threads, {policy.profile.dtype}, {rate / 1e9:.0f} GFLOP/s"
    rows = [{"step": "machine", "part": where, "seconds": ""}]
    rows += [{"step": "real", "part": part, "seconds": round(seconds, 2)} for part, seconds in parts.items()]
    rows += [{"step": "real", "part": f"{name} step", "seconds": round(f(whole), 2)} for name, f in SPREAD.items()]
    rows += [{"step": "floor: arithmetic", "part": "all", "seconds": round(arithmetic, 2)}]
    write_csv(ROOT / "assets" / "runs" / f"step_profile_qwen_{policy.profile.dtype}.csv", rows)
    print(f"completions of {statistics.fmean(lengths):.0f} tokens in the mean; peak {peak_gib():.1f} GiB")
    print("\n".join(f"{row['step']:<20}{row['part']:<22}{row['seconds']}" for row in rows))


def peak_gib() -> float:
    """The most memory that this process had [GiB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a real model, for the profile laptop; needs GSM8K_DIR")
    args = parser.parse_args()
    logging.set_verbosity_error()
    if args.model:
        real(args.model)
        return
    clocks: dict[str, list[StepClock]] = {"before": [], "after": []}
    for seed in range(3):  # in turns, so that other work on the machine meets both
        for name, found in clocks.items():
            policy = load_policy(PROFILES["tiny"])
            with tempfile.TemporaryDirectory() as folder:
                clock, trainer = profiled(policy, name == "after", STEPS // 3 + 1, folder, seed)
            found.append(clock)
    bars = {}
    for name, found in clocks.items():
        steps = [step for clock in found for step in clock.steps[1:]]
        bars[name] = {part: statistics.median(step[part] for step in steps) for part in PARTS}
    arithmetic, rate = arithmetic_floor(trainer)
    floors = {"arithmetic": arithmetic, "framework": framework_floor()}
    where = f"{machine()}, {torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s"
    rows = [{"step": "machine", "part": where, "seconds": ""}] + [
        {"step": name, "part": part, "seconds": round(seconds, 4)}
        for name, parts in (bars | {f"floor: {floor}": {"all": seconds} for floor, seconds in floors.items()}).items()
        for part, seconds in parts.items()
    ]
    write_csv(ROOT / "assets" / "runs" / "step_profile.csv", rows)
    write_bytes(ROOT / "assets" / "figures" / "step_profile.png", png(figure_of(rows)))
    print(where)
    print(f"{'':<20}" + "".join(f"{name:>10}" for name in bars))
    for part in PARTS:
        print(f"{part:<20}" + "".join(f"{parts[part]:>9.3f}s" for parts in bars.values()))
    print(f"{'a step':<20}" + "".join(f"{sum(parts.values()):>9.3f}s" for parts in bars.values()))
    for name, seconds in floors.items():
        print(f"{'floor: ' + name:<30}{seconds:>9.3f}s")


if __name__ == "__main__":
    main()
