"""The checks of the bug hunt, held against the pieces as given, mends that go wrong, and mends that only play."""

import copy
import dataclasses
import os
import re
import statistics
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from tests.exercises.given import hold, solution, stub
from utils.data.answers import gold_answer, is_correct, parse_completion
from utils.data.numbers import to_number
from utils.exercises import bug_hunt, by_hand
from utils.files import read_jsonl
from utils.model.policy import generate, render_prompt
from utils.scripts.notebooks import WORKSHOP, exercises

NAMES = {"dataclasses": dataclasses, "re": re, "statistics": statistics, "torch": torch, "load_file": load_file}
NAMES |= {"generate": generate, "is_correct": is_correct, "render_prompt": render_prompt}
HERE = WORKSHOP.stem


def pair(number, name):
    """A piece as given, and mended."""
    return stub(HERE, number, **NAMES)[name], solution(HERE, number, **NAMES)[name]


def test_every_piece_is_short_and_tried_here():
    notebook = nbformat.read(WORKSHOP, as_version=4)
    pieces = [cell.source for cell, _ in exercises(notebook)]
    assert len(pieces) == 14 and all(len(piece.split("\n\n\nprint(check_")[0].splitlines()) <= 12 for piece in pieces)
    tried = [int(n) for name in globals() if name.startswith("test_piece") for n in re.findall(r"\d+", name)]
    assert sorted(tried) == list(range(1, 15))


def test_piece_1_layout_reward():
    given, right = pair(1, "layout_reward")

    def by(pattern, flags=re.DOTALL, how=re.fullmatch):
        return lambda completions, **kwargs: [float(bool(how(pattern, text, flags))) for text in completions]

    layout = r"\s*<reasoning>.+?</reasoning>\s*<answer>.+?</answer>\s*"
    wrong = {
        "as given": (given, "should be 1.0, got 0.0"),
        "MULTILINE": by(layout, re.MULTILINE),
        "match instead of fullmatch": (by(layout, how=re.match), "nothing may stand behind"),
        "search": (by(layout, how=re.search), "nothing may stand"),
        "a star for a plus": (by(layout.replace("+?", "*?")), "empty"),
        "no white space at the end": (by(layout.removesuffix(r"\s*")), "line end"),
        "no `<` inside": (by(layout.replace(".+?", "[^<]+")), "`<` alone"),
        "an empty reasoning": (by(layout.replace(".+?", ".*?", 1)), "the reasoning is empty"),
        "anything between": (by(layout.replace(r"</reasoning>\s*", "</reasoning>.*?")), "between the blocks"),
        "tags counted": (
            lambda c, **kw: [float(all(t in x for t in ("<reasoning>", "</answer>"))) for x in c],
            "nothing",
        ),
        "one for all": lambda completions, **kwargs: [right(completions)[0]] * len(completions),
        "always 1": lambda completions, **kwargs: [1.0] * len(completions),
        "by the number of lines": lambda completions, **kwargs: [float(4 < x.count("\n")) for x in completions],
        "no list": (lambda completions, **kwargs: 1.0, "a list"),
    }
    also = [lambda completions, **kwargs: [parse_completion(text).well_formed for text in completions]]
    hold(bug_hunt.check_layout_reward, right, wrong, also=also)


def test_piece_2_gold():
    given, right = pair(2, "gold")

    def patched(solution):
        found = re.findall(r"=([-\d.,]+)>>", solution)
        return found[-1].replace(",", "") if found else right(solution)

    wrong = {
        "as given": (given, "the gold should be"),
        "only the error mended": patched,
        "the first annotation": lambda s: re.findall(r"=([-\d.,]+)>>", s)[0],
        "the comma kept": (lambda s: s.rpartition("####")[2].strip(), "the comma goes"),
        "a space before it": (lambda s: s.rpartition("####")[2].replace(",", ""), "without spaces"),
        "a number, not text": (lambda s: int(right(s)), "as text"),
        "with a point": (lambda s: str(float(right(s))), "without a point"),
        "digits alone": (lambda s: re.findall(r"\d+", s)[-1], "comma"),
        "without its sign": (lambda s: right(s).lstrip("-"), "negative"),
        "no return": lambda s: None,
        "the printed case": lambda s: "24",
        "the number of steps": lambda s: str(s.count("=")),
    }
    hold(bug_hunt.check_gold, right, wrong)


def test_piece_3_stated():
    given, right = pair(3, "stated")

    def after(pattern, flags=re.MULTILINE):
        def found(text):
            numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", re.sub(pattern, "", text, flags=flags))
            return numbers[-1] if numbers else None

        return found

    wrong = {
        "as given": (given, "the last number is"),
        "no MULTILINE": after(r"^\s*\d+[.)]\s", 0),
        "every number with a stop": (after(r"\b\d+[.)]"), "line's start"),
        "a stop in the middle": (after(r"\d+[.)]\s"), "line's start"),
        "markers of one digit": (after(r"^\s*\d[.)](?=\s|$)"), "two digits"),
        "markers with a space behind": (after(r"^\s*\d+[.)] "), "cut off right behind"),
        "an empty text for none": (lambda text: right(text) or "", "None"),
        "markers with a stop only": (after(r"^\d+\.\s"), "`3)`"),
        "every line's first number": (after(r"^\s*\d+[.)]?(?=\s|$)"), "no marker"),
        "decimals lose their whole part": (after(r"^\s*\d+[.)]"), "decimal"),
        "whole list items dropped": (after(r"^\s*\d+[.)].*$"), "may hold one"),
        "more than one digit": lambda text: (re.findall(r"\d\d[\d,]*(?:\.\d+)?", text) or [None])[-1],
        "0 for none": (lambda text: right(text) or "0", "None"),
        "the largest": lambda text: max(re.findall(r"\d+", text), key=int, default=None),
        "the printed case": lambda text: "57",
    }
    hold(bug_hunt.check_stated, right, wrong)


def terms():
    """Wrong policy terms, by their mistakes."""

    def term(how, ratio=lambda new, old: (new - old).exp()):
        def policy_term(new, old, advantages, epsilon=0.2):
            r, a = ratio(new, old), advantages.unsqueeze(1)
            return how(r, r.clamp(1 - epsilon, 1 + epsilon), a)

        return policy_term

    def low(r, c, a):
        return -torch.min(r * a, c * a)

    return {
        "the ratio turned round": (term(low, lambda new, old: (old - new).exp()), "times as probable"),
        "max for min": (term(lambda r, c, a: -torch.max(r * a, c * a)), "its loss should be"),
        "both turned round": term(lambda r, c, a: torch.max(r * a, c * a)),
        "nothing clipped": (term(lambda r, c, a: -r * a), "nothing is clipped"),
        "clipped alone": (term(lambda r, c, a: -c * a), "both sides"),
        "the sign kept": (term(lambda r, c, a: -low(r, c, a)), "its sign is turned"),
        "no exponential": (term(low, lambda new, old: new - old), "exponential"),
        "a ratio of logarithms": term(low, lambda new, old: new / old),
        "epsilon ignored": (
            lambda new, old, a, epsilon=0.2: by_hand.policy_term(new, old, a),
            "epsilon is an argument",
        ),
        "detached": (lambda *a: by_hand.policy_term(*a).detach(), "no gradient"),
        "the old ones move": (
            lambda new, old, a, e=0.2: by_hand.policy_term(new, old, a, e).detach() + (new - new.detach()),
            "a gradient is",
        ),
        "one completion's advantage": (
            lambda new, old, a, e=0.2: by_hand.policy_term(new, old, a[:1].expand(len(a)), e),
            "of its completion",
        ),
        "a second limit, of 3": lambda new, old, a, epsilon=0.2: torch.where(
            a[:, None] < 0,
            by_hand.policy_term(new, old, a, epsilon).clamp(max=-3 * a[:, None]),
            by_hand.policy_term(new, old, a, epsilon),
        ),
        "zero": lambda new, old, a, epsilon=0.2: torch.zeros_like(new),
        "the first case": lambda new, old, a, epsilon=0.2: torch.full_like(new, -1.2),
    }


@pytest.mark.parametrize("number", [4, 8])
def test_pieces_4_and_8_policy_term(number):
    given, right = pair(number, "policy_term")
    some = list(terms().items())[:: 1 if number == 4 else 3]
    hold(bug_hunt.check_policy_term, right, dict([("as given", (given, "its loss should be")), *some]), times=1)


@pytest.mark.parametrize("number", [5, 7])
def test_pieces_5_and_7_advantages(number):
    given, right = pair(number, "advantages")

    def over(spread, least=1e-4):
        def advantages(rewards, size):
            groups = rewards.view(-1, size)
            return ((groups - groups.mean(1, keepdim=True)) / (spread(groups) + least)).flatten()

        return advantages

    sample, population = (lambda g, c=c: g.std(1, keepdim=True, correction=c) for c in (1, 0))
    wrong = {
        "as given": (given, "the advantages should be"),
        "nan and infinity made 0": (lambda r, n: over(sample, 0.0)(r, n).nan_to_num(0.0, 0.0, 0.0), "single precision"),
        "a much smaller constant": over(sample, 1e-8),
        "nan made 0 afterwards": lambda r, n: _rounded(r, n, over(sample, 0.0)(r, n).nan_to_num(0.0)),
        "the population's, by the library": (over(population), "times what they should be"),
        "the variance": over(lambda g: g.var(1, keepdim=True)),
        "not divided": (over(lambda g: 1.0, 0.0), "nothing is divided"),
        "over the batch": (lambda r, n: (r - r.mean()) / (r.std() + 1e-4), "the advantages should be"),
        "a constant of 0.1": (over(sample, 0.1), "times"),
        "half too large": (lambda r, n: 1.5 * right(r, n), "1.500 times"),
        "by groups, not in one row": (lambda r, n: right(r, n).view(-1, n), "one row"),
        "zeros": lambda r, n: torch.zeros_like(r),
        "groups of four": lambda r, n: right(r, 4) if len(r) % 4 == 0 else r,
    }
    hold(bug_hunt.check_advantages, right, wrong)


def _rounded(rewards, size, advantages):
    """As it comes out where the mean of equal rewards misses them by a hair, which depends on the machine."""
    alike = rewards.view(-1, size).std(1) < 1e-6
    hair = torch.where(rewards.view(-1, size)[:, :1] == 1.2, 0.9, 0.0).expand(-1, size)
    return torch.where(alike[:, None], hair, advantages.view(-1, size)).flatten()


def test_piece_6_grpo_loss():
    given, right = pair(6, "grpo_loss")

    def mean(how):
        return lambda new, old, a, mask, e=0.2: how(by_hand.policy_term(new, old, a, e), mask)

    def masked_ratio(new, old, a, mask, e=0.2):
        return by_hand.policy_term(new * mask, old * mask, a, e).mean()

    wrong = {
        "as given": (given, "5 more columns of padding"),
        "over the rectangle": (mean(lambda x, m: (x * m).mean()), "5 more columns"),
        "over completions": (mean(lambda x, m: ((x * m).sum(1) / m.sum(1)).mean()), "mean over completions"),
        "the sum": (mean(lambda x, m: (x * m).sum()), "the sum"),
        "log-probabilities masked": (masked_ratio, "5 more columns"),
        "the sign turned": (mean(lambda x, m: -(x * m).sum() / m.sum()), "sign"),
        "per token": (mean(lambda x, m: x * m), "one number"),
        "by the first row's length": mean(lambda x, m: (x * m).sum() / m[0].sum()),
        "epsilon ignored": (lambda new, old, a, mask, epsilon=0.2: right(new, old, a, mask), "epsilon is an argument"),
        "detached": (lambda *a: right(*a).detach(), "no gradient"),
        "the value without its slope": (lambda *a: right(*a).detach() + 0 * a[0].sum(), "a gradient is"),
        "always 0": lambda new, *rest: 0 * new.sum(),
    }
    hold(bug_hunt.check_grpo_loss, right, wrong, times=1)


def test_piece_9_completion_mask():
    given, right = pair(9, "completion_mask")

    def each(ids, ends):
        return torch.isin(ids, torch.tensor(ends)).int()

    def first_place_is_none(ids, ends):
        place = each(ids, ends).argmax(1)
        return (torch.arange(ids.size(1)) <= place.where(place > 0, ids.size(1))[:, None]).int()

    wrong = {
        "as given": (given, "end a completion"),
        "the last kind only": lambda ids, ends: right(ids, ends[-1:]),
        "without the end token": (lambda ids, ends: (each(ids, ends).cumsum(1) == 0).int(), "ending is learnt"),
        "only end tokens masked": (lambda ids, ends: 1 - each(ids, ends), "behind the first"),
        "up to the last end token": lambda ids, ends: each(ids, ends).flip(1).cumsum(1).flip(1).clamp(max=1),
        "both must come": lambda ids, ends: torch.stack([right(ids, [e]) for e in ends]).amax(0),
        "an end at the first place taken for none": first_place_is_none,
        "two kinds at most": lambda ids, ends: right(ids, ends[:2]),
        "all ones": lambda ids, ends: torch.ones_like(ids),
        "a list": (lambda ids, ends: right(ids, ends).tolist(), "a mask of the shape"),
    }
    hold(bug_hunt.check_completion_mask, right, wrong)


def test_piece_10_greedy_answer():
    given, right = pair(10, "greedy_answer")

    def with_cap(cap, start=True, special=True, **how):
        def answer(policy, question):
            prompt = policy.tokenizer(render_prompt(policy, question), return_tensors="pt", add_special_tokens=False)
            width = prompt["input_ids"].size(1)
            limits = cap(policy.profile.max_completion_tokens, width)
            output = policy.model.generate(**prompt, **{"do_sample": False} | limits | how, pad_token_id=0)
            return policy.tokenizer.decode(output[0, width if start else 0 :], skip_special_tokens=special)

        return answer

    wrong = {
        "as given": given,  # where the prompt alone is longer, the library refuses
        "a larger total": with_cap(lambda cap, width: {"max_length": 150}),
        "a cap of its own": (with_cap(lambda cap, width: {"max_new_tokens": 96}), "the profile's cap is"),
        "one too few": with_cap(lambda cap, width: {"max_new_tokens": cap - 1}),
        "with the prompt": (with_cap(lambda cap, width: {"max_new_tokens": cap}, start=False), "no part of the answer"),
        "with special tokens": (with_cap(lambda cap, width: {"max_new_tokens": cap}, special=False), "special tokens"),
        "the same for all": lambda policy, question: "<reasoning>\nLet me think.\n</reasoning>\n<answer>7</answer>",
        "nothing": (lambda policy, question: None, "and not"),
    }
    hold(bug_hunt.check_greedy_answer, right, wrong, times=1)


def test_piece_11_share_right():
    given, right = pair(11, "share_right")

    def under(cap, mode="lenient"):
        def share(policy, questions):
            policy = dataclasses.replace(policy, profile=policy.profile.replace(max_completion_tokens=cap))
            texts = [samples[0].text for samples in generate(policy, questions)]
            return statistics.fmean(is_correct(t, q.gold, mode) for t, q in zip(texts, questions, strict=True))

        return share

    wrong = {
        "as given": (given, "compared with itself, gains"),
        "one cap for both, another": (under(32), "the profile's cap"),
        "a quick look at either": under(20),
        "the base on fewer questions": lambda p, q: right(p, q if p.adapter else q[:7]) + 1e-6 * bool(p.adapter),
        "the trained one gets a gift": (lambda p, q: right(p, q) + 0.1 * bool(p.adapter), "gains +10.0 points"),
        "in percent": lambda p, q: 100 * right(p, q),
        "a constant": lambda p, q: 0.625001,
        "nothing": (lambda p, q: None, "between 0 and 1"),
    }
    hold(bug_hunt.check_share_right, right, wrong, times=1)


def test_piece_12_token_logps():
    given, right = pair(12, "token_logps")

    def by(cut, mask=True, after=lambda x: x.log_softmax(-1), warm=True):
        def token_logps(model, batch, temperature):
            completion = batch["completion_ids"]
            ids = torch.cat([batch["prompt_ids"], completion], 1)
            seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1) if mask else None
            logits = model(input_ids=ids, attention_mask=seen).logits[:, cut(completion.size(1))]
            found = after(logits / (temperature if warm else 1.0))
            return found.gather(-1, completion.unsqueeze(-1)).squeeze(-1)

        return token_logps

    def before(n):
        return slice(-n - 1, -1)

    wrong = {
        "as given": (given, "TRL's is"),
        "two places before": by(lambda n: slice(-n - 2, -2)),
        "from the start": by(lambda n: slice(0, n)),
        "no temperature": by(before, warm=False),
        "padding attended to": by(before, mask=False),
        "probabilities": (by(before, after=lambda x: x.softmax(-1)), "that of a certain token is 0"),
        "over the places": by(before, after=lambda x: x.log_softmax(1)),
        "one token too many": (lambda m, b, t: torch.cat([right(m, b, t)] * 2, 1), "as many log-probabilities"),
        "detached": (lambda m, b, t: right(m, b, t).detach(), "no gradient"),
        "the value without its slope": (lambda m, b, t: right(m, b, t).detach() + 0 * right(m, b, t), "a gradient is"),
        "zeros": lambda m, b, t: 0 * right(m, b, t),
    }
    hold(bug_hunt.check_token_logps, right, wrong, times=1)


def test_piece_13_load_adapter():
    given, right = pair(13, "load_adapter")

    def named(choose):
        def load_adapter(model, folder):
            tensors = load_file(folder / "adapter_model.safetensors")
            found = {n.replace(".weight", ".default.weight"): t for n, t in choose(tensors).items()}
            model.load_state_dict(found, strict=False)
            return model

        return load_adapter

    def strict(model, folder):
        model.load_state_dict(load_file(folder / "adapter_model.safetensors"))
        return model

    def forgotten(model, folder):
        right(model, folder)

    wrong = {
        "as given": (given, "computes what it computed without the adapter"),
        "strict": (strict, "raised RuntimeError"),
        "A alone": (named(lambda ts: {n: t for n, t in ts.items() if "lora_A" in n}), "without the adapter"),
        "B alone": (named(lambda ts: {n: t for n, t in ts.items() if "lora_B" in n}), "all of it"),
        "attention alone": (named(lambda ts: {n: t for n, t in ts.items() if "attn" in n}), "all of it"),
        "doubled": (named(lambda ts: {n: 2 * t for n, t in ts.items()}), "differ by"),
        "no return": (forgotten, "is to be returned"),
        "noise, so that something changes": named(lambda ts: {n: torch.randn_like(t) for n, t in ts.items()}),
        "the base": lambda model, folder: model.get_base_model(),
        "another file": named(lambda ts: {n: t.flip(0) for n, t in ts.items()}),
    }
    hold(bug_hunt.check_load_adapter, right, wrong, times=1)


def test_piece_14_resume(tmp_path):
    given, mended = stub(HERE, 14, **NAMES), solution(HERE, 14, **NAMES)

    class Both:
        def __init__(self, save, load):
            self.save, self.load = save, load

    def check(both):
        return bug_hunt.check_resume(both.save, both.load)

    def without(*names):
        """The given mend, where some of what was saved is not put back."""

        def load(folder, model, optimizer, schedule):
            saved = torch.load(folder / "checkpoint.pt")
            for name, thing in (("model", model), ("optimizer", optimizer), ("schedule", schedule)):
                if name not in names:
                    thing.load_state_dict(saved[name])
            if "random" not in names:
                torch.set_rng_state(saved["random"])
            return 0 if "step" in names else saved["step"]

        return Both(mended["save"], load)

    def from_memory():
        """Nothing on disk: the objects are remembered and handed round."""
        kept = {}

        def save(folder, step, *things):
            kept.update(step=step, model=things[0].state_dict())

        def load(folder, model, *rest):
            model.load_state_dict(kept["model"])
            return kept["step"]

        return Both(save, load)

    def all_in_memory():
        kept = {}

        def save(folder, step, *things):
            kept.update(copy.deepcopy({"things": [t.state_dict() for t in things], "step": step}))
            kept["random"] = torch.get_rng_state()

        def load(folder, *things):
            for thing, state in zip(things, kept["things"], strict=True):
                thing.load_state_dict(state)
            torch.set_rng_state(kept["random"])
            return kept["step"]

        return Both(save, load)

    def one_place():
        """The argument `folder` ignored."""
        save, load = mended["save"], mended["load"]
        return Both(lambda folder, *rest: save(tmp_path, *rest), lambda folder, *rest: load(tmp_path, *rest))

    wrong = {
        "as given": (Both(given["save"], given["load"]), "saved after step"),
        "the step alone added": (without("optimizer", "schedule", "random"), "learning rate"),
        "no step": (without("step"), "should return that"),
        "no optimizer": (without("optimizer"), "not yet"),
        "no schedule": (without("schedule"), "learning rate"),
        "no random state": (without("random"), "other random numbers"),
        "no weights": (without("model"), "the weights are not"),
        "the weights in memory": (from_memory(), "another run"),
        "all of it in memory": (all_in_memory(), "another run"),
        "one place for all": (one_place(), "another run"),
        "a constant": Both(mended["save"], lambda *a: 4),
        "a seed set anew": Both(mended["save"], lambda *a: (without("random").load(*a), torch.manual_seed(0))[0]),
        "nothing at all": (Both(lambda *a: None, lambda *a: None), "got None"),
    }
    hold(check, Both(mended["save"], mended["load"]), wrong, times=5)


# ---------------------------------------------------------------------------------------------- what is told of them


def outside(number):
    """What the cell From outside prints under a piece as given."""
    cells = nbformat.read(WORKSHOP, as_version=4).cells
    piece = [i for i, cell in enumerate(cells) if "\nprint(check_" in cell.source][number - 1]
    assert "**From outside.**" in cells[piece + 1].source
    assert cells[piece].outputs[0].text.startswith("not yet: ")
    return "".join(output.text for output in cells[piece + 2].outputs)


def numbers(number):
    return [float(found.strip("%")) for found in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?%?", outside(number))]


def test_the_minutes_add_up():
    page = "\n".join(cell.source for cell in nbformat.read(WORKSHOP, as_version=4).cells)
    table = [int(minutes) for minutes in re.findall(r"\| (\d+) \|$", page, re.M)]
    heads = [int(minutes) for minutes in re.findall(r"## \d+ · .*, (\d+) min\)", page)]
    assert table == heads and len(heads) == 14 and f"all fourteen take about {sum(heads)}" in page


def test_the_symptoms_are_those_of_the_table():
    assert "mean 0.000, std 0.000" in outside(1) and "0 of 7473" in outside(2) and "gold 24: 30" in outside(2)
    read = re.findall(r"'(\d+)'", outside(3).splitlines()[1])
    assert len(read) > 3 and set(read) <= set("123456789") and {"3", "4", "5"} <= set(read)
    before, after = numbers(4)[2], numbers(4)[5]
    assert after < 0.6 * before, "the reward falls"
    assert re.search(r"[1-9]\d* of them get nan", outside(5)) and re.search(r"[1-9]\d* inf", outside(5))
    gradient = re.findall(r"grad_norm .*?(\d+\.\d+)", outside(6))
    assert float(gradient[0]) > 1.0, "a mended one has about 0.1 or less"
    assert len(set(re.findall(r"rewards (\[.*\])", outside(7)))) == 1, "nothing at all"
    this, right = ([float(n) for n in re.findall(r": +(\d+\.\d+),", line)] for line in outside(8).splitlines())
    assert this[0] == right[0] == 1.0 and this[-1] > 2 * right[-1]
    assert "100% of the completions did end" in outside(9) and numbers(9)[1] > 0.5
    pairs = [tuple(map(int, p)) for p in re.findall(r"(\d+), (\d+);", outside(10))]
    assert all(q + a <= 96 for q, a in pairs) and max(pairs)[1] < 10 < min(pairs)[1]
    base, twin, trained = numbers(11)[::2]
    assert twin > base + 20 and trained > twin
    assert "steps 13 to 16" in outside(12) and numbers(12)[0] < -10 < -1 < numbers(12)[3]
    assert "40 of 40 greedy answers" in outside(13)
    whole, stopped = re.findall(r"rate (.*)", outside(14))
    assert whole.split()[:4] == stopped.split()[:4] == stopped.split()[4:] != whole.split()[4:]


@pytest.mark.skipif("GSM8K_DIR" not in os.environ, reason="GSM8K is not at hand")
def test_the_golds_were_counted_so():
    rows = read_jsonl(Path(os.environ["GSM8K_DIR"]) / "train.jsonl")
    given = pair(2, "gold")[0]
    found = [re.search(r">>", row["answer"]) and given(row["answer"]) for row in rows]
    assert found.count(None) == 95 and len(rows) == 7473
    read = zip(found, (gold_answer(row["answer"]) for row in rows), strict=True)
    assert sum(to_number(got) != to_number(gold) for got, gold in read if got is not None) == 377
