"""A short decoding loop for models of the Qwen2 kind up to 1 B: what an inference engine does, in its smallest form.

`model.generate` serves every model there is, and on a CPU that generality takes most of the time. This loop gives the
same tokens several times faster (tests/benchmarks/decoding.py) by four ideas, which vLLM has, too:

    prefix sharing    the prompt of a group is read once, not once for each completion, and what all prompts begin with
                      once for all of them
    static cache      room for all keys and values is set aside at the start, and nothing is moved when a token comes
    laid-out weights  matrices that read the same input are stacked, in the order in which they are read (`network`)
    early leave       a completion that has ended leaves the batch, and the others go on without it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from utils.model.network import Network

NOT_WRITTEN = -1
WIDE = 16_384  # tokens of a vocabulary; beyond, cumulating all of them for every token would take its time
LEAVE = 0.85  # the batch is packed anew when less than this share of it is still going


class Cache:
    """Keys and values of B rows, with room for `cap` tokens behind their prompts, which begin with `shared` tokens.

    Args:
        mask: (P, L), which places of the prompts hold a token.
        prompt_of: (B,), the prompt of each row.
        apart: keep what all prompts begin with once, and not in every row. A row's attention is then merged from two
            parts, which rounds otherwise.
    """

    def __init__(self, mask: Tensor, prompt_of: Tensor, cap: int, shared: int, apart: bool, dtype: torch.dtype):
        self.prompt_of, self.cap, self.end = prompt_of, cap, mask.shape[1]
        self.first = shared if apart else 0  # place at which the rows' own keys and values begin
        self.beginning: list[tuple[Tensor, Tensor]] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        unseen = ~torch.cat([mask, mask.new_ones(len(mask), cap)], 1)[:, self.first :]
        self.bias = torch.zeros(unseen.shape, dtype=dtype).masked_fill_(unseen, -torch.inf)[prompt_of, None, None]
        whole = torch.ones(self.end, self.end, dtype=torch.bool)
        causal = whole.tril() & mask[:, None] | torch.eye(self.end, dtype=torch.bool)
        self.causal = causal[:, None, shared:]  # (P, 1, end - shared, end)

    def read_beginning(self, i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What all prompts begin with attends to itself."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # (1, heads, shared, D)
        self.beginning.append((key, value))
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)

    def read_prompts(self, i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The P prompts attend to their beginning and to themselves; keys and values are laid out for all B rows."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # (P, heads, end - shared, D)
        if self.beginning:
            before = (part.expand(len(key), -1, -1, -1) for part in self.beginning[i])
            key, value = (torch.cat(parts, 2) for parts in zip(before, (key, value), strict=True))
        for store, part in ((self.keys, key), (self.values, value)):
            own = part[:, :, self.first :]
            room = part.new_empty(len(self.prompt_of), part.shape[1], own.shape[2] + self.cap, part.shape[3])
            room[:, :, : own.shape[2]] = own[self.prompt_of]
            store.append(room)
        return scaled_dot_product_attention(query, key, value, self.causal, enable_gqa=True).transpose(1, 2)

    def add_token(self, i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One token of each row attends to its prompt and to what was written since."""
        keys, values, new = self.keys[i], self.values[i], self.end - self.first
        keys[:, :, new], values[:, :, new] = key[:, 0], value[:, 0]
        rows, k = keys.shape[:2]
        query = query.view(rows, k, -1, query.shape[-1])  # queries that share a key head stand together
        own = keys[:, :, : new + 1], values[:, :, : new + 1], self.bias[..., : new + 1]
        if not self.first:
            return scaled_dot_product_attention(query, *own)
        together = query.transpose(0, 1).flatten(1, 2)[None]  # those of all rows
        common, weight = _attend(together, *self.beginning[i])
        common, weight = (part[0].unflatten(1, (rows, -1)).transpose(0, 1) for part in (common, weight))
        rest, rest_weight = _attend(query, *own)
        share = (weight - rest_weight).sigmoid_()[..., None]
        return rest.float().lerp(common.float(), share).to(rest.dtype)

    def keep(self, rows: Tensor) -> None:
        self.bias = self.bias[rows]
        for store in (self.keys, self.values):
            store[:] = [part[rows] for part in store]


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What is attended to, and the logarithm of the sum of its weights before they were normalised."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias)


@torch.inference_mode()
def decode(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    prompt_of: Tensor,
    cap: int,
    temperature: float,
    end_token: int | Sequence[int],
) -> list[list[int]]:
    """Sample completions of P prompts, or decode greedily.

    Args:
        model: one that `suits`, with or without a LoRA adapter.
        input_ids, attention_mask: (P, L), padded on the left.
        prompt_of: (B,), the prompt of each completion: [0, 0, 1, 1] asks for two completions of each of two prompts.
        cap: tokens a completion may have.
        temperature: 0 is greedy; otherwise every token may come, with the probability the model gives it.
        end_token: ends a completion, and stands in it; a model may declare several.
    Returns:
        B lists of token ids.
    """
    network = Network(model)
    logits, cache = _read(network, input_ids, attention_mask, prompt_of, cap)
    cos, sin = network.angles(input_ids.shape[1] + cap)
    position = attention_mask.sum(1)[prompt_of]
    rows, going = torch.arange(len(prompt_of)), torch.ones(len(prompt_of), dtype=torch.bool)
    ends, written = torch.tensor(end_token).view(-1), torch.full((len(prompt_of), cap), NOT_WRITTEN)
    for t in range(cap):
        token = _pick(logits, temperature)
        written[rows[going], t] = token[going]
        going &= ~torch.isin(token, ends)
        left = int(going.sum())
        if left == 0:
            break
        if left < LEAVE * len(rows):
            cache.keep(going)
            rows, token, position, going = rows[going], token[going], position[going], going[going]
        logits = network.logits(token[:, None], cos[position][:, None], sin[position][:, None], cache.add_token)
        cache.end, position = cache.end + 1, position + 1
    lengths = (written != NOT_WRITTEN).sum(1)
    return [row[:length] for row, length in zip(written.tolist(), lengths.tolist(), strict=True)]


def _read(network: Network, ids: Tensor, mask: Tensor, prompt_of: Tensor, cap: int) -> tuple[Tensor, Cache]:
    """Read the prompts: the logits of each row's first token, (B, vocabulary), and the cache to go on with."""
    shared = _shared(ids, mask)
    cos, sin = network.angles(ids.shape[1])
    order = mask.cumsum(1)  # 1 at a prompt's first token
    there = (order > shared) | (torch.arange(ids.shape[1]) < shared)
    cache = Cache(there, prompt_of, cap, shared, not network.small, network.embedding.dtype)
    if shared:
        first = ids[:1, mask[0].bool()][:, :shared]
        network.logits(first, cos[None, :shared], sin[None, :shared], cache.read_beginning)
    positions = (order[:, shared:] - 1).clamp(min=0)
    logits = network.logits(ids[:, shared:], cos[positions], sin[positions], cache.read_prompts)
    return logits[prompt_of], cache


def _shared(ids: Tensor, mask: Tensor) -> int:
    """How many tokens the prompts all begin with, less than the shortest has; 0 for a single prompt."""
    if len(ids) == 1:
        return 0
    prompts = pad_sequence([row[there] for row, there in zip(ids, mask.bool(), strict=True)], batch_first=True)
    alike = (prompts == prompts[0]).all(0)[: int(mask.sum(1).min()) - 1]
    return int(alike.cumprod(0).sum())


def _pick(logits: Tensor, temperature: float) -> Tensor:
    """One token a row: the most probable, or one drawn with its probability.

    From a wide vocabulary it is drawn in two stages: a block of tokens first, then one of that block.
    """
    if temperature == 0:
        return logits.float().argmax(-1)
    logits = logits.to(torch.float32, copy=True).div_(temperature)
    if logits.shape[-1] <= WIDE:
        return _draw(logits.softmax(-1))
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    blocks = weights.unflatten(-1, (_divisor(weights.shape[-1]), -1))
    block = _draw(blocks.sum(-1))
    return block * blocks.shape[-1] + _draw(blocks[torch.arange(len(blocks)), block])


def _divisor(n: int) -> int:
    """The largest one up to the square root."""
    return next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)


def _draw(weights: Tensor) -> Tensor:
    """An index a row, with a probability in proportion to its weight, by running through the cumulated weights."""
    cumulated = weights.cumsum(-1)
    drawn = torch.rand(len(weights), 1) * cumulated[:, -1:]
    return (cumulated <= drawn).sum(-1).clamp(max=weights.shape[-1] - 1)
