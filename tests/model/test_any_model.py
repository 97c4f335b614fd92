"""Another model in the place of a profile's: its name, what is refused before anything starts, and GGUF files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from utils.data.questions import load_questions
from utils.evaluation.protocol import begin, header_of
from utils.files import ROOT, sha256
from utils.model import gguf_file
from utils.model.policy import add_lora, end_tokens, generate, load_policy, load_tokenizer
from utils.model.profiles import PROFILES, find_model, get_profile
from utils.model.weights import other_base
from utils.scripts.commands import main
from utils.setup import installed
from utils.training.memory import model_config
from utils.training.preflight import estimate_seconds, preflight
from utils.training.saving import save_merged

TINY = PROFILES["tiny"]
FOLDER = Path(TINY.model)
QUESTIONS = load_questions("tiny", "test")[:2]
with_gguf = pytest.mark.skipif(
    gguf_file.GGUF_PIN != f"gguf=={installed('gguf')}",
    reason=f"{gguf_file.GGUF_PIN} is not installed; `pip install` it",
)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "stick" / "my model")


def tiny_with(model):
    return get_profile("tiny", str(model)).replace(max_completion_tokens=16)


# --- which model ---


def test_the_option_wins_over_the_variable_and_the_other_numbers_stay(copy, monkeypatch):
    assert get_profile("t4") is PROFILES["t4"]
    monkeypatch.setenv("GRPO_MODEL", "owner/name")
    assert get_profile("t4") == PROFILES["t4"].replace(model="owner/name")
    assert get_profile("t4", str(copy)) == PROFILES["t4"].replace(model=str(copy))
    monkeypatch.setenv("GRPO_MODEL", "")
    assert get_profile("tiny") is TINY
    monkeypatch.setenv("GRPO_MODEL", "nowhere")
    with pytest.raises(ValueError, match="there is no model 'nowhere'"):
        get_profile("tiny")


def test_what_was_recorded_with_the_embedded_model_does_not_follow_the_variable():
    code = (
        "from utils.experiments import grid, short_run\n"
        "from utils.model.profiles import PROFILES, get_profile\n"
        "assert get_profile('tiny').model == 'owner/name'\n"
        "assert grid.START.model == short_run.PROFILE.model == PROFILES['tiny'].model != 'owner/name'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"GRPO_MODEL": "owner/name"}, check=True)


def test_a_path_becomes_absolute_and_a_hub_name_stays(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("stick/my model", "./stick/../stick/my model/", "~/stick/my model", str(copy)):
        assert find_model(text) == str(copy)
    for name in ("Qwen/Qwen2.5-0.5B-Instruct", "a/b_c.d-e"):
        assert find_model(name) == name


def take(name):
    return lambda folder: (folder / name).unlink()


def foreign(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def gguf_inside(folder):
    take("config.json")(folder)
    (folder / "q4.gguf").write_bytes(b"GGUF")


@pytest.mark.parametrize(
    "harm, name, words",
    [
        (take("model.safetensors"), "", "my model holds no weights in safetensors; copy it again, whole"),
        (foreign, "", "no weights in safetensors"),
        (take("config.json"), "", "holds no config.json"),
        (adapter, "", "holds no config.json; it is an adapter: .*with --adapter"),
        (gguf_inside, "", "for the file in it, give .*q4.gguf"),
        (take("config.json"), "config.json", "there is no model '.*config.json'"),
        (lambda folder: None, "config.json", "config.json is no GGUF; give a file NAME.gguf, or the folder"),
        (lambda folder: (folder / "x.gguf").write_bytes(b"PK\3\4"), "x.gguf", "x.gguf is no GGUF"),
        (lambda folder: (folder / "x.gguf").write_bytes(b""), "x.gguf", "x.gguf is no GGUF"),
        (lambda folder: None, "nowhere", "there is no model .*give a folder with config.json"),
        (lambda folder: None, "away.gguf", "there is no model"),
    ],
)
def test_what_is_no_model_is_refused_by_name_with_the_mend(copy, harm, name, words):
    harm(copy)
    with pytest.raises(ValueError, match=words):
        find_model(str(copy / name))


@pytest.mark.parametrize(
    "text", ["qwen", "a/b/c", "/a/b", "./a", "../a/b", "a/b.gguf", "a/", "-a/b", "a b/c", "a\nb/c"]
)
def test_neither_there_nor_a_hub_name(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no model .*or a hub name such as"):
        find_model(text)


# --- a folder ---


def test_a_folder_is_named_and_hashed_wherever_it_lies(copy, tmp_path):
    policy = load_policy(tiny_with(copy))
    header = header_of(policy, QUESTIONS)
    assert header["model"] == "stick/my model" and header["weights"] == header_of(load_policy(TINY), [])["weights"]
    assert len(header["weights"]) == 64 and str(tmp_path) not in json.dumps(header)
    begin(tmp_path / "out", header, QUESTIONS)
    elsewhere = shutil.copytree(copy, tmp_path / "mounted" / "there")
    begin(tmp_path / "out", header_of(load_policy(tiny_with(elsewhere)), QUESTIONS), QUESTIONS)
    settings = json.loads((elsewhere / "config.json").read_text())
    (elsewhere / "config.json").write_text(json.dumps(settings | {"rope_theta": 9999.0}))
    with pytest.raises(ValueError, match="model is 'stick/my model' .* and 'mounted/there' .* in this call"):
        begin(tmp_path / "out", header_of(load_policy(tiny_with(elsewhere)), QUESTIONS), QUESTIONS)


def test_preflight_reads_the_model_that_is_given_and_knows_no_time_for_it(copy):
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"vocab_size": 1000}))
    profile = get_profile("tiny", str(copy))
    assert model_config(str(copy))["vocab_size"] == 1000 and estimate_seconds(profile) is None
    assert {check.name: check.found for check in preflight(profile)}["time"] == "not measured for tiny"


def other_architecture(folder, **settings):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**settings, vocab_size=686, eos_token_id=2, pad_token_id=0, bos_token_id=None)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_model_that_lora_cannot_train_here_is_evaluated_and_not_trained(copy):
    other_architecture(copy, model_type="gpt2", n_embd=32, n_layer=1, n_head=2)
    policy = load_policy(tiny_with(copy))
    assert len(generate(policy, QUESTIONS)) == 2
    with pytest.raises(ValueError, match="my model is a gpt2 without the layers q_proj, .*built like Qwen2 or Llama"):
        add_lora(policy, seed=0)
    memory = next(check for check in preflight(policy.profile) if check.name == "memory")
    assert memory.verdict == "warn" and "is a gpt2 without" in memory.mend


def test_another_architecture_that_has_the_layers_is_trained_as_well(copy):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    policy = load_policy(tiny_with(other_architecture(copy, model_type="llama", num_key_value_heads=1, **sizes)))
    assert len(generate(policy, QUESTIONS)) == 2
    assert any("lora" in name for name, _ in add_lora(policy, seed=0).named_parameters())


@pytest.mark.parametrize("kind", ["t5", "no_such_type"])
def test_what_is_no_language_model_is_refused_by_name(copy, kind):
    (copy / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=f"the model in {copy}.*{kind}"):
        load_policy(tiny_with(copy))


# --- the hub ---


def test_a_hub_name_is_named_with_its_revision(tmp_path):
    revision, cache = "c0ffee" * 6 + "c0ff", tmp_path / "hub" / "models--owner--name"
    shutil.copytree(FOLDER, cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(revision)
    code = (
        "from utils.evaluation.protocol import header_of\n"
        "from utils.model.policy import load_policy\n"
        "from utils.model.profiles import get_profile\n"
        "header = header_of(load_policy(get_profile('tiny')), [])\n"
        "print(header['model'], header['weights'])"
    )
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "GRPO_MODEL": "owner/name"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.stdout == f"owner/name {revision}\n", done.stderr
    absent = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env | {"GRPO_MODEL": "owner/other"}, text=True, capture_output=True
    )
    assert "RuntimeError: profile tiny: owner/other could not be loaded" in absent.stderr


# --- the commands ---


@pytest.mark.slow
def test_commands_use_the_model_and_refuse_to_go_on_with_another(copy, tmp_path, monkeypatch):
    def command(*argv):
        main([*argv, "--profile", "tiny"])

    out, measured, mine = str(tmp_path / "out"), tmp_path / "measured", tmp_path / "mine.jsonl"
    mine.write_text('{"question": "Ann has 3 pens and buys 4. How many pens has she?", "answer": "7"}\n')
    monkeypatch.setenv("GRPO_MODEL", "owner/name")
    command("train", "--model", str(copy), "--max-steps", "1", "--output", out)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["model"] == str(copy)
    monkeypatch.delenv("GRPO_MODEL")
    with pytest.raises(SystemExit, match=f"model is '{copy}' in .*'assets/tiny_model' in this run"):
        command("train", "--max-steps", "2", "--output", out, "--resume")
    monkeypatch.setenv("GRPO_MODEL", str(copy))
    command("train", "--max-steps", "2", "--output", out, "--resume")
    questions = ["--questions", str(mine), "--adapter", f"{out}/adapter", "--output", str(measured)]
    command("evaluate", *questions)
    summary, header = (json.loads((measured / name).read_text()) for name in ("summary.json", "protocol.json"))
    assert (summary["model"], summary["weights"]) == (header["model"], header["weights"])
    assert summary["model"] == "stick/my model"


# --- a GGUF file ---


def test_without_the_package_the_message_names_pin_and_mend(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(b"GGUF\3\0\0\0")
    monkeypatch.setattr("utils.setup.installed", lambda package: None)
    pin = gguf_file.GGUF_PIN
    words = f"a model in a .gguf file needs {pin}, found none; run `{sys.executable} -m pip install {pin}`"
    for use in (load_policy, preflight):
        with pytest.raises(ImportError, match=words):
            use(tiny_with(tmp_path / "m.gguf"))


def write_gguf(file, embedding=None, output=None, end=2, leave_out=(), architecture="qwen2", extra=(), parts=1):
    """The embedded model as llama.cpp's converter writes one; `embedding` and `output` are (type, matrix)."""
    from gguf import GGMLQuantizationType as Kind
    from gguf import GGUFWriter, quantize

    file.parent.mkdir(parents=True, exist_ok=True)
    config, vocabulary = (json.loads((FOLDER / name).read_text()) for name in ("config.json", "tokenizer.json"))
    writer = GGUFWriter(str(file), architecture)
    writer.add_uint16("split.count", parts)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    added = {token["id"]: 3 if token["special"] else 4 for token in vocabulary["added_tokens"]}
    ids = vocabulary["model"]["vocab"] | {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    tokens = sorted(ids, key=ids.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([added.get(i, 1) for i in range(len(tokens))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in vocabulary["model"]["merges"]])
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(0)
    writer.add_chat_template((FOLDER / "chat_template.jinja").read_text())
    short = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
        "self_attn.o_proj": "attn_output",
        **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    }
    weights = {"output_norm.weight": None, "token_embd.weight": None}
    for name, tensor in load_file(FOLDER / "model.safetensors").items():
        for long, new in {
            "model.layers.": "blk.",
            "model.norm": "output_norm",
            "model.embed_tokens": "token_embd",
        }.items():
            name = name.replace(long, new)
        for long, new in short.items():
            name = name.replace(long, new)
        weights[name] = tensor.numpy()
    for name, tensor in (weights | dict(extra)).items():
        if name not in leave_out and not (name == "token_embd.weight" and embedding):
            writer.add_tensor(name, tensor)
    for name, given in (("token_embd.weight", embedding), ("output.weight", output)):
        if given:
            kind = getattr(Kind, given[0])
            writer.add_tensor(name, quantize(given[1], kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def matrix():
    return load_file(FOLDER / "model.safetensors")["model.embed_tokens.weight"].numpy()


@with_gguf
def test_a_file_holds_the_same_model_as_the_folder_bit_for_bit(tmp_path):
    file = write_gguf(tmp_path / "stick" / "tiny.GGUF")
    policy, folder = load_policy(tiny_with(file)), load_policy(TINY)
    ours, theirs = policy.model.state_dict(), folder.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert policy.model.get_input_embeddings().weight is policy.model.get_output_embeddings().weight
    assert end_tokens(policy.model, policy.tokenizer) == [2] and policy.tokenizer.pad_token == "<|endoftext|>"
    header = header_of(policy, QUESTIONS)
    assert (header["model"], header["weights"]) == ("stick/tiny.GGUF", sha256(file))
    text = "<reasoning>6 * 7 = 42</reasoning><|im_end|>"
    assert policy.tokenizer.decode(policy.tokenizer(text)["input_ids"], skip_special_tokens=True) == text[:-10]
    assert load_tokenizer(str(file)).chat_template == folder.tokenizer.chat_template
    assert len(generate(policy, QUESTIONS)) == 2 and model_config(str(file))["hidden_size"] == 128


@with_gguf
@pytest.mark.parametrize("kinds", [("Q4_0", "Q8_0"), ("Q8_0", "Q4_0"), ("F16", "Q8_0")])
def test_of_a_tied_matrix_stored_twice_the_finer_is_kept(tmp_path, kinds):
    from gguf import GGMLQuantizationType, dequantize, quantize

    model = load_policy(tiny_with(write_gguf(tmp_path / "m.gguf", *((kind, matrix()) for kind in kinds)))).model
    fine = getattr(GGMLQuantizationType, next(kind for kind in ("F16", "Q8_0") if kind in kinds))
    expected = torch.from_numpy(dequantize(quantize(matrix(), fine), fine).astype("float32"))
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, expected)


@with_gguf
def test_two_matrices_that_differ_stay_two(tmp_path):
    model = load_policy(tiny_with(write_gguf(tmp_path / "m.gguf", output=("F32", matrix()[::-1].copy())))).model
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight.flip(0))


@with_gguf
def test_the_end_token_is_the_one_of_the_template_whatever_the_file_says(tmp_path):
    policy = load_policy(tiny_with(write_gguf(tmp_path / "m.gguf", end=0)))
    assert policy.tokenizer.eos_token == "<|im_end|>" and end_tokens(policy.model, policy.tokenizer) == [2]


@with_gguf
@pytest.mark.parametrize(
    "how, words",
    [
        (dict(leave_out=("blk.1.attn_q.weight",)), "1 missing: model.layers.1.self_attn.q_proj.weight"),
        (dict(extra=[("rope_freqs.weight", matrix()[0])]), "1 unexpected: rope_freqs.weight"),
        (
            dict(extra=[("output_norm.weight", matrix()[0] * float("nan"))]),
            "output_norm.weight holds values .* not finite",
        ),
        (dict(extra=[("output_norm.weight", matrix()[0][:64].copy())]), "1 of another shape: model.norm.weight"),
        (dict(parts=2), "is one of 2 parts of a model; join them: llama-gguf-split --merge"),
        (dict(architecture="rwkv6"), "rwkv6 is not supported.*give its folder of safetensors"),
    ],
)
def test_a_file_that_would_load_as_another_model_is_refused(tmp_path, how, words):
    with pytest.raises(ValueError, match=f"(?s)m.gguf.*{words}"):
        load_policy(tiny_with(write_gguf(tmp_path / "m.gguf", **how)))


@with_gguf
@pytest.mark.parametrize("share", [0.0001, 0.001, 0.02, 0.5, 0.9999])
def test_a_file_cut_short_is_refused_at_once(tmp_path, share):
    file = write_gguf(tmp_path / "m.gguf")
    os.truncate(file, max(8, int(file.stat().st_size * share)))
    for use in (load_policy, lambda profile: model_config(profile.model)):
        with pytest.raises(ValueError, match="m.gguf is cut short or damaged .*copy it again"):
            use(tiny_with(file))


@with_gguf
def test_an_adapter_goes_on_its_file_alone_and_is_merged_with_it(tmp_path):
    file = write_gguf(tmp_path / "m.gguf")
    policy = load_policy(tiny_with(file))
    add_lora(policy, seed=0).save_pretrained(tmp_path / "adapter")
    trained = load_policy(tiny_with(file), tmp_path / "adapter")
    merged = load_policy(tiny_with(save_merged(trained, tmp_path / "merged", "float32")))
    assert generate(merged, QUESTIONS) == generate(trained, QUESTIONS)
    other = write_gguf(tmp_path / "other.gguf", embedding=("Q4_0", matrix()))
    assert other_base(str(file), str(other)) and other_base(str(file), str(FOLDER))
    with pytest.raises(ValueError, match="was trained on .*m.gguf, and this is .*other.gguf"):
        load_policy(tiny_with(other), tmp_path / "adapter")
