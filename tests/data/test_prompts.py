"""Prompts by name: each reaches the model as it stands, everywhere, and its tokens are counted to the last."""

import dataclasses

import pytest

from utils.data.answers import is_correct, parse_completion
from utils.data.prompts import PROMPTS, SYSTEM_PROMPT, chat_prompt, prompt_tokens, within_budget
from utils.data.questions import Question, load_questions
from utils.evaluation.protocol import protocol_of
from utils.model import decoding
from utils.model.policy import fitting, generate, load_policy, prompt_budget, render_prompt
from utils.model.profiles import PROFILES, get_profile
from utils.training.grpo import build_trainer, training_questions

QUESTIONS = load_questions("tiny", "train")[:4]
TINY = get_profile("tiny").replace(max_completion_tokens=8, steps=1)


@pytest.fixture(scope="module")
def policy():
    return load_policy(TINY)


def asking(policy, name, **changes):
    return dataclasses.replace(policy, profile=policy.profile.replace(prompt=name, **changes))


# ---------------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize("name", PROMPTS)
def test_every_prompt_reaches_the_model_as_it_stands(policy, name):
    asked = asking(policy, name)
    text = render_prompt(asked, QUESTIONS[0].question)
    assert text.count(PROMPTS[name]) == text.count(QUESTIONS[0].question) == 1
    assert all(tag in PROMPTS[name] for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"))
    assert protocol_of(asked, QUESTIONS).system_prompt == asked.profile.system_prompt == PROMPTS[name]


def test_each_prompt_is_a_protocol_of_its_own(policy):
    assert len(set(PROMPTS.values())) == len(PROMPTS)
    assert len({protocol_of(asking(policy, name), QUESTIONS).hash for name in PROMPTS}) == len(PROMPTS)


@pytest.mark.parametrize("name", [name for name in PROMPTS if "example" in name])
def test_the_examples_keep_the_layout_and_are_right(name):
    """A model copies what it is shown."""
    replies = ["<reasoning>" + part for part in PROMPTS[name].split("<reasoning>")[1:] if "your steps" not in part]
    replies = [reply[: reply.index("</answer>") + len("</answer>")] for reply in replies]
    assert len(replies) == (2 if "two" in name else 1)
    for reply, gold in zip(replies, ("29", "28"), strict=False):
        assert parse_completion(reply).well_formed and is_correct(reply, gold, "strict")


def test_the_embedded_model_is_asked_in_the_words_it_was_made_with_and_the_others_by_example():
    assert {name: profile.prompt for name, profile in PROFILES.items()} == {
        "tiny": "words",
        **dict.fromkeys(("laptop", "t4", "l4", "a100"), "layout and example"),
    }
    assert SYSTEM_PROMPT == PROFILES["laptop"].system_prompt


@pytest.mark.parametrize("name", ["Words", "", "nice", SYSTEM_PROMPT])
def test_a_prompt_of_another_name_is_refused(name):
    with pytest.raises(ValueError) as error:
        TINY.replace(prompt=name)
    said = str(error.value)
    assert said == f"profile tiny: prompt must be one of {', '.join(PROMPTS)}, got {name!r}"


# ------------------------------------------------------------------------------------------- everywhere


@pytest.fixture
def read(policy, monkeypatch):
    """The texts that the loop is given to go on with."""
    texts, read = [], decoding._read

    def watch(network, ids, mask, *rest):
        texts.extend(policy.tokenizer.decode(row[there]) for row, there in zip(ids, mask.bool(), strict=True))
        return read(network, ids, mask, *rest)

    monkeypatch.setattr(decoding, "_read", watch)
    return texts


@pytest.mark.parametrize("name", ["words", "one line", "two examples"])
def test_answers_are_asked_for_with_the_profiles_prompt(policy, read, name):
    asked = asking(policy, name)
    generate(asked, QUESTIONS)
    assert sorted(read) == sorted(render_prompt(asked, q.question) for q in QUESTIONS)
    assert all(PROMPTS[name] in text for text in read)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["words", "one line", "two examples"])
def test_training_asks_with_the_profiles_prompt(read, tmp_path, name):
    policy = asking(load_policy(TINY), name)
    trainer = build_trainer(policy, QUESTIONS, tmp_path)
    assert [row["prompt"] for row in trainer.train_dataset] == [
        chat_prompt(q.question, PROMPTS[name]) for q in QUESTIONS
    ]
    trainer.train()
    assert len(read) == TINY.prompts_per_step
    assert set(read) <= {render_prompt(policy, q.question) for q in QUESTIONS}
    assert all(PROMPTS[name] in text for text in read)


def test_budgets_are_those_of_the_profiles_prompt(policy, monkeypatch):
    """A longer prompt leaves less room for questions, in an evaluation as in training."""
    short, long = (prompt_tokens(policy.tokenizer, "", PROMPTS[name]) for name in ("words", "two examples"))
    assert long > short + 200
    tight = {"max_prompt_tokens": short + 60, "context_tokens": short + 60 + TINY.max_completion_tokens}
    assert prompt_budget(asking(policy, "words", **tight)) == short + 60
    assert fitting(asking(policy, "words", **tight), QUESTIONS) == (QUESTIONS, {})
    with pytest.raises(ValueError, match=f"none of 4 questions fits: the prompt of .* has {long // 100}.. tokens"):
        fitting(asking(policy, "two examples", **tight), QUESTIONS)
    with pytest.raises(ValueError, match="has room for"):
        generate(asking(policy, "two examples", **tight), QUESTIONS)
    monkeypatch.setattr("utils.training.grpo.load_questions", lambda dataset, split: QUESTIONS)
    assert training_questions(asking(policy, "words", **tight).profile, policy.tokenizer) == QUESTIONS
    assert not training_questions(asking(policy, "two examples", **tight).profile, policy.tokenizer)


# --------------------------------------------------------------------------------------------- counted


@pytest.fixture(scope="module")
def tokenizer(policy):
    return policy.tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "Tom has 3 pens.",
        "x" * 90,
        "\n" * 40,
        "Ça coûte 2 €",
        "\N{MUSICAL SYMBOL EIGHTH NOTE}" * 9,
        "漢" * 30,
        "𓀀\u0301" * 20,
    ],
)
def test_a_prompt_fits_to_the_token_and_one_too_long_is_returned_not_dropped(tokenizer, text):
    ids = tokenizer.apply_chat_template(chat_prompt(text, SYSTEM_PROMPT), add_generation_prompt=True, return_dict=False)
    assert prompt_tokens(tokenizer, text, SYSTEM_PROMPT) == len(ids)
    question, short = Question(text, "1", {}), Question("?", "1", {})
    assert within_budget([question, short], tokenizer, len(ids), SYSTEM_PROMPT) == ([question, short], [])
    assert within_budget([question, short], tokenizer, len(ids) - 1, SYSTEM_PROMPT) == ([short], [question])


def test_a_prompt_of_any_length_is_counted_piece_by_piece(tokenizer, recwarn, caplog):
    text = "Tom has 3 pens and buys 4 more. " * 10_000
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    read, frame = (prompt_tokens(tokenizer, question, SYSTEM_PROMPT) for question in (text, ""))
    assert read - frame == pytest.approx(len(ids), rel=1e-3)
    assert not recwarn and not caplog.records, "nothing warns of a prompt that is only counted"
