"""Speed on the tiny model beside stock TRL: time to 80% strict, tokens per second, and what a step costs.

    python -m tests.benchmarks.speed            # 15 to 20 minutes on two quiet cores
    python -m tests.benchmarks.speed --quick    # two seeds, three repeats: does it run, and roughly what comes out

It prints a table, writes assets/runs/speed.csv, assets/figures/step_cost.png and the README's table of these numbers,
and ends with one line `time_to_80 ratio X.XX rollout ratio Y.YY`. Both sides use the threads torch uses by default.

time to 80%   Seconds of training until 80% of the 1,319 test questions are answered right under the strict reading,
              greedily. Ours is `build_trainer` with today's numbers of the profile; stock is tests/benchmarks/stock.py,
              with an adapter and with all weights, each at the learning rate that its search found best. The clock
              runs from the start of `train()` and stands still during evaluations, which come whenever it has gone on
              by a fifth, so that all are read to the same relative resolution. A pause asks the first 500 questions,
              and the others only where these are at 80%. A run that does not get there in LIMIT seconds counts as
              LIMIT. The three take turns, seed by seed; the ratio is to the faster of the two stock medians.
rollouts      Tokens sampled per second, up to and with the end token, for the prompts of one step, each with a whole
              group: our loop, `model.generate`, our loop, … with a seed for each repeat.
step cost     Seconds of a training step against completions, completion length and model width, for models with
              random weights, with the exponent of a power law through the last three points: 1 is linear, less
              is a cost that does not grow, more is attention (length) or the matrices' two dimensions (width).

Before anything is timed, greedy tokens and TRL's loss on a real batch are asserted to be the same on both paths.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, set_seed
from transformers.utils import logging

from tests.benchmarks.stock import Watch, best, stock_trainer, write_csv
from utils.data.questions import load_questions
from utils.files import ROOT, write_bytes
from utils.model.decoding import decode
from utils.model.policy import Policy, load_policy, render_prompt
from utils.model.profiles import PROFILES, Profile
from utils.model.prompt_sharing import _distinct
from utils.plots import BLUE, GREY, png
from utils.scripts.record import fill_readme
from utils.setup import machine
from utils.training.grpo import build_trainer, training_questions

LIMIT = 30.0  # seconds of training; a run that is not at 80% by then counts as this
FIRST_PAUSE, GROWTH = 1.0, 6 / 5  # seconds before the first evaluation, and from each to the next
SEEDS, REPEATS = 5, 9

MARKERS = ("<!-- speed: written by python -m tests.benchmarks.speed -->", "<!-- end of speed -->")
STOCK = {"stock LoRA": "LoRA", "stock full weights": "full"}

Row = dict[str, Any]


# ----------------------------------------------------------------------------------------- time to 80%


class Pauses:
    """When to evaluate: after FIRST_PAUSE seconds of training, then whenever they have grown by GROWTH."""

    def __init__(self) -> None:
        self.next = FIRST_PAUSE

    def __call__(self, step: int, seconds: float) -> bool:
        if seconds < self.next:
            return False
        self.next = seconds * GROWTH
        return True


def our_trainer(seed: int, folder: str) -> Any:
    profile = PROFILES["tiny"]
    policy = load_policy(profile)
    return build_trainer(policy, training_questions(profile, policy.tokenizer), folder, seed)


def time_to_target(who: str, seed: int) -> Row:
    """One run, ended at the target or at LIMIT."""
    watch = Watch(Pauses(), lambda step, seconds, strict: seconds >= LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        kind = STOCK.get(who)
        trainer = stock_trainer(kind, best(kind), seed, folder) if kind else our_trainer(seed, folder)
        trainer.add_callback(watch)
        trainer.train()
    step, seconds, strict = watch.seen[-1]
    value = min(seconds, LIMIT) if watch.reached else LIMIT
    outcome = "reached" if watch.reached else f"not reached, {100 * strict:.1f}%"
    print(
        f"  {who:<18} seed {seed}: {value:5.1f} s, step {step} ({watch.seconds / step:.3f} s a step), {outcome}",
        flush=True,
    )
    return {"part": "time_to_80", "who": who, "case": f"seed {seed}", "value": round(value, 3), "note": outcome}


# -------------------------------------------------------------------------------------------- rollouts


def step_prompts(policy: Policy) -> dict[str, torch.Tensor]:
    """The prompts of one step, each as often as its group is large: what TRL hands to `generate`."""
    profile = policy.profile
    questions = load_questions(profile.dataset, "train")[: profile.prompts_per_step]
    texts = [render_prompt(policy, q.question) for q in questions for _ in range(profile.group_size)]
    return dict(policy.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False))


def stock_generate(policy: Policy, inputs: dict[str, torch.Tensor], **how: Any) -> list[list[int]]:
    """`model.generate`, as TRL calls it, each completion cut behind its end token."""
    end = policy.tokenizer.eos_token_id
    settings = {"max_new_tokens": policy.profile.max_completion_tokens, "pad_token_id": policy.tokenizer.pad_token_id}
    config = GenerationConfig(**settings, eos_token_id=end, **how, disable_compile=True)
    policy.model.generation_config.do_sample = config.do_sample
    with torch.no_grad():
        rows = policy.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def our_generate(policy: Policy, inputs: dict[str, torch.Tensor], temperature: float) -> list[list[int]]:
    cap, end = policy.profile.max_completion_tokens, policy.tokenizer.eos_token_id
    return decode(policy.model, *_distinct(inputs["input_ids"], inputs["attention_mask"]), cap, temperature, end)


def rollout_rates(repeats: int) -> list[Row]:
    """Sampled tokens per second of both, alternated."""
    policy = load_policy(PROFILES["tiny"])
    inputs = step_prompts(policy)
    ways = {
        "ours": lambda: our_generate(policy, inputs, 1.0),
        "stock": lambda: stock_generate(policy, inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0),
    }
    rows = []
    for repeat in range(-1, repeats):  # the first is not counted
        for who, way in ways.items():
            set_seed(repeat + 1)
            start = time.perf_counter()
            tokens = sum(map(len, way()))
            rate = tokens / (time.perf_counter() - start)
            if repeat >= 0:
                rows.append(
                    {"part": "rollout", "who": who, "case": f"repeat {repeat}", "value": round(rate), "note": ""}
                )
    return rows


# ----------------------------------------------------------------------------------------- equivalence


def assert_equivalent() -> None:
    """Greedy tokens identical, TRL's loss and gradients equal to rounding."""
    policy = load_policy(PROFILES["tiny"])
    inputs = step_prompts(policy)
    assert our_generate(policy, inputs, 0.0) == stock_generate(policy, inputs, do_sample=False), "greedy tokens differ"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(0, folder)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
        for path in ("shared", "plain"):
            if path == "plain":
                del trainer.model.forward, trainer.model.generate
            trainer.model.zero_grad()
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
            gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
            found[path] = loss.item(), torch.cat(gradients)
    loss_gap = abs(found["shared"][0] - found["plain"][0])
    gap = ((found["shared"][1] - found["plain"][1]).norm() / found["plain"][1].norm()).item()
    assert loss_gap < 1e-5 and gap < 1e-3, f"losses differ by {loss_gap:.2g}, gradients by {gap:.2g} of their length"
    print(f"equivalence: greedy tokens identical, losses within {loss_gap:.1g}, gradients within {gap:.1g}")


# ------------------------------------------------------------------------------------------- step cost

QUESTIONS = load_questions("tiny", "train")[:512]
COSTS = {  # what varies: (its values, model width, completions, completion length)
    "completions": ((8, 16, 32, 64, 128), 128, None, 48),
    "completion length": ((12, 24, 48, 96, 192), 128, 64, None),
    "model width": ((64, 128, 256, 512), None, 32, 24),
}


def random_policy(profile: Profile, **shape: int) -> Policy:
    """A policy of the embedded model's kind with random weights, other numbers, and an end token it cannot write."""
    policy = load_policy(profile)
    set_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**(policy.model.config.to_dict() | shape))).eval()
    model.config._name_or_path = profile.model
    policy.tokenizer.add_special_tokens({"eos_token": "<never>"})
    return Policy(model, policy.tokenizer, profile, policy.engine)


def step_seconds(width: int, completions: int, length: int, repeats: int) -> float:
    """Median seconds of a training step of a random model; all its completions have `length` tokens."""
    profile = PROFILES["tiny"].replace(
        steps=repeats + 1,
        prompts_per_step=completions // 8,
        group_size=8,
        micro_batch=completions,
        max_completion_tokens=length,
    )
    policy = random_policy(profile, hidden_size=width, intermediate_size=3 * width)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(policy, QUESTIONS, folder, 0, settings={"save_strategy": "no"})
        trainer.train()
    times = [line["step_time"] for line in trainer.state.log_history if "step_time" in line]
    return statistics.median(times[1:])


def step_costs(repeats: int) -> list[Row]:
    rows = []
    for varied, (values, *fixed) in COSTS.items():
        for value in values:
            width, completions, length = (value if number is None else number for number in fixed)
            seconds = step_seconds(width, completions, length, repeats)
            print(f"  {varied} {value}: {seconds:.3f} s a step", flush=True)
            case = f"{varied} {value}"
            rows.append({"part": "step_cost", "who": "ours", "case": case, "value": round(seconds, 4), "note": ""})
    return rows


def curve(rows: list[Row], varied: str) -> tuple[list[int], list[float]]:
    """What was varied, and the seconds a step took."""
    points = [(int(r["case"].split()[-1]), float(r["value"])) for r in rows if r["case"].rsplit(" ", 1)[0] == varied]
    values, seconds = zip(*points, strict=True)
    return list(values), list(seconds)


def exponent(values: list[int], seconds: list[float]) -> float:
    """The slope of the upper three points on logarithmic axes: where the fixed cost of a step counts least."""
    return float(np.polyfit(np.log(values[-3:]), np.log(seconds[-3:]), 1)[0])


def step_cost_figure(rows: list[Row]) -> Figure:
    """Seconds a step against each of the three, on logarithmic axes of one scale, with a line that doubles with it."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    first = None
    for place, varied in enumerate(COSTS, 1):
        values, seconds = curve(rows, varied)
        axes = figure.add_subplot(1, 3, place, sharey=first)
        first = first or axes
        axes.loglog(
            values, [seconds[-1] * value / values[-1] for value in values], "--", color=GREY, label="in proportion"
        )
        axes.loglog(values, seconds, "o-", color=BLUE, label="measured")
        for value, second in zip(values, seconds, strict=True):
            above = second * values[-1] >= seconds[-1] * value
            where = {"xytext": (0, 6 if above else -14), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes.annotate(f"{second:.2f}", (value, second), **where)
        axes.set_title(
            f"{values[-1] // values[0]} times as much: {seconds[-1] / seconds[0]:.1f} times the time", fontsize=11
        )
        axes.set_xlabel(
            {"completion length": "tokens per completion", "completions": "completions in a step"}.get(varied, varied)
        )
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_ylabel("seconds per training step" if place == 1 else "")
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    first.set_ylim(0.06, 7)
    first.set_yticks([2.0**k for k in range(-3, 3)])
    first.yaxis.set_major_formatter("{x:g}")
    first.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


# ---------------------------------------------------------------------------------------------- report


MEASURED = {"time_to_80": "seconds of training to 80% strict", "rollout": "sampled tokens per second"}


def medians(rows: list[Row]) -> dict[tuple[str, str], tuple[float, str]]:
    """{(part, who): (median, median and range in words)} of the two parts in which ours and stock are compared."""
    found = {}
    for part in MEASURED:
        for who in dict.fromkeys(row["who"] for row in rows if row["part"] == part):
            values = [row["value"] for row in rows if (row["part"], row["who"]) == (part, who)]
            middle, digits = statistics.median(values), 1 if part == "time_to_80" else 0
            text = f"{middle:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f}, n = {len(values)})"
            found[part, who] = middle, text
    return found


def ratios(rows: list[Row]) -> tuple[float, float]:
    """How many times sooner ours is at 80% than the faster stock median, and tokens per second over stock's."""
    found = {key: middle for key, (middle, _) in medians(rows).items()}
    faster = min(found["time_to_80", who] for who in STOCK) / found["time_to_80", "ours"]
    return faster, found["rollout", "ours"] / found["rollout", "stock"]


def speed_table(rows: list[Row]) -> str:
    """The README's table, in Markdown; `rows` may come from speed.csv."""
    rows = [row | {"value": float(row["value"])} for row in rows]
    lines = ["| | | median (range) |", "|---|---|---|"]
    for (part, who), (_, text) in medians(rows).items():
        lines.append(f"| {MEASURED[part]} | {who} | {text} |")
    where = next(row["case"] for row in rows if row["part"] == "machine")
    faster, more = ratios(rows)
    lines += [
        "",
        f"A run that was not there within {LIMIT:.0f} s counts as {LIMIT:.0f}. Ratios of the medians, to the faster "
        f"stock: {faster:.2f} and {more:.2f}. Measured on {where}.",
    ]
    return "\n".join(lines)


def report(rows: list[Row]) -> None:
    """The table, and the line with the two ratios of medians."""
    for (part, who), (_, text) in medians(rows).items():
        print(f"{MEASURED[part]:<36}{who:<20}{text}")
    for varied in COSTS:
        values, seconds = curve(rows, varied)
        points = ", ".join(f"{v}: {s:.3f} s" for v, s in zip(values, seconds, strict=True))
        print(f"{varied:<24} exponent {exponent(values, seconds):.2f}   {points}")
    faster, more = ratios(rows)
    print(f"time_to_80 ratio {faster:.2f} rollout ratio {more:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, three repeats; writes no files")
    quick = parser.parse_args().quick
    seeds, repeats, cost_repeats = (2, 3, 2) if quick else (SEEDS, REPEATS, 5)
    logging.set_verbosity_error()
    rates = ", ".join(f"{kind} {best(kind):g}" for kind in STOCK.values())
    print(f"{machine()}, {torch.get_num_threads()} threads; stock's learning rates: {rates}")
    assert_equivalent()
    rows = [{"part": "machine", "who": "", "case": machine(), "value": torch.get_num_threads(), "note": "threads"}]
    rows += rollout_rates(repeats)
    rows += [time_to_target(who, seed) for seed in range(seeds) for who in ("ours", *STOCK)]
    rows += step_costs(cost_repeats)
    if not quick:
        write_csv(ROOT / "assets" / "runs" / "speed.csv", rows)
        write_bytes(ROOT / "assets" / "figures" / "step_cost.png", png(step_cost_figure(rows)))
        fill_readme(MARKERS, speed_table(rows))
    report(rows)


if __name__ == "__main__":
    main()
