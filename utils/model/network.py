"""A model of the Qwen2 kind with its weights laid out for decoding, and its forward pass in twenty lines.

Three layouts, chosen by what is at hand:

    merged    a small model in float32: adapters are added to their matrices, and matrices that read the same input are
              stacked
    packed    any other where memory has room for a second copy: stacked and put in the order in which oneDNN reads
              them, which it otherwise does at every call; adapters are multiplied beside, since bfloat16 rounds
              W + BA to eight bits and would swallow a young adapter
    plain     any other without that room: the model's own matrices, adapters beside

Packing costs a second, once for a model whose weights stay as they are. For a processor that has no products of
bfloat16 the packed weights are in float32, the same values, and what they give is rounded. A loss takes `plain`, where
adapters get gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from utils.setup import ram_bytes

SMALL = 50_000_000  # parameters; below, a copy of the weights for every call is cheap
LARGEST = 1_000_000_000  # parameters; beyond, two copies of the weights leave 8 GB too little for training
DTYPES = (torch.float32, torch.bfloat16)
READ_AT_ONCE = 32  # tokens for which oneDNN chooses the order of the weights; one order serves them all

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Apply = Callable[[Tensor], Tensor]


def suits(model: Any) -> bool:
    """Whether `Network` can stand in for the model: of the Qwen2 kind, on a CPU, not quantised, up to `LARGEST`."""
    config = model.config
    return (
        config.model_type == "qwen2"
        and not config.use_sliding_window
        and not config.rope_scaling
        and config.hidden_act == "silu"
        and getattr(config, "quantization_config", None) is None
        and model.device.type == "cpu"
        and model.dtype in DTYPES
        and all(parameter.dtype in DTYPES for parameter in model.parameters())
        and model.num_parameters() <= LARGEST
    )


@dataclass(frozen=True)
class Block:
    """One transformer block; H query heads, K key heads, D numbers a head, hidden size C, intermediate size F."""

    norm_1: Tensor  # (C,)
    qkv: Apply  # C -> (H + 2K) D
    out: Apply  # H D -> C
    norm_2: Tensor  # (C,)
    gate_up: Apply  # C -> 2 F
    down: Apply  # F -> C


class Network:
    """A model's weights in one of the layouts, and its forward pass for B rows of T tokens.

    Args:
        lay: `plain` where adapters need their gradients; else the fastest that there is room for.
    """

    def __init__(self, model: Any, lay: Callable[..., Apply] | None = None):
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        config, body = whole.config, whole.model
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.hidden_size // self.heads
        self.eps, self.rope = config.rms_norm_eps, body.rotary_emb
        self.embedding, self.norm = body.embed_tokens.weight, body.norm.weight
        self.small = model.num_parameters() <= SMALL and model.dtype == torch.float32
        lay = lay or (merged if self.small else packed if _packs(whole) else plain)
        self.head = lay(whole.lm_head)
        self.blocks = [
            Block(
                block.input_layernorm.weight,
                lay(block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj),
                lay(block.self_attn.o_proj),
                block.post_attention_layernorm.weight,
                lay(block.mlp.gate_proj, block.mlp.up_proj),
                lay(block.mlp.down_proj),
            )
            for block in body.layers
        ]

    def angles(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding, (positions, D) each."""
        cos, sin = self.rope(self.embedding, torch.arange(positions)[None])
        return cos[0], sin[0]

    def logits(self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Logits after the last of T tokens, (B, vocabulary); the arguments are those of `hidden`."""
        return self.head(self.normed(self.hidden(tokens, cos, sin, attend)[:, -1]))

    def normed(self, hidden: Tensor) -> Tensor:
        """What the output matrix is multiplied with."""
        return rms_norm(hidden, self.norm.shape, self.norm, self.eps)

    def hidden(self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """What the last block hands on.

        Args:
            tokens: (B, T).
            cos, sin: (B, T, D), the angles of the tokens' positions.
            attend: called in each block with (its index, queries (B, T, H, D), keys and values (B, T, K, D)); stores
                keys and values and returns what was attended to, (B, T, H, D).
        Returns:
            (B, T, C).
        """
        h, k, size, half = self.heads, self.key_heads, self.norm.shape, self.width // 2
        cos, sin = cos[:, :, None], sin[:, :, None]
        x = self.embedding[tokens]
        for i, w in enumerate(self.blocks):
            qkv = w.qkv(rms_norm(x, size, w.norm_1, self.eps))
            qkv = qkv.view(*tokens.shape, h + 2 * k, self.width)
            qk, value = qkv[:, :, : h + k], qkv[:, :, h + k :]
            qk = qk * cos + torch.cat((-qk[..., half:], qk[..., :half]), -1) * sin
            x = x + w.out(attend(i, qk[:, :, :h], qk[:, :, h:], value).reshape(*tokens.shape, -1))
            gate, up = w.gate_up(rms_norm(x, size, w.norm_2, self.eps)).chunk(2, -1)
            x = x + w.down(silu(gate) * up)
        return x


# ------------------------------------------------------------------------------------------------------------ layouts


def merged(*layers: Any) -> Apply:
    """The layers' matrices with their adapters added, W + scale B A, below each other."""
    weights = []
    for layer in layers:
        weight, deltas = _weight(layer), [layer.get_delta_weight(name) for name in _adapters(layer)]
        weights.append(weight + sum(deltas) if deltas else weight)
    weight, bias = _below(weights), _biases(layers)
    return lambda x: linear(x, weight, bias)


def plain(*layers: Any) -> Apply:
    """The layers as they are, and their outputs side by side."""
    each = [_beside(lambda x, m=m: linear(x, _weight(m), m.bias), [m]) for m in layers]
    return each[0] if len(each) == 1 else lambda x: torch.cat([apply(x) for apply in each], -1)


def packed(*layers: Any) -> Apply:
    """The layers' matrices below each other in oneDNN's order, made once for each state of their weights.

    The state is a sum over all bytes: PEFT merges adapters in place, behind the back of `Tensor._version`.
    """
    weights = [_weight(layer) for layer in layers]
    state = [int(weight.detach().flatten().view(torch.int64).sum()) for weight in weights]
    known = _PACKED.get(_bare(layers[0]))
    if known is None or known[0] != state:
        known = _PACKED[_bare(layers[0])] = state, _reordered(_below(weights))
    weight, bias = known[1], _biases(layers)
    return _beside(lambda x: _multiplied(x, weight, bias), layers, _reordered, _multiplied)


def _reordered(weight: Tensor) -> Tensor:
    """Weights in oneDNN's order; in float32, of the same values, where it has no products of their type."""
    dtype = weight.dtype if _multiplies(weight.dtype) else torch.float32
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), READ_AT_ONCE)


def _multiplied(x: Tensor, reordered: Tensor, bias: Tensor | None = None) -> Tensor:
    bias = bias if bias is None else bias.to(reordered.dtype)
    product = torch.ops.mkldnn._linear_pointwise(x.to(reordered.dtype), reordered, bias, "none", [], "")
    return product.to(x.dtype)


_PACKED: WeakKeyDictionary[Any, tuple[Any, Tensor]] = WeakKeyDictionary()  # by the first layer, and gone with it


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products of this type on this processor."""
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _packs(model: Any) -> bool:
    """Whether oneDNN is there, and memory holds the copy twice over, or the copy was made before."""
    if not torch.backends.mkldnn.is_available():
        return False
    copy = sum(parameter.nbytes for parameter in model.parameters()) * (1 if _multiplies(model.dtype) else 2)
    return _bare(model.lm_head) in _PACKED or ram_bytes() >= 2 * copy


def _beside(
    apply: Apply,
    layers: Sequence[Any],
    order: Callable[[Tensor], Tensor] = lambda weight: weight,
    multiply: Callable[[Tensor, Tensor], Tensor] = linear,
) -> Apply:
    """`apply` and what the layers' adapters add to it: the A of all of them stacked, their scaled B on a diagonal."""
    pairs = [(m, name) for m in layers for name in _adapters(m)]
    if not pairs:
        return apply
    dtype = _weight(layers[0]).dtype
    down = torch.cat([m.lora_A[name].weight for m, name in pairs]).to(dtype)
    none = [_weight(m).new_zeros(len(_weight(m)), 0) for m in layers]
    ups = [[m.scaling[name] * m.lora_B[name].weight for name in _adapters(m)] for m in layers]
    up = torch.block_diag(*(torch.cat([o, *u], 1) for o, u in zip(none, ups, strict=True))).to(dtype)
    down, up = order(down), order(up)
    return lambda x: apply(x) + multiply(multiply(x, down), up)


def _bare(layer: Any) -> Any:
    """The linear layer below its adapters."""
    return getattr(layer, "base_layer", layer)


def _weight(layer: Any) -> Tensor:
    return _bare(layer).weight


def _adapters(layer: Any) -> list[str]:
    """The adapters that a layer adds to its output at present."""
    if not hasattr(layer, "get_delta_weight") or layer.disable_adapters or layer.merged:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _below(weights: Sequence[Tensor]) -> Tensor:
    return weights[0] if len(weights) == 1 else torch.cat(list(weights))


def _biases(layers: Sequence[Any]) -> Tensor | None:
    return None if layers[0].bias is None else _below([layer.bias for layer in layers]).detach()
