r"""Read the answer out of a model's text and compare it, exactly, with the gold number.

A completion is laid out as the series teaches it:

    <reasoning>
    48 / 2 = 24 clips in May, and 48 + 24 = 72 in all.
    </reasoning>
    <answer>72</answer>

Two questions are kept apart, because much of what training gains on GSM8K is format:

* *Where* does the answer stand? Strict: in the answer tag of a well-formed completion. Lenient: wherever the
  text states one last, in a tag, a box, `#### 72` or "the answer is 72"; if nowhere, its last number counts. A
  tag or box that was left empty states that there is no answer; and in a completion that was cut off a mere last
  number is where it stopped, not what it found.
* *What* does it say? `utils.data.numbers` reads it, the same way in both modes, as an exact `Fraction` or as no number.

The texts come from a model that is rewarded for its answers, so expect anything: no text raises, and every
step takes linear time.
"""

import re
from collections import deque
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from utils.data.numbers import NUMERAL, last_number, to_number, without_annotations

MODES = ("strict", "lenient")
RULES = "2"  # raise it with every change of what a text counts as: marks under other rules are not comparable
MAX_CUES = 1_000  # places where a text may state its answer; the last so many are looked at


class Completion(NamedTuple):
    """The parts of a completion; `None` where one is absent or blank."""

    reasoning: str | None
    answer: str | None
    well_formed: bool


_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def parse_completion(text: str) -> Completion:
    """Split a completion into its reasoning and its answer.

    It is well formed when, outer white space aside, it is one `<reasoning>…</reasoning>`, optional white
    space, one `<answer>…</answer>` and nothing else, each of the four tags standing just once, and either pair
    holds something. The parts of any other text are the last closed pair of either tag.

    >>> parse_completion("<reasoning>6 * 7 = 42</reasoning> <answer> 42 </answer>")
    Completion(reasoning='6 * 7 = 42', answer='42', well_formed=True)
    >>> parse_completion("<answer>42</answer> I hope this helps")
    Completion(reasoning=None, answer='42', well_formed=False)
    """
    body = text.strip()
    head, _, tail = body.partition("</reasoning>")
    tail = tail.lstrip()
    if (
        head.startswith("<reasoning>")
        and tail.startswith("<answer>")
        and tail.endswith("</answer>")
        and [*map(body.count, _TAGS)] == [1, 1, 1, 1]
    ):
        reasoning = head.removeprefix("<reasoning>").strip()
        answer = tail.removeprefix("<answer>").removesuffix("</answer>").strip()
        return Completion(reasoning or None, answer or None, well_formed=bool(reasoning and answer))
    return Completion(_last_pair(body, "reasoning"), _last_pair(body, "answer"), well_formed=False)


def _last_pair(text: str, tag: str) -> str | None:
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.rfind(opening, 0, max(text.rfind(closing), 0))
    return text[start + len(opening) : text.find(closing, start)].strip() or None if start >= 0 else None


def extract_answer(text: str, mode: str = "strict", truncated: bool = False) -> str | None:
    r"""Return the answer that a completion states, as written, or `None` where it states no number.

    In lenient mode the last statement decides, of whatever kind.

    Args:
        truncated: the token cap cut the completion off; then a mere last number does not count.

    >>> extract_answer("<reasoning>6 * 7</reasoning><answer>$42</answer>")
    '$42'
    >>> extract_answer("The answer is 41. No, \\boxed{42}, as 6 * 7 is.", mode="lenient")
    '42'
    >>> extract_answer("6 boxes of 7 make 42 eggs."), extract_answer("6 boxes of 7 make 42 eggs.", "lenient")
    (None, '42')
    >>> extract_answer("6 boxes of 7 make 42 eg", "lenient", truncated=True)

    Raises:
        ValueError: the mode is neither "strict" nor "lenient".
    """
    stated = _stated(text, mode, truncated)
    return stated if to_number(stated) is not None else None


def _stated(text: str, mode: str, truncated: bool) -> str | None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(map(repr, MODES))}")
    completion = parse_completion(text)
    if completion.well_formed:
        return completion.answer
    return _last_statement(text, truncated) if mode == "lenient" else None


_CUE = re.compile(  # each branch begins with a plain character: that lets the search skip ahead
    r"<[aA](?:nswer|NSWER)\b[^<>\n]{0,80}>(?>(?:\s*+<answer>)*)|\\(?:boxed|fbox)\s*\{"
    r"|#(?<!##)###++(?=[^\w\n]{0,9}+\d)(?![ \t]*+\d++[.)][ \t]+\S)"  # not a heading, "#### 2. Total cost"
    r"|ans(?:wers?)?\b|Ans(?:wers?)?\b|ANS(?:WERS?)?\b|A(?<![^\n]A)(?=:\s*+[^\n]*[\d¼-¾⅐-⅞])"
)
_CLOSING_TAG = re.compile(r"</(?:answer|reasoning)\b", re.IGNORECASE)
_BRACE = re.compile(r"[{}]")
_IS = re.compile(
    r"(?:\s+to(?:[ \t]++[^\s.:=\d]{1,30}+){1,12}?|\s*\([^()\n]{1,80}\))?"  # "to the question", "(in dollars)"
    r"[\s*_\"'`]{0,9}(?:[:=]|(?:is|are|was|equals|of(?=\s[$*]*\d)|(?:(?!cannot|not\b)\w{1,20}\s){0,3}be)\b)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\s\(|\b(?:because|since)\b|\n|<(?=[A-Za-z/|])")
_CLAUSE_END = re.compile(r",(?!\d)")
_CIRCUMSTANCE = re.compile(r"\s(?:in|for|per|after|within|on|at|each|every)\s")  # "24 in 3 days"
_OPENING = re.compile(  # "In 3 days, ", of which the answer is no part
    r"(?:in|after|for|if|when|out of|at|on|by|with|from|over|during|given|within)\b[^,\n]{1,200}+,\s(?=.*\d)", re.I
)
_LEAD = re.compile(r"[:\s*_]*+(?:(?<=\n)(?:[->#•]+\s++)+[*_]*)?")
_FIRST_ITEM = re.compile(r"[^\w\n]{0,9}\n\W{0,9}1[.)][*_\s]|[:\s*_]{0,9}1[.)]\s++[*_$]*\d")  # of a list after "Answer:"
_RETRACTION = re.compile(r"\b(?:wait|actually|hmm|oops|correction|let me re\w+)\b", re.IGNORECASE)
_PART = re.compile(r"\bpart\b", re.IGNORECASE)


def _last_statement(text: str, truncated: bool) -> str | None:
    if "<<" in text:
        text = without_annotations(text)
    if not NUMERAL.search(text):
        return None
    end = len(text)
    for cue in reversed(deque(_CUE.finditer(text), maxlen=MAX_CUES)):
        kind, start = cue[0][0], cue.end()
        if kind in "Aa":
            verb = _IS.match(text, start, end)
            if not verb or _PART.search(verb[0]):
                continue
            start = verb.end()
        stated = _STATEMENT[kind](text[start:end])
        if stated or (stated == "" and not (kind == "<" and _closes(text, cue.start(), start))):
            return stated
        end = cue.start()  # so that nothing is read twice
    return None if truncated else last_number(text)


def _closes(text: str, start: int, end: int) -> bool:
    """Whether a blank opening tag at the end of a text stands where a closing one should."""
    before = text.rfind("<answer>", 0, start)
    return before >= 0 and not text[end:].strip() and not _CLOSING_TAG.search(text, before, start)


def _first_line(rest: str) -> str:
    return rest.strip().partition("\n")[0].rstrip()


def _in_tag(rest: str) -> str:
    closing = _CLOSING_TAG.search(rest)
    return rest[: closing.start()].strip() if closing else _first_line(rest)


def _in_box(rest: str) -> str:
    depth = 1
    for brace in _BRACE.finditer(rest):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[: brace.start()].strip()
    return _first_line(rest)


def _in_prose(rest: str) -> str | None:
    """The sentence after "the answer is"; its first clause where the whole sentence is not one number."""
    if _FIRST_ITEM.match(rest):
        return last_number(rest)
    rest = rest[_LEAD.match(rest).end() :]
    rest = rest[opening.end() :] if (opening := _OPENING.match(rest)) else rest
    numeral = NUMERAL.search(rest.partition("\n")[0])
    if not numeral:
        return None
    sentence = _up_to(_SENTENCE_END, rest, numeral.end())
    if rest[len(sentence) :].startswith("?"):
        return None
    if (change := _RETRACTION.search(rest, numeral.end())) and NUMERAL.search(rest, change.end()):
        return last_number(rest)  # "12. Wait, it is 24"
    clause = _up_to(_CLAUSE_END, sentence, numeral.end())
    if clause.count("(") + clause.count("[") > clause.count(")") + clause.count("]"):
        clause = sentence
    parts = (sentence, clause, _up_to(_CIRCUMSTANCE, clause, numeral.end()))
    return next((part for part in parts if to_number(part) is not None), clause).strip(" *_`")


def _up_to(end: re.Pattern, text: str, start: int) -> str:
    found = end.search(text, start)
    return text[: found.start()] if found else text


_STATEMENT = {"<": _in_tag, "\\": _in_box, "#": _first_line, "a": _in_prose, "A": _in_prose}

# -------------------------------------------------------------------------------------- what it should be


def is_correct(text: str, gold: str, mode: str = "strict", truncated: bool = False) -> bool:
    r"""Whether the answer that a completion states equals the gold number; arguments as of `extract_answer`.

    >>> is_correct("<reasoning>900 + 100</reasoning><answer>$1,000.00 in all.</answer>", gold="1000")
    True
    >>> is_correct("#### 1,000", gold="1000"), is_correct("#### 1,000", gold="1000", mode="lenient")
    (False, True)

    Raises:
        ValueError: the gold is not a number (an error in the data), or the mode is unknown. No text raises.
    """
    return to_number(_stated(text, mode, truncated)) == _gold_number(str(gold))


@lru_cache(maxsize=1024)  # the completions of a group share one gold
def _gold_number(gold: str) -> Fraction:
    number = to_number(gold)
    if number is None:
        raise ValueError(f"gold answer {gold[:80]!r} is not a number; correct that row of the data")
    return number


def gold_answer(gsm8k_solution: str) -> str:
    r"""Return the gold answer of a GSM8K solution, as written: what follows the last `####`.

    >>> gold_answer("There are 2 * 600 = <<2*600=1200>>1,200 cars.\n#### 1,200")
    '1,200'

    Raises:
        ValueError: no `####` with a number after it.
    """
    gold = gsm8k_solution.rpartition("####")[2].strip()
    if "####" not in gsm8k_solution or to_number(gold) is None:
        raise ValueError(f"no gold number in …{gsm8k_solution[-80:]!r}; end it with a line like '#### 1,234'")
    return gold
