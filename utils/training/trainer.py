"""TRL's GRPO trainer with what it lacks for Qwen, and for a processor without a GPU.

    dead groups   it looks for them in the spread that it divides by, which may be the whole batch's: it then finds none
    end tokens    it knows the tokenizer's own; a model may declare several, and each ends a completion
    no logits     of a wide vocabulary they are never in memory all at once (`completion_logps`)
    no idle work  where the loss is a sum over the step's tokens, a completion without an advantage has no gradient, so
                  it is not read again; what is left stands by prompts, so that each micro-batch reads few of them

The last two are for models that `without_logits` names. Loss and gradient are the same up to rounding; entropy and clip
ratio are then means over the completions that were read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from utils.model.policy import until_end
from utils.model.prompt_sharing import completion_logps, without_logits

Batch = dict[str, Tensor | None]


class Trainer(GRPOTrainer):
    """TRL's, told every token that ends a completion; it counts dead groups itself."""

    def __init__(self, *args: Any, ends: Collection[int], **kwargs: Any):
        self.ends = ends
        super().__init__(*args, **kwargs)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        lengths = [until_end(each, self.ends) + 1 for each in ids]
        cut = [
            None if part is None else [e[:n] for e, n in zip(part, lengths, strict=True)] for part in (ids, logprobs)
        ]
        return tuple(cut)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        output = super()._generate(prompts)
        cut_off = torch.tensor([float(ids[-1] not in self.ends) for ids in output[1]], device=self.accelerator.device)
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["completions/clipped_ratio"][-1] = self.accelerator.gather(cut_off).mean().item()
        return output

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        parts = super()._calculate_rewards(*args, **kwargs)
        groups = (parts * self.reward_weights.to(parts.device)).nansum(1).view(-1, self.num_generations)
        self._dead = (groups.amax(1) - groups.amin(1) < 1e-6).float().mean().item()
        return parts

    def _generate_and_score_completions(self, inputs: list[Any]) -> Batch:
        scored = super()._generate_and_score_completions(inputs)
        self._metrics["train" if self.model.training else "eval"]["frac_reward_zero_std"][-1] = self._dead
        return scored

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before, inputs = self._buffered_inputs, super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or not (self._is_a_sum() and self._alone()):
            return inputs
        self._buffered_inputs = by_prompt(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self._alone():
            return completion_logps(model, input_ids, attention_mask, logits_to_keep, self.temperature)
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    def _alone(self) -> bool:
        return self.accelerator.num_processes == 1 and without_logits(self.model)

    def _is_a_sum(self) -> bool:
        """Whether the loss adds up over one step's tokens, each times its advantage, whichever micro-batch it is in."""
        one_step = self.args.steps_per_generation <= self.args.gradient_accumulation_steps
        return self.loss_type == "dapo" and self.beta == 0 and self.top_entropy_quantile == 1 and one_step


def by_prompt(batches: Sequence[Batch]) -> list[Batch]:
    """The micro-batches of a step, with the completions that have an advantage in front and those of a prompt together.

    Advantages of a group sum to 0: where all are alike they are 0, or what float32 made of it (of 8 rewards of 1.2 TRL
    finds 0.001). A micro-batch left without any keeps its shortest completion, so that there is a loss, which is 0.
    """
    rows = len(batches[0]["advantages"])
    whole = {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
    prompt = torch.unique(whole["prompt_ids"], dim=0, return_inverse=True)[1]
    advantage, length = whole["advantages"], whole["completion_mask"].sum(1)
    differs = (advantage[:, None] != advantage) & (prompt[:, None] == prompt)
    counts = (advantage != 0) & differs.any(1)
    whole["advantages"] = advantage.where(counts, 0)
    order = torch.argsort(prompt + (~counts) * len(prompt), stable=True)
    found = []
    for part in order.split(rows):
        kept = part[counts[part]] if counts[part].any() else part[length[part].argmin()][None]
        found.append({name: value[kept] if _by_row(value) else value for name, value in whole.items()})
    return found


def _joined(values: Sequence[Tensor | None]) -> Tensor | None:
    return torch.cat(list(values)) if _by_row(values[0]) else values[0]


def _by_row(value: Tensor | None) -> bool:
    return value is not None and value.ndim > 0
