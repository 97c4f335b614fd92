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


PROMPT, PADDING = -1, -2  # beside the numbers of the completions: whose a token is


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

    Each of the P distinct prompts makes one row, and its completions stand behind it, end to end and without padding. A
    completion's token attends to the prompt and to its own completion up to itself, and its position counts from the
    prompt on. Logits after the end of a completion are those of some other token.
    """
    end = input_ids.shape[1] - kept
    prompts, mask, which = _distinct(input_ids[:, :end], attention_mask[:, :end])
    there = attention_mask[:, end:].bool()
    lengths, same = there.sum(1), which[:, None] == which
    start = end + (same.tril(-1) * lengths).sum(1)  # behind the completions that come earlier in the row
    width = end + int((same * lengths).sum(1).max())
    row, column = which[:, None].expand_as(there), start[:, None] + torch.arange(kept)

    def packed(of_prompts: Tensor, of_completions: Tensor) -> Tensor:
        tokens = prompts.new_full((len(prompts), width), PADDING)
        tokens[:, :end] = of_prompts
        tokens[row[there], column[there]] = of_completions.expand_as(there)[there]
        return tokens

    ids = packed(prompts, input_ids[:, end:]).clamp(min=0)
    position = packed(torch.arange(end), end + torch.arange(kept))
    owner = packed(torch.where(mask.bool(), PROMPT, PADDING), torch.arange(len(which))[:, None])
    seen = ((owner[:, None] == PROMPT) | (owner[:, None] == owner[:, :, None])).tril()
    output = forward(
        input_ids=ids,
        attention_mask=seen[:, None],
        position_ids=position,
        logits_to_keep=width - end + 1,
        use_cache=False,
    )
    first, rest = output.logits[which, :1], output.logits[row, (column - end + 1).clamp(max=width - end)]
    output.logits = torch.cat([first, rest], 1)
    return output
