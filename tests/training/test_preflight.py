"""Preflight, memory model and token-budget probe. A GPU is acted by replacing torch's questions about it."""

import dataclasses
import json
import re
import types
from statistics import fmean, median

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.benchmarks import profile_step
from utils.data.questions import load_questions
from utils.files import ROOT, read_jsonl
from utils.model.policy import ENGINES, Policy, add_lora, load_policy
from utils.model.profiles import PROFILES, QWEN_3B, get_profile
from utils.model.prompt_sharing import AT_ONCE, completion_logps, without_logits
from utils.plots import png
from utils.training import memory, preflight
from utils.training.memory import GIB, SHAPES, lora_tensors, memory_model, model_config, parameters, peak
from utils.training.preflight import html_table, probe, summary, text_table

TINY, LAPTOP, T4 = PROFILES["tiny"], PROFILES["laptop"], PROFILES["t4"]
QWEN_05B = LAPTOP.model
T4_BYTES = int(14.74 * GIB)


def peak_bytes(function):
    """The most memory that tensors held together while `function` ran (the profiler sees each allocation)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    events = [(e.start_ns(), e.nbytes()) for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        held += change
        most = max(most, held)
    return most


def small(layers, vocabulary):
    """A Qwen2 config in which either the layers or the logits matter."""
    sizes = dict(hidden_size=256, intermediate_size=1376, num_attention_heads=4, num_key_value_heads=1)
    return dict(sizes, num_hidden_layers=layers, vocab_size=vocabulary, tie_word_embeddings=True)


def trl_step(config, settings, checkpointing):
    """TRL's log-probabilities and their gradients for one micro-batch, as a function without arguments."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    model = Qwen2ForCausalLM(Qwen2Config(**config)).to(getattr(torch, settings.dtype))
    model = add_lora(Policy(model, None, settings, "transformers"), seed=0).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    length = settings.max_prompt_tokens + settings.max_completion_tokens
    ids = torch.randint(0, config["vocab_size"], (settings.micro_batch, length))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # padding, so that a mask is needed

    def forward(**inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.dtype != "float32"):
            return model(**inputs)

    forward = forward if settings.dtype == "float32" else convert_outputs_to_fp32(forward)  # as accelerate does
    trainer = types.SimpleNamespace(temperature=1.0, model_kwarg_keys={"logits_to_keep"})
    score = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__

    def step():
        logps, _ = score(trainer, forward, ids, mask, settings.max_completion_tokens, compute_entropy=True)
        logps.sum().backward()

    return step


# ------------------------------------------------------------------------- the memory model, measured


@pytest.mark.parametrize("model, billions", [(QWEN_3B, 3.09), (QWEN_05B, 0.49)])
def test_parameters_of_the_real_shapes(model, billions):
    """Against the published counts, and to the last one against transformers' own model of that shape (no memory)."""
    config = SHAPES[model]
    assert round(sum(parameters(config)) / 1e9, 2) == billions
    with torch.device("meta"):
        built = Qwen2ForCausalLM(Qwen2Config(**config))
    assert sum(parameters(config)) == sum(p.numel() for p in built.parameters())
    matrices = sum(m.weight.numel() for n, m in built.model.named_modules() if isinstance(m, torch.nn.Linear))
    assert parameters(config)[0] == matrices


def test_untied_embeddings_count_twice():
    config = SHAPES[QWEN_05B] | {"tie_word_embeddings": False}
    assert sum(parameters(config)) - sum(parameters(SHAPES[QWEN_05B])) == 151936 * 896


@pytest.fixture(scope="module")
def tiny_step(tmp_path_factory):
    """A trainer after one real step on the embedded model, and the tokens of one cache."""
    from utils.training.grpo import build_trainer, run_training

    settings = TINY.replace(steps=1, prompts_per_step=2, group_size=4, micro_batch=8, max_completion_tokens=16)
    policy = load_policy(settings)
    count = sum(p.numel() for p in policy.model.parameters())
    trainer = build_trainer(policy, load_questions("tiny", "train")[:8], tmp_path_factory.mktemp("run"), seed=0)
    run_training(trainer)
    return settings, count, trainer


@pytest.mark.slow
def test_weights_adapters_and_optimizer_of_a_real_step(tiny_step):
    settings, count, trainer = tiny_step
    config = model_config(settings.model)
    parts = memory_model(config, settings)
    assert count == sum(parameters(config)) == 876_416 and parts["weights"] == 4 * count
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert sorted(p.numel() for p in trained) == sorted(lora_tensors(config, settings.lora_rank))
    assert parts["adapters"] == parts["gradients"] == sum(p.numel() * p.element_size() for p in trained)
    states = trainer.optimizer.optimizer.state.values()
    held = sum(s[name].numel() * s[name].element_size() for s in states for name in ("exp_avg", "exp_avg_sq"))
    assert len(states) == 56 and parts["optimizer state"] == held


def test_kv_cache_of_a_real_generation():
    policy = load_policy(TINY)
    ids = torch.randint(3, 600, (6, 40))
    with torch.inference_mode():
        cache = policy.model(input_ids=ids, use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    settings = TINY.replace(
        prompts_per_step=3, group_size=2, micro_batch=6, max_prompt_tokens=30, max_completion_tokens=10
    )
    assert memory_model(model_config(TINY.model), settings)["KV cache"] == held


HERE = get_profile("laptop").dtype  # bfloat16 only where the processor multiplies it: imitated, it takes minutes
of_the_pinned_trl = pytest.mark.skipif(
    preflight.installed("trl") != preflight.read_pins(ROOT / "requirements-cpu.txt")["trl"],
    reason="the memory model is that of the pinned TRL's loss; other releases compute it otherwise",
)


@of_the_pinned_trl
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_dominate_as_the_formula_says(dtype):
    settings = TINY.replace(dtype=dtype, micro_batch=4, max_prompt_tokens=16, max_completion_tokens=256)
    config = small(1, 4000) | {"hidden_size": 16, "intermediate_size": 16}
    parts = memory_model(config, settings)
    assert parts["logits"] == 16 * 4 * 256 * 4000 > 10 * parts["activations kept"]
    measured = peak_bytes(trl_step(config, settings, checkpointing=False))
    assert measured == pytest.approx(parts["logits"] + parts["activations kept"], rel=0.02)


@pytest.mark.slow
@of_the_pinned_trl
@pytest.mark.parametrize(
    "dtype, gpu_bytes", [("float32", None), ("bfloat16", T4_BYTES)], ids=["all kept", "checkpointing"]
)
@pytest.mark.parametrize("layers, vocabulary, length", [(8, 64, 88), (4, 64, 216), (8, 16_000, 88), (8, 3_000, 88)])
def test_peak_of_a_training_step_with_trl(dtype, gpu_bytes, layers, vocabulary, length):
    """With few words the layers decide, with many the logits; `gpu_bytes` stands for gradient checkpointing."""
    settings = TINY.replace(dtype=dtype, micro_batch=4, max_prompt_tokens=40, max_completion_tokens=length)
    config = small(layers, vocabulary)
    parts = memory_model(config, settings, "transformers", gpu_bytes) | {"KV cache": 0}  # nothing is sampled here
    there_before = sum(parts[name] for name in ("weights", "adapters", "optimizer state", "reserve"))
    measured = peak_bytes(trl_step(config, settings, bool(gpu_bytes)))
    tolerance = 0.14 if vocabulary == 3_000 else 0.06  # where layers and logits weigh alike, the two peaks overlap
    assert measured == pytest.approx(peak(parts) - there_before, rel=tolerance)


def step_without_logits(config, settings):
    """`trl_step` as our own trainer does it: `prompts_per_step` prompts, each with its share of a micro-batch."""
    model = Qwen2ForCausalLM(Qwen2Config(**config)).to(getattr(torch, settings.dtype))
    model = add_lora(Policy(model, None, settings, "transformers"), seed=0).train()
    assert without_logits(model)
    prompts = torch.randint(0, config["vocab_size"], (settings.prompts_per_step, settings.max_prompt_tokens))
    shape = settings.micro_batch, settings.max_completion_tokens
    ids = torch.cat([prompts.repeat(shape[0] // len(prompts), 1), torch.randint(0, config["vocab_size"], shape)], dim=1)
    return model, lambda: completion_logps(model, ids, torch.ones_like(ids), shape[1], 1.0)[0].sum()


def saved_bytes(model, forward):
    """What autograd keeps of `forward` beside the model."""
    kept, there = {}, {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    assert loss.requires_grad
    return sum(storage.nbytes() for place, storage in kept.items() if place not in there)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", sorted({"float32", HERE}))
@pytest.mark.parametrize(
    "layers, vocabulary, length, rank, prompts",
    [
        (8, 17_000, 88, 16, 1),
        (4, 17_000, 216, 16, 1),
        (4, 17_000, 88, 64, 1),
        (4, 17_000, 88, 16, 2),
        (2, 60_000, 88, 16, 1),
    ],
)
def test_peak_of_a_training_step_without_logits(dtype, layers, vocabulary, length, rank, prompts):
    """Of 64 ranks the stacked adapters, too, are kept."""
    settings = TINY.replace(
        dtype=dtype,
        micro_batch=4,
        group_size=4 // prompts,
        prompts_per_step=prompts,
        lora_rank=rank,
        max_prompt_tokens=40,
        max_completion_tokens=length,
    )
    config = small(layers, vocabulary)
    parts = memory_model(config, settings) | {"KV cache": 0}
    there_before = sum(parts[name] for name in ("weights", "adapters", "gradients", "optimizer state", "reserve"))
    model, forward = step_without_logits(config, settings)
    forward().backward()  # gradients are there, as in every micro-batch but a step's first
    assert (
        0.89 < peak_bytes(lambda: forward().backward()) / (peak(parts) - there_before) < (1.15 if rank == 64 else 1.08)
    )
    assert 1.0 < saved_bytes(model, forward) / parts["activations kept"] < (1.15 if rank == 64 else 1.1)


@pytest.mark.parametrize(
    "change, theirs",
    [
        ({}, False),
        ({"num_hidden_layers": 60}, True),  # above 1 B parameters
        ({"vocab_size": 16_384}, True),
        ({"model_type": "llama"}, True),
        ({"model_type": "qwen2"}, False),
    ],
)
def test_who_does_without_logits(change, theirs):
    config = SHAPES[QWEN_05B] | change
    logits = memory_model(config, LAPTOP)["logits"]
    tokens = LAPTOP.micro_batch * LAPTOP.max_completion_tokens if theirs else AT_ONCE
    assert logits == tokens * config["vocab_size"] * (16 if theirs else 10)
    on_gpu = memory_model(config, LAPTOP, gpu_bytes=T4_BYTES)
    assert on_gpu["logits"] == LAPTOP.micro_batch * LAPTOP.max_completion_tokens * config["vocab_size"] * 16
    assert on_gpu["packed weights"] == 0


def test_the_packed_copy_of_a_real_network():
    """Counted from the tensors that the packed layout makes; of a small model there is none."""
    config = small(2, 17_000) | {"hidden_size": 64, "intermediate_size": 128}
    network = Qwen2ForCausalLM(Qwen2Config(**config))
    copied = [m.weight for m in network.modules() if isinstance(m, torch.nn.Linear)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SMALL", 1000)
        assert memory_model(config, TINY)["packed weights"] == sum(weight.nbytes for weight in copied)
    assert memory_model(config, TINY)["packed weights"] == 0


# ---------------------------------------------------------------- the memory model, by its arithmetic


def test_four_bits_as_bitsandbytes_stores_them():
    """2048 x 11008 weights took 11,272,192 + 352,256 + 4 * 1,376 bytes in bitsandbytes 0.50.2 on a CPU, and Adam's
    state of 64 x 2048 elements 2 * (131,072 + 4 * 512)."""
    assert memory.nf4_bytes(2048 * 11008) == 11_272_192 + 352_256 + 4 * 1_376
    assert memory.adam_bytes([64 * 2048], eight_bit=True) == 2 * (131_072 + 4 * 512)
    assert memory.adam_bytes([4095], eight_bit=True) == memory.adam_bytes([4095], eight_bit=False) == 8 * 4095


def test_logits_of_unsloth_go_by_chunks():
    """unsloth_zoo 2026.10.7's chunked loss, compiled for a CPU, took 2.25 bytes a logit in 16 chunks, 3.00 in 4."""
    for micro_batch, each in ((4, 2.25), (1, 3.0)):
        parts = memory_model(SHAPES[QWEN_3B], T4.replace(micro_batch=micro_batch), "unsloth")
        assert parts["logits"] == each * micro_batch * 704 * 151936


def test_unsloth_keeps_the_inputs_of_two_layers_and_trl_of_all():
    kept = [memory_model(SHAPES[QWEN_3B], T4, engine, 15 * GIB)["activations kept"] for engine in ENGINES]
    assert kept == [n * 4 * 1024 * 2048 * 2 for n in (2, 2, 36, 36)]


PARTS = ["weights", "adapters", "gradients", "optimizer state", "KV cache", "activations kept", "one layer", "logits"]
PARTS += ["packed weights", "reserve"]


def test_every_profile_and_engine_has_every_part():
    for settings in PROFILES.values():
        for engine in ENGINES if settings.unsloth else ("transformers",):
            parts = memory_model(model_config(settings.model), settings, engine)
            assert list(parts) == PARTS and all(isinstance(n, int) for n in parts.values())
            assert [name for name, n in parts.items() if n <= 0] == ["packed weights"] * (settings != LAPTOP)


def test_vllm_gets_its_share_of_a_t4_and_the_step_fits():
    parts = memory_model(SHAPES[QWEN_3B], T4, "unsloth+vllm", T4_BYTES)
    assert parts["weights"] + parts["KV cache"] == int(0.76 * T4_BYTES)
    need = memory_model(SHAPES[QWEN_3B], T4, "unsloth")["KV cache"]
    assert need == 2 * 36 * 2 * 128 * 2 * 1024 * 32 < parts["KV cache"] and peak(parts) < 14 * GIB


@pytest.mark.parametrize(
    "change", [{"micro_batch": 8}, {"max_completion_tokens": 352}, {"lora_rank": 32}, {"group_size": 4}]
)
def test_what_a_change_costs_shows_in_its_parts_alone(change):
    before, after = (memory_model(SHAPES[QWEN_3B], p, "transformers") for p in (T4, T4.replace(**change)))
    changed = {name for name in before if before[name] != after[name]}
    activations = {"activations kept", "one layer"}
    assert (
        changed
        == {
            "micro_batch": activations | {"logits"},
            "max_completion_tokens": activations | {"logits", "KV cache"},
            "lora_rank": {"adapters", "gradients", "optimizer state", "one layer"},
            "group_size": {"KV cache"},
        }[next(iter(change))]
    )


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="no config of me/mine"):
        model_config("me/mine")


# --------------------------------------------------------------------------------------- the checks


@pytest.fixture
def gpu(monkeypatch):
    """Act a GPU: name, compute capability, free and total GiB."""

    def act(name="Tesla T4", capability=(7, 5), free=14.5, total=14.74):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GIB), int(total * GIB)))
        found = types.SimpleNamespace(total_memory=int(total * GIB), major=capability[0], minor=capability[1])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)

    return act


@pytest.fixture
def machine(monkeypatch):
    """Act RAM, disk [GiB] and installed packages: as pinned, but for those named."""

    def act(ram=12, disk=70, **versions):
        pins = preflight.read_pins(ROOT / "requirements-cpu.txt") | preflight.read_pins(ROOT / "requirements.txt")
        monkeypatch.setattr(preflight, "ram_bytes", lambda: ram * GIB)
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=disk * GIB))
        monkeypatch.setattr(preflight, "installed", lambda p: versions[p] if p in versions else pins.get(p))

    return act


def verdicts(settings):
    return {check.name: check for check in preflight.preflight(settings)}


def test_a_free_t4_passes_every_check_but_that_its_run_is_long(gpu, machine):
    gpu()
    machine()
    checks = preflight.preflight(T4)
    assert [c.name for c in checks if c.verdict != "ok" or c.mend] == ["time"]
    assert summary(checks) == "It may run; mind: time."
    assert summary(preflight.preflight(T4.replace(steps=20))) == f"All {len(checks)} checks passed."
    found = {c.name: c.found for c in checks}
    assert "Tesla T4, compute capability 7.5, float16" in found["GPU"] and "unsloth+vllm" in found["GPU memory"]
    assert "4 prompts x 8 completions = 8 x 4" in found["batches"] and "of 1024" in found["tokens"]


def test_the_tiny_profile_passes_here():
    checks = preflight.preflight(TINY)
    assert "fail" not in {c.verdict for c in checks} and {"RAM", "GPU memory"}.isdisjoint(c.name for c in checks)


def test_without_a_gpu_the_profile_says_so_in_its_own_words(machine):
    machine()
    checks = verdicts(T4)
    with pytest.raises(RuntimeError) as refusal:
        T4.check_machine()
    assert f"{checks['GPU'].found}; {checks['GPU'].mend}" == str(refusal.value)
    assert checks["GPU"].verdict == checks["GPU memory"].verdict == "fail"
    assert summary(checks.values()) == "Stop here: GPU, GPU memory. Nothing was downloaded."


def test_a_cpu_build_of_torch_beside_a_gpu_is_told(machine, monkeypatch):
    machine()
    monkeypatch.setattr(preflight.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CPU build: install requirements.txt" in verdicts(T4)["GPU"].mend


@pytest.mark.parametrize(
    "settings, acted, name, verdict, mend",
    [
        (T4, dict(gpu=dict(name="Tesla P100", capability=(6, 0))), "GPU", "fail", "GPU T4 x2"),
        (PROFILES["l4"], dict(), "GPU", "fail", r"use the profile t4 \(float16\)"),
        (T4, dict(gpu=dict(free=9.0)), "GPU memory", "warn", "restart the runtime"),
        (T4, dict(unsloth=None, vllm=None, gpu=dict(free=7.9, total=8)), "GPU memory", "fail", r"micro_batch=2 ta"),
        (T4, dict(unsloth=None, vllm=None, gpu=dict(free=3, total=3)), "GPU memory", "fail", "lower max_completion"),
        (T4, dict(unsloth=None, gpu=dict(free=7.9, total=8)), "GPU memory", "fail", "set GRPO_ENGINE=transformers"),
        (T4, dict(ram=4), "RAM", "warn", "more RAM"),
        (T4, dict(disk=5), "disk", "fail", "HF_HOME"),
        (T4, dict(vllm=None), "versions", "warn", "would go on with unsloth,"),
        (T4, dict(unsloth=None), "versions", "warn", r"would go on with vllm\+transformers,"),
        (T4, dict(unsloth=None, vllm=None), "versions", "warn", "would go on with transformers,"),
        (T4, dict(trl=None), "versions", "fail", "pip install -r requirements.txt"),
        (T4, dict(trl="1.15.0"), "versions", "warn", "install requirements.txt"),
        (T4.replace(max_completion_tokens=200), dict(), "tokens", "warn", "average 300"),
        (T4.replace(steps=400), dict(), "time", "warn", "12 hours"),
        (T4.replace(model="me/mine"), dict(), "GPU memory", "warn", "no config of me/mine"),
        (T4.replace(model="me/mine"), dict(), "disk", "warn", "no config of me/mine"),
    ],
)
def test_each_trouble_is_found_with_its_mend(gpu, machine, settings, acted, name, verdict, mend):
    gpu(**acted.pop("gpu", {}))
    machine(**acted)
    check = verdicts(settings)[name]
    assert check.verdict == verdict and re.search(mend, check.mend), check


def test_the_tiny_profile_on_a_gpu_asks_for_no_gpu_packages(gpu, machine):
    gpu()
    machine(vllm=None, unsloth=None, torch="2.11.0")  # torch came with the machine or with vllm
    checks = verdicts(TINY)
    assert checks["versions"].found == "5 packages as in requirements-cpu.txt"
    assert checks["GPU"].found.endswith("float32; the profile t4 is made for it")


def test_a_hosted_machines_own_torch_is_no_warning(machine, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    machine(torch="2.11.0")
    assert verdicts(TINY)["versions"].verdict == "ok"


@pytest.mark.parametrize("hosted, mend", [(True, "%env GRPO_PROFILE=t4"), (False, "pip install -r requirements.txt")])
def test_a_gpu_profile_with_the_small_set_is_told_what_installs_the_other(gpu, machine, monkeypatch, hosted, mend):
    gpu()
    machine(vllm=None, unsloth=None, unsloth_zoo=None, bitsandbytes=None, torchao=None)
    if hosted:
        monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    check = verdicts(T4)["versions"]
    assert check.verdict == "fail" and mend in check.mend


def test_a_computer_short_of_memory_is_warned_and_told_a_smaller_micro_batch(machine):
    """The largest that fits, at every amount of memory; then there is none to be told."""
    need = {n: peak(memory_model(SHAPES[QWEN_05B], LAPTOP.replace(micro_batch=n))) for n in (1, 2, 4)}
    assert need[1] < need[2] < need[4]
    for free, verdict, mend in (
        (need[4], "ok", ""),
        (need[4] - 1, "warn", "micro_batch=2 takes up to"),
        (need[2], "warn", "micro_batch=2 takes up to"),
        (need[2] - 1, "warn", "micro_batch=1 takes up to"),
        (need[1] - 1, "warn", "lower max_completion_tokens, or choose a machine with more memory"),
    ):
        machine(ram=free / GIB)
        check = verdicts(LAPTOP)["memory"]
        assert check.verdict == verdict and check.mend.startswith(mend), free


def test_the_packed_copy_is_named_where_it_is_among_the_largest(machine):
    machine(ram=12)
    assert "activations kept" in verdicts(LAPTOP)["memory"].found
    found = verdicts(LAPTOP.replace(micro_batch=1))["memory"].found
    assert ", packed weights 0.9 GiB" in found or "packed weights 0.9 GiB," in found
    assert "packed" not in verdicts(TINY)["memory"].found


def test_nothing_is_asked_of_the_network(machine, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the preflight opened a connection")

    machine()
    monkeypatch.setattr("socket.socket.connect", refuse)
    for settings in PROFILES.values():
        preflight.preflight(settings)


def test_time_of_tiny_comes_from_its_records():
    runs = [json.loads(path.read_text()) for path in (ROOT / "assets" / "runs" / "tiny").glob("*/training.json")]
    seconds, source = preflight.estimate_seconds(TINY)
    assert seconds == pytest.approx(fmean(r["seconds"] for r in runs)) and "3 recorded runs" in source
    half, _ = preflight.estimate_seconds(
        TINY.replace(prompts_per_step=TINY.prompts_per_step // 2, micro_batch=TINY.micro_batch // 2)
    )
    assert half == pytest.approx(seconds / 2)


def test_time_of_a_t4_is_called_an_estimate_from_others():
    public = T4.replace(prompts_per_step=1, micro_batch=8, max_completion_tokens=200)
    seconds, source = preflight.estimate_seconds(public)
    assert seconds == pytest.approx(100 * 60, rel=0.02) and "others' T4 log" in source  # 250 steps took 1 h 41
    assert preflight.estimate_seconds(PROFILES["l4"]) is None
    assert verdicts(PROFILES["l4"])["time"].found == "not measured for l4"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_time_of_laptop_comes_from_measured_steps_in_its_type_of_a_model_of_that_size(dtype):
    step = float(re.search("median step,(.*)", (ROOT / f"assets/runs/step_profile_qwen_{dtype}.csv").read_text())[1])
    laptop = LAPTOP.replace(dtype=dtype)
    seconds, source = preflight.estimate_seconds(laptop)
    assert preflight.PROFILED == profile_step.REAL_PROMPTS * laptop.group_size
    assert seconds == pytest.approx(laptop.steps * laptop.completions_per_step / preflight.PROFILED * step)
    assert f"measured steps in {dtype}" in source
    assert preflight.estimate_seconds(laptop.replace(steps=10))[0] == pytest.approx(seconds * 10 / laptop.steps)
    tiny, source = preflight.estimate_seconds(laptop.replace(model=TINY.model))
    assert tiny < seconds / 10 and "3 recorded runs" in source
    assert preflight.estimate_seconds(laptop.replace(model=QWEN_3B)) is None


def test_the_measured_steps_tell_what_the_recorded_runs_took():
    """In the same type: by the median, since runs had pauses."""
    step, _ = preflight.estimate_seconds(LAPTOP.replace(steps=1))
    for log in (ROOT / "assets" / "runs" / "laptop").glob("seed-*/log.jsonl"):
        assert 0.75 < median(line["step_time"] for line in read_jsonl(log)) / step < 1.25


def test_a_long_run_is_announced_with_a_first_look():
    check = verdicts(T4)["time"]
    seconds, _ = preflight.estimate_seconds(T4)
    assert seconds > 3 * 3600 and check.verdict == "warn"
    assert f"first look, about {seconds * 20 / T4.steps / 60:.0f} minutes, set STEPS = 20" in check.mend
    assert preflight.duration(20) == "1 minute" and preflight.duration(170) == "3 minutes"
    assert verdicts(T4.replace(steps=20))["time"].verdict == "ok"


def test_tables_hold_every_check_and_escape_it():
    checks = [
        preflight.Check("GPU", "a <b>T4</b>", "ok"),
        preflight.Check("disk", "1 GiB", "fail", "free <some> of it"),
        preflight.Check("RAM", "3 GiB", "warn", "restart"),
    ]
    page, text = html_table(checks), text_table(checks)
    assert "<b>T4" not in page and "a &lt;b&gt;T4" in page and "free &lt;some&gt; of it" in page
    assert page.count("<tr>") == page.count("</tr>") == 4 and "Stop here: disk." in page
    assert [line.split()[0] for line in text.splitlines()] == ["ok", "fail", "->", "warn", "->", "Stop"]
    assert summary(checks[::2]) == "It may run; mind: RAM."


# ---------------------------------------------------------------------------------------- the probe


QUESTIONS = load_questions("tiny", "train")[:64]


@pytest.fixture(scope="module")
def policy():
    return load_policy(TINY)


def test_a_cap_that_fits_is_left_alone(policy):
    found = probe(policy, QUESTIONS)
    assert len(found.lengths) == 32 and found.lengths == sorted(found.lengths) and found.share_cut == 0
    assert found.proposal is None and found.extra == {} and str(found).endswith(": it fits.")
    assert "0 of 32 completions (95% interval 0% to 11%)" in str(found)
    assert png(found.figure()).startswith(b"\x89PNG")
    legend = {text.get_text() for text in found.figure().axes[0].get_legend().get_texts()}
    assert legend == {"cap 96", "base model"}


def test_a_cap_that_hides_the_lengths_proposes_to_double_and_ask_again(policy):
    short = dataclasses.replace(policy, profile=TINY.replace(max_completion_tokens=24))
    found = probe(short, QUESTIONS)
    assert found.share_cut > 0.05 and max(found.lengths) == 24 and found.proposal is None
    assert "run probe(policy, questions, sample_to=48)" in str(found) and "nobody knows" in str(found)


def test_sampled_further_it_proposes_the_95th_percentile_and_its_cost(policy):
    short = dataclasses.replace(policy, profile=TINY.replace(max_completion_tokens=24))
    found = probe(short, QUESTIONS, sample_to=96)
    assert found.share_cut == fmean(n >= 24 for n in found.lengths) > 0.05 and found.sampled_to == 96
    inside = fmean(n < found.proposal for n in found.lengths)
    assert found.proposal % 32 == 0 and inside >= 0.95 and fmean(n < found.proposal - 32 for n in found.lengths) < 0.95
    config, grown = model_config(TINY.model), TINY.replace(max_completion_tokens=found.proposal)
    before, after = memory_model(config, short.profile), memory_model(config, grown)
    assert found.extra["logits"] == after["logits"] - before["logits"] > 0
    assert found.extra["at the peak"] == peak(after) - peak(before)
    assert f"{found.proposal} tokens would fit 95%" in str(found) and "weights" not in str(found)


def test_probe_is_repeatable_and_leaves_the_random_state_alone(policy):
    state = torch.get_rng_state()
    first = probe(policy, QUESTIONS, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)  # another state, the same probe
    assert first == probe(policy, QUESTIONS, seed=1) and first.lengths != probe(policy, QUESTIONS, seed=2).lengths
    assert len(probe(policy, QUESTIONS[:5]).lengths) == 5


def test_probe_samples_at_the_temperature_of_training(policy, monkeypatch):
    seen = []

    def generate(policy, questions, temperature):
        seen.append((policy.profile.max_completion_tokens, policy.profile.context_tokens, temperature))
        return [[types.SimpleNamespace(tokens=3, truncated=False)] for _ in questions]

    monkeypatch.setattr(preflight, "generate", generate)
    warm = dataclasses.replace(policy, profile=TINY.replace(temperature=0.7))
    probe(warm, QUESTIONS, sample_to=3000)
    assert seen == [(3000, 4024, 0.7)]
