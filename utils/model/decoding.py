"""A short decoding loop for small models of the Qwen2 kind: what an inference engine does, in its smallest form.

`model.generate` serves every model there is, and on a small one that generality takes most of the time. This loop gives
the same tokens several times faster (tests/benchmarks/decoding.py) by four ideas, which vLLM has, too:

    prefix sharing    the prompt of a group is read once, not once for each completion
    static cache      room for all keys and values is set aside at the start, and nothing is moved when a token comes
    fused weights     adapters are added to their matrices, and matrices that read the same input are stacked
    early leave       a completion that has ended leaves the batch, and the others go on without it

The trainer shares prompts, too. TRL hands the model every prompt as often as the group has completions, when it samples
and again when it computes the loss; on the profile tiny two thirds of all tokens are such repetitions. `share_prompts`
replaces `generate` and `forward` of one model object by functions that find the repetitions; what they return is the
same to float rounding (tests/model/test_prompt_sharing.py), so TRL's loss, and what is learnt, is too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from torch.nn.utils.rnn import pad_sequence

LARGEST = 50_000_000  # parameters; a larger model spends its time on arithmetic, and fused weights are a second copy
NOT_WRITTEN = -1
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
    network, cache = Network(model), Cache(attention_mask.bool(), prompt_of, cap)
    cos, sin = network.angles(input_ids.shape[1] + cap)
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    logits = network.logits(input_ids, cos[positions], sin[positions], cache.read_prompts)[prompt_of]
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


def _pick(logits: Tensor, temperature: float) -> Tensor:
    """One token a row: the most probable, or one drawn by running through the cumulated probabilities."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulated = (logits / temperature).softmax(-1).cumsum(-1)
    drawn = torch.rand(len(logits), 1) * cumulated[:, -1:]
    return (cumulated <= drawn).sum(-1).clamp(max=logits.shape[-1] - 1)


# --------------------------------------------------------------------------------------- a group's prompt is read once


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
