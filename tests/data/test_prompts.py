"""Prompts by name: each reaches the model as it stands, everywhere, and its tokens are counted to the last."""

import pytest

from utils.data.prompts import SYSTEM_PROMPT, chat_prompt, prompt_tokens, within_budget
from utils.data.questions import Question
from utils.files import ROOT


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "assets" / "tiny_model")


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
