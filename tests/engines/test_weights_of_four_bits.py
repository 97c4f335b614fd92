"""4-bit weights (NF4, bitsandbytes) on a CPU: loaded, given an adapter, trained, saved, and loaded again."""

import importlib.util

import pytest
import torch

from utils.data.questions import load_questions
from utils.model.network import suits
from utils.model.policy import Policy, _load_transformers, generate, load_policy, with_adapter
from utils.model.profiles import PROFILES
from utils.training.grpo import build_trainer, run_training, training_questions
from utils.training.saving import agreement, save_merged

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        importlib.util.find_spec("bitsandbytes") is None,
        reason="bitsandbytes is not installed; `python3 run.py test --engines` makes an environment that has it",
    ),
]

TINY = PROFILES["tiny"].replace(steps=10)
FEW = load_questions("tiny", "test")[:32]


def four_bit() -> Policy:
    """The tiny model as `transformers` loads a GPU profile's."""
    return Policy(*_load_transformers(TINY, four_bit=True), TINY, "transformers")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    policy = four_bit()
    questions = training_questions(TINY, policy.tokenizer)
    trainer = build_trainer(policy, questions, tmp_path_factory.mktemp("run"), settings={"optim": "adamw_8bit"})
    return trainer, run_training(trainer)


def test_the_matrices_have_four_bits_and_our_loop_leaves_them_alone(record_property):
    model, whole = four_bit().model, load_policy(TINY).model
    kinds = {type(layer.q_proj).__name__ for layer in (block.self_attn for block in model.model.layers)}
    assert kinds == {"Linear4bit"} and not suits(model) and suits(whole)
    bytes_of = [each.get_memory_footprint() for each in (model, whole)]
    record_property("bytes", f"{bytes_of[0]:,} of {bytes_of[1]:,}")


def test_ten_steps_train_the_adapter(trained):
    trainer, result = trained
    assert result.finished and [line["step"] for line in result.history] == list(range(1, 11))
    assert max(line["grad_norm"] for line in result.history) > 0
    moved = [p.abs().max() for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert len(moved) == 28 and all(torch.isfinite(each) and each > 0 for each in moved)


def test_what_was_saved_answers_as_what_was_trained(trained, record_property):
    trainer, result = trained
    in_memory = Policy(trainer.model.eval(), trainer.processing_class, TINY, "transformers")
    loaded = with_adapter(four_bit(), result.adapter)
    record_property("equal", f"{(share := agreement(in_memory, loaded, FEW)):.0%}")
    assert share == 1 and generate(loaded, FEW) != generate(four_bit(), FEW)


def test_merged_into_whole_weights_it_answers_mostly_alike(trained, tmp_path, record_property):
    _, result = trained
    loaded = with_adapter(four_bit(), result.adapter)
    merged = load_policy(TINY.replace(model=str(save_merged(loaded, tmp_path / "merged", "float32"))))
    record_property("equal", f"{(share := agreement(loaded, merged, FEW)):.0%}")
    assert 0.2 < share, "4 bits round the weights that the adapter was trained on"
