"""Loading: the embedded model as shipped, adapters good and bad, and the ladder of engines."""

import dataclasses
import importlib
import json
import shutil
import sys
from types import ModuleType

import pytest
import torch
from transformers import AutoTokenizer, tokenization_utils_base

from utils.data.prompts import prompt_tokens
from utils.data.questions import Question, load_questions
from utils.evaluation.evaluate import correct_counts, judge
from utils.files import ROOT, read_jsonl
from utils.model import policy as policies
from utils.model.policy import (
    ENGINES,
    Sample,
    add_lora,
    check_adapter,
    check_tokenizer,
    end_tokens,
    fitting,
    generate,
    ladder,
    load_policy,
    load_tokenizer,
    prompt_budget,
    render_prompt,
)
from utils.model.profiles import PROFILES, get_profile
from utils.rewards.functions import correctness_reward
from utils.training.grpo import build_trainer

TINY = get_profile("tiny")


def test_the_embedded_model_is_a_small_qwen2_in_safetensors():
    policy = load_policy(TINY)
    folder = ROOT / "assets" / "tiny_model"
    assert policy.model.config.architectures == ["Qwen2ForCausalLM"] and policy.engine == "transformers"
    assert (folder / "model.safetensors").stat().st_size <= 5e6
    assert not [f for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".py")]
    assert json.loads((folder / "config.json").read_text())["transformers_version"].startswith("4.57")


def test_lora_covers_every_linear_layer_and_depends_on_the_seed_alone():
    def adapter(seed):
        model = add_lora(load_policy(TINY), seed)
        return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    a, b, c = adapter(1), adapter(1), adapter(2)
    assert len(a) == 4 * 7 * 2 and all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)


def test_a_missing_adapter_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="adapter_config.json is missing; give the folder that training wrote"):
        check_adapter(tmp_path)


@pytest.mark.parametrize("damaged", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_adapter_is_refused(tmp_path, damaged):
    add_lora(load_policy(TINY), seed=0).save_pretrained(tmp_path)
    assert check_adapter(tmp_path) == tmp_path
    content = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged.*train again or use an earlier checkpoint"):
        load_policy(TINY, tmp_path)


def test_on_a_gpu_profile_each_engine_is_tried_and_the_loss_is_said(monkeypatch):
    def unavailable(profile):
        raise ImportError("No module named 'vllm'")

    def tiny(profile):
        return policies._load_transformers(TINY, four_bit=False)

    monkeypatch.setattr(policies.Profile, "check_machine", lambda self: None)
    monkeypatch.setattr(policies, "LOADERS", dict.fromkeys(ENGINES[:-1], unavailable) | {"transformers": tiny})
    notices = []
    assert load_policy(PROFILES["t4"], notify=notices.append).engine == "transformers"
    assert [notice.split()[0] for notice in notices] == list(ENGINES[:-1])
    assert all("No module named 'vllm'" in n and "same algorithm" in n for n in notices)


@pytest.mark.parametrize(
    "profile, asked, tried",
    [
        (TINY, "", ENGINES[3:]),
        (TINY, "vllm+transformers", ENGINES[2:]),
        (PROFILES["t4"], "", ENGINES),
        (PROFILES["t4"], "unsloth", ENGINES[1:]),
        (PROFILES["t4"].replace(model="a.gguf"), "", ENGINES[3:]),
    ],
)
def test_the_ladder_begins_where_profile_and_variable_say(monkeypatch, profile, asked, tried):
    monkeypatch.setenv("GRPO_ENGINE", asked)
    assert ladder(profile) == tried


@pytest.mark.parametrize("asked", ["unsloth", "vllm"])
def test_an_engine_that_the_profile_cannot_use_is_refused_with_those_that_it_can(monkeypatch, asked):
    monkeypatch.setenv("GRPO_ENGINE", asked)
    with pytest.raises(ValueError, match=rf"one of vllm\+transformers, transformers for .* got '{asked}'; or unset it"):
        load_policy(TINY)


def test_on_a_cpu_vllm_is_asked_for_by_name_and_its_absence_is_said(monkeypatch):
    monkeypatch.setenv("GRPO_ENGINE", "vllm+transformers")
    monkeypatch.setitem(sys.modules, "vllm", None)
    notices = []
    assert load_policy(TINY, notify=notices.append).engine == "transformers"
    assert len(notices) == 1 and "vllm+transformers is not available (ModuleNotFoundError: " in notices[0]


def test_a_vllm_that_trl_does_not_drive_is_said_with_both_versions(monkeypatch):
    monkeypatch.setenv("GRPO_ENGINE", "vllm+transformers")
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    trls = importlib.import_module("trl.import_utils")
    monkeypatch.setattr(trls, "_is_package_available", lambda *args, **kwargs: (True, "0.9.1"))
    notices = []
    assert load_policy(TINY, notify=notices.append).engine == "transformers"
    assert len(notices) == 1 and "from 0.11.0 to 0.18.0. You have version 0.9.1" in notices[0]


def test_vllm_is_given_no_gguf_file(monkeypatch):
    with pytest.raises(NotImplementedError, match="mine.gguf is unpacked by transformers"):
        policies.LOADERS["vllm+transformers"](TINY.replace(model="/mine.gguf"))


def test_when_no_engine_loads_the_last_reason_is_given(tmp_path):
    with pytest.raises(RuntimeError, match="profile tiny: .*nowhere could not be loaded"):
        load_policy(TINY.replace(model=str(tmp_path / "nowhere")))


# ------------------------------------------------------------------------------- templates, as families have them

CHATML = (ROOT / "assets" / "tiny_model" / "chat_template.jinja").read_text(encoding="utf-8")
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LLAMA_2 = (  # system message within the first question; the model's turn begins after [/INST], whatever is asked for
    "{% set system = messages[0].content %}{% for m in messages[1:] %}{% if m.role == 'user' %}"
    "[INST] {% if loop.first %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }}<|im_end|>{% endif %}{% endfor %}"
)
THINKING = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS + BEGIN
)
PHI_3 = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}" + BEGIN


@pytest.fixture
def altered(tmp_path):
    """Load the tiny model from a copy with another chat template, or without some of its tokens."""

    def load(template=CHATML, without=()):
        folder = shutil.copytree(ROOT / "assets" / "tiny_model", tmp_path / "model")
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            settings = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({k: v for k, v in settings.items() if k not in without}))
        (folder / "chat_template.jinja").unlink()
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return load_policy(TINY.replace(model=str(folder)))

    return load


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        LLAMA_2,
        THINKING,
        "{% set _ = strftime_now %}" + TURNS + BEGIN,
        TURNS.replace("m.content", "m['content'] | trim") + BEGIN,
    ],
    ids=["ChatML", "Llama 2", "thinking", "with a date", "trimmed"],
)
def test_a_template_that_asks_as_it_should_is_taken(altered, template):
    policy = altered(template)
    assert load_questions("tiny", "test")[0].question in render_prompt(
        policy, load_questions("tiny", "test")[0].question
    )


@pytest.mark.parametrize(
    "template, fault",
    [
        (None, "has no chat template.*a base model"),
        ("", "has no chat template.*a base model"),
        (GEMMA, "refuses a system message with a question .TemplateError: System role not supported"),
        ("{{ documents[0].title }}" + TURNS + BEGIN, "refuses a system message with a question .UndefinedError"),
        ("{% for m in messages" + TURNS, "refuses a system message with a question .TemplateSyntaxError"),
        (PHI_3, "drops or alters the system message"),
        ("{{ messages[0].content }}" + BEGIN, "drops or alters the user message"),
        (TURNS.replace("m.content", "m.content[0].text") + BEGIN, "drops or alters the system message"),
        (TURNS.replace("m.content", "m.content | e") + BEGIN, "drops or alters the system message"),
        (TURNS.replace("m.content", "m.content | replace('&', 'and')") + BEGIN, "drops or alters the user message"),
        (TURNS.replace("m.content", "m.content | truncate(100)") + BEGIN, "alters the system message"),
        (TURNS.replace("m.content", "m.content[:1000]") + BEGIN, "drops or alters the user message"),
        (TURNS.replace("m.content }}", "m.content }} {{ m.content }}") + BEGIN, "repeats the system message"),
        (TURNS.replace("messages", "messages | reverse") + BEGIN, "turns the order"),
        (TURNS, "does not begin the answer"),
        (TURNS + BEGIN.replace("assistant", "user"), "does not begin the answer"),
        (TURNS + BEGIN.replace("assistant\n", "assistant\n<|im_end|>\n"), "does not begin the answer"),
        ("{% for m in messages if m.role != 'assistant' %}" + TURNS.partition("%}")[2] + BEGIN, "does not begin the"),
    ],
)
def test_a_template_that_would_ask_something_else_is_refused_with_model_and_mend(altered, tmp_path, template, fault):
    with pytest.raises(ValueError, match=f"{tmp_path / 'model'}: its? .*{fault}.*Mend: choose an instruct model"):
        altered(template)


@pytest.mark.parametrize("name", ["pad_token", "eos_token"])
def test_a_mark_that_the_model_does_not_know_is_refused(name):
    policy = load_policy(TINY)
    policy.tokenizer.add_special_tokens({name: "<never seen>"})
    with pytest.raises(
        ValueError, match=f"tiny: its tokenizer has '<never seen>', which the model does not know, as {name}"
    ):
        check_tokenizer(policy.tokenizer, "tiny", policy.model.config.vocab_size)


@pytest.mark.parametrize("name", ["pad_token", "eos_token"])
def test_a_tokenizer_without_its_marks_is_refused(altered, tmp_path, name):
    with pytest.raises(ValueError, match=f"{tmp_path / 'model'}: its tokenizer has no {name}.*Mend: name one in"):
        altered(without=[name])


def test_a_large_vocabulary_is_not_taken_for_mistrals(monkeypatch):
    said = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", said.append)
    monkeypatch.setattr(type(load_tokenizer(TINY.model)), "vocab_size", 151_643)
    tokenizer = load_tokenizer(TINY.model)
    assert not said
    stock = AutoTokenizer.from_pretrained(TINY.model)
    assert "fix_mistral_regex=True" in said[0], "the library has mended it: load_tokenizer need not say it any more"
    assert tokenizer("48 pencils = 4*12").input_ids == stock("48 pencils = 4*12").input_ids


# ------------------------------------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def policy():
    return load_policy(TINY.replace(eval_batch=3, max_completion_tokens=24))


def test_generate_keeps_the_order_of_the_questions(policy, monkeypatch):
    """Prompts are batched by length; an echo in place of the model shows where each ends up."""

    def echo(policy, prompts, temperature, n):
        assert len(prompts) * n <= policy.profile.eval_batch
        return [[Sample(prompt, i, False) for i in range(n)] for prompt in prompts]

    monkeypatch.setattr(policies, "_generate_batch", echo)
    questions = [Question("why? " * length, "1", {}) for length in (9, 2, 7, 1, 8, 3, 3)]
    groups = generate(policy, questions, n=3, temperature=1.0)
    assert [group[0].text.count("why?") for group in groups] == [9, 2, 7, 1, 8, 3, 3]
    assert all([sample.tokens for sample in group] == [0, 1, 2] for group in groups)


def test_greedy_answers_do_not_depend_on_the_batch(policy):
    questions = load_questions("tiny", "test")[:5]
    together = generate(policy, questions)
    alone = [generate(policy, [question])[0] for question in questions]
    assert together == alone
    assert all(1 <= group[0].tokens <= 24 for group in together)


def test_sampling_differs_within_a_group_and_is_counted(policy):
    torch.manual_seed(0)
    questions = load_questions("tiny", "test")[:4]
    groups = generate(policy, questions, temperature=1.0, n=6)
    assert all(len(group) == 6 for group in groups)
    assert len({sample.text for sample in groups[0]}) > 1
    torch.manual_seed(0)
    counts = correct_counts(policy, questions, n=6)
    assert counts == [sum(judge(q, s).strict for s in g) for q, g in zip(questions, groups, strict=True)]


# ------------------------------------------------------------------------------------- several end tokens

FEW = load_questions("tiny", "test")[:12]


@pytest.fixture(scope="module")
def two_ends(tmp_path_factory):
    """The embedded model, declaring a second end token, as Qwen does: here a word with which some reasoning begins."""
    folder = shutil.copytree(ROOT / "assets" / "tiny_model", tmp_path_factory.mktemp("two") / "ends")
    tokenizer = load_policy(TINY).tokenizer
    config = json.loads((folder / "generation_config.json").read_text())
    config["eos_token_id"] = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("Let")]
    (folder / "generation_config.json").write_text(json.dumps(config))
    return load_policy(TINY.replace(model=str(folder)))


def cut(sample):
    """What a sample of the model with one end token becomes when "Let" ends it, too."""
    before, found, _ = sample.text.partition("Let")
    return (before, 2) if found else (sample.text, sample.tokens)


@pytest.mark.parametrize("loop", [True, False], ids=["our loop", "model.generate"])
def test_every_declared_end_token_ends_a_completion_inside_a_batch(two_ends, monkeypatch, loop):
    expected = [cut(sample) for [sample] in generate(load_policy(TINY), FEW)]
    assert len({tokens for _, tokens in expected}) > 3, "some should end early, others not"
    monkeypatch.setattr("utils.model.network.suits", lambda model: loop)
    found = [sample for [sample] in generate(two_ends, FEW)]
    assert [(sample.text, sample.tokens) for sample in found] == expected
    assert not any(sample.truncated for sample in found)


def test_a_cap_that_is_reached_with_an_end_token_cuts_nothing_off(two_ends):
    short = dataclasses.replace(two_ends, profile=two_ends.profile.replace(max_completion_tokens=3))
    found = [sample for [sample] in generate(short, FEW)]
    assert [s.truncated for s in found] == [not s.text.endswith("<reasoning>\n") for s in found]
    assert {s.truncated for s in found} == {True, False}


def test_end_tokens_are_those_of_tokenizer_and_model_each_once(two_ends):
    first, second = two_ends.model.generation_config.eos_token_id
    assert end_tokens(two_ends.model, two_ends.tokenizer) == [first, second]
    plain = load_policy(TINY)
    assert end_tokens(plain.model, plain.tokenizer) == [first]
    for declared in (7, [7], (7,)):
        plain.model.config.eos_token_id = declared
        assert end_tokens(plain.model, plain.tokenizer) == [first, 7]


@pytest.mark.slow
@pytest.mark.parametrize("loop", [True, False], ids=["our loop", "model.generate"])
def test_training_ends_completions_at_every_end_token(two_ends, tmp_path, monkeypatch, loop):
    """TRL looks for the tokenizer's end token alone: it would train on what stands behind the other one."""
    monkeypatch.setattr("utils.model.prompt_sharing.suits", lambda model: loop)
    profile = TINY.replace(model=two_ends.profile.model, steps=1, max_completion_tokens=96)
    trainer = build_trainer(load_policy(profile), FEW, tmp_path, rewards={correctness_reward: 1.0})
    seen = []
    generated = trainer._generate_and_score_completions
    monkeypatch.setattr(trainer, "_generate_and_score_completions", lambda x: (seen.append(generated(x)), seen[0])[1])
    trainer.train()
    ends = set(end_tokens(two_ends.model, two_ends.tokenizer))
    batch = seen[0]
    rows = [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    assert all(row[-1] in ends and not ends & set(row[:-1]) for row in rows)
    assert len({row[-1] for row in rows}) == 2, "both should have ended some"
    (line,) = read_jsonl(tmp_path / "log.jsonl")
    assert line["completions/clipped_ratio"] == 0
    assert line["completions/mean_length"] == sum(map(len, rows)) / len(rows)


def test_a_prompt_must_leave_room_for_its_answer(policy):
    assert prompt_budget(policy) == 2048 - 24
    roomy = dataclasses.replace(policy, profile=policy.profile.replace(context_tokens=9_999))
    assert prompt_budget(roomy) == 2048 - 24, "the model has no more positions"
    short = dataclasses.replace(policy, profile=policy.profile.replace(context_tokens=200, max_prompt_tokens=100))
    assert prompt_budget(short) == 200 - 24
    text = "pen " * 80
    questions = [
        Question("Two?", "2", {"source": "mine.jsonl line 1"}),
        Question(text, "1", {"source": "mine.jsonl line 2"}),
    ]
    tokens = prompt_tokens(policy.tokenizer, text, policy.profile.system_prompt)
    assert tokens > 176 and fitting(policy, questions) == (questions, {})
    row = {"source": "mine.jsonl line 2", "id": questions[1].id, "tokens": tokens}
    assert fitting(short, questions) == (questions[:1], {"budget": 176, "questions": [row]})
    said = (
        f"the prompt of mine.jsonl line 2 has {tokens} tokens, and a context of 200 has room for 176 beside an answer"
    )
    with pytest.raises(ValueError, match=said):
        generate(short, questions)
    with pytest.raises(ValueError, match=f"none of 1 questions fits: {said}"):
        fitting(short, questions[1:])


def test_a_question_of_one_token_too_many_is_not_asked_and_one_less_is(policy):
    for extra in (0, 1):
        text = "pen" * 40
        context = prompt_tokens(policy.tokenizer, text, policy.profile.system_prompt) + 24 - extra
        exact = dataclasses.replace(policy, profile=policy.profile.replace(context_tokens=context, max_prompt_tokens=9))
        assert len(fitting(exact, [Question(text, "1", {}), Question("?", "1", {})])[0]) == 2 - extra
