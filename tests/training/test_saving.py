"""Saving: what is reloaded or merged answers as the model in memory; the hub."""

import dataclasses
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from utils.data.questions import load_questions
from utils.files import ROOT
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.training import saving
from utils.training.grpo import save_adapter
from utils.training.saving import agreement, push, save_gguf, save_merged

TINY = get_profile("tiny").replace(max_completion_tokens=64)
RECORDED = ROOT / "assets" / "runs" / "tiny" / "seed-0"
SUMMARY = json.loads((RECORDED / "summary.json").read_text(encoding="utf-8"))
SIXTY_FOUR = load_questions("tiny", "test")[:64]
TOKEN = "hf_" + "x" * 34


@pytest.fixture(scope="module")
def in_memory():
    """A model with a trained adapter that learns something else first, so that no file on disk is what it holds."""
    policy = load_policy(TINY, RECORDED / "adapter")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return policy


@pytest.fixture(scope="module")
def saved(in_memory, tmp_path_factory):
    return dataclasses.replace(
        in_memory, adapter=save_adapter(in_memory.model, tmp_path_factory.mktemp("a") / "adapter")
    )


@pytest.mark.slow
def test_the_saved_adapter_answers_as_the_model_in_memory(in_memory, saved):
    assert agreement(load_policy(TINY, saved.adapter), in_memory, SIXTY_FOUR) == 1.0
    for other in (load_policy(TINY), load_policy(TINY, RECORDED / "adapter")):
        assert agreement(other, in_memory, SIXTY_FOUR) < 0.9, "if these answered the same, it would prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize("dtype, least", [("float32", 1.0), ("float16", 0.9), ("bfloat16", 0.5)])
def test_the_merged_model_answers_as_the_model_in_memory(in_memory, saved, tmp_path, dtype, least, record_property):
    folder = save_merged(saved, tmp_path / "merged", dtype)
    assert save_merged(saved, folder, dtype) == folder, "a second time it replaces the first"
    assert [f.name for f in tmp_path.iterdir()] == ["merged"]
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {getattr(torch, dtype)}
        assert not [name for name in tensors.keys() if "lora" in name]
    merged = load_policy(TINY.replace(model=str(folder), dtype=dtype))
    share = agreement(merged, in_memory, SIXTY_FOUR)
    record_property("agreement", share)
    print(f"merged in {dtype}: {share:.1%} of 64 answers equal")
    assert share >= least
    assert load_policy(TINY).model.get_input_embeddings().weight.dtype == torch.float32


def test_without_an_adapter_there_is_nothing_to_merge(tmp_path):
    with pytest.raises(ValueError, match="adapter holds nothing trained; give the trained one"):
        save_merged(load_policy(TINY), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# ----------------------------------------------------------------------------------------------- Unsloth's part


class UnslothModel:
    """Records what it is asked to write, and writes a file as Unsloth would."""

    def __init__(self):
        self.calls = []

    def merge_and_unload(self):
        raise AssertionError("Unsloth merges by itself")

    def save_pretrained_merged(self, folder, tokenizer, **options):
        self.calls.append((tokenizer, options))
        (path := saving.Path(folder)).mkdir()
        (path / "model.safetensors").write_bytes(b"weights")

    def save_pretrained_gguf(self, folder, tokenizer, **options):
        self.calls.append((tokenizer, options))
        return {"gguf_files": [f"{folder}_gguf/model.Q4_K_M.gguf"]}


@pytest.fixture(params=["unsloth", "unsloth+vllm"])
def unsloth(saved, request):
    return dataclasses.replace(saved, model=UnslothModel(), engine=request.param)


def test_unsloth_merges_and_quantises_itself(unsloth, tmp_path):
    assert (save_merged(unsloth, tmp_path / "merged") / "model.safetensors").read_bytes() == b"weights"
    assert save_gguf(unsloth, tmp_path / "gguf") == [tmp_path / "gguf_gguf" / "model.Q4_K_M.gguf"]
    assert unsloth.model.calls == [
        (unsloth.tokenizer, {"save_method": "merged_16bit", "safe_serialization": None}),
        (unsloth.tokenizer, {"quantization_method": "q4_k_m"}),
    ]


def test_a_model_without_its_adapter_is_not_exported_in_silence(unsloth, tmp_path):
    """As loaded for vLLM: the adapter goes with each request, so the model alone is the base model."""
    bare = dataclasses.replace(unsloth, model=SimpleNamespace())
    for write in (save_merged, save_gguf):
        with pytest.raises(ValueError, match="model holds nothing trained; give the trained one"):
            write(bare, tmp_path / "out")


def test_gguf_without_unsloth_says_what_to_do(saved, tmp_path):
    with pytest.raises(RuntimeError, match="loaded with transformers; .*convert_hf_to_gguf.py .*llama-quantize .*q8_0"):
        save_gguf(saved, tmp_path, "q8_0")


# ------------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub's client: what it was told, in order."""
    calls = []

    class Client:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, name, **options):
            calls.append(("create", name, options))

        def upload_folder(self, **options):
            calls.append(("upload", options))

    monkeypatch.setattr("huggingface_hub.HfApi", Client)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return calls


@pytest.fixture
def colab(monkeypatch):
    """Stands in for Colab's secrets."""
    secrets = {}
    module = ModuleType("google.colab")
    module.userdata = SimpleNamespace(get=secrets.__getitem__)
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return secrets


def test_push_uploads_the_folder_with_its_card(hub, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    assert push(tmp_path, "me/grpo", "a card") == "https://huggingface.co/me/grpo"
    assert hub == [
        ("token", TOKEN),
        ("create", "me/grpo", {"private": True, "exist_ok": True}),
        ("upload", {"repo_id": "me/grpo", "folder_path": str(tmp_path)}),
    ]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "a card"
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert not [f for f in tmp_path.rglob("*") if TOKEN.encode() in f.read_bytes()]


def test_colabs_secret_goes_before_the_environment(hub, colab, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    push(tmp_path, "me/grpo", "a card")
    colab["HF_TOKEN"] = TOKEN
    push(tmp_path, "me/grpo", "a card")
    assert [call[1] for call in hub if call[0] == "token"] == ["hf_environment", TOKEN]


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_without_a_token_nothing_is_created(hub, monkeypatch, tmp_path, value):
    if value is not None:
        monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(RuntimeError, match="no token for the hub; on Colab add the secret HF_TOKEN"):
        push(tmp_path, "me/grpo", "a card")
    with pytest.raises(FileNotFoundError, match="save the adapter or the merged model first"):
        push(tmp_path / "nowhere", "me/grpo", "a card")
    assert hub == []
