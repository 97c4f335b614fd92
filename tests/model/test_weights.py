"""Weights that do not land are refused by name, on every engine, before anything is measured with them."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from utils.files import ROOT
from utils.model.policy import ENGINES, check_adapter, load_policy, with_adapter
from utils.model.profiles import get_profile
from utils.model.weights import check_model_folder, other_base

TINY = get_profile("tiny")
ADAPTER = ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter"
MODEL = ROOT / "assets" / "tiny_model"
FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"


@pytest.fixture(scope="module")
def policy():
    return load_policy(TINY)


@pytest.fixture
def adapter(tmp_path):
    """A copy of a recorded adapter to damage."""
    return shutil.copytree(ADAPTER, tmp_path / "adapter")


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded model to damage."""
    return shutil.copytree(MODEL, tmp_path / "model")


def change(file, function):
    """Replace the tensors of a safetensors file."""
    save_file(function(load_file(file)), file)


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def filled(value):
    def function(tensors):
        tensors[FIRST][3, 2] = value
        return tensors

    return function


def half(tensors):
    return dict(list(tensors.items())[::2])


def one_shape(tensors):
    return tensors | {FIRST: torch.zeros(16, 9)}


def one_more(tensors):
    return tensors | {"base_model.model.lm_head.lora_A.weight": torch.zeros(16, 128)}


TENSORS = [
    (
        renamed("base_model.model.", "base_model.model.module."),
        "56 missing: .*; 56 unexpected: base_model.model.module",
    ),
    (renamed("base_model.model.model.", "base_model.model."), "56 missing: .*; 56 unexpected: base_model.model.layers"),
    (renamed("base_model.", ""), "56 missing: .*; 56 unexpected: model.model.layers"),
    (renamed(".weight", ".default.weight"), "56 missing: .*; 56 unexpected: .*lora_A.default.weight"),
    (renamed("q_proj", "query"), "8 missing: .*q_proj.*; 8 unexpected: .*query"),
    (lambda tensors: {}, "56 missing"),
    (half, "28 missing"),
    (lambda tensors: {name: t for name, t in tensors.items() if "lora_B" not in name}, "28 missing: .*lora_B"),
    (one_more, "1 unexpected: base_model.model.lm_head.lora_A.weight"),
    (one_shape, r"1 of another shape: .*down_proj.lora_A.weight is \(16, 9\) and should be \(16, 384\)"),
    (lambda tensors: {name: t.T.contiguous() for name, t in tensors.items()}, "of another shape"),
    (filled(float("nan")), "lora_A.weight holds values that are not finite"),
    (filled(float("inf")), "lora_A.weight holds values that are not finite"),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("damage", "said"), TENSORS, ids=lambda value: value if isinstance(value, str) else "")
def test_an_adapter_whose_tensors_do_not_land_is_refused(policy, adapter, engine, damage, said):
    change(adapter / "adapter_model.safetensors", damage)
    with pytest.raises(ValueError, match=said) as error:
        with_adapter(dataclasses.replace(policy, engine=engine), adapter)
    assert str(adapter) in str(error.value)
    assert "use the profile it was trained with" in str(error.value) or "train again" in str(error.value)


CONFIGS = [
    ({"r": 8}, "of another shape"),
    ({"target_modules": ["q_proj"]}, "48 unexpected"),
    ({"target_modules": ["nothing_like_it"]}, "does not fit"),
    ({"target_modules": None}, "describes no LoRA adapter"),
    ({"peft_type": "IA3"}, "describes no LoRA adapter"),
    ({"peft_type": None}, "describes no LoRA adapter"),
    ({"use_dora": True}, "is no plain LoRA: its use_dora is True"),
    ({"modules_to_save": ["lm_head"]}, "is no plain LoRA: its modules_to_save is"),
    ({"base_model_name_or_path": "Qwen/Qwen2.5-3B-Instruct"}, "was trained on Qwen/Qwen2.5-3B-Instruct, and this is"),
    ({"base_model_name_or_path": "/of/another/machine"}, None),
    ({"base_model_name_or_path": None}, None),
    ({"target_modules": ".*_proj"}, None),
    ({"target_modules": "all-linear"}, None),
    ({"an_option_of_tomorrow": 1}, None),
]


@pytest.mark.parametrize(("changes", "said"), CONFIGS, ids=lambda value: str(value)[:60])
def test_an_adapter_is_judged_by_its_configuration(policy, adapter, changes, said):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if said is None:
        check_adapter(adapter, policy)
    else:
        with pytest.raises(ValueError, match=said):
            check_adapter(adapter, policy)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '"LORA"', "7", "", "{", "[" * 100_000, "\x00"])
def test_a_configuration_that_is_none_is_refused_before_a_model_is_loaded(adapter, content):
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match="adapter.* is damaged.*train again or use an earlier checkpoint"):
        check_adapter(adapter)


def test_an_adapter_of_other_weights_is_refused_by_their_name(adapter, model, tmp_path):
    """The same shapes, so that only the name in the configuration can tell."""
    change(model / "model.safetensors", lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()})
    with pytest.raises(ValueError, match="was trained on assets/tiny_model, and this is .*/model; use the profile"):
        load_policy(TINY.replace(model=str(model)), adapter)
    copy = shutil.copytree(MODEL, tmp_path / "copy")
    assert load_policy(TINY.replace(model=str(copy)), adapter).adapter == adapter, "the same weights elsewhere"


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", True),
        ("unsloth/Qwen2.5-3B-Instruct-unsloth-bnb-4bit", "Qwen/Qwen2.5-3B-Instruct", False),
        ("unsloth/qwen2.5-3b-instruct-bnb-4bit", "Qwen/Qwen2.5-3B-Instruct", False),
        ("/of/another/machine", "Qwen/Qwen2.5-3B-Instruct", False),
        ("Qwen/Qwen2.5-3B-Instruct", str(MODEL), True),
        ("assets/tiny_model", str(MODEL), False),
    ],
)
def test_base_models_are_told_apart_where_that_can_be_known(one, other, differ):
    assert other_base(one, other) is other_base(other, one) is differ


WEIGHTS = [
    (lambda tensors: {n: t for n, t in tensors.items() if "layers.3" not in n}, "12 missing: model.layers.3"),
    (renamed("model.", "model.module."), "missing: .*unexpected: model.module"),
    (lambda tensors: tensors | {"model.more.weight": torch.zeros(1)}, "1 unexpected: model.more.weight"),
    (
        lambda tensors: tensors | {"model.norm.weight": torch.zeros(7)},
        r"model.norm.weight is \(7,\) and should be \(128,\)",
    ),
    (
        lambda tensors: tensors | {"model.norm.weight": torch.full((128,), torch.nan)},
        "norm.weight holds values that are not",
    ),
    (lambda tensors: {}, "missing"),
]


@pytest.mark.parametrize(("damage", "said"), WEIGHTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_model_whose_weights_do_not_land_is_refused(model, damage, said):
    change(model / "model.safetensors", damage)
    with pytest.raises(ValueError, match=f"the model in .*{said}.*copy or merge it again"):
        load_policy(TINY.replace(model=str(model)))


def test_a_model_that_is_cut_short_or_without_weights_or_configuration(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged: model.safetensors: .*copy or merge it again"):
        load_policy(TINY.replace(model=str(model)))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no weights in .*model.safetensors is missing"):
        load_policy(TINY.replace(model=str(model)))
    (model / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no configuration that can be read"):
        load_policy(TINY.replace(model=str(model)))


def test_tied_embeddings_may_be_stored_once_or_twice(model):
    path = model / "model.safetensors"
    stored = load_file(path)
    assert "lm_head.weight" not in stored, "the embedded model stores them once"
    check_model_folder(model)
    save_file(stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}, path)
    check_model_folder(model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": 5}, "base_model_name_or_path is '5', not a name"),
        ({"base_model_name_or_path": "a" * 5000}, "was trained on a{80}, and this is assets/tiny_model"),
        ({"lora_alpha": float("nan")}, "lora_alpha is 'nan', not a number above 0"),
        ({"lora_alpha": 1e300}, "lora_alpha is '1e.300', not a number above 0"),
        ({"lora_alpha": 0}, "lora_alpha is '0', not a number above 0"),
        ({"lora_alpha": True}, "lora_alpha is 'True'"),
        ({"r": 10**9}, "r is '1000000000'"),
        ({"r": "16"}, "r is '16'"),
        ({"target_modules": [5]}, "describes no LoRA adapter"),
        ({"target_modules": "("}, "does not fit assets/tiny_model: .*missing \\)"),
        ({"rank_pattern": {"(": 4}}, "does not fit assets/tiny_model: "),
        ({"bias": "junk"}, "does not fit assets/tiny_model: .*junk"),
        ({"megatron_config": {"a": 1}}, "does not fit assets/tiny_model: ModuleNotFoundError"),
        ({"init_lora_weights": "pissa"}, None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_configuration_of_odd_values_is_named_or_does_no_harm(policy, adapter, changes, said):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if said is None:
        assert check_adapter(adapter, policy) == adapter
    else:
        with pytest.raises(ValueError, match=said) as error:
            check_adapter(adapter, policy)
        assert f"the adapter in {adapter}" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.complex64])
def test_tensors_that_are_no_weights_are_refused(policy, adapter, dtype):
    change(adapter / "adapter_model.safetensors", lambda tensors: {n: t.to(dtype) for n, t in tensors.items()})
    with pytest.raises(ValueError, match=f"lora_A.weight holds {dtype}, not weights"):
        check_adapter(adapter, policy)


def test_a_value_that_is_infinite_in_single_precision_is_refused(policy, adapter):
    change(adapter / "adapter_model.safetensors", lambda tensors: {n: t.double() * 1e300 for n, t in tensors.items()})
    with pytest.raises(ValueError, match="holds values that are not finite"):
        check_adapter(adapter, policy)


def test_only_the_files_that_a_loader_opens_count(model):
    """Other files beside them may hold what is missing, and nobody would read it."""
    stored = load_file(model / "model.safetensors")
    names = sorted(stored)
    first, rest = ({n: stored[n] for n in part} for part in (names[:25], names[25:]))
    save_file(first, model / "model.safetensors")
    save_file(rest, model / "model_old.safetensors")
    with pytest.raises(ValueError, match=f"{len(rest)} missing"):
        check_model_folder(model)
    shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": rest}
    (model / "model.safetensors").unlink()
    for name, tensors in shards.items():
        save_file(tensors, model / name)
    index = model / "model.safetensors.index.json"
    places = {tensor: file for file, tensors in shards.items() for tensor in tensors}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    check_model_folder(model)
    index.write_text(json.dumps({"weight_map": {name: place for name, place in places.items() if name in first}}))
    with pytest.raises(ValueError, match=f"{len(rest)} missing"):
        check_model_folder(model)
    index.write_text(json.dumps({"weight_map": places}))
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002.safetensors missing; copy it again"):
        check_model_folder(model)
    index.write_text("[]")
    with pytest.raises(ValueError, match="model.safetensors.index.json is damaged"):
        check_model_folder(model)


@pytest.mark.parametrize("config", ["[1]", '{"model_type": "qwen2", "vocab_size": "x"}', "{", "null"])
def test_a_configuration_of_a_model_that_is_none_is_named(model, config):
    (model / "config.json").write_text(config)
    with pytest.raises(ValueError, match=f"the model in {model}"):
        check_model_folder(model)


def test_a_model_without_a_tokenizer_is_named(model):
    (model / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer in .*: tokenizer.json is missing; copy it from the base"):
        check_model_folder(model)
