"""The checks of the bug hunt, workshop/bug_hunt.ipynb: fourteen broken pieces, each seen in the field.

Of a piece as given a check tells the symptom, for the cause is what is hunted; of a mend that goes wrong, the mistake.
The pieces of the loss are held to TRL's own loss and gradients, too (`by_hand.compare`).
"""

from __future__ import annotations

import dataclasses
import functools
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.data.answers import is_correct
from utils.data.numbers import to_number
from utils.data.questions import Question
from utils.exercises import by_hand
from utils.exercises.checks import NotYet, ask, call, check, same, shown
from utils.model.policy import Policy, add_lora, generate, load_policy
from utils.rewards.functions import group_advantages
from utils.training.grpo import save_adapter

THINGS = ("eggs", "pens", "coins", "cups")


def ask_here(function: Callable[..., Any], *args: Any) -> Any:
    """`ask` without copies: for what the learner's function is to change, or to keep a gradient of."""
    if not callable(function):
        raise NotYet(f"a function is wanted, this is {shown(function)}")
    return ask(functools.wraps(function)(lambda: function(*args)))


def because(sentence: str) -> str:
    return f"; {sentence}" if sentence else ""


# ------------------------------------------------------------------------------------------------------ reading texts


@check
def check_layout_reward(layout_reward: Callable[..., Any]) -> None:
    """The layout: one reasoning block, one answer block behind it, and nothing else, on however many lines."""
    rng = random.Random()
    a, b, thing = rng.randint(2, 60), rng.randint(2, 60), rng.choice(THINGS)
    work, answer = f"{a} + {b} = {a + b} {thing}.", f"<answer>{a + b}</answer>"
    lines = "\n".join(f"{i} * {b} = {i * b} {thing}." for i in range(1, rng.randint(3, 6)))
    cases = [
        (f"<reasoning>{work}</reasoning>{answer}", 1.0, ""),
        (f"<reasoning>{work}</reasoning>\n{answer}", 1.0, ""),
        (f"<reasoning>\n{lines}\n</reasoning>\n{answer}", 1.0, ""),
        (f"<reasoning>\n{lines}\n</reasoning>\n\n<answer>\n{a}\n</answer>\n", 1.0, "a text may end with a line end"),
        (f"<reasoning>\n{lines}\n</reasoning>\n{answer}\nI hope this helps!", 0.0, "nothing may stand behind it"),
        (f"Sure!\n<reasoning>\n{lines}\n</reasoning>\n{answer}", 0.0, "nothing may stand before it"),
        (f"<reasoning>{lines}", 0.0, "a tag that is never closed is no layout"),
        (f"<reasoning>\n{a} < {a + b} {thing}\n{lines}\n</reasoning>\n{answer}", 1.0, "`<` alone is no tag"),
        (f"<reasoning>\n{lines}\n</reasoning>\nTherefore:\n{answer}", 0.0, "nothing may stand between the blocks"),
        (f"<reasoning></reasoning>\n{answer}", 0.0, "the reasoning is empty"),
        (f"<reasoning>\n{lines}\n</reasoning>\n<answer></answer>", 0.0, "the answer is empty"),
        (f"{answer}\n<reasoning>{lines}</reasoning>", 0.0, "the reasoning comes first"),
        (f"{lines}\n{answer}", 0.0, "there is no reasoning block"),
    ]
    for text, value, reason in cases:
        got = ask(layout_reward, [text])
        if not isinstance(got, list) or len(got) != 1:
            raise NotYet(f"{call(layout_reward, [text])} should be a list with one number, got {shown(got)}")
        if not same(got[0], value):
            raise NotYet(f"of the text\n{text}\nthe reward should be {value}, got {shown(got[0])}{because(reason)}")
    rng.shuffle(cases)
    if ask(layout_reward, [text for text, _, _ in cases]) != [value for _, value, _ in cases]:
        raise NotYet("of several completions at once, each has a reward of its own, in their order")


@check
def check_gold(gold: Callable[[str], Any]) -> None:
    """The gold is what follows `####`."""
    rng = random.Random()
    a, b, c = rng.randint(11, 60), rng.randint(11, 60), rng.randint(2, 9)
    thing, thousands = rng.choice(THINGS), rng.randint(1100, 9900)
    sums = f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b} {thing}."
    cases = {
        f"{sums}\n#### {a + b}": (a + b, ""),
        f"{sums}\nThat leaves {a + b} - {c} = {a + b - c} {thing}.\n#### {a + b - c}": (a + b - c, ""),
        f"Each of the {c} friends has {b} {thing}, and that is all.\n#### {b}": (b, "not every solution has sums"),
        f"{c} * {a} = <<{c}*{a}={c * a}>>{c * a}.\n#### {thousands:,}": (thousands, "the comma goes, not a digit"),
        f"{sums}\nIt falls by {a + b + c}.\n#### -{c}": (-c, "a gold may be negative"),
        f"{a} - {b} = <<{a}-{b}={a - b}>>{a - b}\n{sums}\n#### {a}": (a, ""),
    }
    for solution, (wanted, reason) in cases.items():
        got = ask(gold, solution)
        if got != str(wanted):
            read = to_number(got) if isinstance(got, str) and "," not in got else got
            if same(read, wanted):
                reason = "it is wanted as text, the number alone, without spaces and without a point"
            raise NotYet(
                f"of the solution\n{solution}\nthe gold should be {str(wanted)!r}, got {shown(got)}{because(reason)}"
            )


@check
def check_stated(stated: Callable[[str], Any]) -> None:
    """The last number that a text says, where the numbers of list items say nothing."""
    rng = random.Random()
    a, b, thing = rng.randint(11, 60), rng.randint(11, 40), rng.choice(THINGS)
    c, thousands = a + b, rng.randint(1100, 9900)
    marker = rng.choice([n for n in range(10, 100) if n != c])
    steps = f"1. Tom has {a} {thing}.\n2. He gets {b} more: {a} + {b} = {c} {thing}."
    cases = {
        f"So {a} + {b} = {c} {thing} in all.": (c, ""),
        steps: (c, "a marker is no number, but the item behind it may hold one"),
        f"{steps}\n\n3. **Give the result**": (c, ""),
        f"{steps}\n\n{marker}. Then": (c, "a marker may have two digits"),
        f"1. Tom counts.\nThere are {c}. That is all.": (c, "a marker stands at a line's start"),
        f"{steps}\n   3) Then": (c, "markers are written `3)` and with spaces before them, too"),
        f"{steps}\n3.": (c, "a text may be cut off right behind a marker"),
        f"1. Tom has {a} {thing}.\nThe answer is {c}.": (
            c,
            "a number that ends a sentence is no marker: that stands at a line's start",
        ),
        f"Tom counts.\n{c} {thing} are left": (c, "a line may begin with a number that is no marker"),
        f"He pays\n{b}.5 dollars": (b + 0.5, "a decimal number is no marker"),
        f"They pay ${thousands:,} together": (thousands, "a comma may stand inside a number"),
        "Tom has no idea.": (None, "where there is no number, there is None"),
        "1. Tom thinks.\n2. And thinks.": (None, "there are markers alone, so there is None"),
    }
    for text, (wanted, reason) in cases.items():
        got = ask(stated, text)
        read = to_number(got) if isinstance(got, str) else got
        if read != wanted or (wanted is None and got is not None):
            raise NotYet(f"of the text\n{text}\nthe last number is {wanted}, got {shown(got)}{because(reason)}")


# ----------------------------------------------------------------------------------------------------------- the group


@check
def check_advantages(advantages: Callable[[Tensor, int], Any]) -> None:
    """Each reward minus its group's mean, over the group's sample deviation; nearly 0 where all are alike."""
    rng = random.Random()
    for alike in (0.0, 1.0, 0.2, 1.2):  # the only group of its batch: sums are rounded otherwise there
        _group_by_group(advantages, [alike] * 8, 8)
    for size in (4, 8, rng.randint(3, 12)):
        values = [rng.choice((0.0, 0.2, 1.0, 1.2)) for _ in range(3 * size)]
        values[0], values[1], values[2] = 1.2, 0.0, 0.2
        for alike in (0.0, 1.2, rng.choice((0.2, 1.0))):
            values[-size:] = [alike] * size
            _group_by_group(advantages, values, size)


def _group_by_group(advantages: Callable[[Tensor, int], Any], values: list[float], size: int) -> None:
    got = ask(advantages, torch.tensor(values), size)
    if not isinstance(got, Tensor) or got.shape != (len(values),):
        raise NotYet(f"of {len(values)} rewards, {len(values)} advantages are wanted in one row, got {shown(got)}")
    wanted = group_advantages(values, size)
    for start in range(0, len(values), size):
        part = slice(start, start + size)
        group, found, right = values[part], got[part].tolist(), wanted[part]
        if _all_same(found, right, 0.01):
            continue
        reason = ""
        if len(set(group)) == 1 and all(abs(a) < 10 for a in found):
            reason = "in single precision the mean of equal numbers is not quite that number: do not divide by the rest"
        elif _all_same(found, _over(values, part, None), 0.01):
            reason = "the mean is that of the whole batch: an advantage compares completions of one question"
        elif _all_same(found, _over(group, slice(None), 1.0), 0.01):
            reason = "nothing is divided by the deviation"
        elif right[0] * found[0] > 0 and all(
            same(a * abs(right[0]), b * abs(found[0]), 0.02) for a, b in zip(found, right, strict=True)
        ):
            reason = f"all are {found[0] / right[0]:.3f} times what they should be"
        brief = [[round(x, 3) for x in row[:4]] for row in (group, right, found)]
        raise NotYet(
            f"of a group of {size}, which begins with the rewards {brief[0]}, the advantages should be {brief[1]}, "
            f"got {brief[2]}{because(reason)}"
        )


def _over(values: Sequence[float], part: slice, by: float | None) -> list[float]:
    mean = statistics.fmean(values)
    return [(x - mean) / (by or statistics.stdev(values) + 1e-4) for x in values[part]]


# ------------------------------------------------------------------------------------------------------------ the loss

TERMS = {  # what a mend may do instead: log-ratio, advantage, epsilon -> the token's loss
    "nothing is clipped": lambda r, a, e: -r.exp() * a,
    "with the clipped product alone both sides are silent, and a mistake is never undone": lambda r, a, e: (
        -r.exp().clamp(1 - e, 1 + e) * a
    ),
    "a loss is minimised, so its sign is turned": lambda r, a, e: torch.min(
        r.exp() * a, r.exp().clamp(1 - e, 1 + e) * a
    ),
    "epsilon is an argument, not always 0.2": lambda r, a, e: -torch.min(r.exp() * a, r.exp().clamp(0.8, 1.2) * a),
    "the ratio is the exponential of the difference": lambda r, a, e: -torch.min(r * a, r.clamp(1 - e, 1 + e) * a),
}


@check
def check_policy_term(policy_term: Callable[..., Any]) -> None:
    """The clipped loss of each token, beside the formula and, with its gradient, beside TRL's loss."""
    rng = random.Random()
    cases = [(ratio, advantage, 0.2) for ratio in (1.5, 0.5, 1.1, 5.0) for advantage in (1.0, -1.0)]
    cases += [(rng.uniform(0.3, 2.0), rng.uniform(-2, 2), rng.uniform(0.05, 0.4)) for _ in range(20)]
    found = [_one_token(policy_term, *case) for case in cases]
    wanted = [_one_token(by_hand.policy_term, *case) for case in cases]
    for (ratio, advantage, epsilon), got, right in zip(cases, found, wanted, strict=True):
        if not same(got, right, 1e-4):
            slips = [why for why, term in TERMS.items() if _all_same(found, [_slip(term, *case) for case in cases])]
            raise NotYet(
                f"a token that has become {ratio:.3g} times as probable, with the advantage {advantage:+.3g} and "
                f"epsilon {epsilon:.2g}: its loss should be {right:+.4f}, got {got:+.4f}{because(''.join(slips[:1]))}"
            )
    old = torch.randn(3, 5)
    new, spread = old + 0.5 * torch.randn(3, 5), torch.randn(3)
    got = ask(policy_term, new, old, spread)
    if getattr(got, "shape", None) != (3, 5) or not torch.allclose(got, by_hand.policy_term(new, old, spread)):
        raise NotYet("of 3 completions with 5 tokens each, a token's loss takes the advantage of its completion")
    _with_trl(loss=lambda *a: by_hand.grpo_loss(*a, term=lambda *b: ask_here(policy_term, *b)))


def _one_token(term: Callable[..., Any], ratio: float, advantage: float, epsilon: float) -> float:
    """The loss that a policy term gives one token whose probability has changed by this ratio."""
    old = torch.tensor([[-1.5]])
    got = ask(term, old + torch.tensor(ratio).log(), old, torch.tensor([advantage]), epsilon)
    if not isinstance(got, Tensor) or got.shape != (1, 1):
        raise NotYet(f"of one token the loss should have the shape (1, 1), got {shown(got)}")
    return got.item()


def _slip(term: Callable[..., Any], ratio: float, advantage: float, epsilon: float) -> float:
    return term(torch.tensor(ratio).log(), advantage, epsilon).item()


def _all_same(found: Sequence[float], wanted: Sequence[float], tolerance: float = 1e-4) -> bool:
    return all(same(one, two, tolerance) for one, two in zip(found, wanted, strict=True))


@check
def check_grpo_loss(grpo_loss: Callable[..., Any]) -> None:
    """The mean over the tokens that exist, whatever stands behind them, beside TRL's loss and gradients."""
    rng = random.Random()
    for _ in range(4):
        rows, width = rng.randint(2, 6), rng.randint(4, 9)
        lengths = torch.tensor([rng.randint(1, width - 1) for _ in range(rows - 1)] + [width])
        mask = (torch.arange(width) < lengths[:, None]).int()
        old = -torch.rand(rows, width)
        new, spread = old + 0.4 * torch.randn(rows, width), torch.randn(rows)
        got = ask(grpo_loss, new, old, spread, mask)
        if not isinstance(got, Tensor) or got.ndim:
            raise NotYet(f"the loss is one number, a tensor of no dimension, got {shown(got)}")
        more = [torch.cat([part, 9 * torch.randn(rows, 5)], 1) for part in (new, old)]
        longer = ask(grpo_loss, *more, spread, torch.cat([mask, torch.zeros(rows, 5, dtype=torch.int)], 1))
        if not same(longer, got, 1e-4):
            raise NotYet(
                f"with 5 more columns of padding the loss of the same {rows} completions changes from "
                f"{got.item():+.4f} to {float(longer):+.4f}"
            )
        right = by_hand.grpo_loss(new, old, spread, mask)
        if not same(got, right, 1e-4):
            term = by_hand.policy_term(new, old, spread) * mask
            reason = ""
            if same(got, (term.sum(1) / mask.sum(1)).mean(), 1e-4):
                reason = "that is the mean over completions of their means; here every token counts the same"
            elif same(got, term.sum(), 1e-4):
                reason = "that is the sum"
            elif same(got, -right, 1e-4):
                reason = "its sign is turned"
            raise NotYet(f"the loss should be {right.item():+.4f}, got {got.item():+.4f}{because(reason)}")
        epsilon = rng.choice((0.05, 0.1, 0.4))
        got, right = (
            loss(new, old, spread, mask, epsilon) for loss in (functools.partial(ask, grpo_loss), by_hand.grpo_loss)
        )
        if not same(got, right, 1e-4):
            raise NotYet(f"with the epsilon {epsilon} the loss is wrong; epsilon is an argument, not always 0.2")
    _with_trl(loss=lambda *a: ask_here(grpo_loss, *a))


@check
def check_token_logps(token_logps: Callable[..., Any]) -> None:
    """The log-probability of each completion token, with its gradient, beside TRL's."""
    _with_trl(logps=lambda *a: _of_shape(ask_here(token_logps, *a), a[1]["completion_ids"]))


def _of_shape(logps: Any, ids: Tensor) -> Tensor:
    if not isinstance(logps, Tensor) or logps.shape != ids.shape:
        found = tuple(logps.shape) if isinstance(logps, Tensor) else shown(logps)
        raise NotYet(f"of the completion ids of shape {tuple(ids.shape)} as many log-probabilities, got {found}")
    if bool((logps > 1e-6).any()):
        raise NotYet(f"the largest log-probability is {logps.max().item():.3g}: that of a certain token is 0")
    return logps


def _with_trl(**pieces: Callable[..., Any]) -> None:
    try:
        found = by_hand.compare(**pieces)
    except (RuntimeError, TypeError, ValueError) as error:  # no path from the learner's number to the weights
        raise NotYet(f"the loss has no gradient ({error}); is something detached?") from error
    if not abs(found.ours - found.theirs) <= 1e-5:
        raise NotYet(f"on a batch of the model the loss is {found.ours:+.6f}, and TRL's is {found.theirs:+.6f}")
    if not found.agree:
        raise NotYet(
            f"the loss equals TRL's, {found.theirs:+.6f}, but a gradient is {found.gradients_apart:.1e} of its size "
            "apart: is something detached?"
        )


@check
def check_completion_mask(completion_mask: Callable[[Tensor, list[int]], Any]) -> None:
    """1 up to and including the first token of any kind that ends a completion."""
    rng = random.Random()
    for count in (2, 1, 2, 3):
        ends = rng.sample(range(1000), count)
        words = [i for i in range(1000) if i not in ends]
        width = rng.randint(6, 10)
        rows = [rng.choices(words, k=width) for _ in range(2 * count + 1)]
        for i, row in enumerate(rows[1:]):
            row[rng.randrange(1, width - 2)] = ends[i % count]
        rows[1][0] = ends[0]  # it ends at once
        for row in rows[-2:]:
            row[-1] = ends[-1]  # one end token more, as padding is
        ids = torch.tensor(rows)
        got, right = ask(completion_mask, ids, ends), by_hand.completion_mask(ids, ends)
        if not isinstance(got, Tensor) or got.shape != ids.shape:
            raise NotYet(f"a mask of the shape {tuple(ids.shape)} is wanted, got {shown(got)}")
        for row, found, wanted in zip(rows, got.int().tolist(), right.tolist(), strict=True):
            if found == wanted:
                continue
            reason = ""
            if found == [int(i not in ends) for i in row]:
                reason = "what stands behind the first end token is masked, whatever it is"
            elif sum(found) == sum(wanted) - 1:
                reason = "the end token itself belongs to the completion: ending is learnt, too"
            raise NotYet(
                f"where {ends} end a completion, the mask of {row} should be {wanted}, got {found}{because(reason)}"
            )


# ----------------------------------------------------------------------------------------------------------- the model


@functools.cache
def _policy() -> Policy:
    return load_policy(by_hand.PROFILE)


def _with_cap(policy: Policy, cap: int) -> Policy:
    return dataclasses.replace(policy, profile=policy.profile.replace(max_completion_tokens=cap))


def _questions(rng: random.Random, count: int) -> list[Question]:
    return rng.sample(by_hand.train_questions(), count)


@check
def check_greedy_answer(greedy_answer: Callable[[Policy, str], Any]) -> None:
    """The greedy answer, cut off only at the profile's cap."""
    rng = random.Random()
    for cap in (by_hand.PROFILE.max_completion_tokens, rng.randint(6, 11), rng.randint(60, 200)):
        policy = _with_cap(_policy(), cap)
        questions = _questions(rng, 2)
        for question, [sample] in zip(questions, generate(policy, questions), strict=True):
            got = ask_here(greedy_answer, policy, question.question)
            if got == sample.text:
                continue
            said, reason = got if isinstance(got, str) else shown(got), ""
            if isinstance(got, str):
                if question.question in got:
                    reason = "the prompt is no part of the answer"
                elif "<|" in got:
                    reason = "special tokens are no part of the text"
                elif len(got) > len(sample.text):
                    reason = f"the profile's cap is {cap} tokens"
            raise NotYet(f"to {question.question!r} the model answers\n{sample.text}\nand not\n{said}{because(reason)}")


@check
def check_share_right(share_right: Callable[[Policy, list[Question]], Any]) -> None:
    """One protocol for base and trained model: a model compared with itself gains nothing."""
    rng = random.Random()
    for cap in (by_hand.PROFILE.max_completion_tokens, rng.randint(25, 40)):
        base, questions = _with_cap(_policy(), cap), _questions(rng, 24)
        trained = dataclasses.replace(base, adapter=Path("adapter"))  # the same model under another name
        texts = [sample.text for [sample] in generate(base, questions)]
        marks = {
            m: statistics.fmean(is_correct(t, q.gold, m) for t, q in zip(texts, questions, strict=True))
            for m in ("lenient", "strict")
        }
        found = [ask_here(share_right, policy, questions) for policy in (base, trained)]
        if not all(same(each, each) for each in found):
            raise NotYet(f"a share is a number between 0 and 1, got {shown(found)}")
        if not same(found[0], found[1]):
            raise NotYet(
                f"the base model, called trained and compared with itself, gains "
                f"{100 * (found[1] - found[0]):+.1f} points"
            )
        if not same(found[0], marks["lenient"]):
            reason = (
                "that is the strict mark" if same(found[0], marks["strict"]) else f"the profile's cap is {cap} tokens"
            )
            raise NotYet(
                f"of {len(questions)} questions {marks['lenient']:.1%} are right, got {found[0]:.1%}{because(reason)}"
            )


@check
def check_load_adapter(load_adapter: Callable[[Any, Path], Any]) -> None:
    """The adapter lands: the model then computes what the one computed that was saved."""
    rng = random.Random()
    ids = torch.randint(3, 600, (2, 12))
    for rank in rng.sample((2, 4, 8, 16), 2):
        torch.manual_seed(rng.randrange(2**32))
        saved, fresh = (_adapted(rank, seed) for seed in (rng.randrange(1000), rng.randrange(1000, 2000)))
        for name, parameter in saved.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            save_adapter(saved, Path(folder) / "adapter")
            base = fresh(ids).logits
            got = ask_here(load_adapter, fresh, Path(folder) / "adapter")
            if not callable(got):
                raise NotYet(f"the model is to be returned, got {shown(got)}")
            found, wanted = ask_here(_logits, got, ids), saved(ids).logits
        if not isinstance(found, Tensor) or found.shape != wanted.shape:
            raise NotYet(f"the model is to be returned, got {shown(got)}")
        if torch.equal(found, base):
            raise NotYet(
                "the model computes what it computed without the adapter, to the last bit, and nothing said so"
            )
        if not torch.allclose(found, wanted, atol=1e-3):
            apart = (found - wanted).abs().max().item()
            raise NotYet(
                f"the logits differ by {apart:.2g} from those of the model that was saved: has all of it landed?"
            )


def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids).logits


def _adapted(rank: int, seed: int) -> Any:
    policy = load_policy(by_hand.PROFILE.replace(lora_rank=rank))
    return add_lora(policy, seed).eval()


@check
def check_resume(save: Callable[..., Any], load: Callable[..., Any]) -> None:
    """A run that was stopped and resumed is the run that was not."""
    rng = random.Random()
    for _ in range(3):
        seed, stop, steps = rng.randrange(1000), rng.randint(2, 6), rng.randint(8, 12)
        whole = _small_run(seed, steps)
        for _ in range(steps):
            _small_step(*whole)
        with tempfile.TemporaryDirectory() as name:
            folder, broken = Path(name), _small_run(seed, steps)
            for _ in range(stop):
                _small_step(*broken)
            for each in ("here", "another"):
                (folder / each).mkdir()
            ask_here(save, folder / "here", stop, *broken)
            ask_here(save, folder / "another", steps, *_small_run(seed + 1, steps))
            moved = (folder / "here").rename(folder / "moved")
            other = _small_run(rng.randrange(1000, 2000), steps)
            torch.randn(rng.randint(1, 9))
            step = ask_here(load, moved, *other)
        if isinstance(step, bool) or not same(step, stop):
            reason = "that is another run, saved since into another folder" if same(step, steps) else ""
            said = f"the run was saved after step {stop}, and `load` should return that, got {shown(step)}"
            raise NotYet(f"{said}{because(reason)}")
        pairs = [(one, two) for one, two in zip(broken[0].parameters(), other[0].parameters(), strict=True)]
        if not all(torch.equal(one, two) for one, two in pairs):
            raise NotYet("the weights are not those that were saved into this folder")
        rates = [run[1].param_groups[0]["lr"] for run in (broken, other)]
        if not same(*reversed(rates)):
            raise NotYet(f"step {stop + 1} would have had the learning rate {rates[0]:.5f}, and has {rates[1]:.5f}")
        for _ in range(stop, steps):
            _small_step(*other)
        last = [run[1].param_groups[0]["lr"] for run in (whole, other)]
        if not same(*reversed(last)):
            raise NotYet(f"after {steps} steps the learning rate should be {last[0]:.5f}, and is {last[1]:.5f}")
        pairs = zip(whole[0].parameters(), other[0].parameters(), strict=True)
        apart = max((one - two).abs().max().item() for one, two in pairs)
        if apart > 1e-6:
            counts = [_moments(run[1]) for run in (whole, other)]
            reason = (
                "it draws other random numbers" if counts[0] == counts[1] else "the optimizer has forgotten its past"
            )
            raise NotYet(
                f"after {steps} steps the weights are {apart:.1e} from those of the run that never stopped: {reason}"
            )


def _moments(optimizer: Any) -> list[float]:
    return [float(state["step"]) for state in optimizer.state.values()]


def _small_run(seed: int, steps: int) -> tuple[Any, Any, Any]:
    """Model, optimizer and schedule: as of any training, only small. Torch's generator begins with the seed."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)


def _small_step(model: Any, optimizer: Any, schedule: Any) -> None:
    model(torch.randn(4, 3)).pow(2).sum().backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
