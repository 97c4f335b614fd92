"""A short decoding loop for small models of the Qwen2 kind: what an inference engine does, in its smallest form.

`model.generate` serves every model there is, and on a small one that generality takes most of the time. This loop gives
the same tokens several times faster (tests/benchmarks/decoding.py) by four ideas, which vLLM has, too:

    prefix sharing    the prompt of a group is read once, not once for each completion
    static cache      room for all keys and values is set aside at the start, and nothing is moved when a token comes
    fused weights     adapters are added to their matrices, and matrices that read the same input are stacked
    early leave       a completion that has ended leaves the batch, and the others go on without it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

LARGEST = 50_000_000  # parameters; a larger model spends its time on arithmetic, and fused weights are a second copy
LEAVE = 0.85  # the batch is packed anew when less than this share of it is still going

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def suits(model: Any) -> bool:
    """Whether this loop can stand in for `model.generate`."""
    config = model.config
    return (
        config.model_type == "qwen2"
        and not config.use_sliding_window
        and not config.rope_scaling
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and model.num_parameters() <= LARGEST
    )


@dataclass(frozen=True)
class Block:
    """The weights of one transformer block; H query heads, K key heads, D numbers a head, hidden size C."""

    norm_1: Tensor  # (C,)
    qkv: Tensor  # ((H + 2K) D, C)
    qkv_bias: Tensor
    out: Tensor  # (C, H D)
    norm_2: Tensor  # (C,)
    gate_up: Tensor  # (2 F, C)
    down: Tensor  # (C, F)


class Network:
    """A model's weights, fused, and its forward pass for B rows of T tokens."""

    def __init__(self, model: Any):
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        config, body = whole.config, whole.model
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.hidden_size // self.heads
        self.eps, self.rope = config.rms_norm_eps, body.rotary_emb
        self.embedding, self.norm, self.head = body.embed_tokens.weight, body.norm.weight, whole.lm_head.weight
        self.blocks = [_fuse(block) for block in body.layers]

    def angles(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding, (positions, D) each."""
        cos, sin = self.rope(self.embedding, torch.arange(positions)[None])
        return cos[0], sin[0]

    def logits(self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Logits after the last of T tokens.

        Args:
            tokens: (B, T).
            cos, sin: (B, T, D), the angles of the tokens' positions.
            attend: called in each block with (its index, queries (B, T, H, D), keys and values (B, T, K, D)); stores
                keys and values and returns what was attended to, (B, T, H, D).
        Returns:
            (B, vocabulary).
        """
        h, k, size, half = self.heads, self.key_heads, self.norm.shape, self.width // 2
        cos, sin = cos[:, :, None], sin[:, :, None]
        x = self.embedding[tokens]
        for i, w in enumerate(self.blocks):
            qkv = linear(rms_norm(x, size, w.norm_1, self.eps), w.qkv, w.qkv_bias)
            qkv = qkv.view(*tokens.shape, h + 2 * k, self.width)
            qk, value = qkv[:, :, : h + k], qkv[:, :, h + k :]
            qk = qk * cos + torch.cat((-qk[..., half:], qk[..., :half]), -1) * sin
            x = x + linear(attend(i, qk[:, :, :h], qk[:, :, h:], value).reshape(*tokens.shape, -1), w.out)
            gate, up = linear(rms_norm(x, size, w.norm_2, self.eps), w.gate_up).chunk(2, -1)
            x = x + linear(silu(gate) * up, w.down)
        return linear(rms_norm(x[:, -1], size, self.norm, self.eps), self.head)


def _fuse(block: Any) -> Block:
    attention, mlp = block.self_attn, block.mlp
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Block(
        block.input_layernorm.weight,
        torch.cat([_weight(m) for m in qkv]),
        torch.cat([m.bias for m in qkv]),
        _weight(attention.o_proj),
        block.post_attention_layernorm.weight,
        torch.cat([_weight(mlp.gate_proj), _weight(mlp.up_proj)]),
        _weight(mlp.down_proj),
    )


def _weight(module: Any) -> Tensor:
    """The matrix of a linear layer with its LoRA adapters added: W + scale B A."""
    if not hasattr(module, "get_delta_weight") or module.disable_adapters or module.merged:
        return module.weight
    return module.weight + sum(module.get_delta_weight(name) for name in module.active_adapters)


class Cache:
    """Keys and values of B rows, with room for `cap` tokens behind their prompts."""

    def __init__(self, mask: Tensor, prompt_of: Tensor, cap: int):
        self.prompt_of, self.cap, self.end = prompt_of, cap, mask.shape[1]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        seen = torch.cat([mask, mask.new_ones(len(mask), cap)], 1)
        self.seen = seen[prompt_of, None, None]  # (B, 1, 1, end + cap)
        whole = torch.ones(self.end, self.end, dtype=torch.bool)
        self.causal = (whole.tril() & mask[:, None] | torch.eye(self.end, dtype=torch.bool))[:, None]

    def read_prompts(self, i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The P prompts attend to themselves once; their keys and values are laid out for all B rows."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # (P, heads, end, D)
        for store, part in ((self.keys, key), (self.values, value)):
            room = part.new_empty(len(self.prompt_of), part.shape[1], self.end + self.cap, part.shape[3])
            room[:, :, : self.end] = part[self.prompt_of]
            store.append(room)
        return scaled_dot_product_attention(query, key, value, self.causal, enable_gqa=True).transpose(1, 2)

    def add_token(self, i: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One token of each row attends to its prompt and to what was written since."""
        keys, values, new = self.keys[i], self.values[i], self.end
        keys[:, :, new], values[:, :, new] = key[:, 0], value[:, 0]
        rows, k = keys.shape[:2]
        query = query.view(rows, k, -1, query.shape[-1])  # queries that share a key head stand together
        seen = self.seen[..., : new + 1]
        return scaled_dot_product_attention(query, keys[:, :, : new + 1], values[:, :, : new + 1], seen)

    def keep(self, rows: Tensor) -> None:
        self.seen = self.seen[rows]
        for store in (self.keys, self.values):
            store[:] = [part[rows] for part in store]


@torch.inference_mode()
def decode(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    prompt_of: Tensor,
    cap: int,
    temperature: float,
    end_token: int,
) -> list[list[int]]:
    """Sample completions of P prompts, or decode greedily.

    Args:
        model: one that `suits`, with or without a LoRA adapter.
        input_ids, attention_mask: (P, L), padded on the left.
        prompt_of: (B,), the prompt of each completion: [0, 0, 1, 1] asks for two completions of each of two prompts.
        cap: tokens a completion may have.
        temperature: 0 is greedy; otherwise every token may come, with the probability the model gives it.
        end_token: ends a completion, and stands in it.
    Returns:
        B lists of token ids.
    """
    network, cache = Network(model), Cache(attention_mask.bool(), prompt_of, cap)
    cos, sin = network.angles(input_ids.shape[1] + cap)
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    logits = network.logits(input_ids, cos[positions], sin[positions], cache.read_prompts)[prompt_of]
    position = attention_mask.sum(1)[prompt_of]
    rows, going = torch.arange(len(prompt_of)), torch.ones(len(prompt_of), dtype=torch.bool)
    written = torch.full((len(prompt_of), cap), end_token)
    for t in range(cap):
        token = _pick(logits, temperature)
        written[rows[going], t] = token[going]
        going &= token != end_token
        left = int(going.sum())
        if left == 0:
            break
        if left < LEAVE * len(rows):
            cache.keep(going)
            rows, token, position, going = rows[going], token[going], position[going], going[going]
        logits = network.logits(token[:, None], cos[position][:, None], sin[position][:, None], cache.add_token)
        cache.end, position = cache.end + 1, position + 1
    lengths = (written != end_token).sum(1) + 1
    return [row[:length] for row, length in zip(written.tolist(), lengths.tolist(), strict=True)]


def _pick(logits: Tensor, temperature: float) -> Tensor:
    """One token a row: the most probable, or one drawn by running through the cumulated probabilities."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulated = (logits / temperature).softmax(-1).cumsum(-1)
    drawn = torch.rand(len(logits), 1) * cumulated[:, -1:]
    return (cumulated <= drawn).sum(-1).clamp(max=logits.shape[-1] - 1)
