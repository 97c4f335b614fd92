"""Small random models of the Qwen2 kind, and what transformers makes of their prompts, for the tests of this folder."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from utils.model.policy import LORA_TARGETS


def small(seed=None, **changes):
    """One block, 16 numbers wide; with a seed, weights so large that the next token is seldom in doubt."""
    numbers = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, max_window_layers=1)
    heads = dict(num_attention_heads=2, num_key_value_heads=1)
    if seed is None:
        return Qwen2ForCausalLM(Qwen2Config(**(numbers | heads | changes)))
    torch.manual_seed(seed)
    wide = dict(hidden_size=64, num_hidden_layers=3, vocab_size=97, initializer_range=0.3)
    model = Qwen2ForCausalLM(Qwen2Config(**(numbers | heads | wide | changes))).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def with_lora(model, rank=4, std=0.05, **changes):
    """The model under a fresh adapter that does something."""
    settings = {"r": rank, "lora_alpha": 2 * rank, "target_modules": LORA_TARGETS} | changes
    return stir(get_peft_model(model, LoraConfig(**settings)).eval(), std)


def stir(model, std=0.05):
    """Make adapters do something: B is zero in a fresh one, and with it A's gradient."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return model


def padded(*rows):
    """Token lists as (input_ids, attention_mask), padded on the left with 0."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def theirs(model, ids, mask, n=1, cap=64, end=2):
    """What `model.generate` decodes greedily, each row cut behind its end token."""
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids.repeat_interleave(n, 0),
            attention_mask=mask.repeat_interleave(n, 0),
            max_new_tokens=cap,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=0,
        )
    rows = output[:, ids.shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]
