"""Speed on the tiny model beside stock TRL: time to 80% strict, tokens per second, and what a step costs.

    python -m tests.benchmarks.speed            # MINUTES on two quiet cores
    python -m tests.benchmarks.speed --quick    # two seeds, three repeats: does it run, and roughly what comes out

It prints a table, writes assets/runs/speed.csv and assets/figures/step_cost.png, and ends with one line
`time_to_80 ratio X.XX rollout ratio Y.YY`. Both sides use the threads torch uses by default.

time to 80%   Seconds of training until 80% of the 1,319 test questions are answered right under the strict reading,
              greedily. Ours is `build_trainer` with today's numbers of the profile; stock is tests/benchmarks/stock.py
              with the best learning rate its search found. The clock runs from the start of `train()` and stands still
              during evaluations, which come whenever it has gone on by a twelfth, so that both are read to the same
              relative resolution. A pause asks the first 500 questions, and the others only where these are at 80%. A
              run that does not get there in LIMIT seconds counts as LIMIT. Ours and stock take turns, seed by seed.
rollouts      Tokens sampled per second, up to and with the end token, for the prompts of one step, each with a whole
              group: our loop, `model.generate`, our loop, … with a seed for each repeat.
step cost     Seconds of a training step against completions, completion length and model width, for models with
              random weights, with the exponent of a power law through the points: 1 is linear. Lengths and widths grow
              from where arithmetic does not count yet, so an exponent below 1 is a step's fixed cost, above 1 what
              attention adds.

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
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, set_seed

from tests.benchmarks.stock import BEST, Watch, stock_trainer, write_csv
from utils.data import load_questions
from utils.decoding import decode
from utils.files import write_bytes
from utils.generation import render_prompt
from utils.plots import BLUE, GREY, _axes, png
from utils.policy import Policy, load_policy
from utils.profiles import ROOT, get_profile
from utils.training import build_trainer, training_questions

LIMIT = 60.0  # seconds of training; a run that is not at 80% by then counts as this
FIRST_PAUSE, GROWTH = 1.0, 13 / 12  # seconds before the first evaluation, and from each to the next
SEEDS, REPEATS = 5, 9

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
    profile = get_profile("tiny")
    policy = load_policy(profile)
    return build_trainer(policy, training_questions(profile, policy.tokenizer), folder, seed)


def time_to_target(who: str, seed: int) -> Row:
    """One run, ended at the target or at LIMIT."""
    watch = Watch(Pauses(), lambda step, seconds, strict: seconds >= LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(seed, folder) if who == "ours" else stock_trainer(*BEST, seed, folder)
        trainer.add_callback(watch)
        trainer.train()
    step, seconds, strict = watch.seen[-1]
    value = min(seconds, LIMIT) if watch.reached else LIMIT
    outcome = "reached" if watch.reached else f"not reached, {100 * strict:.1f}%"
    print(f"  {who:<5} seed {seed}: {value:5.1f} s, step {step} ({watch.seconds / step:.3f} s a step), {outcome}")
    return {"part": "time_to_80", "who": who, "case": f"seed {seed}", "value": round(value, 3), "note": outcome}


# -------------------------------------------------------------------------------------------- rollouts


def step_prompts(policy: Policy) -> dict[str, torch.Tensor]:
    """The prompts of one step, each as often as its group is large: what TRL hands to `generate`."""
    profile = policy.profile
    questions = load_questions(profile.dataset, "train")[:8]
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
    from utils.prompt_sharing import _distinct

    cap, end = policy.profile.max_completion_tokens, policy.tokenizer.eos_token_id
    return decode(policy.model, *_distinct(inputs["input_ids"], inputs["attention_mask"]), cap, temperature, end)


def rollout_rates(repeats: int) -> list[Row]:
    """Sampled tokens per second of both, alternated."""
    policy = load_policy(get_profile("tiny"))
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
                rows.append({"part": "rollout", "who": who, "case": f"repeat {repeat}", "value": round(rate), "note": ""})
    return rows


# ----------------------------------------------------------------------------------------- equivalence


def assert_equivalent() -> None:
    """Greedy tokens identical, TRL's loss and gradients equal to rounding."""
    policy = load_policy(get_profile("tiny"))
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

COSTS = {  # what varies: (its values, model width, completions, completion length)
    "completions": ((8, 16, 32, 64, 128), 128, None, 48),
    "completion length": ((12, 24, 48, 96, 192), 128, 64, None),
    "model width": ((64, 128, 256, 512), None, 32, 24),
}


def step_seconds(width: int, completions: int, length: int, repeats: int) -> float:
    """Median seconds of a training step of a random model whose completions all have `length` tokens."""
    profile = get_profile("tiny").replace(
        steps=repeats + 1,
        prompts_per_step=completions // 8,
        group_size=8,
        micro_batch=completions,
        max_completion_tokens=length,
        save_every=1_000,
    )
    policy = load_policy(profile)
    shape = {"hidden_size": width, "intermediate_size": 3 * width}
    set_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**(policy.model.config.to_dict() | shape)))
    model.config._name_or_path = profile.model
    with torch.no_grad():
        model.model.embed_tokens.weight[policy.tokenizer.eos_token_id] = 0
    policy.model = NeverEnds.of(model, policy.tokenizer.eos_token_id)
    questions = load_questions("tiny", "train")[: 4 * completions]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(policy, questions, folder, 0)
        trainer.train()
        times = [line["step_time"] for line in trainer.state.log_history if "step_time" in line]
    return statistics.median(times[1:])
