"""The three layouts of a model's weights beside transformers' own forward pass, and when which is chosen."""

import copy
import gc
import weakref

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.model.qwens import padded, small, stir, theirs, with_lora
from utils.model import network
from utils.model.decoding import decode
from utils.model.network import LARGEST, Network, suits

LAYOUTS = ("merged", "packed", "plain")
ONEDNN = torch.backends.mkldnn.is_available()
SHAPES = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "one key head": {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "a key head each": {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False},
    "as Qwen 0.5B": {"num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 112},
}
PROMPTS = padded([5], [1, 7, 8, 9, 10, 11], [30, 4])


def choose(monkeypatch, layout):
    """Have `Network` take a layout; returns what it took."""
    if layout == "packed" and not ONEDNN:
        pytest.skip("this machine's torch has no oneDNN")
    taken = set()
    for name in LAYOUTS:
        function = getattr(network, name)
        monkeypatch.setattr(network, name, lambda *m, name=name, f=function: (taken.add(name), f(*m))[1])
    monkeypatch.setattr(network, "SMALL", LARGEST if layout == "merged" else 0)
    monkeypatch.setattr(network, "ram_bytes", lambda: 0 if layout == "plain" else 2**60)
    return taken


@pytest.fixture(params=LAYOUTS)
def layout(request, monkeypatch):
    taken = choose(monkeypatch, request.param)
    yield request.param
    assert taken == {request.param}


def logits(model, ids):
    """The network's logits after the last token, every token attending to those before it."""

    def attend(i, *parts):
        parts = (part.transpose(1, 2) for part in parts)
        return scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True).transpose(1, 2)

    with torch.inference_mode():
        laid_out = Network(model)
        cos, sin = laid_out.angles(ids.shape[1])
        return laid_out.logits(ids, cos[None], sin[None], attend)


def expected(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids).logits[:, -1]


def tokens(model):
    rows = torch.arange(len(PROMPTS[0]))
    return decode(model, *PROMPTS, prompt_of=rows, cap=24, temperature=0.0, end_token=2)


IDS = torch.tensor([[1, 7, 8, 9, 10, 11], [3, 3, 90, 4, 60, 5]])


def agrees(model):
    return torch.allclose(logits(model, IDS), expected(model, IDS), atol=2e-4)


# ---------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adapter", [False, True], ids=["base", "adapter"])
def test_in_float32_logits_and_greedy_tokens_are_those_of_transformers(layout, shape, adapter):
    model = small(0, **SHAPES[shape])
    if adapter:
        before = expected(model, IDS)
        model = with_lora(model)
        assert (expected(model, IDS) - before).abs().max() > 0.1, "an adapter that does nothing tests nothing"
    assert agrees(model)
    found = tokens(model)
    assert found == theirs(model, *PROMPTS, cap=24) and len(set(map(tuple, found))) == 3


def test_other_widths_and_epsilons_and_angles(layout):
    model = small(1, intermediate_size=40, rms_norm_eps=1e-2, rope_theta=100.0)
    assert agrees(model) and tokens(model) == theirs(model, *PROMPTS, cap=24)


# --------------------------------------------------------------------------------------------- adapters


def test_an_adapter_switched_off_is_none(layout):
    base = small(0)
    model = with_lora(copy.deepcopy(base))
    with model.disable_adapter():
        assert agrees(model) and torch.equal(logits(model, IDS), logits(base, IDS))
    assert agrees(model) and not torch.allclose(logits(model, IDS), logits(base, IDS), atol=1e-2)


@pytest.mark.parametrize("safe", [True, False])
def test_an_adapter_merged_into_the_weights_and_taken_out_again(layout, safe):
    """PEFT changes the weights in place, in a way of which their version number tells nothing."""
    model = with_lora(small(0))
    beside = logits(model, IDS)
    model.merge_adapter(safe_merge=safe)
    assert agrees(model) and torch.allclose(logits(model, IDS), beside, atol=1e-3)
    model.unmerge_adapter()
    assert agrees(model) and torch.allclose(logits(model, IDS), beside, atol=1e-3)
    merged = model.merge_and_unload(safe_merge=safe)
    assert agrees(merged) and torch.allclose(logits(merged, IDS), beside, atol=1e-3)


def test_two_adapters_at_once_and_each_alone(layout):
    from peft import LoraConfig

    model = with_lora(small(0))
    model.add_adapter("other", LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj", "up_proj", "lm_head"]))
    stir(model.eval())
    seen = []
    for active in (["default"], ["other"], ["default", "other"], ["other", "default"]):
        model.base_model.set_adapter(active)
        assert agrees(model), active
        seen.append(logits(model, IDS))
    assert not any(torch.allclose(seen[2], each, atol=1e-2) for each in seen[:2])
    assert torch.allclose(seen[2], seen[3], atol=2e-4)


@pytest.mark.parametrize(
    "where",
    [
        {"layers_to_transform": [1]},
        {"target_modules": ["k_proj", "gate_proj", "down_proj"]},
        {"target_modules": ["v_proj"], "rank_pattern": {"layers.2.self_attn.v_proj": 2}, "use_rslora": True},
        {"target_modules": ["lm_head", "o_proj"], "lora_dropout": 0.5},
    ],
    ids=str,
)
def test_an_adapter_on_some_layers_only(layout, where):
    base = small(0, tie_word_embeddings=False)
    before = expected(base, IDS)
    model = with_lora(base, std=0.2, **where)
    assert agrees(model) and not torch.allclose(expected(model, IDS), before, atol=1e-2)


# --------------------------------------------------------------------------------------------- bfloat16


@pytest.fixture
def without_bfloat16(monkeypatch):
    """A processor that has no products of bfloat16, as most before 2022."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


@pytest.mark.parametrize("layout", ["packed", "imitated", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adapter", [False, True], ids=["base", "adapter"])
def test_in_bfloat16_it_is_as_close_to_the_exact_logits_as_transformers_is(
    layout, shape, adapter, monkeypatch, request
):
    if layout == "imitated":
        request.getfixturevalue("without_bfloat16")
        layout = "packed"
    taken = choose(monkeypatch, layout)
    model = small(0, initializer_range=0.1, **SHAPES[shape]).to(torch.bfloat16)
    if adapter:
        model = with_lora(model)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}, "adapters stay in float32"
    ids = torch.randint(3, 97, (64, 8), generator=torch.Generator().manual_seed(0))
    exact = expected(copy.deepcopy(model).float(), ids)
    found, reference = logits(model, ids), expected(model, ids)
    assert found.dtype == torch.bfloat16 and taken == {layout}

    def error(logits):
        return (logits.float() - exact).square().mean().sqrt()

    assert error(found) < 1.3 * error(reference) < 0.05 * exact.std()


# --------------------------------------------------------------------------------------- packed weights


def packings(model):
    """The packed weights of each group of layers of a model."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [network._PACKED[layer] for layer in whole.modules() if layer in network._PACKED]


@pytest.fixture
def packing(monkeypatch):
    choose(monkeypatch, "packed")


def test_weights_are_packed_once(packing):
    model = small(0)
    assert agrees(model)
    first = [weights for _, weights in packings(model)]
    assert len(first) == 1 + 3 * 4, "the head, and four groups of matrices in each of three blocks"
    logits(model, IDS)
    assert all(a is b for a, (_, b) in zip(first, packings(model), strict=True))


def test_the_packed_weights_of_a_base_serve_its_adapters(packing):
    """Whatever becomes of the adapters: they are multiplied beside."""
    model = small(0)
    logits(model, IDS)
    first = [weights for _, weights in packings(model)]
    model = with_lora(model)
    assert agrees(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert agrees(model)
    assert all(a is b for a, (_, b) in zip(first, packings(model), strict=True))


def train_a_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()


def load_others(model, **how):
    model.load_state_dict(small(7).state_dict(), **how)


def replace_one(model):
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.rand(32, 64))


def add_in_place(model):
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight.data.add_(0.1)


CHANGES = {
    "a step of training": train_a_step,
    "load_state_dict": load_others,
    "load_state_dict, assigned": lambda model: load_others(model, assign=True),
    "another parameter": replace_one,
    "one of three stacked, in place": add_in_place,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_packed_anew(packing, change):
    model = small(0)
    before = logits(model, IDS)
    CHANGES[change](model)
    assert agrees(model) and not torch.allclose(logits(model, IDS), before, atol=1e-2)


def test_packed_weights_go_with_their_model(packing):
    gc.collect()
    others, model = len(network._PACKED), small(0)
    logits(model, IDS)
    held = [weakref.ref(weights) for _, weights in packings(model)]
    assert len(network._PACKED) == others + len(held) and len(held) == 13
    del model
    gc.collect()
    assert len(network._PACKED) == others and not any(ref() is not None for ref in held)


# ---------------------------------------------------------------------------------------- which layout


def test_small_models_are_merged_and_large_ones_packed_where_there_is_room(monkeypatch):
    taken = choose(monkeypatch, "packed")
    model = small(0)
    copy_bytes = sum(p.nbytes for p in model.parameters())
    for parameters, room, layout in (
        (model.num_parameters(), 0, "merged"),
        (model.num_parameters() - 1, 2 * copy_bytes - 1, "plain"),
        (model.num_parameters() - 1, 2 * copy_bytes, "packed"),
        (model.num_parameters() - 1, 0, "packed"),  # they lie there already
    ):
        taken.clear()
        monkeypatch.setattr(network, "SMALL", parameters)
        monkeypatch.setattr(network, "ram_bytes", lambda room=room: room)
        assert agrees(model) and taken == {layout}


@pytest.mark.parametrize("layout", ["packed", "plain"])
def test_small_models_in_bfloat16_are_not_merged(monkeypatch, layout):
    """It would swallow a young adapter, and the sampled tokens would be those of another model than is trained."""
    taken = choose(monkeypatch, layout)
    monkeypatch.setattr(network, "SMALL", LARGEST)
    model = with_lora(small(0).to(torch.bfloat16))
    assert logits(model, IDS).dtype == torch.bfloat16 and taken == {layout}
    assert len(tokens(model)) == 3


def test_without_onednn_the_matrices_stay_as_they_are(monkeypatch):
    taken = choose(monkeypatch, "plain")
    monkeypatch.setattr(network, "ram_bytes", lambda: 2**60)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert agrees(small(0)) and taken == {"plain"}


def test_without_bfloat16_in_onednn_packed_matrices_are_in_float32_where_they_have_room(monkeypatch, without_bfloat16):
    taken = choose(monkeypatch, "packed")
    copy_bytes = sum(p.nbytes for p in small(0).parameters())  # in float32: twice the model's own
    for room, layout in ((2 * copy_bytes - 1, "plain"), (2 * copy_bytes, "packed")):
        taken.clear()
        monkeypatch.setattr(network, "ram_bytes", lambda room=room: room)
        model = small(0).to(torch.bfloat16)
        logits(model, IDS)
        assert taken == {layout}
        assert {weights.dtype for _, weights in packings(model)} == ({torch.float32} if layout == "packed" else set())


# ---------------------------------------------------------------------------------------------- suits


def with_a_parameter_of(dtype):
    model = small()
    model.extra = torch.nn.Parameter(torch.zeros(2).to(dtype), requires_grad=False)
    return model


def quantised():
    """As GPTQ, AWQ or torchao leave it: whole numbers in buffers, or behind a parameter that calls itself bfloat16."""
    model = small()
    model.config.quantization_config = {"quant_method": "gptq"}
    return model


LLAMA = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)


@pytest.mark.parametrize(
    "make, suitable",
    [
        (lambda: small(), True),
        (lambda: small().to(torch.bfloat16), True),
        (lambda: with_lora(small()), True),
        (lambda: with_lora(small().to(torch.bfloat16)), True),
        (lambda: small().half(), False),
        (lambda: small().double(), False),
        (lambda: with_a_parameter_of(torch.uint8), False),
        (lambda: with_a_parameter_of(torch.int8), False),
        (lambda: with_a_parameter_of(torch.float16), False),
        (lambda: with_a_parameter_of(torch.float8_e4m3fn), False),
        (quantised, False),
        (lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)), False),
        (lambda: small(use_sliding_window=True, sliding_window=8), False),
        (lambda: small(rope_scaling={"rope_type": "linear", "factor": 2.0}), False),
        (lambda: small(hidden_act="gelu"), False),
        (lambda: small().to("meta"), False),  # only a CPU's arithmetic is so cheap that the rest counts
    ],
)
def test_what_suits(make, suitable):
    assert suits(make()) == suitable


@pytest.mark.parametrize(
    "size, suitable, numbers",
    [
        ("0.5B", True, dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14)),
        ("1.5B", False, dict(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12)),
    ],
)
def test_the_smallest_published_qwen_suits_and_the_next_does_not(monkeypatch, size, suitable, numbers):
    config = Qwen2Config(**numbers, num_key_value_heads=2, vocab_size=151_936, tie_word_embeddings=True)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    assert model.num_parameters() == pytest.approx(float(size[:-1]) * 1e9, rel=0.05)
    monkeypatch.setattr(Qwen2ForCausalLM, "device", torch.device("cpu"))
    assert suits(model) == suitable == (model.num_parameters() <= LARGEST)
