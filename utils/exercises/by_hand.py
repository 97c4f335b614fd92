"""GRPO as notebook 03 writes it, in pieces any of which can be replaced: by a learner's, to see what it does to a run.

    token_logps      log-probability of each sampled token          model, batch, temperature -> (N, C)
    advantages       rewards against their group                    (N,), group size -> (N,)
    policy_term      the clipped loss of each token                 (N, C), (N, C), (N,) -> (N, C)
    grpo_loss        its mean over the tokens that exist            (N, C), (N, C), (N,), (N, C) -> scalar
    completion_mask  which tokens exist                             (N, C), end tokens -> (N, C)

`compare` is that notebook's test: the loss and the gradient of every matrix of the adapter against TRL's own, on a
batch where nothing is zero or one by chance. `train`, `reuse` and `resumed` show what the
test cannot: how a run looks under a broken piece.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import set_seed

from utils.data.questions import Question, load_questions
from utils.model.decoding import decode
from utils.model.policy import Policy, add_lora, end_tokens, load_policy, render_prompt
from utils.model.profiles import PROFILES
from utils.rewards.functions import correctness_reward, total_reward
from utils.training.grpo import build_trainer

PROFILE = PROFILES["tiny"]
Batch = dict[str, Tensor]


def token_logps(model: Any, batch: Batch, temperature: float) -> Tensor:
    """Log-probability of each completion token under the model, (N, C): the logits for a token stand one before it."""
    completion = batch["completion_ids"]
    ids = torch.cat([batch["prompt_ids"], completion], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=attention).logits[:, -completion.size(1) - 1 : -1] / temperature
    return logits.log_softmax(dim=-1).gather(-1, completion.unsqueeze(-1)).squeeze(-1)


def advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Rewards (N,), group after group, minus their group's mean, over its sample deviation + 1e-4."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + 1e-4)).flatten()


def policy_term(logps: Tensor, old_logps: Tensor, advantages: Tensor, epsilon: float = 0.2) -> Tensor:
    """Clipped loss of each token: the smaller of the plain and the clipped product, with its sign turned."""
    ratio = (logps - old_logps).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    advantages = advantages.unsqueeze(1)
    return -torch.min(ratio * advantages, clipped * advantages)


def grpo_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, epsilon: float = 0.2, term: Any = policy_term
) -> Tensor:
    """The mean of the tokens' losses over all tokens that exist ("dapo" in TRL), a scalar."""
    return (term(logps, old_logps, advantages, epsilon) * mask).sum() / mask.sum()


def completion_mask(completion_ids: Tensor, ends: Sequence[int]) -> Tensor:
    """1 up to and including each row's first end token, 0 behind it."""
    end = torch.isin(completion_ids, torch.tensor(ends)).int()
    return (end.cumsum(dim=1) - end == 0).int()


# ------------------------------------------------------------------------------------------------------------- a batch


@torch.no_grad()
def sample(policy: Policy, model: Any, questions: Sequence[Question], group_size: int) -> tuple[Batch, list[str]]:
    """A batch of completions, `group_size` of each question, without advantages, and their texts."""
    tokenizer, ends = policy.tokenizer, end_tokens(policy.model, policy.tokenizer)
    prompts = [render_prompt(policy, q.question) for q in questions]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    prompt_of = torch.arange(len(prompts)).repeat_interleave(group_size)
    how = {"cap": policy.profile.max_completion_tokens, "temperature": policy.profile.temperature, "end_token": ends}
    rows = [torch.tensor(row) for row in decode(model, **inputs, prompt_of=prompt_of, **how)]
    completion = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    batch = {
        "prompt_ids": inputs["input_ids"][prompt_of],
        "prompt_mask": inputs["attention_mask"][prompt_of],
        "completion_ids": completion,
        "completion_mask": completion_mask(completion, ends),
    }
    return batch, tokenizer.batch_decode(completion, skip_special_tokens=True)


@functools.cache
def train_questions() -> list[Question]:
    """The train split of the tiny world."""
    return load_questions(PROFILE.dataset, "train")


# --------------------------------------------------------------------------------------------------- the test with TRL


@functools.cache
def _trainer() -> tuple[Policy, Any]:
    """TRL's trainer, of which only the loss is asked, in the mode in which it accumulates nothing."""
    policy = load_policy(PROFILE)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(policy, train_questions(), folder, settings={"save_strategy": "no"})
    trainer.model.train(False)
    return policy, trainer


@dataclass(frozen=True)
class Compared:
    """Loss by hand and by TRL, and the largest difference of a gradient as a share of that matrix's largest entry."""

    ours: float
    theirs: float
    gradients_apart: float

    @property
    def agree(self) -> bool:
        return abs(self.ours - self.theirs) < 1e-5 and self.gradients_apart < 1e-3


def compare(
    logps: Callable[..., Any] = token_logps, loss: Callable[..., Any] = grpo_loss, seed: int | None = None
) -> Compared:
    """Loss and all gradients of these pieces beside TRL's, on a batch that is drawn anew.

    Nothing is zero or one by chance: the adapter's zero matrices hold random numbers, old log-probabilities noise.

    Args:
        logps, loss: pieces in the place of `token_logps` and `grpo_loss`; what they raise is raised.
        seed: of the batch; drawn unless given.
    """
    policy, trainer = _trainer()
    rng = random.Random(seed)
    torch.manual_seed(rng.randrange(2**32))
    model, temperature = trainer.model, trainer.temperature
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    capped = dataclasses.replace(policy, profile=PROFILE.replace(max_completion_tokens=rng.randint(20, 40)))
    drawn = sorted(rng.sample(train_questions(), 8), key=lambda q: len(q.question))
    batch, _ = sample(capped, model, [drawn[0], drawn[-1]], rng.choice((3, 4)))  # the shorter prompt is padded
    with torch.no_grad():
        now = token_logps(model, batch, temperature)
    batch["old_per_token_logps"] = now + 0.3 * torch.randn_like(now)
    batch["advantages"] = torch.randn(len(now))
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    weights = [p for p in model.parameters() if p.requires_grad]
    ours = loss(
        logps(model, batch, temperature), batch["old_per_token_logps"], batch["advantages"], batch["completion_mask"]
    )
    theirs = trainer._compute_loss(model, batch)
    found = torch.autograd.grad(ours, weights, allow_unused=True)
    wanted = torch.autograd.grad(theirs, weights)
    apart = max(
        float("inf") if a is None else ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(found, wanted, strict=True)
    )
    return Compared(ours.item(), theirs.item(), apart)


# --------------------------------------------------------------------------------------------------------------- a run


class Run:
    """A training of the tiny model by hand: what a step needs, and the step.

    Args:
        seed: of adapter, questions and sampling; all are drawn from torch's generator.
        steps: the learning rate falls to zero over so many.
        prompts: questions a step.
        pieces: functions in the place of this module's, by name; `reward` stands for the total reward.
    """

    def __init__(self, seed: int, steps: int, prompts: int = PROFILE.prompts_per_step, **pieces: Callable[..., Any]):
        self.policy, self.prompts, self.pieces = load_policy(PROFILE), prompts, pieces
        self.model = add_lora(self.policy, seed)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, PROFILE.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 1e-3, steps)
        set_seed(seed)

    def step(self) -> dict[str, float]:
        """Sample, loss, gradient, step; returns the line of the log."""
        line = {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        batch, scores = self.batch()
        logps = self.logps(batch)
        loss = self._loss(logps, logps.detach(), batch)
        line |= scores | {"loss": loss.item(), "grad_norm": self.update(loss)}
        self.schedule.step()
        return line

    def batch(self) -> tuple[Batch, dict[str, float]]:
        """Completions with their advantages, and what a log says of them."""
        chosen = [train_questions()[i] for i in torch.randint(len(train_questions()), (self.prompts,))]
        batch, texts = sample(self.policy, self.model, chosen, PROFILE.group_size)
        golds = [q.gold for q in chosen for _ in range(PROFILE.group_size)]
        rewards = torch.tensor(total_reward(texts, gold=golds))
        batch["advantages"] = self._piece("advantages")(rewards, PROFILE.group_size)
        return batch, {
            "reward": rewards.mean().item(),
            "correct": statistics.fmean(correctness_reward(texts, golds)),
            "mean_length": batch["completion_mask"].sum(1).float().mean().item(),
        }

    def logps(self, batch: Batch) -> Tensor:
        return self._piece("token_logps")(self.model, batch, PROFILE.temperature)

    def update(self, loss: Tensor) -> float:
        """An optimizer step; returns the length of the gradient before it is clipped."""
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, PROFILE.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm.item()

    def _piece(self, name: str) -> Callable[..., Any]:
        return self.pieces.get(name) or globals()[name]

    def _loss(self, logps: Tensor, old_logps: Tensor, batch: Batch) -> Tensor:
        given = logps, old_logps, batch["advantages"], batch["completion_mask"]
        if "grpo_loss" in self.pieces:
            return self.pieces["grpo_loss"](*given)
        return grpo_loss(*given, term=self._piece("policy_term"))


def train(steps: int, seed: int = 0, **how: Any) -> list[dict[str, float]]:
    """The log of a run by hand, one line a step; further arguments as of `Run`."""
    run = Run(seed, steps, **how)
    return [run.step() for _ in range(steps)]


def reuse(term: Callable[..., Any], updates: int, seed: int = 0) -> list[tuple[float, float]]:
    """One batch used for several updates with this `policy_term`.

    Returns:
        For each update the largest ratio before it, and the share of tokens whose ratio is outside 0.8 to 1.2.
    """
    run = Run(seed, updates, prompts=4)
    batch, _ = run.batch()
    old, found = run.logps(batch).detach(), []
    for _ in range(updates):
        logps = run.logps(batch)
        ratio = (logps - old).exp()[batch["completion_mask"].bool()]
        found.append((ratio.max().item(), ((ratio - 1).abs() > 0.2).float().mean().item()))
        run.update(grpo_loss(logps, old, batch["advantages"], batch["completion_mask"], term=term))
    return found


def resumed(save: Callable[..., Any] | None, load: Callable[..., Any] | None, steps: int = 8) -> list[dict[str, float]]:
    """The log of a run that stops half-way and is resumed in a new one by these functions; without them, in one go."""
    run = Run(seed=0, steps=steps)
    log = [run.step() for _ in range(steps // 2)]
    if save and load:
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder), steps // 2, run.model, run.optimizer, run.schedule)
            run = Run(seed=1, steps=steps)
            load(Path(folder), run.model, run.optimizer, run.schedule)
    return log + [run.step() for _ in range(steps - steps // 2)]
