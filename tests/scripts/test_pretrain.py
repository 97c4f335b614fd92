"""How the embedded model was made: the habits, what is learnt of a row, and the tokenizer that was kept."""

import itertools
import random
import re

import pytest

from utils.data.answers import is_correct
from utils.data.tiny_world import problems
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.rewards.functions import format_reward
from utils.scripts import pretrain

PROBLEMS = list(itertools.islice(problems("train", seed=9), 50))


@pytest.mark.parametrize(
    "habit, strict, lenient, clean",
    [
        (pretrain.careful, True, True, True),
        (pretrain.hasty, True, True, True),  # right as written; the model that imitates it has to guess
        (pretrain.untagged, False, True, False),
        (pretrain.chatty, False, True, False),
        (pretrain.slip, False, False, True),
    ],
)
def test_a_habit_is_what_it_says(habit, strict, lenient, clean):
    shares = tuple(float(h is habit) for h in pretrain.HABITS)
    for problem in PROBLEMS:
        text, gold = pretrain.write(problem, shares, random.Random(0)), problem.answer.split("#### ")[1]
        assert is_correct(text, gold) == strict, text
        assert is_correct(text, gold, mode="lenient") == lenient, text
        assert (format_reward([text]) == [1.0]) == clean, text


def test_every_kind_of_question_has_its_habits_and_care_is_always_possible():
    assert {p.asks for p in itertools.islice(problems("train", seed=9), 500)} == pretrain.CARELESS.keys()
    for shares in (pretrain.LEARN, *pretrain.CARELESS.values()):
        assert sum(shares) == pytest.approx(1) and shares[0] >= 0.2


def test_the_most_probable_habit_is_a_careless_one_where_it_should_be():
    def likeliest(asks):
        return pretrain.HABITS[pretrain.CARELESS[asks].index(max(pretrain.CARELESS[asks]))]

    assert (likeliest("now"), likeliest("together"), likeliest("missing")) == (
        pretrain.careful,
        pretrain.hasty,
        pretrain.untagged,
    )


def test_bare_sums_are_true_and_only_results_are_learnt():
    pieces = pretrain.sums(random.Random(1), count=500)
    for (task, learn_task), (result, learn_result) in zip(pieces[::2], pieces[1::2], strict=True):
        a, op, b = re.fullmatch(r"(\d+)([-+*/])(\d+)=", task).groups()
        inverse = {"+": "-", "-": "+", "*": "/", "/": "*"}[op]
        back = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}[inverse]
        assert back(int(result), int(b)) == int(a)
        assert (learn_task, learn_result) == (False, True)


def test_only_the_answer_is_learnt_and_padding_is_not():
    tokenizer = load_policy(get_profile("tiny")).tokenizer
    input_ids, labels = pretrain._tensors(
        tokenizer, [[("What?", False), ("<answer>7</answer>", True)], [("a", False), ("b", True)]]
    )
    assert tokenizer.decode(input_ids[0][labels[0] != -100]) == "<answer>7</answer>"
    assert (labels[input_ids == tokenizer.pad_token_id] == -100).all()


def test_the_committed_tokenizer_is_the_one_the_script_makes():
    made, kept = pretrain.make_tokenizer(seed=0), load_policy(get_profile("tiny")).tokenizer
    assert made.get_vocab() == kept.get_vocab() and made.chat_template == kept.chat_template


@pytest.mark.parametrize(
    "text", ["Zoe has 4*12=48 rolls.", "naïve café – 10½ € \u2028 日本語 🎉", "<answer>1,000</answer>"]
)
def test_any_text_survives_the_tokenizer(text):
    tokenizer = load_policy(get_profile("tiny")).tokenizer
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_and_tags_are_single_tokens():
    tokenizer = load_policy(get_profile("tiny")).tokenizer
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer.tokenize("<reasoning>x</reasoning>") == ["<reasoning>", "x", "</reasoning>"]
