"""Load the policy of a profile: the language model that is trained, its tokenizer, and how it generates.

Three engines, tried in this order on a GPU profile, so that a session goes on with less rather than stops:

    unsloth+vllm    Unsloth's 4-bit model sharing its weights with vLLM, which generates
    unsloth         the same model, generating by itself
    transformers    plain transformers + PEFT, 4-bit through bitsandbytes on a GPU

CPU profiles use `transformers` only. Every engine trains the same algorithm with the same numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.profiles import Profile

ENGINES = ("unsloth+vllm", "unsloth", "transformers")
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Policy:
    """A loaded model with its tokenizer.

    Attributes:
        engine: the entry of `ENGINES` that loaded it.
        adapter: the folder of the LoRA adapter in use, None for the base model.
    """

    model: Any
    tokenizer: Any
    profile: Profile
    engine: str
    adapter: Path | None = None


def load_policy(profile: Profile, adapter: str | Path | None = None, notify: Callable[[str], None] = print) -> Policy:
    """Load base model and tokenizer, with a trained adapter on top where one is given.

    Args:
        profile: which model, in which precision.
        adapter: a folder that `run.py train` or `save_adapter` wrote.
        notify: receives one sentence whenever an engine had to be given up for the next one.
    Raises:
        FileNotFoundError, ValueError: the adapter is missing, unreadable or made for another model.
        RuntimeError: the machine cannot run the profile, or no engine could load it.
    """
    profile.check_machine()
    if adapter is not None:
        check_adapter(adapter)
    loaders = _gpu_loaders() if profile.unsloth else {"transformers": _load_transformers}
    for engine, load in loaders.items():
        try:
            model, tokenizer = load(profile)
        except Exception as error:  # whatever the engine's import or CUDA raised, the next engine is the mend
            if engine == list(loaders)[-1]:
                raise RuntimeError(
                    f"profile {profile.name}: {profile.model} could not be loaded with {engine} "
                    f"({type(error).__name__}: {error})"
                ) from error
            notify(
                f"{engine} is not available ({type(error).__name__}: {error}); "
                "going on with less: slower, same algorithm"
            )
        else:
            tokenizer.padding_side = "left"
            policy = Policy(model, tokenizer, profile, engine)
            return policy if adapter is None else with_adapter(policy, adapter)
    raise AssertionError("no engine to try")


def with_adapter(policy: Policy, folder: str | Path) -> Policy:
    """Put a trained adapter on a base model that is loaded already: the weights lie in memory once.

    Go on with what is returned: the model inside `policy` is changed (only vLLM takes the adapter with each request).

    Raises:
        FileNotFoundError, ValueError: the adapter is missing, unreadable or made for another model.
    """
    folder, model = check_adapter(folder), policy.model
    try:
        if policy.engine == "transformers":
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, folder).eval()
        elif policy.engine == "unsloth":
            model.load_adapter(str(folder), adapter_name="default")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the adapter in {folder} does not fit {policy.profile.model} ({str(error)[:200]} …); "
            "use the profile it was trained with"
        ) from error
    return Policy(model, policy.tokenizer, policy.profile, policy.engine, folder)


def check_adapter(folder: str | Path) -> Path:
    """Return `folder` as a path if it holds a readable LoRA adapter.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no adapter in {folder}: {name} is missing; give the folder that training wrote, "
                "e.g. runs/latest/adapter"
            )
    try:
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
            for key in tensors.keys():
                tensors.get_slice(key)
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"the adapter in {folder} is damaged ({error}); train again or use an earlier checkpoint"
        ) from error
    return folder


def _load_transformers(profile: Profile) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {
        "dtype": getattr(torch, profile.dtype),
        "trust_remote_code": False,
        "use_safetensors": True,
    }
    if torch.cuda.is_available():
        options["device_map"] = {"": 0}
        if profile.unsloth:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, profile.dtype),
            )
    elif torch.backends.mps.is_available():
        options["device_map"] = {"": "mps"}
    model = AutoModelForCausalLM.from_pretrained(profile.model, **options)
    return model.eval(), AutoTokenizer.from_pretrained(profile.model, trust_remote_code=False)


def _gpu_loaders() -> dict[str, Callable[[Profile], tuple[Any, Any]]]:
    return {
        "unsloth+vllm": lambda profile: _load_unsloth(profile, vllm=True),
        "unsloth": lambda profile: _load_unsloth(profile, vllm=False),
        "transformers": _load_transformers,
    }


def _load_unsloth(profile: Profile, vllm: bool) -> tuple[Any, Any]:
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    if vllm:
        import vllm  # noqa: F401  fails here, before any download, where vLLM is missing

        os.environ.setdefault("UNSLOTH_VLLM_STANDBY", "1")
        os.environ.setdefault("UNSLOTH_VLLM_NO_FLASHINFER", "1")
    import torch
    from unsloth import FastLanguageModel

    return FastLanguageModel.from_pretrained(
        model_name=profile.model,
        max_seq_length=profile.context_tokens,
        dtype=getattr(torch, profile.dtype),
        load_in_4bit=True,
        fast_inference=vllm,
        max_lora_rank=profile.lora_rank,
        gpu_memory_utilization=0.5,
    )


def add_lora(policy: Policy, seed: int) -> Any:
    """Put a fresh LoRA adapter on all linear layers of `policy.model` and return the model to train."""
    p = policy.profile
    if policy.engine.startswith("unsloth"):
        from unsloth import FastLanguageModel

        return FastLanguageModel.get_peft_model(
            policy.model,
            r=p.lora_rank,
            target_modules=LORA_TARGETS,
            lora_alpha=p.lora_alpha,
            lora_dropout=0.0,
            bias="none",
            use_gradient_checkpointing="unsloth",
            random_state=seed,
        )
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(seed)
    return get_peft_model(
        policy.model,
        LoraConfig(
            r=p.lora_rank,
            lora_alpha=p.lora_alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
        ),
    )
