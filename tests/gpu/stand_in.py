"""Stand-ins for what a machine without a network cannot download: Qwen2.5's shapes with random weights, full prompts.

Memory and speed depend on shapes and lengths, not on what the weights know. So a model of the exact shape, but drawn
at random, takes what the real one takes; a random model almost never samples the end token (1 in 151,936), so its
completions run to the cap, the worst case. The tokenizer is the embedded model's: its 686 ids are ids of the larger
vocabulary too, and sampled ids beyond them decode to nothing.
"""

from __future__ import annotations

import shutil
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from utils.data.prompts import prompt_tokens
from utils.data.questions import Question
from utils.model.profiles import PROFILES, QWEN_3B, Profile
from utils.training.memory import SHAPES

TOKENIZER = Path(PROFILES["tiny"].model)
QWEN = {  # beside the shape; from the same config.json
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "use_sliding_window": False,
    "eos_token_id": 2,  # the tokenizer's, not Qwen's
    "pad_token_id": 0,
}
SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 2048,
    "tie_word_embeddings": True,
}
SHARD = "2GB"
CONFIGS = {"qwen2.5-3b": SHAPES[QWEN_3B], "qwen2.5-0.5b": SHAPES["Qwen/Qwen2.5-0.5B-Instruct"], "small": SMALL}


def random_model(shape: str, folder: Path, device: str) -> int:
    """Write a model of that shape with random weights (bfloat16, as Qwen ships them) and a tokenizer into `folder`.

    Returns:
        How many parameters it has.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    set_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2ForCausalLM(Qwen2Config.from_dict(QWEN | CONFIGS[shape]))
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size=SHARD)
    for file in TOKENIZER.iterdir():
        if file.name.startswith(("token", "special_tokens", "chat_template")):
            shutil.copy(file, folder)
    return sum(p.numel() for p in model.parameters())


def proof_profile(shape: str, folder: Path, steps: int, on_gpu: bool) -> Profile:
    """Profile t4 with the random model: its real lengths, group and dtype.

    The small shape has short ones; without a GPU it is in float32, not in 4 bit, which proves the script alone.
    """
    profile = PROFILES["t4"].replace(model=str(folder), steps=steps, save_every=steps)
    if shape == "small":
        profile = profile.replace(
            prompts_per_step=2,
            group_size=4,
            max_prompt_tokens=128,
            max_completion_tokens=32,
            context_tokens=160,
            prompt="words",
        )
    return profile if on_gpu else profile.replace(unsloth=False, dtype="float32")


def full_prompts(questions: Sequence[Question], tokenizer: Any, tokens: int, system: str) -> list[Question]:
    """The questions with their text repeated, word by word, until each prompt has `tokens` tokens (or one word less).

    Raises:
        ValueError: a question is too long as it is.
    """

    def length(text: str) -> int:
        return prompt_tokens(tokenizer, text, system)

    longer = []
    for q in questions:
        words = q.question.split()
        if length(q.question) > tokens:
            raise ValueError(f"a prompt has {length(q.question)} tokens already, more than {tokens}: {q.question!r}")
        text = [" ".join(islice(cycle(words), n)) for n in range(len(words), len(words) + tokens)]
        longer.append(Question(text[bisect_right(text, tokens, key=length) - 1], q.gold, q.row))
    return longer


def hash_reward(completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A number in [0, 1) from a completion's ids: a random model is never right, and equal rewards teach nothing.

    It differs inside each group, so advantages and gradients are as large as in a real run.
    """
    return [zlib.crc32(repr(ids).encode("ascii")) / 2**32 for ids in completion_ids]
