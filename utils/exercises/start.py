"""The checks of notebook 00, Start here."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from utils.data.answers import extract_answer, is_correct, parse_completion
from utils.exercises.checks import NotYet, ask, call, check, shown, truth

GOLD = "42"
KINDS = {  # in the layout, strictly right, leniently right
    "both": (True, True, True),
    "only lenient": (False, False, True),
    "well formed but wrong": (True, False, False),
}


@check
def check_texts(texts: dict[str, str]) -> None:
    """Exercise 1: a text of each kind, for the gold number 42."""
    for kind, wanted in KINDS.items():
        text = texts.get(kind) if isinstance(texts, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise NotYet(f"{kind!r} has no text")
        parsed = parse_completion(text)
        got = (parsed.well_formed, is_correct(text, GOLD), is_correct(text, GOLD, "lenient"))
        for name, wants, has in zip(("in the layout", "strictly right", "leniently right"), wanted, got, strict=True):
            if wants is not has:
                raise NotYet(f"{kind!r} should {'' if wants else 'not '}be {name}, and is{'' if has else ' not'}")
        if parsed.well_formed and extract_answer(text) is None:
            raise NotYet(f"{kind!r} answers without a number: a wrong answer is a number, too")
        if parsed.well_formed and not any(letter.isalnum() for letter in parsed.reasoning or ""):
            raise NotYet(f"{kind!r} has no reasoning between its tags")


def sums(rng: random.Random, right: bool) -> list[str]:
    """Sums with numbers drawn afresh: one true one for each sign, or many false ones."""
    a, b = rng.randint(41, 90), rng.randint(11, 40)
    both = {"+": a + b, "-": a - b, "*": a * b}
    if right:
        return [*(f"{a} {sign} {b} = {c}" for sign, c in both.items()), f"{a * b} / {b} = {a}"]
    other = {"+": "-", "-": "+", "*": "+"}
    return [
        *(f"{a} {other[sign]} {b} = {c}" for sign, c in both.items()),
        *(f"{a} {sign} {b} = {c + 10}" for sign, c in both.items()),
        f"{b} - {a} = {a - b}",
        f"{a * b + 1} / {b} = {a}",
        f"{1000 * a + 1} / 1000 = {a}",
        f"{a * b}.{b} = {a}",
        f"{a * b}, {b} = {a}",
        f"{b} / {a * b} = {a}",
        f"{a * b} / {b} = {a + 1}",
        f"{a} / 0 = 1",
        f"{a} / 0 = 0",
        f"0 / 0 = {b}",
        f"{a} = {a}",
        f"x + {b} = {a}",
        "",
    ]


@check
def check_shows_working(shows_working: Callable[[str], Any]) -> None:
    """Exercise 2: true only for a text with at least one true sum of two whole numbers."""
    rng = random.Random()
    cases = {"6 * 7 = 42 eggs": True, "first 9=9, then 12/4=3": True, "x = ?": False, "6*7=41": False, "7/0=1": False}
    cases |= {"16*7=42": False, "6*7=420": False}  # 6*7=42 stands in them, but only as a part
    cases |= {f"So {text} in all.": True for text in sums(rng, True)}
    cases |= {text.replace(" ", ""): True for text in sums(rng, True)}
    cases |= {f"So {text} in all.": False for text in sums(rng, False)}
    cases |= {f"{wrong}, no: {right}": True for wrong, right in zip(sums(rng, False), sums(rng, True), strict=False)}
    cases |= {f"{'; '.join(sums(rng, False))}, no: {right}": True for right in sums(rng, True)}
    cases |= {f"{right}, then {wrong}": True for wrong, right in zip(sums(rng, False), sums(rng, True), strict=False)}
    cases |= {re.sub(" ", lambda _: rng.choice(("", " ")), text): True for text in sums(rng, True)}
    cases |= {f"Step {rng.randint(1, 9)} {text} {rng.randint(2, 9)} times": True for text in sums(rng, True)}
    for text, wanted in cases.items():
        got = ask(shows_working, text)
        if truth(got) is not wanted:
            raise NotYet(f"{call(shows_working, text)} should be {wanted}, got {shown(got)}{reason(text, wanted)}")


def reason(text: str, wanted: bool) -> str:
    """The mistake that is likely behind a wrong answer about this text, as the end of a sentence."""
    if wanted and "no:" in text:
        return "; the true sum comes last: do you look at all of them?"
    if "then" in text and "=" in text.partition("then")[2]:
        return "; one true sum is enough, whatever else stands there"
    if text.startswith("Step"):
        return "; only the spaces within a sum are optional: elsewhere a space parts two numbers"
    if re.search(r"\d[.,] ?\d", text):
        return "; the signs are + - * and /: between two others in brackets a hyphen means a range"
    if "/" in text and not wanted:
        return "; a quotient must come out exactly, and nothing is divided by 0"
    if text in ("16*7=42", "6*7=420"):
        return "; a number begins where no digit stands before it, and ends where none follows"
    return ""
