"""A group's prompt is read once: the trainer's calls of a small model on a CPU, answered with less work.

TRL hands the model every prompt as often as the group has completions, when it samples and again when it computes the
loss. On the profile tiny two thirds of all tokens are such repetitions. `share_prompts` replaces `generate` and
`forward` of one model object by functions that find the repetitions; what they return is the same to float rounding
(tests/test_prompt_sharing.py), so TRL's loss, and what is learnt, is too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from utils.decoding import decode, suits


def share_prompts(model: Any) -> None:
    """Let a model that `decoding.suits` read the prompts of its trainer once; other models are left as they are."""
    if not suits(model):
        return
    forward = model.forward

    def generate(input_ids: Tensor, attention_mask: Tensor, generation_config: Any) -> Tensor:
        return _generate(model, input_ids, attention_mask, generation_config)

    def shared_forward(*args: Any, **inputs: Any) -> Any:
        if args or inputs.keys() != {"input_ids", "attention_mask", "logits_to_keep", "use_cache"}:
            return forward(*args, **inputs)  # not the trainer's loss
        return _forward(forward, inputs["input_ids"], inputs["attention_mask"], inputs["logits_to_keep"] - 1)

    model.generate, model.forward = generate, shared_forward


def _distinct(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The P distinct rows of (B, L) prompts and their masks, and for each of the B rows which of them it is."""
    rows, which = torch.unique(torch.cat([ids, mask], 1), dim=0, return_inverse=True)
    ids, mask = rows.chunk(2, 1)
    return ids, mask, which


def _generate(model: Any, input_ids: Tensor, attention_mask: Tensor, how: Any) -> Tensor:
    """Completions behind their prompts, (B, L + longest completion), as `model.generate` returns them.

    Raises:
        ValueError: the configuration asks for another way of decoding than greedy or plain sampling.
    """
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "num_beams": 1}
    if any(getattr(how, name) not in (None, value) for name, value in plain.items()):
        raise ValueError(f"the short decoding loop is greedy or samples plainly, got {how}")
    temperature = how.temperature if how.do_sample else 0.0
    found = decode(model, *_distinct(input_ids, attention_mask), how.max_new_tokens, temperature, how.eos_token_id)
    completions = [torch.tensor(ids) for ids in found]
    return torch.cat([input_ids, pad_sequence(completions, batch_first=True, padding_value=how.pad_token_id)], 1)


def _forward(forward: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor, kept: int) -> Any:
    """The logits of the last `kept` tokens and of the one before them, (B, kept + 1, vocabulary), with gradients.

    The P distinct prompts are read first; then the completions go on from their keys and values, through which the
    gradient flows back into the prompts.
    """
    end = input_ids.shape[1] - kept
    ids, mask, which = _distinct(input_ids[:, :end], attention_mask[:, :end])
    prompts = forward(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
    cache = DynamicCache()
    for i, layer in enumerate(prompts.past_key_values.layers):
        cache.update(layer.keys.index_select(0, which), layer.values.index_select(0, which), i)
    output = forward(input_ids=input_ids[:, end:], attention_mask=attention_mask, past_key_values=cache, use_cache=True)
    output.logits = torch.cat([prompts.logits.index_select(0, which), output.logits], 1)
    return output
