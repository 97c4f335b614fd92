"""The short decoding loop beside the model it stands in for: greedy tokens, and the distribution of sampled ones."""

import copy
import math
from collections import Counter

import pytest
import torch
from transformers import set_seed

from tests.model.qwens import padded, small, theirs
from utils.data.questions import load_questions
from utils.files import ROOT
from utils.model import decoding, network
from utils.model.decoding import decode
from utils.model.policy import load_policy, render_prompt, with_adapter
from utils.model.profiles import get_profile

PROFILE = get_profile("tiny")
ADAPTER = ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter"
END = 2


@pytest.fixture(scope="module")
def base():
    return load_policy(PROFILE)


@pytest.fixture(scope="module")
def trained():
    return with_adapter(load_policy(PROFILE), ADAPTER)


@pytest.fixture(params=["base", "trained"])
def policy(request):
    return request.getfixturevalue(request.param)


def prompts(policy, count, start=0):
    """The first test questions as the model reads them, of uneven length, padded on the left."""
    texts = [render_prompt(policy, q.question) for q in load_questions("tiny", "test")[start : start + count]]
    return policy.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def ours(model, ids, mask, n=1, cap=64, temperature=0.0, end=END):
    return decode(model, ids, mask, torch.arange(len(ids)).repeat_interleave(n), cap, temperature, end)


def next_probabilities(model, ids, mask, temperature=1.0):
    """The model's own distribution of the token after each row, (B, vocabulary)."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1]
    return (logits / temperature).softmax(-1)


# ---------------------------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("count, n", [(24, 1), (5, 3)])
def test_greedy_tokens_are_those_of_generate(policy, count, n):
    inputs = prompts(policy, count)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert len(set(mask.sum(1).tolist())) > 3, "the prompts should differ in length"
    found = ours(policy.model, ids, mask, n)
    assert found == theirs(policy.model, ids, mask, n)
    assert len({len(row) for row in found}) > 2, "the completions should end at different places"


def test_base_and_trained_answers_differ(base, trained):
    """Otherwise the comparison with the adapter above would compare the base model twice."""
    inputs = prompts(base, 24)
    assert ours(base.model, **names(inputs)) != ours(trained.model, **names(inputs))


def names(inputs):
    return {"ids": inputs["input_ids"], "mask": inputs["attention_mask"]}


def test_an_adapter_that_is_switched_off_or_merged(base, trained):
    inputs = names(prompts(base, 8))
    with trained.model.disable_adapter():
        assert ours(trained.model, **inputs) == ours(base.model, **inputs)
    merged = copy.deepcopy(trained.model)
    merged.merge_adapter()
    assert ours(merged, **inputs) == ours(trained.model, **inputs)


def test_prompts_of_one_token_alone_and_beside_longer_ones(policy):
    for rows in ([[5]], [[5], [9], [200]], [[5], [1, 7, 8, 9, 10, 11], [300, 4]]):
        ids, mask = padded(*rows)
        assert ours(policy.model, ids, mask, 2, cap=20) == theirs(policy.model, ids, mask, 2, cap=20)


def test_a_batch_of_one(policy):
    inputs = names(prompts(policy, 1))
    found = ours(policy.model, **inputs)
    assert len(found) == 1 and found[0][-1] == END
    assert found == theirs(policy.model, **inputs)


@pytest.mark.parametrize("cap", [1, 2, 7])
def test_the_cap_is_kept(policy, cap):
    inputs = names(prompts(policy, 6))
    found = ours(policy.model, **inputs, cap=cap)
    assert [len(row) for row in found] == [cap] * 6 and not any(END in row for row in found)
    assert found == theirs(policy.model, **inputs, cap=cap)


def test_some_end_before_the_cap_and_some_at_it(policy):
    inputs = names(prompts(policy, 16))
    lengths = sorted(map(len, ours(policy.model, **inputs)))
    cap = lengths[8]  # a token after which half of them have ended
    found = ours(policy.model, **inputs, cap=cap)
    assert {row[-1] == END for row in found} == {True, False}
    assert found == theirs(policy.model, **inputs, cap=cap)


def test_all_end_with_their_first_token(policy):
    inputs = names(prompts(policy, 1))
    first = ours(policy.model, **inputs)[0][0]
    assert ours(policy.model, **inputs, n=4, end=first) == [[first]] * 4


def test_prompt_of_may_name_any_prompt_in_any_order(base):
    inputs = prompts(base, 3)
    alone = ours(base.model, **names(inputs))
    order = [2, 0, 0, 2, 2]  # prompt 1 is asked for by nobody
    found = decode(base.model, **inputs, prompt_of=torch.tensor(order), cap=64, temperature=0.0, end_token=END)
    assert found == [alone[i] for i in order]


def test_the_batch_is_packed_as_completions_end(base, monkeypatch):
    """Without packing the tokens are the same, so what is left of the batch is looked at."""
    left = []
    keep = decoding.Cache.keep
    monkeypatch.setattr(decoding.Cache, "keep", lambda cache, rows: (left.append(int(rows.sum())), keep(cache, rows)))
    ours(base.model, **names(prompts(base, 24)))
    assert left and left == sorted(left, reverse=True) and left[-1] < 12


# --------------------------------------------------------------------------------- a common beginning

BEGINNINGS = {  # prompts, and how many tokens they all begin with, less than the shortest has
    "none": ([[5, 6, 7], [8, 9], [10, 11, 12, 13]], 0),
    "none, and the rest alike": ([[5, 8, 9, 10], [6, 8, 9, 10]], 0),
    "one token": ([[1, 5, 6], [1, 8], [1, 10, 11, 12]], 1),
    "all but one token": ([[1, 7, 8, 9, 10], [1, 7, 8, 9, 11], [1, 7, 8, 9, 12]], 4),
    "one is the beginning of the others": ([[1, 7, 8], [1, 7, 8, 9, 10], [1, 7, 8, 11]], 2),
    "one of a single token": ([[1], [1, 7, 8]], 0),
    "identical": ([[1, 7, 8, 9]] * 3, 3),
    "a single prompt": ([[1, 7, 8, 9]], 0),
    "long, and one much longer": ([[1, 7, 8, 9, 3, 20], [1, 7, 8, 9, 3, *range(20, 60)], [1, 7, 8, 9, 3, 4]], 5),
    "one that ends alike": ([[1, 7, 8, 30, 31], [1, 7, 30, 31]], 2),
    "with the padding token": ([[0, 0, 5, 6], [0, 0, 7], [0, 0, 0, 0]], 2),
}


@pytest.fixture(params=[False, True], ids=["small", "large"])
def large(request, monkeypatch):
    """Whether the loop takes its models for large ones, and keeps what all prompts begin with apart."""
    if request.param:
        monkeypatch.setattr(network, "SMALL", 0)
    return request.param


@pytest.mark.parametrize("rows, shared", BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_what_prompts_begin_with_is_read_once_and_changes_nothing(monkeypatch, large, rows, shared):
    model, (ids, mask), read = small(0), padded(*rows), []
    forward = decoding.Network.logits

    def watch(network, tokens, *rest):
        read.append(tuple(tokens.shape))
        return forward(network, tokens, *rest)

    monkeypatch.setattr(decoding.Network, "logits", watch)
    found = ours(model, ids, mask, n=2, cap=20)
    beginning = [(1, shared)] if shared else []
    assert read[: len(beginning) + 1] == [*beginning, (len(rows), ids.shape[1] - shared)]
    assert found == theirs(model, ids, mask, n=2, cap=20)
    monkeypatch.setattr(decoding, "_shared", lambda ids, mask: 0)
    assert found == ours(model, ids, mask, n=2, cap=20)


def test_a_large_model_keeps_a_common_beginning_once(monkeypatch, large):
    ids, mask = padded([1, 7, 8, 9, 3, 20], [1, 7, 8, 9, 3, 5, 6])
    caches, keep = [], decoding.Cache.keep
    monkeypatch.setattr(decoding.Cache, "keep", lambda cache, rows: (caches.append(cache), keep(cache, rows)))
    found = ours(small(0), ids, mask, n=4, cap=12, temperature=1.0, end=range(20))
    assert len({len(row) for row in found}) > 2, "some rows should leave early"
    width = ids.shape[1] + 12 - 5 * large
    assert caches and {key.shape[2] for cache in caches for key in cache.keys} == {width}


def test_prompts_with_a_common_beginning_in_any_order(base, large):
    """The real ones: all begin with the system message."""
    inputs = prompts(base, 6)
    assert decoding._shared(inputs["input_ids"], inputs["attention_mask"]) > 30
    order = torch.tensor([4, 1, 1, 5, 0])
    found = decode(base.model, **inputs, prompt_of=order, cap=64, temperature=0.0, end_token=END)
    assert found == [ours(base.model, **names(prompts(base, 1, start=i)))[0] for i in order.tolist()]


# --------------------------------------------------------------------------------------------- sampled

DRAWS, AT_ONCE = 10_000, 1_000


def far(counts, probabilities):
    """How far counts lie from a distribution: (chi-square - degrees of freedom) in standard deviations.

    Tokens expected fewer than five times are taken together, as the test of chi-square asks.
    """
    total = sum(counts.values())
    often = [i for i, p in enumerate(probabilities.tolist()) if p * total >= 5]
    cells = [(counts[i], probabilities[i].item() * total) for i in often]
    rest = 1 - sum(probabilities[i].item() for i in often)
    seldom = total - sum(seen for seen, _ in cells)
    if rest * total >= 5:
        cells.append((seldom, rest * total))
    else:
        assert seldom <= 30, f"{seldom} draws of tokens that should come {rest * total:.2f} times in {total}"
    square = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    freedom = len(cells) - 1
    return (square - freedom) / math.sqrt(2 * freedom)


def uncertain(policy):
    """A text of which the model is unsure how it goes on: a question's first words, as (1, L) ids and mask."""
    words = prompts(policy, 1)["input_ids"][0].tolist()
    cuts = [padded(words[:end]) for end in range(4, len(words) - 1)]

    def entropy(cut):
        p = next_probabilities(policy.model, *cut)[0]
        return -(p * p.clamp(min=1e-12).log()).sum().item()

    return max(cuts, key=entropy)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_first_and_second_token_have_the_models_distribution(policy, temperature):
    ids, mask = uncertain(policy)
    set_seed(1)
    rows = [row for _ in range(DRAWS // AT_ONCE) for row in ours(policy.model, ids, mask, AT_ONCE, 2, temperature, -1)]
    first, second = (Counter(column) for column in zip(*rows, strict=True))
    expected = next_probabilities(policy.model, ids, mask, temperature)[0]
    every = torch.arange(len(expected))[:, None]
    longer = torch.cat([ids.expand(len(every), -1), every], 1)
    then = expected @ next_probabilities(policy.model, longer, torch.ones_like(longer), temperature)
    assert far(first, expected) < 5 and far(second, then) < 5
    hotter = next_probabilities(policy.model, ids, mask, 1.3 * temperature)[0]
    assert far(first, hotter) > 8 and far(second, expected) > 8, "this test would see nothing"


def test_the_loops_log_probabilities_are_the_models(policy, monkeypatch):
    """Each sampled token's log-probability in the loop, beside that of the model reading the finished text."""
    picked = []
    pick = decoding._pick

    def watch(logits, temperature):
        tokens = pick(logits, temperature)
        picked.append(logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0])
        return tokens

    monkeypatch.setattr(decoding, "_pick", watch)
    monkeypatch.setattr(decoding, "LEAVE", 0.0)  # nobody leaves, so that row i stays row i
    inputs = prompts(policy, 6)
    set_seed(2)
    rows = ours(policy.model, **names(inputs), n=2, cap=40, temperature=1.0)
    implied = torch.stack(picked, 1)
    for i, row in enumerate(rows):
        prompt = inputs["input_ids"][i // 2][inputs["attention_mask"][i // 2].bool()].tolist()
        with torch.inference_mode():
            logits = policy.model(input_ids=torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        read = logits.log_softmax(-1).gather(-1, torch.tensor(row)[:, None])[:, 0]
        assert torch.allclose(implied[i, : len(row)], read, atol=2e-4)


def test_rows_of_one_prompt_are_drawn_independently(base):
    set_seed(3)
    rows = ours(base.model, **names(prompts(base, 4)), n=8, temperature=1.0)
    assert all(len({tuple(row) for row in rows[i : i + 8]}) > 1 for i in range(0, 32, 8))


def test_a_seed_fixes_what_is_sampled(base):
    found = []
    for seed in (4, 4, 5):
        set_seed(seed)
        found.append(ours(base.model, **names(prompts(base, 3)), n=4, temperature=1.0))
    assert found[0] == found[1] != found[2]


WIDTHS = {"prime": 97, "square": 100, "twice a prime": 94, "of many divisors": 96}


@pytest.mark.parametrize("wide", [10, 1_000], ids=["two stages", "one stage"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_tokens_are_drawn_with_their_probabilities(monkeypatch, wide, dtype, width):
    monkeypatch.setattr(decoding, "WIDE", wide)
    set_seed(7)
    logits = (2 * torch.randn(2, width)).to(dtype)
    before, rows = logits.clone(), torch.arange(2).repeat(100_000)
    drawn = decoding._pick(logits[rows], 0.7)
    for i in range(2):  # what the other row holds must not matter
        counts = Counter(drawn[rows == i].tolist())
        assert far(counts, (logits[i].float() / 0.7).softmax(-1)) < 5
        assert far(counts, logits[i].float().softmax(-1)) > 100, "the temperature should be seen"
        assert far(counts, (logits[1 - i].float() / 0.7).softmax(-1)) > 100
    assert torch.equal(logits, before) and torch.equal(decoding._pick(logits, 0), logits.float().argmax(-1))


def test_the_divisor_of_two_stages():
    """Qwen's vocabulary makes 128 blocks of 1,187 tokens; one of a prime size is a single block."""
    assert [decoding._divisor(n) for n in (1, 2, 97, 100, 94, 96, 151_936, 151_643)] == [1, 1, 1, 10, 2, 8, 128, 1]


@pytest.mark.parametrize("wide", [10, 1_000], ids=["two stages", "one stage"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_a_token_of_probability_0_is_never_drawn(monkeypatch, wide, width):
    """Neither in a block with others, nor a whole block, nor at either end."""
    monkeypatch.setattr(decoding, "WIDE", wide)
    set_seed(8)
    possible = torch.tensor([i for i in range(13, width - 9) if i % 3 == 0 and not 30 <= i < 55])
    logits = torch.full((width,), float("-inf"))
    logits[possible] = 5 * torch.randn(len(possible))
    drawn = Counter(decoding._pick(logits.expand(100_000, -1), 1.0).tolist())
    assert drawn.keys() <= set(possible.tolist()) and far(drawn, logits.softmax(-1)) < 5


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("wide", [10, 1_000], ids=["two stages", "one stage"])
def test_the_first_and_the_last_random_number_give_possible_tokens(monkeypatch, wide, number):
    monkeypatch.setattr(decoding, "WIDE", wide)
    set_seed(9)
    logits = torch.randn(200, 96)
    logits[:, :5] = logits[:, 90:] = float("-inf")
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.full(shape, number))
    assert set(decoding._pick(logits, 1.0).tolist()) <= set(range(5, 90))


def test_a_token_without_probability_is_never_drawn():
    logits = torch.full((50_000, 4), float("-inf"))
    logits[:, 1], logits[:, 2] = 0.0, math.log(3)
    set_seed(6)
    drawn = Counter(decoding._pick(logits, 1.0).tolist())
    assert drawn.keys() == {1, 2} and abs(drawn[2] / 50_000 - 0.75) < 0.01
