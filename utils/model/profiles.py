"""Profiles: the numbers a learner changes, one small set for each kind of machine.

The code path is the same for all of them; only these numbers differ. `GRPO_PROFILE` names the one to use, "tiny" where
it is not set, and `GRPO_MODEL` replaces the model of whatever profile `get_profile` gives; `PROFILES` holds them as
they are, for what was recorded with them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from utils.data.prompts import PROMPTS
from utils.files import ROOT

QWEN_3B = "Qwen/Qwen2.5-3B-Instruct"
QWEN_05B = "Qwen/Qwen2.5-0.5B-Instruct"


@dataclass(frozen=True)
class Profile:
    """Model, budget and training numbers for one kind of machine.

    Raises:
        ValueError: a combination that cannot run, with the mend.
    """

    name: str
    model: str  # folder, .gguf file or hub name
    dataset: str  # "tiny" or "gsm8k"
    dtype: str  # "float32", "float16" or "bfloat16"
    steps: int  # optimizer steps
    prompts_per_step: int  # questions sampled for one optimizer step
    group_size: int  # completions sampled per question
    micro_batch: int  # completions in one forward and backward pass
    learning_rate: float
    max_prompt_tokens: int
    max_completion_tokens: int
    context_tokens: int  # what the model is loaded for: prompt + completion
    prompt: str = "layout and example"  # entry of `PROMPTS`
    solution_steps: int | None = None  # most that the written solution of a training question may have
    unsloth: bool = False  # 4-bit weights through Unsloth, vLLM for generation
    lora_rank: int = 16
    lora_alpha: int = 32
    max_grad_norm: float = 0.1
    warmup_steps: int = 5
    lr_power: float = 1.0  # after the warm-up the learning rate falls as (share of the steps left) ** lr_power
    beta: float = 0.0  # weight of the KL term; 0 trains without a reference model
    temperature: float = 1.0  # of sampling in training; evaluation is greedy
    save_every: int = 25  # optimizer steps between checkpoints
    eval_batch: int = 32  # prompts in one batch of greedy decoding

    @property
    def system_prompt(self) -> str:
        return PROMPTS[self.prompt]

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.group_size

    def __post_init__(self) -> None:
        for field in (
            "steps",
            "prompts_per_step",
            "micro_batch",
            "lora_rank",
            "save_every",
            "eval_batch",
            "max_prompt_tokens",
            "max_completion_tokens",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"profile {self.name}: {field} must be at least 1, got {getattr(self, field)}")
        if self.prompt not in PROMPTS:
            raise ValueError(f"profile {self.name}: prompt must be one of {', '.join(PROMPTS)}, got {self.prompt!r}")
        if self.group_size < 2:
            raise ValueError(
                f"profile {self.name}: group_size must be at least 2, got {self.group_size}: "
                "an advantage compares completions of one group"
            )
        if self.completions_per_step % self.micro_batch:
            raise ValueError(
                f"profile {self.name}: micro_batch {self.micro_batch} does not divide the {self.completions_per_step} "
                f"completions of a step ({self.prompts_per_step} prompts x {self.group_size}); "
                "set micro_batch to a divisor"
            )
        if self.max_prompt_tokens + self.max_completion_tokens > self.context_tokens:
            raise ValueError(
                f"profile {self.name}: {self.max_prompt_tokens} prompt + {self.max_completion_tokens} completion "
                f"exceed context_tokens {self.context_tokens}; raise context_tokens or lower the other two"
            )
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"profile {self.name}: dtype must be float32, float16 or bfloat16, got {self.dtype!r}")
        if self.lr_power < 0:
            raise ValueError(f"profile {self.name}: lr_power must not be negative, got {self.lr_power}; 1 falls evenly")
        if self.beta < 0:
            raise ValueError(f"profile {self.name}: beta must not be negative, got {self.beta}")
        if self.temperature <= 0:
            raise ValueError(
                f"profile {self.name}: temperature must be positive, got {self.temperature}: "
                "a group sampled greedily holds the same completion several times"
            )

    def replace(self, **changes: object) -> Profile:
        """A copy with some numbers changed, checked again."""
        return dataclasses.replace(self, **changes)

    def check_machine(self) -> None:
        """Refuse what the machine at hand cannot run.

        Raises:
            RuntimeError: no GPU for a profile that needs one, or bfloat16 on a GPU without it.
        """
        import torch

        if self.unsloth and not torch.cuda.is_available():
            raise RuntimeError(
                f"profile {self.name} needs an NVIDIA GPU and none was found; on Colab choose "
                "Runtime > Change runtime type > T4 GPU, elsewhere set GRPO_PROFILE=tiny"
            )
        if self.dtype == "bfloat16" and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8:
            raise RuntimeError(
                f"profile {self.name} computes in bfloat16, which {torch.cuda.get_device_name()} lacks; "
                "use the profile t4 (float16)"
            )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(  # how step size, rate and temperature were chosen: assets/runs/FINDINGS.md
            "tiny",
            str(ROOT / "assets" / "tiny_model"),
            "tiny",
            "float32",
            steps=160,
            prompts_per_step=2,
            group_size=8,
            micro_batch=16,
            learning_rate=2e-3,
            max_prompt_tokens=1024,
            max_completion_tokens=96,
            context_tokens=2048,
            prompt="words",
            max_grad_norm=1.0,
            warmup_steps=0,
            lr_power=2.0,
            temperature=0.7,
            save_every=40,
            eval_batch=256,
        ),
        Profile(
            "laptop",
            QWEN_05B,
            "gsm8k",
            "bfloat16",
            steps=150,
            prompts_per_step=4,
            group_size=8,
            micro_batch=4,
            learning_rate=1e-4,
            max_prompt_tokens=400,
            max_completion_tokens=256,
            temperature=0.7,
            solution_steps=3,
            context_tokens=1024,
            lora_rank=8,
            lora_alpha=16,
            save_every=10,
            eval_batch=64,
        ),
        Profile(
            "t4",
            QWEN_3B,
            "gsm8k",
            "float16",
            steps=250,
            prompts_per_step=4,
            group_size=8,
            micro_batch=4,
            learning_rate=1e-5,
            max_prompt_tokens=320,
            max_completion_tokens=704,
            context_tokens=1024,
            unsloth=True,
            save_every=10,
        ),
        Profile(
            "l4",
            QWEN_3B,
            "gsm8k",
            "bfloat16",
            steps=400,
            prompts_per_step=8,
            group_size=8,
            micro_batch=8,
            learning_rate=1e-5,
            max_prompt_tokens=320,
            max_completion_tokens=1024,
            context_tokens=1536,
            unsloth=True,
            lora_rank=32,
            lora_alpha=64,
            save_every=20,
            eval_batch=64,
        ),
        Profile(
            "a100",
            QWEN_3B,
            "gsm8k",
            "bfloat16",
            steps=500,
            prompts_per_step=32,
            group_size=8,
            micro_batch=16,
            learning_rate=2e-5,
            max_prompt_tokens=320,
            max_completion_tokens=1024,
            context_tokens=1536,
            unsloth=True,
            lora_rank=64,
            lora_alpha=128,
            save_every=20,
            eval_batch=128,
        ),
    )
}


def get_profile(name: str, model: str | None = None) -> Profile:
    """The profile of that name, with `model`, else the one in `GRPO_MODEL`, in the place of its own; see `find_model`.

    Raises:
        ValueError: no such profile, or no such model.
    """
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}")
    model = model or os.environ.get("GRPO_MODEL")
    profile = PROFILES[name].replace(model=find_model(model)) if model else PROFILES[name]
    if profile.dtype == "bfloat16" and not profile.unsloth and not _has_bfloat16():
        return profile.replace(dtype="float32")
    return profile


def _has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 itself; what only imitates it is slower than float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def is_gguf(model: str | Path) -> bool:
    """Whether a model is one file of llama.cpp's format, by its name."""
    return str(model).lower().endswith(".gguf")


def is_local(model: str) -> bool:
    """Whether a model lies on this machine, as opposed to a name of the hub."""
    return os.path.isabs(model)


def find_model(text: str) -> str:
    """The absolute path of a model's folder or .gguf file, or a hub name as it is; nothing is imported or read through.

    Raises:
        ValueError: nothing is there, or what is there cannot be a model; names the mend.
    """
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if path.is_dir():
        if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            return str(path)
        lacks = "weights in safetensors" if (path / "config.json").is_file() else "config.json"
        mend = "copy it again, whole, or give a model that has them"
        if (path / "adapter_config.json").is_file():
            mend = "it is an adapter: give the model that it was trained on, and this with --adapter"
        elif files := sorted(path.glob("*.gguf")):
            mend = f"for the file in it, give {files[0]}"
        raise ValueError(f"the model folder {path} holds no {lacks}; {mend}")
    if path.is_file():
        with path.open("rb") as file:
            if is_gguf(path) and file.read(4) == b"GGUF":
                return str(path)
        raise ValueError(
            f"the model file {path} is no GGUF; give a file NAME.gguf, or the folder that holds config.json"
        )
    if is_gguf(text) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text):
        raise ValueError(
            f"there is no model {text!r} (looked from {os.getcwd()}): give a folder with config.json and safetensors, "
            "a .gguf file, or a hub name such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    return text


def pick_profile() -> str:
    """`GRPO_PROFILE` where it is set, else "tiny": nobody starts hours of work without having asked for them.

    Raises:
        ValueError: no such profile, or no such model in `GRPO_MODEL`.
    """
    return get_profile(os.environ.get("GRPO_PROFILE") or "tiny").name


def gpu_profile() -> str | None:
    """The profile made for the GPU found, which takes hours; None without a GPU that can run one."""
    import torch

    if not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(0)
    gib = gpu.total_memory / 2**30
    if gib < 14 or (gpu.major, gpu.minor) < (7, 5):
        return None
    if gpu.major < 8:
        return "t4"
    return "a100" if gib > 38 else "l4"
