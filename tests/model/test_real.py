"""A real model, in the folder that GRPO_REAL_MODEL names: the loop beside `model.generate`, and a step of training."""

import os

import pytest
from safetensors.torch import load_file

from tests.gpu.stand_in import hash_reward
from utils.data.questions import load_questions
from utils.files import read_jsonl
from utils.model.network import suits
from utils.model.policy import generate, load_policy
from utils.model.profiles import get_profile
from utils.training.grpo import build_trainer, run_training

MODEL = os.environ.get("GRPO_REAL_MODEL")
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL, reason=f"GRPO_REAL_MODEL is {MODEL!r}; set it to the folder of a real model"),
]


def profile(**changes):
    return get_profile("laptop", MODEL).replace(**changes)


def test_greedy_answers_are_those_of_generate(monkeypatch):
    policy = load_policy(profile(dtype="float32", max_completion_tokens=32))
    assert suits(policy.model)
    questions = load_questions("tiny", "test")[:4]
    found = generate(policy, questions)
    monkeypatch.setattr("utils.model.network.suits", lambda model: False)
    assert found == generate(policy, questions)
    assert all(sample.tokens for [sample] in found)


def test_a_step_of_training_changes_the_adapter(tmp_path):
    numbers = dict(steps=1, prompts_per_step=1, group_size=4, micro_batch=2, max_completion_tokens=16, warmup_steps=0)
    trainer = build_trainer(
        load_policy(profile(**numbers)), load_questions("tiny", "train")[:4], tmp_path, rewards={hash_reward: 1.0}
    )
    adapter = load_file(run_training(trainer).adapter / "adapter_model.safetensors")
    (line,) = read_jsonl(tmp_path / "log.jsonl")
    assert 0 < line["grad_norm"] < 100 and line["reward_std"] > 0 and line["completions/mean_length"] <= 16
    fresh = {name: tensor for name, tensor in adapter.items() if "lora_B" in name}  # 0 before the first step
    assert fresh and all(tensor.isfinite().all() and tensor.any() for tensor in fresh.values())
