"""vLLM itself: it answers as our loop and `generate` do, trains as our loop does, and goes on where it stopped."""

import dataclasses
import importlib.util
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from utils.data.questions import load_questions
from utils.evaluation.evaluate import evaluate, judge, rate, rates
from utils.files import ROOT
from utils.model import policy as policies
from utils.model.policy import Policy, generate, load_policy, with_adapter
from utils.model.profiles import PROFILES
from utils.stats import percent
from utils.training.grpo import build_trainer, run_training, training_questions
from utils.training.saving import agreement, save_merged

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed; `python3 run.py test --engines` makes an environment that has it",
    ),
]

TINY = PROFILES["tiny"]
ADAPTER = ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter"
QUESTIONS = load_questions("tiny", "test")
FEW, MANY = QUESTIONS[:32], QUESTIONS[:256]
STEPS = 20


@pytest.fixture(scope="module")
def beside():
    """The tiny model with vLLM beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_ENGINE", "vllm+transformers")
        return load_policy(TINY, notify=pytest.fail)


def ours(adapter=None) -> Policy:
    policy = load_policy(TINY, adapter)
    assert policy.engine == "transformers"
    return policy


def zeroed(folder, adapter=ADAPTER):
    """A copy of an adapter that changes nothing: its B is 0."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    tensors = {name: t * 0 if "lora_B" in name else t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["base", "adapter"])
@pytest.mark.parametrize("loop", [True, False], ids=["our loop", "generate"])
def test_greedy_answers_are_the_same(beside, monkeypatch, adapter, loop, record_property):
    monkeypatch.setattr("utils.model.network.suits", lambda model: loop)
    expected = generate(ours(adapter), FEW)
    found = generate(with_adapter(beside, adapter) if adapter else beside, FEW)
    record_property("equal", f"{sum(a == b for a, b in zip(found, expected, strict=True))} of {len(FEW)}")
    assert found == expected


def test_an_adapter_does_not_answer_from_the_cache_of_another(beside, tmp_path):
    before, trained = generate(beside, FEW[:8]), generate(with_adapter(beside, ADAPTER), FEW[:8])
    assert generate(with_adapter(beside, zeroed(tmp_path / "zeroed")), FEW[:8]) == before != trained


def test_several_samples_differ_and_are_as_often_right_as_ours(beside, record_property):
    torch.manual_seed(0)
    found, expected = (generate(policy, FEW, temperature=1.0, n=8) for policy in (beside, ours()))
    assert all(len(group) == 8 for group in found) and len({sample.text for sample in found[0]}) > 1
    right = [
        rate(sum(judge(q, s).strict for q, group in zip(FEW, groups, strict=True) for s in group), 8 * len(FEW))
        for groups in (found, expected)
    ]
    record_property("strict", " and ".join(map(percent, right)))
    assert right[0]["low"] <= right[1]["high"] and right[1]["low"] <= right[0]["high"]


def test_every_end_token_ends_a_completion(beside, monkeypatch):
    policy = ours()
    ends = [policy.tokenizer.eos_token_id, policy.tokenizer.convert_tokens_to_ids("Let")]
    for each in (policy, beside):
        monkeypatch.setattr(each.model.generation_config, "eos_token_id", ends)
    found = generate(beside, FEW)
    assert found == generate(policy, FEW) and len({sample.tokens for [sample] in found}) > 3
    assert not any(sample.truncated for [sample] in found)


def test_a_cap_that_is_reached_cuts_off(beside):
    short = TINY.replace(max_completion_tokens=20)
    found, expected = (generate(dataclasses.replace(each, profile=short), FEW) for each in (beside, ours()))
    assert found == expected
    assert any(sample.truncated for [sample] in found) and all(s.truncated == (s.tokens == 20) for [s] in found)


def test_an_evaluation_that_was_interrupted_goes_on_where_it_stopped(beside, tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "VLLM_BATCH", 16)
    policy, ask, asked = with_adapter(beside, ADAPTER), beside.model.fast_generate, []

    def interrupted(prompts, **how):
        asked.append(len(prompts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(prompts, **how)

    monkeypatch.setattr(beside.model, "fast_generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(policy, FEW, output=tmp_path)
    assert evaluate(policy, FEW, output=tmp_path) == evaluate(ours(ADAPTER), FEW)
    assert asked == [16, 16, 16], "the first batch is kept, the second asked again"


def test_an_engine_that_breaks_at_load_is_said_and_the_next_one_taken(monkeypatch):
    monkeypatch.setenv("GRPO_ENGINE", "vllm+transformers")
    said = []
    policy = load_policy(TINY.replace(lora_rank=3), notify=said.append)  # vLLM has no adapters of that rank
    assert policy.engine == "transformers" and not hasattr(policy.model, "fast_generate")
    assert len(said) == 1 and said[0].startswith("vllm+transformers is not available (") and "max_lora_rank" in said[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{engine: (policy, trainer, the base model's weights before, result)} of the same short run on both."""
    found = {}
    for engine in ("vllm+transformers", "transformers"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GRPO_ENGINE", engine)
            policy = load_policy(TINY.replace(steps=STEPS), notify=pytest.fail)
        questions = training_questions(policy.profile, policy.tokenizer)
        trainer = build_trainer(policy, questions, tmp_path_factory.mktemp("run"))
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items() if "lora" not in name}
        found[engine] = policy, trainer, before, run_training(trainer)
    return found


def test_steps_through_colocate_reach_the_accuracy_of_our_loop(trained, record_property):
    with_vllm, alone = (rates(evaluate(ours(result.adapter), MANY))["strict"] for _, _, _, result in trained.values())
    untrained = rates(evaluate(ours(), MANY))["strict"]
    record_property("strict", f"{percent(with_vllm)} and {percent(alone)}, untrained {percent(untrained)}")
    assert with_vllm["low"] <= alone["high"] and alone["low"] <= with_vllm["high"]
    assert with_vllm["low"] > untrained["rate"]


def test_vllm_samples_in_the_type_that_is_trained_in(trained, record_property):
    _, trainer, _, result = trained["vllm+transformers"]
    differences = [line["sampling/sampling_logp_difference/mean"] for line in result.history]
    record_property("largest mean difference of log-probabilities", f"{max(differences):.1e}")
    assert len(differences) == STEPS and 0 < max(differences) < 1e-4, "in bfloat16 it is 2e-3"
    assert trainer.vllm_generation.llm.llm_engine.model_config.dtype == torch.float32


def test_training_leaves_the_base_model_as_it_was(trained):
    _, trainer, before, _ = trained["vllm+transformers"]
    after = trainer.model.state_dict()
    assert before and all(torch.equal(after[name], weight) for name, weight in before.items())


def test_vllm_answers_again_after_training_with_the_new_adapter(trained):
    policy, trainer, _, result = trained["vllm+transformers"]
    with pytest.raises(ValueError, match="in memory alone; name the folder"):
        generate(policy, FEW[:1])
    policy = dataclasses.replace(policy, model=trainer.model, adapter=result.adapter)
    assert generate(policy, FEW) == generate(ours(result.adapter), FEW)


def test_merged_weights_answer_as_the_adapter_does(beside, tmp_path, monkeypatch, record_property):
    policy = with_adapter(beside, ADAPTER)
    monkeypatch.setenv("GRPO_ENGINE", "vllm+transformers")
    merged = load_policy(TINY.replace(model=str(save_merged(policy, tmp_path / "merged", "float32"))))
    assert merged.engine == "vllm+transformers"
    record_property("equal", f"{(share := agreement(policy, merged, FEW)):.0%}")
    assert share >= 0.95
