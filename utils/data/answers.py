r"""Read the answer out of a model's text and compare it, exactly, with the gold number.

A completion is laid out as the series teaches it:

    <reasoning>
    48 / 2 = 24 clips in May, and 48 + 24 = 72 in all.
    </reasoning>
    <answer>72</answer>

Two questions are kept apart, because much of what training gains on GSM8K is format:

* *Where* does the answer stand? Strict: in the answer tag of a well-formed completion. Lenient: wherever the
  text states one last, in a tag, a box, `#### 72` or "the answer is 72"; if nowhere, its last number counts.
* *What* does it say? `to_number` reads it, the same way in both modes, as an exact `Fraction`. What states no
  number, or several that compete ("5 or 6", "2 hours 30 minutes"), is `None`: never zero, never a guess.

The texts come from a model that is rewarded for its answers, so expect anything: no text raises, and every
step takes linear time.
"""

import re
import unicodedata
from collections import deque
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MODES = ("strict", "lenient")
RULES = "1"  # raise it with every change of what a text counts as: marks under other rules are not comparable
MAX_LENGTH = 6_000  # characters; nothing longer is read as a number
MAX_CUES = 1_000  # places where a text may state its answer; the last so many are looked at
MAX_POWER = 300  # of ten; 1e999999999 would not fit in memory


class Completion(NamedTuple):
    """The parts of a completion; `None` where one is absent, and for an answer that is blank."""

    reasoning: str | None
    answer: str | None
    well_formed: bool


# ------------------------------------------------------------------------------- where the answer stands

_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def parse_completion(text: str) -> Completion:
    """Split a completion into its reasoning and its answer.

    It is well formed when, outer white space aside, it is one `<reasoning>…</reasoning>`, optional white
    space, one `<answer>…</answer>` and nothing else, each of the four tags standing just once. The parts of
    any other text are the last closed pair of either tag.

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
        return Completion(reasoning, answer or None, well_formed=True)
    return Completion(_last_pair(body, "reasoning"), _last_pair(body, "answer") or None, well_formed=False)


def _last_pair(text: str, tag: str) -> str | None:
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.rfind(opening, 0, max(text.rfind(closing), 0))
    return text[start + len(opening) : text.find(closing, start)].strip() if start >= 0 else None


def extract_answer(text: str, mode: str = "strict") -> str | None:
    r"""Return the answer that a completion states, as written, or `None` where it states no number.

    In lenient mode the last statement decides, of whatever kind; blank tags and boxes state nothing.

    >>> extract_answer("<reasoning>6 * 7</reasoning><answer>$42</answer>")
    '$42'
    >>> extract_answer("The answer is 41. No, \\boxed{42}, as 6 * 7 is.", mode="lenient")
    '42'
    >>> extract_answer("6 boxes of 7 make 42 eggs."), extract_answer("6 boxes of 7 make 42 eggs.", "lenient")
    (None, '42')

    Raises:
        ValueError: the mode is neither "strict" nor "lenient".
    """
    stated = _stated(text, mode)
    return stated if to_number(stated) is not None else None


def _stated(text: str, mode: str) -> str | None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(map(repr, MODES))}")
    completion = parse_completion(text)
    if completion.well_formed and completion.answer:
        return completion.answer
    return _last_statement(text) if mode == "lenient" else None


_ANNOTATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator: <<48/2=24>>
_BETWEEN_DIGITS = re.compile(r"(?<=\d)(?:<<[^<>]*+>>)++(?=\d)")
_CUE = re.compile(  # each branch begins with a plain character: that lets the search skip ahead
    r"<[aA](?:nswer|NSWER)\b[^<>\n]{0,80}>(?:\s*<answer>)*|\\(?:boxed|fbox)\s*\{"
    r"|#(?<!##)###++(?=[^\w\n]{0,9}+\d)(?![ \t]*+\d++[.)][ \t]+\S)"  # not a heading, "#### 2. Total cost"
    r"|answers?\b|Answers?\b|ANSWERS?\b|A(?<![^\n]A)(?=:\s*+[^\n]*[\d¼-¾⅐-⅞])"
)
_CLOSING_TAG = re.compile(r"</(?:answer|reasoning)\b", re.IGNORECASE)
_BRACE = re.compile(r"[{}]")
_IS = re.compile(
    r"(?:\s+to(?:[ \t]++[^\s.:=\d]{1,30}+){1,12}?|\s*\([^()\n]{1,80}\))?"  # "to the question", "(in dollars)"
    r"[\s*_]{0,9}(?:[:=]|(?:is|are|was|equals|(?:\w{1,20}\s)?be)\b)[:\s*_]*",
    re.IGNORECASE,
)
_NUMERAL = re.compile(r"[\d¼-¾⅐-⅞]")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\s\(|\b(?:because|since)\b|[\n<]")
_CLAUSE_END = re.compile(r",(?!\d)")


def _last_statement(text: str) -> str | None:
    if "<<" in text:
        text = _without_annotations(text)
    if not _NUMERAL.search(text):
        return None
    end = len(text)
    for cue in reversed(deque(_CUE.finditer(text), maxlen=MAX_CUES)):
        kind, start = cue[0][0], cue.end()
        if kind in "Aa":
            verb = _IS.match(text, start, end)
            if not verb:
                continue
            start = verb.end()
        if stated := _STATEMENT[kind](text[start:end]):
            return stated
        end = cue.start()  # so that nothing is read twice
    return _last_number(text)


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
    numeral = _NUMERAL.search(rest.partition("\n")[0])
    if not numeral:
        return None
    sentence = _up_to(_SENTENCE_END, rest, numeral.end())
    clause = _up_to(_CLAUSE_END, sentence, numeral.end())
    return (sentence if to_number(sentence) is not None else clause).strip(" *_`")


def _up_to(end: re.Pattern, text: str, start: int) -> str:
    found = end.search(text, start)
    return text[: found.start()] if found else text


_LISTED = re.compile(r"\s?(?:[,;]\s?(?:or\s)?|or\s)\$?")  # what stands between two numbers of a list


def _last_number(text: str) -> str | None:
    end = len(text) - _NUMERAL.search(text[::-1]).start()
    tail = _plain(text[max(0, end - MAX_LENGTH) : end + 20])
    *_, before, last = [None, None, *filter(_is_stated, _NUMBER.finditer(tail))]
    if before and _LISTED.fullmatch(tail, before.end(), last.start()) and _value(before) != _value(last):
        return None  # "41 or 42", "40, 41, 42": which of them?
    return last and last[0]


_STATEMENT = {"<": _in_tag, "\\": _in_box, "#": _first_line, "a": _in_prose, "A": _in_prose}

# ------------------------------------------------------------------------------------------ what it says

_PLAIN_CHARACTERS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
    | dict.fromkeys("−‐‑‒–⁻﹣", "-")
    | dict.fromkeys("¢£¤¥￡￥" + "".join(map(chr, range(0x20A0, 0x20C1))), "$")
    | dict.fromkeys("\u00a0\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))), " ")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", "")  # invisible
    | dict.fromkeys("·⋅∙✕✖", "×")
    | dict.fromkeys("≈≃≅→⇒", "=")
    | dict.fromkeys("⁄∕", "/")
    | {"’": "'"}
    | {power: str(unicodedata.digit(power)) for power in "⁰¹²³⁴⁵⁶⁷⁸⁹"}
    | {part: r"\frac" + unicodedata.normalize("NFKC", part).replace("⁄", "") for part in "¼½¾⅐⅑⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
)
_SUPERSCRIPT = re.compile("(?<![⁻⁰¹²³⁴-⁹])(?=[⁻⁰¹²³⁴-⁹])")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_LATEX = re.compile(r"\\(?:[A-Za-z]+|!\s*|\W)|\s?\{,\s?\}\s?")
_LATEX_MEANING = {r"\times": "×", r"\cdot": "×", r"\div": "÷", r"\pm": "±", r"\pi": "π", r"\infty": "∞"}
_LATEX_MEANING |= dict.fromkeys(r"\sqrt \log \ln \exp \sin \cos \tan".split(), "√")
_LATEX_MEANING |= dict.fromkeys(r"\le \leq \ge \geq \lt \gt \ne \neq".split(), "≠")
_LATEX_MEANING |= {r"\approx": "=", r"\$": "$", r"\!": "", "{,}": ","}

_INTEGER = r"(?: (?!0)\d{1,3} (?: (?:,\d{3})+ | (?:[ ]\d{3})+ | (?:['_]\d{3})+ ) (?!\d) | \d++ )"  # 1,234 or 1 234 567
_DIGITS = rf"(?: {_INTEGER} (?:\.\d++)? | (?<![\w.])\.\d++ )"
_NUMBER = re.compile(
    rf"""
    (?P<aside> (?<=[dimntHO])(?=[23](?![\d.,/])) | (?<=\^) | (?<=\^[{{(])  # cm2, CO2, s^{{-1}}
                 | (?<=[A-Za-z])(?=\d++(?![kMB]\b)[A-Za-z]) )?  # within a word
    (?P<sign> (?<![A-Za-z0-9)-])[-+]
              (?: (?:[A-Z]{{1,3}}\s?)? [${{}}(*_]* (?=[\d.])           # is -$5
                | (?<![A-Za-z0-9)]\s[-+])(?<!\n-) [\s${{}}(*_]* )      # = - 5; but not "total - 5" or a bullet
            | \b(?i:minus|negative)\s[\s$]* )?
    (?: (?P<whole>{_INTEGER}) [ \t]++ (?:and[ \t]++)? (?=\d++\s*+/\s*+\d) )?  # the 1 of 1 1/2
    (?P<top>{_DIGITS})
    (?: (?: [eE] | \s?[×*xX]\s?10\s?(?:\^|\*\*)[{{(]? ) (?P<power>[-+]?\d++) [}})]? )?
    (?: \s*+/\s*+ (?P<bottom>{_DIGITS}) )?
    (?P<scale> (?: (?ai: \s?(?:hundred|thousand|million|billion|trillion)s? | k ) | [MB] )\b )?
    """,
    re.VERBOSE,
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES |= {"k": 10**3, "m": 10**6, "b": 10**9}
_NO_SEPARATORS = str.maketrans("", "", " '_")
_AMBIGUOUS = re.compile(  # of a text in which \0 stands for each number and \1 for each aside
    r"[±√∞≤≥≠]|\s[<>]\s"  # ±5, √16, x > 5
    r"|\0[\s)}\]]*(?:[+×÷π]|[-*xX:^]+[\s({\[]*[\0\1])"  # 3 + x, 36π; 10 - 5, 3:30, 2^10
    r"|[\w)}]\s*[+×÷]\s*\0|(?:/|sqrt)[\s({]*\0"  # x + 3; x/2
    r"|\b[nxyz]\s*+[-*]\s*+\0|\0(?:\s*+[-*/]?\s*[nxyz]|[ai])\b"  # x - 3; 3x, 3 - x
    r"|[A-Za-z]_\{?\0|\b[A-Za-z]\(\0"  # x_3, f(3)
    r"|\0(?:[^\0]*[^\0\s({\[$])?[\s$]*\0"  # 5 or 6, 2 hours 2 minutes, but not "$42 (42 dollars)"
)
_WORDS = re.compile(r"(?! ?[A-Za-z]\b)[A-Za-z ]*")  # but no 5x
_ALTERNATIVE = re.compile(r"\b(?:or|and)\b|[,;\n](?!\d)")


def to_number(text: str | None) -> Fraction | None:
    r"""Read the one number that a text states, exactly; `None` where it states none, or several.

    Currency, unit words, percent signs, brackets, markdown, LaTeX and closing punctuation are passed over. Of
    an equation the value after the last `=` counts. A fraction is a number; a sum left to do (10 - 5) is not.

    >>> forms = "$1,234.50", "**-7** degrees", r"\boxed{1\frac{1}{2}}", "½", "3 + 4 = 7", "5%", "1.2 million"
    >>> [str(to_number(form)) for form in forms]
    ['2469/2', '-7', '3/2', '1/2', '7', '5', '1200000']
    >>> [to_number(form) for form in ("", "twelve", "1/0", "5 or 6", "2 hours 30 minutes", "10 - 5")]
    [None, None, None, None, None, None]
    """
    text = (text or "").strip()
    if not text or len(text) > MAX_LENGTH:
        return None
    bare = text.replace(r"\boxed", " ").lstrip("{$* ").rstrip("}$* .")
    if bare.isdecimal():  # the usual cases, here and below: nothing to spell out
        return _exact(bare)
    number = _NUMBER.match(bare)
    if number and _WORDS.fullmatch(bare, number.end()):
        return _value(number)
    text = _plain(text)
    if "=" in text:
        text = _last_side(text)
    numbers = []

    def mark(number: re.Match) -> str:
        if not _is_stated(number):
            return "\1"
        numbers.append(number)
        return "\0"

    if _AMBIGUOUS.search(_NUMBER.sub(mark, text)):
        return None
    values = set(map(_value, numbers))
    return values.pop() if len(values) == 1 else None


def _plain(text: str) -> str:
    """The text in plain characters: full-width, typographic and LaTeX forms spelt out."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub("^", text).translate(_PLAIN_CHARACTERS)
    if "\\" in text or "{," in text:
        text = re.sub(r"(?<=\d)(?=\\[dtc]?frac)", " ", text)
        text = _FRACTION.sub(r"\1\2/\3\4 ", text)
        text = _LATEX.sub(lambda command: _LATEX_MEANING.get(command[0].replace(" ", ""), " "), text)
    return _without_annotations(text) if "<<" in text else text


def _without_annotations(text: str) -> str:
    return _ANNOTATION.sub("", _BETWEEN_DIGITS.sub("; ", text))  # the digits around one are two numbers


def _last_side(equation: str) -> str:
    """What follows the last `=`; nothing where the sides are alternatives, as in "x = 5 or x = 6"."""
    first, *middle, last = equation.split("=")
    listed = re.match(r"\D*\d.*\bor\b", first, re.DOTALL) or any(map(_ALTERNATIVE.search, middle))
    return "" if listed else last


def _is_stated(number: re.Match) -> bool:
    return number["aside"] is None


def _value(number: re.Match) -> Fraction | None:
    _aside, sign, whole, top, power, bottom, scale = number.groups()
    value = _exact(top)
    if power:
        if abs(Decimal(power)) > MAX_POWER:
            return None
        value *= Fraction(10) ** int(power)
    if bottom:
        divisor = _exact(bottom)
        if not divisor:
            return None
        value /= divisor
    if whole:
        if value >= 1:  # "5 10/2" is no mixed number
            return None
        value += _exact(whole)
    if scale:
        value *= _SCALES[scale.strip().lower().removesuffix("s")]
    return -value if sign and not sign.startswith("+") else value


def _exact(digits: str) -> Fraction:
    digits = digits.replace(",", "")
    if len(digits) < 100 and digits.isdecimal():
        return Fraction(int(digits))  # quicker, but limited in length
    return Fraction(Decimal(digits.translate(_NO_SEPARATORS)))


# -------------------------------------------------------------------------------------- what it should be


def is_correct(text: str, gold: str, mode: str = "strict") -> bool:
    r"""Whether the answer that a completion states equals the gold number.

    >>> is_correct("<reasoning>900 + 100</reasoning><answer>$1,000.00 in all.</answer>", gold="1000")
    True
    >>> is_correct("#### 1,000", gold="1000"), is_correct("#### 1,000", gold="1000", mode="lenient")
    (False, True)

    Raises:
        ValueError: the gold is not a number (an error in the data), or the mode is unknown. No text raises.
    """
    return to_number(_stated(text, mode)) == _gold_number(str(gold))


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
