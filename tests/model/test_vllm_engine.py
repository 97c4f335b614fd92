"""vLLM beside transformers, with stand-ins for it; tests/engines asks the real one."""

import copy
import dataclasses
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from trl.generation import vllm_generation

from utils.data.questions import load_questions
from utils.model.policy import add_lora, generate, load_policy
from utils.model.profiles import PROFILES
from utils.model.vllm_engine import hand_over, load_lora, making_room, put_beside

TINY = PROFILES["tiny"]


@pytest.fixture
def started(monkeypatch):
    """How each engine was started."""
    engines, vllm, requests = [], ModuleType("vllm"), ModuleType("vllm.lora.request")
    vllm.LLM = lambda **how: engines.append(how) or SimpleNamespace(generate=f"engine {len(engines)}")
    vllm.SamplingParams = SimpleNamespace
    requests.LoRARequest = lambda *request: request
    for name, module in (("vllm", vllm), ("vllm.lora", ModuleType("vllm.lora")), ("vllm.lora.request", requests)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vllm_generation, "LLM", vllm.LLM, raising=False)
    return engines


def test_an_engine_is_started_once_in_the_type_of_the_model(started):
    model = SimpleNamespace()
    for context in (512, 512, 256):
        put_beside(model, TINY, context)
    assert len(started) == 1 and started[0]["dtype"] == "float32" and started[0]["max_model_len"] == 512
    assert started[0]["model"] == TINY.model and started[0]["trust_remote_code"] is False
    put_beside(model, TINY, 1024)
    assert len(started) == 2 and model.fast_generate == "engine 2", "a longer context needs another engine"


def test_an_adapter_gets_a_name_and_number_at_each_request(started):
    first, second = load_lora("a"), load_lora("a")
    assert first[0] != second[0] and first[1] != second[1] and first[2] == second[2] == "a"


def test_trls_engine_takes_the_place_of_the_one_that_answers_and_its_type(started):
    model, before = SimpleNamespace(), vllm_generation.LLM
    put_beside(model, TINY, 512)
    with making_room(model, TINY):
        assert model.fast_generate is None
        vllm_generation.LLM(model="m")
    assert started[1] == {"model": "m", "dtype": "float32", "enforce_eager": not torch.cuda.is_available()}
    assert vllm_generation.LLM is before
    put_beside(model, TINY, 512)
    assert model.fast_generate == "engine 3"


def test_what_is_handed_over_is_what_merging_gives_and_the_base_stays_as_it_is():
    model = add_lora(load_policy(TINY), seed=0).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given, resets = {}, []
    inside = SimpleNamespace(load_weights=lambda weights: given.update(weights))
    worker = SimpleNamespace(model_runner=SimpleNamespace(model=inside))
    executor = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
    hand_over(model, SimpleNamespace(llm_engine=executor, reset_prefix_cache=lambda: resets.append(1)))
    merged = copy.deepcopy(model).merge_and_unload().state_dict()
    assert len(given) == 4 * 7 and resets == [1]
    assert all(torch.equal(weight, merged[name]) for name, weight in given.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_adapter_in_memory_alone_is_not_asked_through_vllm(started):
    policy = dataclasses.replace(load_policy(TINY), engine="vllm+transformers")
    add_lora(policy, seed=0)
    with pytest.raises(ValueError, match="in memory alone; name the folder: dataclasses.replace"):
        generate(policy, load_questions("tiny", "test")[:1])
    assert not started
