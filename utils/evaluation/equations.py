r"""Find the equations in a worked solution and check them, exactly: "3 eggs * $2 = $6" is one, and it holds.

    >>> [(e.text, e.holds) for e in equations("Tom has 48/2 = <<48/2=24>>24 clips. Now he has 24 + 8 = 31.")]
    [('48/2=24', True), ('24 + 8 = 31', False)]

Words between the numbers are units and are passed over; currency signs, thousands commas, percent signs, LaTeX and
GSM8K's annotations are read. What is not arithmetic on known numbers (an unknown, a time of day, a root) is left
out rather than guessed: an equation that is reported was read whole. Of a chain `a = b = c` each link counts.

The grammar of one side, after Python's: sum = product {(+|-) product}; product = power {(*|/) power}; power = atom
[^ power]; atom = [-] number [%] | ( sum ) [%]. Numbers are Fractions, sides are short (MAX_ITEMS), and the scan takes
linear time; nothing is ever evaluated as code.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product

from utils.data.numbers import to_number

MAX_ITEMS = 60  # numbers, operators and brackets in one side
MAX_DIGITS = 30  # of one number
MAX_POWER = 64
MAX_WORDS = 6  # between a number and the operator after it: "40 minutes of the first day + 20 minutes"
MAX_WORDS_AFTER_OPERATOR = 3  # "5 + the other 3"


@dataclass(frozen=True)
class Equation:
    """One arithmetic statement in a text: an expression with at least one operator, and what is said to be its value.

    Attributes:
        text: as written, `text == completion[start:end]`.
        operators: those of the expression in order, of `+-*/^`; none where it only rewrites the link before it.
        operands: its numbers in order.
        value: what the expression is.
        result: what the text says it is; a percentage counts as its number, 60% as 60.
        holds: whether they agree: exactly, or to the decimal places that are written.
    """

    text: str
    start: int
    end: int
    operators: str
    operands: tuple[Fraction, ...]
    value: Fraction
    result: Fraction
    holds: bool


def equations(text: str) -> list[Equation]:
    """All equations of a text, in order; any text is fit, and none raises."""
    reader = _Reader(text)
    for token in _TOKEN.finditer(_plain(text)):
        reader.take(token.lastgroup, token[0], token.start(), token.end())
    reader.close_chain()
    return reader.found


def shows_working(text: str, answer: Fraction | None = None) -> bool:
    """Whether a text holds an equation, or any number besides its answer; words alone are no working, nor are tags.

    A real model also works in words and with unknowns, where no equation can be read; so a number that is not the
    answer is enough. It is an upper bound: a text that only repeats the question's numbers counts, too.

    Args:
        answer: the number that the text states as its answer; None where it states none.
    Example:
        >>> [shows_working(text, Fraction(42)) for text in ("3*14=42 clips", "14 in each, so 42", "It must be 42.")]
        [True, True, False]
    """
    numbers = re.findall(r"\d[\d,]{0,40}(?:\.\d{1,40})?", text)
    return any(to_number(number.rstrip(",")) != answer for number in numbers) or bool(equations(text))


# ------------------------------------------------------------------------------------------------- characters

_CHARACTERS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
    | dict.fromkeys("−‐‑‒–⁻﹣", "-")
    | dict.fromkeys("×·⋅∙✕✖∗", "*")
    | dict.fromkeys("÷⁄∕", "/")
    | dict.fromkeys("≈≃≅→⇒", "=")
    | dict.fromkeys("£¤¥€￡￥", "$")
    | dict.fromkeys("\u00a0\u202f\u2009\u200b", " ")
)
_FRACTION = re.compile(r"(\\[dtc]?frac\s{0,3})\{([^{}]{1,200})\}\{([^{}]{1,200})\}")
_LATEX = re.compile(r"\\(?:text|mathrm|mathbf)\s?\{[^{}]{0,80}\}|\\[A-Za-z]{1,20}|\\.", re.DOTALL)
_LATEX_MEANING = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\approx": "=", r"\$": "$", r"\%": "%"}
_LATEX_MEANING |= dict.fromkeys((r"\(", r"\)", r"\[", r"\]"), ";")  # where a formula begins and ends
_LATEX_MEANING |= dict.fromkeys((r"\left", r"\right", r"\boxed", r"\,", r"\!", r"\;", r"\ ", r"\quad"), " ")
_POWER = re.compile(r"(?<=[\d)])\*\*(?=[\d(])")


def _plain(text: str) -> str:
    """The text in plain characters, of the same length, so that places in it are places in the original."""
    text = text.translate(_CHARACTERS)
    if "\\" in text:
        text = _FRACTION.sub(lambda m: f"(({m[2]})/({m[3]}))".ljust(len(m[0])), text)
        text = _LATEX.sub(_latex, text).replace("{", " ").replace("}", " ")
    return _POWER.sub("^ ", text).replace("**", "  ") if "**" in text else text


def _latex(command: re.Match) -> str:
    name = command[0]
    if name.endswith("}"):
        return re.sub(r"[^\w\s]|\d", " ", name.partition("{")[2]).rjust(len(name))  # a unit: its words alone
    return _LATEX_MEANING.get(name, "?").ljust(len(name))


_TOKEN = re.compile(
    r"""
    (?P<annotation> <<[^<>]{1,200}>> )
    | (?P<unknown> \d{1,3}:\d | [?√∛π∞] )                                             # a time, a ratio, a root
    | (?P<mixed> \d{1,9}[ ](?:and[ ])?\d{1,4}/\d{1,4}(?![\d/]) )
    | (?P<number> (?: \d{1,3}(?:,\d{3}|[ ]000)+(?!\d) | \d+ ) (?:\.\d+)? | \.\d+ | [¼-¾⅐-⅞] )
    | (?P<operator> (?: [xX] | times | plus | minus | (?:divided|multiplied)\ by ) (?=\s{0,2}[$(]?\s?[\d.¼-¾])
                    | [-+*/^](?!(?<=[\w)][-/])[^\W\d_]{2}) )                          # not of 10-year, km/hour
    | (?P<equals> = | equals\b )
    | (?P<word> [-/]?[^\W\d_]+(?:['’-][^\W\d_]+)*\w* )
    | (?P<open> \( ) | (?P<close> \) ) | (?P<percent> % ) | (?P<line> \n(?!\s{0,8}=) )
    | (?P<end> [^\s$_`'"] )
    """,
    re.VERBOSE,
)
_RESTATED = re.compile(r"\d{1,3}(?:,\d{3}){1,9}(?!\d)|\d{1,30}(?:\.\d{1,30})?")
_VULGAR = frozenset("¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞")
_WORD_OPERATORS = {"x": "*", "X": "*", "times": "*", "multiplied by": "*", "divided by": "/", "plus": "+", "minus": "-"}
_CONJUNCTIONS = frozenset("because so since and or which if when then is are was that".split())
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "k": 10**3}


# --------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Number:
    value: Fraction
    decimals: int = 0
    percent: bool = False
    scale: int = 1  # 60 million: the value is 60,000,000


@dataclass
class _Side:
    """One side of an equation as it is read: items are numbers, operators and brackets."""

    start: int
    end: int = 0
    items: list[_Number | str] = field(default_factory=list)
    words: int = 0  # since the last item
    broken: bool = False  # something in it is not arithmetic

    @property
    def wants_operand(self) -> bool:
        return not self.items or (isinstance(self.items[-1], str) and self.items[-1] != ")")

    @property
    def operators(self) -> str:
        return "".join(i for i in self.items if isinstance(i, str) and i not in "()~")

    @property
    def numbers(self) -> list[_Number]:
        return [i for i in self.items if isinstance(i, _Number)]

    def add(self, item: _Number | str, end: int) -> None:
        self.broken = self.broken or len(self.items) >= MAX_ITEMS
        if not self.broken:
            self.items.append(item)
        self.end, self.words = end, 0


class _Reader:
    """Collects the sides of a chain `a = b = c` from the tokens and files its links as equations."""

    def __init__(self, text: str):
        self.text = text
        self.found: list[Equation] = []
        self.chain: list[_Side] = []
        self.side: _Side | None = None
        self.after = 0  # where the last token ended, and of what kind it was
        self.last = "end"
        self.cents = False

    def take(self, kind: str, token: str, start: int, end: int) -> None:
        getattr(self, f"_{kind}")(token, start, end)
        self.after, self.last = end, kind

    def close_chain(self) -> None:
        sides = [*self.chain, self.side] if self.side else self.chain
        if len(sides) > 1:
            self.found += _links(self.text, sides, self.cents)
        self.chain, self.side, self.cents = [], None, False

    def _restart(self, start: int) -> _Side:
        self.close_chain()
        self.side = _Side(start)
        return self.side

    def _number(self, token: str, start: int, end: int) -> None:
        if len(token) > MAX_DIGITS:
            self._unknown(token, start, end)
        elif token in _VULGAR and self.after == start and self.last == "number" and not self.side.broken:  # 1½
            self.side.items[-1] = _Number(self.side.items[-1].value + _value(token))
            self.side.end = end
        else:
            self._operand(_Number(_value(token), len(token.partition(".")[2])), start, end)

    def _mixed(self, token: str, start: int, end: int) -> None:
        whole, part = token.split()[0], Fraction(token.split()[-1]) if token[-1] != "0" else Fraction(1)
        if part < 1:
            self._operand(_Number(int(whole) + part), start, end)
        else:
            self._unknown(token, start, end)

    def _operand(self, number: _Number, start: int, end: int) -> None:
        side = self.side or self._restart(start)
        if not side.wants_operand and not side.broken:  # "5 apples and 3 + 4 = 7"
            side = self._restart(start)
        elif side.items and side.words > MAX_WORDS_AFTER_OPERATOR:
            side.broken = True
        if not side.items:
            side.start = start
        side.add(number, end)

    def _operator(self, token: str, start: int, end: int) -> None:
        operator = _WORD_OPERATORS.get(token, token)
        side = self.side
        if side is None:
            if self.last not in ("word", "close", "number") and (operator in "*/^" or self._is_bullet(start, end)):
                return  # a bullet, or markdown
            side = self.side = _Side(start, broken=self.last in ("word", "close", "number"))  # "the cost + 3"
        if not side.wants_operand:
            side.broken = side.broken or (operator == "^" and side.words > 0)
            side.add(operator, end)
        elif operator == "-" and not side.words:
            side.start = side.start if side.items else start
            side.add("~", end)  # a sign
        elif operator != "+" or side.words:
            side.broken = True

    def _is_bullet(self, start: int, end: int) -> bool:
        line_start = self.text[max(0, start - 8) : start].rpartition("\n")[2]
        return not line_start.strip() and self.text[end : end + 1] == " "

    def _open(self, token: str, start: int, end: int) -> None:
        side = self.side or self._restart(start)
        if not side.wants_operand:
            if self.after != start or side.words:  # a remark in brackets
                side = self._restart(start)
            else:
                side.add("*", start)  # 2(3 + 4)
        elif not side.items:
            side.start = start
        side.add("(", end)

    def _close(self, token: str, start: int, end: int) -> None:
        side = self.side
        if side is None or side.broken:
            return
        if side.items and side.items[-1] == "(":  # (apples)
            side.items.pop()
            if side.items[-1:] == ["*"] and not side.broken:
                side.items.pop()
        elif side.items.count("(") > side.items.count(")"):
            side.broken = side.broken or side.wants_operand
            side.add(")", end)
        else:
            self.close_chain()

    def _percent(self, token: str, start: int, end: int) -> None:
        side = self.side
        if side and side.items and isinstance(number := side.items[-1], _Number):
            side.items[-1] = replace(number, percent=True)
            side.end = end

    def _equals(self, token: str, start: int, end: int) -> None:
        if self.side is None:
            self.side = _Side(start, broken=True)  # "total = 5 + 3"
        elif not self.side.items:
            self.side.broken = True
        if len(self.chain) >= MAX_ITEMS:
            self.close_chain()
        else:
            self.chain.append(self.side)
        self.side = _Side(end)

    def _word(self, token: str, start: int, end: int) -> None:
        word, side = token.lower(), self.side
        self.cents = self.cents or word in ("cent", "cents")
        if side is None:
            if len(word) == 1 and token not in "aI":
                self.side = _Side(start, broken=True)
            return
        scale = _SCALES.get(word.removesuffix("s"))
        last = side.items[-1] if side.items else None
        if scale and isinstance(last, _Number) and not side.words:
            side.items[-1] = replace(last, value=last.value * scale, scale=scale)
            side.end = end
        elif word == "of" and not side.words and self._is_share():
            side.add("*", end)
        elif len(word) == 1 and (token not in "aI" or self.after == start):
            side.broken = True  # an unknown
        elif word in _CONJUNCTIONS and side.items and side.wants_operand:  # "28% of them because 100 - 72 = 28"
            self.close_chain()
        else:
            side.words += 1
            if not side.items:
                side.broken = side.broken or side.words > MAX_WORDS_AFTER_OPERATOR
            if side.words > MAX_WORDS:
                self.close_chain()

    def _is_share(self) -> bool:
        """Whether the side ends in a percentage or in a fraction, so that "of" multiplies."""
        *_, a, b, c = [None, None, None, *self.side.items]
        return isinstance(c, _Number) and (c.percent or (b == "/" and isinstance(a, _Number)))

    def _unknown(self, token: str, start: int, end: int) -> None:
        self.side = self.side or _Side(start)
        self.side.broken = True

    def _line(self, token: str, start: int, end: int) -> None:
        if self.side is None or self.side.items or self.side.broken or not self.chain:
            self.close_chain()  # but "3 * 4 =" goes on in the next line

    def _end(self, token: str, start: int, end: int) -> None:
        self.close_chain()

    def _annotation(self, token: str, start: int, end: int) -> None:
        inside = equations(token[2:-2]) if "<<" not in token[2:-2] else []
        if not inside:
            return  # then the text around it has to do
        self.chain, self.side, self.cents = [], None, False  # it says again what stands before it
        self.found += [replace(e, start=start + 2 + e.start, end=start + 2 + e.end) for e in inside]
        again, last = _RESTATED.match(self.text, end), self.found[-1]
        if again and not last.holds and _value(again[0]) == last.value:  # <<4*50k=20000>>200,000: a slip of the pen
            self.found[-1] = replace(last, result=last.value, holds=True)


def _value(token: str) -> Fraction:
    if token in _VULGAR:
        return Fraction(unicodedata.numeric(token)).limit_denominator(10)
    return Fraction(token.replace(",", "").replace(" ", ""))


# -------------------------------------------------------------------------------------------------- checking


def _links(text: str, sides: list[_Side], cents: bool) -> Iterator[Equation]:
    """The equations of a chain of sides: each link from an expression to what stands after the next `=`."""
    before: Fraction | None = None
    for left, right in zip(sides, sides[1:], strict=False):
        left = _inner(left)
        value = _evaluate(left)
        rewritten = before is not None and value == before  # 12 * (3 + 2) = 12 * 5 = 60
        before = value
        if value is None or not left.operators or right.broken or not right.numbers:
            continue
        targets = _stated(right)
        if not targets:
            continue
        agreed = [target for target in targets if _agree(left, target, cents)]
        yield Equation(
            text[left.start : right.end],
            left.start,
            right.end,
            "" if rewritten else left.operators,
            tuple(n.value for n in left.numbers),
            value,
            (agreed or targets)[0].value,
            bool(agreed),
        )


def _stated(side: _Side) -> list[_Number]:
    """What a right-hand side may state: all of it, or the fraction or the number that it begins with.

    The last is for running calculations, "3 * 4 = 12 + 5 = 17".
    """
    items = side.items
    while items and items[-1] in ("+", "-", "*", "/"):  # "= 1/3 of it"
        items = items[:-1]
    numbers = [i for i in items if isinstance(i, _Number)]
    signs = [i for i in items[: items.index(numbers[0])] if i == "~"]
    first = replace(numbers[0], value=numbers[0].value * (-1) ** len(signs))
    if len(numbers) == 1:
        return [first]
    parts = [items, items[:3]] if items[1:2] == ["/"] else [items]
    whole = [_evaluate(_Side(side.start, side.end, part)) for part in parts]
    return [_Number(value) for value in whole if value is not None] + [first]


def _inner(side: _Side) -> _Side:
    """A side without what precedes a bracket that is never closed: of "$5 (10 / 2" the 10 / 2."""
    depth = 0
    for i in range(len(side.items) - 1, -1, -1):
        depth += (side.items[i] == ")") - (side.items[i] == "(")
        if depth < 0:
            return _Side(side.start, side.end, side.items[i + 1 :], side.words, side.broken)
    return side


def _agree(left: _Side, right: _Number, cents: bool) -> bool:
    """Whether an expression is what is stated, 20% read as 20 or as 0.2, and $1 as 100 cents where cents are named."""
    factors = (1, 100, Fraction(1, 100)) if cents else (1,)
    percents = (True, False) if any(n.percent for n in left.numbers) else (True,)
    units = {Fraction(1), Fraction(1, right.scale)} | ({Fraction(1, 100)} if right.percent else set())
    for percent in percents:
        value = _evaluate(left, percent)
        for factor, unit in product(factors, units):
            if value is not None and _close(value * factor / unit, right):
                return True
    return False


def _close(value: Fraction, stated: _Number) -> bool:
    """Equal, or less than one away in the last place written: rounded or cut off; or a binary fraction's noise."""
    apart = abs(value - stated.value)
    if stated.decimals:
        return apart < max(Fraction(1, 10**stated.decimals), abs(value) / 10**9)
    return not apart or (apart < stated.scale and abs(value) >= 1 and value.denominator != 1)


class _NoArithmetic(Exception):
    """The items do not make an expression, or it has no value."""


def _evaluate(side: _Side, percent: bool = True) -> Fraction | None:
    """The value of a side; `None` where it has none. `percent`: 20% is 0.2, else 20."""
    if side.broken:
        return None
    try:
        return _Grammar(side.items, percent).value()
    except _NoArithmetic:
        return None


class _Grammar:
    """Recursive descent over the items of one side; its depth is bounded by MAX_ITEMS."""

    def __init__(self, items: list[_Number | str], percent: bool):
        self.items, self.percent, self.at = items, percent, 0

    def value(self) -> Fraction:
        value = self.sum()
        if self.at < len(self.items):
            raise _NoArithmetic
        return value

    def next_is(self, *wanted: str) -> bool:
        found = self.at < len(self.items) and self.items[self.at] in wanted
        self.at += found
        return found

    def sum(self) -> Fraction:
        value = self.product()
        while self.next_is("+", "-"):
            sign = 1 if self.items[self.at - 1] == "+" else -1
            value += sign * self.product()
        return value

    def product(self) -> Fraction:
        value = self.power()
        while self.next_is("*", "/"):
            divides, other = self.items[self.at - 1] == "/", self.power()
            if divides and not other:
                raise _NoArithmetic
            value = value / other if divides else value * other
        return value

    def power(self) -> Fraction:
        base = self.atom()
        if not self.next_is("^"):
            return base
        exponent = self.power()
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator != 1 or not 0 <= exponent <= MAX_POWER or size * exponent > 10_000:
            raise _NoArithmetic
        return base ** int(exponent)

    def atom(self) -> Fraction:
        if self.next_is("~"):
            return -self.atom()
        if self.next_is("("):
            value = self.sum()
            if not self.next_is(")"):
                raise _NoArithmetic
            return value
        item = self.items[self.at] if self.at < len(self.items) else None
        if not isinstance(item, _Number):
            raise _NoArithmetic
        self.at += 1
        return item.value / 100 if item.percent and self.percent else item.value
