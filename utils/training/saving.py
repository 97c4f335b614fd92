"""What to do with a trained adapter: merge it into the model, write a GGUF file, publish it.

The adapter itself is written by `utils.training.grpo.save_adapter`. A merged model is loaded like any other:

    load_policy(profile.replace(model="runs/mine/merged", dtype="float16"))

Merging rounds the weights, and those trained on may have had 4 bits: ask both for the same answers (`agreement`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from utils.data.questions import Question
from utils.files import replace_folder, write_text
from utils.model.gguf_file import load_gguf
from utils.model.policy import Policy, check_adapter, generate
from utils.model.profiles import is_gguf


def save_merged(policy: Policy, folder: str | Path, dtype: str = "float16") -> Path:
    """Write base model and adapter as one model in safetensors, with its tokenizer.

    Args:
        policy: a trained policy, else ValueError. Unsloth merges its `model`, with the adapter on it; otherwise
            `adapter` is merged into the unquantised base, loaded once more, on the CPU.
        dtype: "float16", "bfloat16" or "float32"; Unsloth keeps that of the base model's files instead.
    """
    _check_trained(policy)
    folder = Path(folder).absolute()
    temporary = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(temporary, ignore_errors=True)
    if policy.engine.startswith("unsloth"):  # None: safetensors everywhere, where True means pickle on two cores
        options = {"save_method": "merged_16bit", "safe_serialization": None}
        policy.model.save_pretrained_merged(str(temporary), policy.tokenizer, **options)
    else:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if is_gguf(policy.profile.model):
            base = load_gguf(Path(policy.profile.model), getattr(torch, dtype))[0]
        else:
            how = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}
            base = AutoModelForCausalLM.from_pretrained(policy.profile.model, **how)
        merged = PeftModel.from_pretrained(base, check_adapter(policy.adapter)).merge_and_unload(safe_merge=True)
        merged.save_pretrained(temporary, safe_serialization=True)
        policy.tokenizer.save_pretrained(temporary)
    replace_folder(temporary, folder)
    return folder


def save_gguf(policy: Policy, folder: str | Path, method: str = "q4_k_m") -> list[Path]:
    """Write GGUF files for llama.cpp and return them; needs Unsloth (else RuntimeError), a network and GBs of disk."""
    if not policy.engine.startswith("unsloth"):
        raise RuntimeError(
            f"GGUF files are written through Unsloth, and this policy was loaded with {policy.engine}; where llama.cpp "
            "is at hand: save_merged(policy, 'merged'), then `python convert_hf_to_gguf.py merged --outtype f16 "
            f"--outfile f16.gguf` and `llama-quantize f16.gguf {method}.gguf {method}`"
        )
    _check_trained(policy)
    folder = str(Path(folder).absolute())
    done = policy.model.save_pretrained_gguf(folder, policy.tokenizer, quantization_method=method)
    return [Path(file) for file in done["gguf_files"]]


def _check_trained(policy: Policy) -> None:
    """Unsloth exports the model in memory; one loaded for vLLM has no adapter on it, for vLLM gets that by request."""
    unsloth = policy.engine.startswith("unsloth")
    if not (hasattr(policy.model, "merge_and_unload") if unsloth else policy.adapter):
        raise ValueError(
            f"this policy's {'model' if unsloth else 'adapter'} holds nothing trained; give the trained one: "
            "dataclasses.replace(policy, model=trainer.model, adapter=result.adapter)"
        )


def agreement(policy: Policy, other: Policy, questions: Sequence[Question]) -> float:
    """The share of questions that two policies answer greedily with the same text, from 0 to 1."""
    pairs = zip(generate(policy, questions), generate(other, questions), strict=True)
    return sum(a[0].text == b[0].text for a, b in pairs) / len(questions)


def push(folder: str | Path, repository: str, card: str, private: bool = True) -> str:
    """Upload a saved adapter or model with its card to the Hugging Face hub; return its address.

    Args:
        folder: as `save_adapter` or `save_merged` wrote it; the card becomes its README.md.
        repository: e.g. "your-name/your-model".
        card: Markdown, see `utils.evaluation.report.model_card`.

    The token is `HF_TOKEN`, from Colab's secrets or else from the environment; without one it raises RuntimeError.
    """
    from huggingface_hub import HfApi

    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to upload; save the adapter or the merged model first")
    try:
        from google.colab import userdata

        token = userdata.get("HF_TOKEN")
    except Exception:  # not on Colab, no such secret, or none for this notebook: Colab has a class of its own for each
        token = os.environ.get("HF_TOKEN")
    if not (token := (token or "").strip()):  # a line end in it would come back inside an error message
        raise RuntimeError(
            "no token for the hub; on Colab add the secret HF_TOKEN (the key on the left) and allow this notebook to "
            "read it, elsewhere set the variable HF_TOKEN"
        )
    api = HfApi(token=token)
    write_text(Path(folder) / "README.md", card)
    api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=str(folder))
    return f"https://huggingface.co/{repository}"
