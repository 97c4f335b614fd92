"""A trainer reads a group's prompt once, not once for each completion.

TRL hands the model every prompt as often as the group has completions, when it samples and again when it computes the
loss; on the profile tiny two thirds of all tokens are such repetitions. `share_prompts` replaces `generate` and
`forward` of one model object by functions that find the repetitions; what they return is the same to float rounding
(tests/model/test_prompt_sharing.py), so TRL's loss, and what is learnt, is too.

With Qwen's vocabulary of 151,936 the logits are the largest thing in a step, 1.9 GB for 16 completions of 200 tokens,
and as many again for each operation on them. `completion_logps` never has more than those of a few tokens at a time:
all that the loss needs of them is one number a token, whose gradient is known as soon as they are there. A narrow
vocabulary keeps TRL's own arithmetic, and with it what is recorded of the embedded model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from utils.model.decoding import WIDE, decode
from utils.model.network import Network, plain, suits

PROMPT, PADDING = -1, -2  # beside the numbers of the completions: whose a token is
AT_ONCE = 128  # tokens whose logits lie in memory together


def share_prompts(model: Any) -> None:
    """Let a model that `suits` read the prompts of its trainer once; other models are left as they are."""
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


@dataclass(frozen=True)
class Packed:
    """B completions of P distinct prompts, laid out so that each prompt stands once.

    Each prompt makes one row, and its completions stand behind it, end to end and without padding. A completion's token
    attends to the prompt and to its own completion up to itself, and its position counts from the prompt on.

    Attributes:
        ids, position: (P, W), tokens and their positions.
        seen: (P, 1, W, W), which token attends to which.
        there: (B, kept), the places of completions that hold a token.
        row, column: (B, kept), where each of these stands.
        end: the column behind the prompts.
    """

    ids: Tensor
    position: Tensor
    seen: Tensor
    there: Tensor
    row: Tensor
    column: Tensor
    end: int

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor, kept: int) -> Packed:
        """From B prompts padded on the left with completions of up to `kept` tokens padded on the right, (B, L)."""
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

        owner = packed(torch.where(mask.bool(), PROMPT, PADDING), torch.arange(len(which))[:, None])
        return cls(
            ids=packed(prompts, input_ids[:, end:]).clamp(min=0),
            position=packed(torch.arange(end), end + torch.arange(kept)),
            seen=((owner[:, None] == PROMPT) | (owner[:, None] == owner[:, :, None])).tril()[:, None],
            there=there,
            row=row,
            column=column,
            end=end,
        )


def _forward(forward: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor, kept: int) -> Any:
    """The logits of the last `kept` tokens and of the one before them, (B, kept + 1, vocabulary), with gradients.

    Logits after the end of a completion are those of some other token.
    """
    packed = Packed.of(input_ids, attention_mask, kept)
    last = packed.ids.shape[1] - packed.end
    output = forward(
        input_ids=packed.ids,
        attention_mask=packed.seen,
        position_ids=packed.position,
        logits_to_keep=last + 1,
        use_cache=False,
    )
    first = output.logits[packed.row[:, 0], :1]
    rest = output.logits[packed.row, (packed.column - packed.end + 1).clamp(max=last)]
    output.logits = torch.cat([first, rest], 1)
    return output


# ------------------------------------------------------------------------------------ log-probabilities without logits


def without_logits(model: Any) -> bool:
    """Whether `completion_logps` serves a model: a wide vocabulary, and an output matrix that nothing is trained on."""
    if not suits(model) or model.config.vocab_size <= WIDE:
        return False
    parameters = model.get_output_embeddings().parameters()  # more than one with an adapter
    return [parameter.requires_grad for parameter in parameters] == [False]


def completion_logps(
    model: Any, input_ids: Tensor, attention_mask: Tensor, kept: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every token of B completions, (B, kept) each, 0 behind their ends.

    Args:
        model: one that `without_logits` names, with or without an adapter.
        input_ids, attention_mask: (B, L), as TRL lays them out: the last `kept` columns are the completions.
        temperature: what logits are divided by, that of sampling.
    """
    network = Network(model, plain)
    flat = Flat(input_ids, attention_mask, kept, network.heads // network.key_heads, network.embedding.dtype)
    cos, sin = network.angles(input_ids.shape[1])
    hidden = network.hidden(flat.ids, cos[flat.position], sin[flat.position], flat.attend)
    predicting = network.normed(hidden[0, flat.before])
    weight, tokens = model.get_output_embeddings().weight, flat.ids[0, -len(predicting) :]
    found, there = TokenLogps.apply(predicting, weight, tokens, temperature), attention_mask[:, -kept:].bool()
    logps, entropies = (part.new_zeros(there.shape).masked_scatter(there, part) for part in found)
    return logps, entropies


class Flat:
    """The tokens of P distinct prompts and of B completions, one behind the other in a single row, without padding.

    What is done to each token by itself is done to the row. To attend, prompts and completions are laid out in rows of
    their own, those of the completions begin with the keys and values of their prompt, and the `together` query heads
    that share a key head stand below each other.

    Attributes:
        prompts, completions: (P, longest prompt) and (B, longest completion), the places that hold a token.
        ids, position: (1, T), tokens and their positions.
        before: for each token of a completion, which of the T tokens predicts it.
    """

    def __init__(self, input_ids: Tensor, attention_mask: Tensor, kept: int, together: int, dtype: torch.dtype):
        prompts, mask, self.prompt_of = _distinct(input_ids[:, :-kept], attention_mask[:, :-kept])
        lengths, there = mask.sum(1), attention_mask[:, -kept:].bool()
        end, kept = int(lengths.max()), int(there.sum(1).max())
        self.prompts, self.completions = mask[:, -end:].bool(), there[:, :kept]
        self.ids = torch.cat([prompts[mask.bool()], input_ids[:, -there.shape[1] :][there]])[None]
        own = [mask.cumsum(1)[:, -end:] - 1, lengths[self.prompt_of, None] + torch.arange(kept)]
        self.position = torch.cat([own[0][self.prompts], own[1][self.completions]])[None]
        self.place = [(each.flatten().cumsum(0) - 1).view_as(each) for each in (self.prompts, self.completions)]
        self.place[1] += int(lengths.sum())
        last = self.place[0][:, -1:][self.prompt_of]
        self.before = torch.cat([last, self.place[1][:, :-1]], 1)[self.completions]
        causal = torch.ones(end, end, dtype=torch.bool).tril()
        seen = causal & self.prompts[:, None] | torch.eye(end, dtype=torch.bool)
        whole = torch.ones(kept, kept, dtype=torch.bool).tril().expand(len(input_ids), -1, -1)
        prompt = self.prompts[self.prompt_of, None].expand(-1, kept, -1)
        unseen = [~each.repeat(1, together, 1)[:, None] for each in (seen, torch.cat([prompt, whole], 2))]
        self.bias = [torch.zeros(each.shape, dtype=dtype).masked_fill_(each, -torch.inf) for each in unseen]

    def attend(self, i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`Attend` of `Network`, for (1, T, heads, D)."""

        def rows(part: Tensor, which: int) -> Tensor:
            return part[0][self.place[which].clamp(min=0)].transpose(1, 2)  # (P or B, heads, tokens, D)

        def attended(which: int, key: Tensor, value: Tensor) -> Tensor:
            queries = rows(query, which)
            below = queries.reshape(len(queries), key.shape[1], -1, key.shape[3])
            found = scaled_dot_product_attention(below, key, value, self.bias[which])
            return found.view_as(queries).transpose(1, 2)

        first = [rows(part, 0) for part in (key, value)]
        both = [torch.cat([f[self.prompt_of], rows(p, 1)], 2) for f, p in zip(first, (key, value), strict=True)]
        return torch.cat([attended(0, *first)[self.prompts], attended(1, *both)[self.completions]])[None]


class TokenLogps(torch.autograd.Function):
    """log softmax(W h / t) at one token for each of N hidden states, and the entropy, with W kept fixed.

    The gradient of log p(y) with respect to h is (W[y] - sum of p(v) W[v] over the vocabulary) / t; it is computed
    beside the logits, and they are forgotten.
    """

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logps, entropies = torch.empty(2, len(hidden))
        gradient = torch.empty_like(hidden)
        low = hidden.new_empty(AT_ONCE, len(weight))  # filled again and again: new memory costs more than arithmetic
        logits, p = (torch.empty(low.shape) for _ in range(2))
        for part in torch.arange(len(hidden)).split(AT_ONCE):
            low, logits, p, chosen = low[: len(part)], logits[: len(part)], p[: len(part)], tokens[part]
            logits.copy_(torch.mm(hidden[part], weight.T, out=low)).div_(temperature)
            logits.sub_(logits.amax(-1, keepdim=True))
            total = torch.exp(logits, out=p).sum(-1)
            p.div_(total[:, None])
            logps[part] = logits.gather(1, chosen[:, None])[:, 0] - total.log()
            entropies[part] = total.log() - logits.mul_(p).sum(-1)
            gradient[part] = (weight[chosen] - low.copy_(p) @ weight) / temperature
        context.save_for_backward(gradient)
        context.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(context: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        return upstream[:, None].to(gradient.dtype) * gradient, None, None, None
