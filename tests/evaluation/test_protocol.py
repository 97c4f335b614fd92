"""The protocol: what belongs to it changes its hash, what does not leaves it, and two of them are not compared."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest

from utils.data.answers import RULES
from utils.data.questions import Question, load_questions, read_questions
from utils.evaluation.protocol import (
    Protocol,
    dataset_name,
    header_of,
    protocol_of,
    quantisation,
    read_header,
    require_same,
    revision,
)
from utils.files import ROOT, write_json
from utils.model.policy import load_policy
from utils.model.profiles import get_profile

QUESTIONS = load_questions("tiny", "test")[:4]


@pytest.fixture(scope="module")
def policy():
    return load_policy(get_profile("tiny"))


def test_what_it_says_of_the_tiny_model(policy):
    protocol = protocol_of(policy, QUESTIONS)
    assert (protocol.engine, protocol.dtype, protocol.quantisation) == ("transformers", "float32", "none")
    assert (protocol.decoding, protocol.token_cap, protocol.seed) == ("greedy", 96, None)
    assert (protocol.dataset, protocol.rules) == ("tiny test", RULES)
    assert "<reasoning>" in protocol.system_prompt and len(protocol.template) == len(protocol.revision) == 64
    assert len(protocol.hash) == 12 and protocol == protocol_of(policy, QUESTIONS)


def test_every_field_is_in_the_hash(policy):
    protocol = protocol_of(policy, QUESTIONS)
    others = {f.name: dataclasses.replace(protocol, **{f.name: "another"}) for f in dataclasses.fields(Protocol)}
    assert len({protocol.hash, *(other.hash for other in others.values())}) == 1 + 11
    for name, other in others.items():
        with pytest.raises(ValueError) as error:
            require_same(protocol, other, names=("runs/a", "runs/b"))
        said = f"{name} is {getattr(protocol, name)!r} in runs/a and 'another' in runs/b"
        assert said in str(error.value) and "Mend: " in str(error.value)
        assert str(error.value).count(" in runs/a") == 1
    require_same(protocol, dataclasses.replace(protocol))


def test_all_differing_fields_are_named(policy):
    protocol = protocol_of(policy, QUESTIONS)
    with pytest.raises(
        ValueError, match="dtype is 'float32' in base and 'float16' in trained; token_cap is 96 in base"
    ):
        require_same(protocol, dataclasses.replace(protocol, dtype="float16", token_cap=24))
    with pytest.raises(ValueError, match="Mend: judge the stored answers of both by the present rules: run.py score"):
        require_same(protocol, dataclasses.replace(protocol, rules="0"))


@pytest.mark.parametrize(
    "field, change",
    [
        (
            "system_prompt",
            lambda policy, patch: patch.setattr(policy, "profile", policy.profile.replace(prompt="one line")),
        ),
        ("template", lambda policy, patch: patch.setattr(policy.tokenizer, "chat_template", "{{ messages }}")),
        ("rules", lambda policy, patch: patch.setattr("utils.evaluation.protocol.RULES", "new")),
        (
            "token_cap",
            lambda policy, patch: patch.setattr(policy, "profile", policy.profile.replace(max_completion_tokens=9)),
        ),
        ("engine", lambda policy, patch: patch.setattr(policy, "engine", "unsloth+vllm")),
    ],
)
def test_it_follows_what_is_really_used(policy, monkeypatch, field, change):
    before = protocol_of(policy, QUESTIONS)
    change(policy, monkeypatch)
    after = protocol_of(policy, QUESTIONS)
    assert getattr(before, field) != getattr(after, field) and before.hash != after.hash


def test_the_adapter_is_not_part_of_it(policy):
    adapted = dataclasses.replace(policy, adapter=ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter")
    assert protocol_of(adapted, QUESTIONS) == protocol_of(policy, QUESTIONS)


def weights_told(policy, adapter):
    return header_of(dataclasses.replace(policy, adapter=adapter), QUESTIONS)["adapter_weights"]


def test_where_its_base_lies_does_not_make_it_another_adapter(policy, tmp_path):
    """A published adapter names its base without the folders of the machine that trained it."""
    recorded = ROOT / "assets" / "runs" / "laptop" / "seed-0" / "adapter"
    copy = shutil.copytree(recorded, tmp_path / "adapter")
    path = copy / "adapter_config.json"
    config = json.loads(path.read_text())
    for place in ("/tmp/models/Qwen2.5-Coder-0.5B-Instruct", "/home/é/models/Qwen2.5-Coder-0.5B-Instruct"):
        write_json(path, config | {"base_model_name_or_path": place})
        assert weights_told(policy, copy) == weights_told(policy, recorded)
    for other in ({"lora_alpha": 32}, {"base_model_name_or_path": "/tmp/models/Qwen2.5-0.5B-Instruct"}):
        write_json(path, config | other)
        assert weights_told(policy, copy) != weights_told(policy, recorded)


ADAPTERS = sorted((ROOT / "assets" / "runs").glob("*/seed-*/adapter"))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_recorded_answers_are_those_of_the_adapter_beside_them(policy, adapter):
    headers = list(adapter.parent.glob("*/protocol.json"))
    assert headers and {read_header(path.parent)["adapter_weights"] for path in headers} == {
        weights_told(policy, adapter)
    }


def test_questions_golds_and_order_are_the_revision(tmp_path):
    a, b = Question("one?", "1", {}), Question("two?", "2", {})
    all_of_them = [[a, b], [b, a], [a], [a, a], [a, Question("two?", "3", {})], [Question("one? two?", "1", {})]]
    assert len(set(map(revision, all_of_them))) == len(all_of_them)
    assert revision([a, b]) == revision([Question("one?", "1", {"source": "elsewhere"}), b])


def test_a_file_is_named_without_its_folder(tmp_path):
    path = tmp_path / "row 7" / "my line 5.jsonl"
    path.parent.mkdir()
    path.write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "1 + 2?", "answer": "#### 3"}\n')
    questions = read_questions(path)
    assert dataset_name(questions) == "my line 5.jsonl"
    assert dataset_name([*questions, *QUESTIONS]) == "my line 5.jsonl + tiny test"
    assert dataset_name([Question("?", "1", {})]) == "questions"


@pytest.mark.parametrize(
    "settings, said",
    [
        (None, "none"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "4-bit nf4"),
        ({"load_in_8bit": True}, "8-bit"),
        ({"quant_method": "gptq"}, "gptq"),
    ],
)
def test_quantisation_is_read_from_the_model(settings, said):
    assert quantisation(SimpleNamespace(config=SimpleNamespace(quantization_config=settings))) == said
    wrapped = settings and SimpleNamespace(to_dict=lambda: settings)
    assert quantisation(SimpleNamespace(config=SimpleNamespace(quantization_config=wrapped))) == said


def test_it_comes_back_from_json_or_says_what_is_wrong(policy):
    protocol = protocol_of(policy, QUESTIONS)
    values = json.loads(json.dumps(dataclasses.asdict(protocol)))
    assert Protocol.from_dict(values) == protocol and Protocol.from_dict(values).hash == protocol.hash
    for wrong in (None, {}, values | {"cap": 3}, {k: v for k, v in values.items() if k != "seed"}):
        with pytest.raises(ValueError, match="a protocol has the fields"):
            Protocol.from_dict(wrong)
