"""How much memory a GRPO step takes, by part: arithmetic on a model's config, before the model is there.

Compared with measurements on a CPU (tests/training/test_preflight.py): weights, adapters, gradients, optimizer state
and the KV cache of transformers are exact, logits within 2%, the peak of the activations with TRL within 14%, and
without logits from 11% below the formula to 8% above it. Not measured, for only a GPU can show it: vLLM's KV cache,
Unsloth's activations and logits. The reserve is assumed.

    >>> from utils.model.profiles import PROFILES
    >>> parts = memory_model(SHAPES[QWEN_3B], PROFILES["t4"], "transformers")
    >>> size(parts["weights"]), size(parts["logits"])  # the model is not the largest part
    ('1.9 GiB', '6.4 GiB')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.model.decoding import WIDE
from utils.model.gguf_file import gguf_config
from utils.model.network import LARGEST, SMALL
from utils.model.policy import ENGINES, LORA_TARGETS
from utils.model.profiles import QWEN_05B, QWEN_3B, Profile, is_gguf
from utils.model.prompt_sharing import AT_ONCE
from utils.model.vllm_engine import GPU_SHARE

GIB = 2**30
_QWEN = {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
SHAPES = {  # from config.json on huggingface.co/Qwen
    QWEN_3B: _QWEN
    | {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "intermediate_size": 11008},
    QWEN_05B: _QWEN
    | {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "intermediate_size": 4864},
}
RESERVE = GIB  # GPU: CUDA context, kernels, gaps of the allocator; CPU: Python and its libraries
VLLM_SHARE = ((40, 0.879), (25, 0.855), (20, 0.784), (14, 0.76), (10, 0.736), (0, 0.713))  # from this many GiB on


def size(n: float) -> str:
    """Bytes for people, e.g. "3.0 GiB"."""
    return f"{n / GIB:.1f} GiB" if abs(n) >= GIB / 4 else f"{n / 2**20:.1f} MiB"


def model_config(model: str) -> dict[str, Any]:
    """The config of a profile's model, without a network: from its folder or file, or from `SHAPES`.

    Raises:
        ValueError: neither knows the model, or it is of another build than this arithmetic is about.
        ImportError: a .gguf file, without the package that reads it.
    """
    if Path(model).exists():
        from transformers import AutoConfig

        try:
            config = gguf_config(Path(model)) if is_gguf(model) else AutoConfig.from_pretrained(model)
        except OSError as error:
            raise ValueError(f"the model in {model} has no configuration that can be read: {error}") from error
        config = config.to_dict()
        if lacking := [name for name in SHAPES[QWEN_3B] if name not in config]:
            raise ValueError(f"{model} is a {config['model_type']} without {', '.join(lacking)}: not built as Qwen2 is")
        return config
    if model not in SHAPES:
        raise ValueError(
            f"no config of {model} is at hand: give the folder it was downloaded to, or {', '.join(SHAPES)}"
        )
    return SHAPES[model]


def _head_size(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def linears(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """{matrix: (inputs, outputs)} of one transformer layer of a Qwen2 model."""
    h, i, head = config["hidden_size"], config["intermediate_size"], _head_size(config)
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
    return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}


def parameters(config: dict[str, Any]) -> tuple[int, int]:
    """(elements of the layers' matrices, of all the rest: embeddings, biases of q, k and v, norms) of a Qwen2 model."""
    h, layers, matrices = config["hidden_size"], config["num_hidden_layers"], linears(config)
    embeddings = config["vocab_size"] * h * (1 if config["tie_word_embeddings"] else 2)
    biases = sum(matrices[name][1] for name in ("q_proj", "k_proj", "v_proj"))
    return layers * sum(a * b for a, b in matrices.values()), embeddings + layers * (biases + 2 * h) + h


def lora_tensors(config: dict[str, Any], rank: int) -> list[int]:
    """Elements of every LoRA tensor: A is rank x inputs, B is outputs x rank (Hu et al. 2021, section 4.1)."""
    return [rank * n for name in LORA_TARGETS for n in linears(config)[name]] * config["num_hidden_layers"]


def nf4_bytes(n: int) -> int:
    """n weights in 4 bits, with double quantisation: a byte per 64 of them, 4 per 64 * 256 (Dettmers et al. 2023,
    section 3)."""
    return n // 2 + n // 64 + 4 * math.ceil(n / 64 / 256)


def adam_bytes(tensors: Sequence[int], eight_bit: bool) -> int:
    """Adam's two running means, of 4 bytes each; in bitsandbytes' 8-bit Adam of 1 byte and 4 per block of 256, but
    not for tensors of fewer than 4,096 elements (its `min_8bit_size`)."""
    return sum(2 * (n + 4 * math.ceil(n / 256)) if eight_bit and n >= 4096 else 8 * n for n in tensors)


def vllm_share(gpu_bytes: int) -> float:
    """The share of a GPU that Unsloth lets vLLM have in standby (`load_vllm`, unsloth_zoo 2026.10.7)."""
    return next(share for gib, share in VLLM_SHARE if gpu_bytes >= gib * GIB)


def memory_model(
    config: dict[str, Any], profile: Profile, engine: str | None = None, gpu_bytes: int | None = None
) -> dict[str, int]:
    """Bytes by part of one GRPO step with LoRA, with every sequence as long as the profile allows.

    N completions in a micro-batch, C tokens in each, L = prompt + C; h hidden, i intermediate, k key (= value) size;
    r LoRA rank, V vocabulary; w bytes of the compute type:

    - weights: 4-bit `nf4_bytes` for the layers' matrices, 2 bytes for embeddings, biases and norms; else w for all.
      (A .gguf file is unpacked: w. Unsloth's "dynamic" files leave some matrices in 16 bit; that is not counted.)
      vLLM beside transformers takes no 4-bit ones and has its own: with `gpu_bytes` its share, which its cache is in.
    - adapters: 4 bytes (bfloat16 on 4-bit weights in plain TRL: 2), and 2 for vLLM's copy; gradients alike.
    - KV cache: 2 * layers * k * w for each token of all completions of a step. With vLLM and `gpu_bytes`: what its
      share leaves beside the weights; in standby it is given back while the model is trained.
    - activations: per token and layer 4 (5h + 4i + 6k + 7r) + 4L in float32, 22h + 8i + 12k + 14r + 2L under 16-bit
      autocast, and 4 per head (tensors that autograd saves). A CPU keeps them for all layers. On a GPU, gradient
      checkpointing keeps only each layer's input, hw (Unsloth: in RAM, but for two), and one layer at a time is
      computed anew; 3 gradients of width i, and a matrix out of 4 bit, come with it.
      Without logits (`completion_logps`, a CPU): per token and layer 30h + 16i + 28r in float32, 19h + 8i + 14r in
      bfloat16; and 2kw for each of the NL keys and values that the completions attend to.
    - logits: NCV of them, 16 bytes each in TRL (in float32: logits, a copy, two gradients). Unsloth's loss goes by 4N
      chunks: 2 bytes each, and 4 in the chunk at work (compiled, unsloth_zoo 2026.10.7). Without logits: those of
      `AT_ONCE` tokens, 8 + w bytes each.
    - packed weights: a second copy, in the order in which a CPU reads them, of a model above `SMALL` parameters.

    Args:
        config: a transformers config, see `model_config`.
        engine: one of `ENGINES`; unless given, the first that the profile tries.
        gpu_bytes: memory of the GPU; None on a CPU.
    """
    engine = engine or ENGINES[0 if profile.unsloth else -1]
    unsloth = engine.startswith("unsloth")
    four_bit = profile.unsloth and engine != "vllm+transformers" and not is_gguf(profile.model)
    w = 4 if profile.dtype == "float32" else 2
    h, i, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    k, heads, r = _head_size(config) * config["num_key_value_heads"], config["num_attention_heads"], profile.lora_rank
    length = profile.max_prompt_tokens + profile.max_completion_tokens
    matrices, rest = parameters(config)
    lora = lora_tensors(config, r)
    adapter = 2 if four_bit and not unsloth and profile.dtype == "bfloat16" else 4
    weights = nf4_bytes(matrices) + 2 * rest if four_bit else w * (matrices + rest)
    if engine == "vllm+transformers":
        weights += int(GPU_SHARE * gpu_bytes) if gpu_bytes else weights
    kv_cache = 2 * layers * k * w * length * profile.completions_per_step
    if engine == "unsloth+vllm" and gpu_bytes:
        kv_cache = max(0, int(vllm_share(gpu_bytes) * gpu_bytes) - weights)
    alone = not unsloth and not four_bit and not gpu_bytes and matrices + rest <= LARGEST
    alone = alone and config.get("model_type", "qwen2") == "qwen2"
    own = alone and config["vocab_size"] > WIDE
    tokens = profile.micro_batch * length
    saved = 4 * (5 * h + 4 * i + 6 * k + 7 * r) if w == 4 else 22 * h + 8 * i + 12 * k + 14 * r
    saved = tokens * (saved + w * length + 4 * heads)
    if own:
        prompts = min(profile.micro_batch, profile.prompts_per_step)
        read = profile.micro_batch * profile.max_completion_tokens + prompts * profile.max_prompt_tokens
        saved = read * (30 * h + 16 * i + 28 * r if w == 4 else 19 * h + 8 * i + 14 * r) + tokens * 2 * k * w
    one_layer = tokens * 3 * i * w
    if four_bit or gpu_bytes:
        kept = tokens * h * w * (2 if unsloth else layers)
        one_layer += saved + (2 * h * i if four_bit else 0)
    else:
        kept = layers * saved
    chunks = profile.micro_batch * max(4, length // 4096)
    logits = profile.micro_batch * profile.max_completion_tokens * config["vocab_size"]
    if not unsloth:
        logits = AT_ONCE * config["vocab_size"] * (8 + w) if own else logits * 16
    return {
        "weights": weights,
        "adapters": sum(lora) * (adapter + 2 * (engine == "unsloth+vllm")),
        "gradients": sum(lora) * adapter,
        "optimizer state": adam_bytes(lora, eight_bit=profile.unsloth),
        "KV cache": kv_cache,
        "activations kept": kept,
        "one layer": one_layer,
        "logits": int(logits * (2 + 4 / chunks)) if unsloth else logits,
        "packed weights": w * (matrices + config["vocab_size"] * h) if alone and matrices + rest > SMALL else 0,
        "reserve": RESERVE,
    }


def peak(parts: dict[str, int]) -> int:
    """Bytes at the worst moment. The KV cache (sampling) and the activations (training) are never there together,
    nor are the logits when the layers go backward."""
    training = parts["activations kept"] + max(parts["one layer"], parts["logits"])
    always = ("weights", "packed weights", "adapters", "gradients", "optimizer state", "reserve")
    return sum(parts[name] for name in always) + max(parts["KV cache"], training)
