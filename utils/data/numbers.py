r"""Read numbers as people and models write them, exactly.

`to_number` reads a text that should state one number; `last_number` finds the last one in a text that says more. What
states no number, several that compete ("5 or 6", "2 hours 30 minutes"), a sum left to do ("half of 36") or a bound
("at least 5") is `None`: never zero, never a guess. The numbers of steps and of places in the text ("3. ", "Step 4",
"equation (2)") are none.

No text raises, and every step takes linear time.
"""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

MAX_LENGTH = 6_000  # characters; nothing longer is read as a number
MAX_POWER = 300  # of ten; 1e999999999 would not fit in memory
NUMERAL = re.compile(r"[\d¼-¾⅐-⅞]")

_PLAIN_CHARACTERS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
    | dict.fromkeys("−‐‑‒–⁻﹣", "-")
    | dict.fromkeys("¢£¤¥￡￥" + "".join(map(chr, range(0x20A0, 0x20C1))), "$")
    | dict.fromkeys("\u00a0\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))), " ")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff", "")  # invisible
    | dict.fromkeys("·⋅∙✕✖", "×")
    | dict.fromkeys("≈≃≅→⇒", "=")
    | dict.fromkeys("⁄∕", "/")
    | {"’": "'"}
    | {power: str(unicodedata.digit(power)) for power in "⁰¹²³⁴⁵⁶⁷⁸⁹"}
    | {part: r"\frac" + unicodedata.normalize("NFKC", part).replace("⁄", "") for part in "¼½¾⅐⅑⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
)
_HIDDEN_SPACE = re.compile(r"(?<=\d)[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]++(?=\d++\s?[/⁄∕])")  # of 1 1/2
_SUPERSCRIPT = re.compile("(?<![⁻⁰¹²³⁴-⁹])(?=[⁻⁰¹²³⁴-⁹])")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_LATEX = re.compile(r"\\(?:[A-Za-z]+|!\s*|\W)|\s?\{,\s?\}\s?")
_LATEX_MEANING = {r"\times": "×", r"\cdot": "×", r"\div": "÷", r"\pm": "±", r"\pi": "π", r"\infty": "∞"}
_LATEX_MEANING |= dict.fromkeys(r"\sqrt \log \ln \exp \sin \cos \tan".split(), "√")
_LATEX_MEANING |= dict.fromkeys(r"\le \leq \ge \geq \lt \gt \ne \neq".split(), "≠")
_LATEX_MEANING |= {r"\approx": "=", r"\$": "$", r"\!": "", "{,}": ","}

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)(?>(?:<<[^<>]*+>>)+)(?=\d)")
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
_PLACES = "step part case equation eqn formula method option example note item line fig table rule section".split()
_PLACES += "problem question exercise approach solution hint scenario".split()
_PLACE = rf"\b(?:{'|'.join(_PLACES)})(?:ure)?"
_REFERENCE = re.compile(  # equation (2), steps 2 and 3, the 2nd step; but "in that case 18 are left"
    r"(?<!that )(?<!this )(?<!which )(?<!each )(?<!every )(?<!per )(?<!any )(?<!one )"
    rf"({_PLACE}\.?)[\s*_#]{{0,3}}(?:\(\d{{1,3}}\)|\[\d\]|\d{{1,3}}+(?:\.\d+)*)(?!\d|,\d|%|\s?[+*/=])"
    r"(?>(?:\s?(?:,|and|or|to|-|&)\s?(?:\(\d{1,3}\)|\d{1,3}\b))*)"
    rf"|({_PLACE}s)[\s*_#]{{0,3}}(?:\(\d{{1,3}}\)|\d{{1,3}}\b)(?>(?:\s?(?:,|and|or|to|-|&)\s?(?:\(\d{{1,3}}\)|\d{{1,3}}\b))+)"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th)\s(?={_PLACE})",
    re.IGNORECASE,
)
_LABEL = re.compile(  # by (2) and (3); 18 [1]; \tag{2}; a digit as an emoji
    r"(\b(?:by|from|using|into|see|via))\s\(\d{1,2}\)(?>(?:\s?(?:,|and|or)\s?\(\d{1,2}\))*)|(?<=[\w.])\s?\[\d\]"
    r"|\\(?:tag|(?:eq)?ref|label)\*?\{[^{}\n]{0,20}\}|\d\ufe0f?\u20e3",
    re.IGNORECASE,
)
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8}
_PARTS |= {"ninth": 9, "tenth": 10}
_COUNTS = {"": 1, "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
_MIXED = re.compile(
    r"(?<=\d)((?:\s[a-z]{1,20}(?=[^\n]{1,20}$))?)"  # the unit of "2 hours and a half"
    r"[\s-]{1,3}(?:and|&)[\s-]{1,3}(?:(an?|one|two|three|four|five|six|seven|\d)[\s-])?"
    rf"({'|'.join(_PARTS)})s?\b(?!\s+of\b)",
    re.IGNORECASE,
)
_ONLY_PARTS = "third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"  # quarters are coins, and games have halves
_FRACTION_IN_WORDS = re.compile(
    rf"(?<![\d,./])(?:(\d{{1,3}})[\s-]({_ONLY_PARTS})s|(1)[\s-](half|{_ONLY_PARTS}))\b", re.IGNORECASE
)
_WORD = (
    "(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|half|a\s(?:half|third|quarter|dozen|couple))"
)
_UNITS = {
    "hours?|hrs?|h": "minutes?|mins?|m",
    "minutes?|mins?|m": "seconds?|secs?|s",
    "dollars?|bucks?": "cents?",
    "feet|foot|ft": "inch(?:es)?|in",
    "pounds?|lbs?": "ounces?|oz",
    "years?": "months?",
    "weeks?": "days?",
    "days?": "hours?",
    "kg|kilograms?|kilos?": "g|grams?",
    "m|met(?:er|re)s?": "cm|centimet(?:er|re)s?",
}
_OPERATOR = r"and|point|plus|minus|times|over|less|(?:divided|multiplied)\sby"
_COMPARED = r"(?:more|less|\w{2,9}er)\s(?:than|or\sequal\sto)(?:\sor\sequal\sto)?"
_UNFINISHED = re.compile(  # of a text in which \0 stands for each number and \1 for each aside
    r"[±√∞≤≥≠]|\s[<>]\s|^[\s$(]*>\s*\0|<\s*\$?\0"  # ±5, √16, x > 5
    r"|\0[\s)}\]]*(?:[+×÷π]|[-*xX^]+[\s({\[]*[\0\1])|\0(?:[.:']|\s:\s)\0"  # 3 + x, 36π; 10 - 5, 3:30, 2^10
    r"|[\w)}]\s*[+×÷]\s*\0|(?:/|sqrt|\b[a-z]\s?\*|\b(?:log|ln|sin|cos|tan)\b)[\s({]*\0"  # x + 3; x/2
    r"|\0[A-Za-z]{1,4}\x01[A-Za-z]"  # 2h40m
    r"|\b[nxyz]\s*+[-*]\s*+\0|\0(?:\s*+[-*/]?\s*[nxyz]|[ai])\b"  # x - 3; 3x, 3 - x
    r"|[A-Za-z]_\{?\0|\b[A-Za-z]\(\0"  # x_3, f(3)
    rf"|(?i:\0[\s-]+(?:(?:{_OPERATOR})\s+)?{_WORD}\b(?!-)"  # 18 plus two
    rf"|\0\s+[a-z]++,?\s+(?:and\s+{_WORD}\b|{_WORD}\W*$)"  # 5 dollars and fifty cents
    rf"|\0\s+[a-z]++,?\s+{_WORD}\s+(?:minute|second|cent|inch|ounce|month|day|hour)"
    r"|\0[\s-]*(?:squared|cubed|factorial|doubled|tripled|halved|plus|point)\b"
    r"|\0\s(?:or\s(?:more|less|fewer|above|below|higher|lower)|and\s(?:up|above|over|below)|to\sthe\s\w+\spower)\b"
    r"|\0(?:\s[a-z]++)?\sat\s(?:least|most)\b|\b(?:other\sthan|anything\sbut)\s+\$?\0"  # 18 at least
    rf"|\b(?:half|(?:half|quarters?|(?:{_ONLY_PARTS})s?|root|square|cube)\s(?:of|the)(?:\sthe)?)\s+[$(]?\0"
    r"|\b(?:half|quarter)\s(?:past|to)\s+\0|\0\s(?:is|was|are)(?:\snot|n't)\b"  # half past 2; 18 is not right
    r"|\b(?:twice|thrice|double|triple|times)\s+[$(]?\0"  # and half of 36
    rf"|\b(?:at\s(?:least|most)|{_COMPARED}|exceed(?:s|ing)?)\s+[$(]*\0"
    r"|\b(?:over|under|above|below|beyond|upwards\sof|(?:minimum|maximum)\sof)\s+[$(]*\0"  # over 18
    r"|(?<!add )(?<!adds )(?<!adding )(?<!sum )(?<!sums )(?<!come )(?<!comes )(?<!amounts )\bup\sto\s+[$(]*\0"
    r"|(?:\b(?:not|never|cannot|neither|nor|no\slonger|(?:far|different)\sfrom)|n't)(?:\s++[a-z]++){0,3}\s+[$(*]*\0"
    + "".join(rf"|\0\s?(?:{large})\.?,?\s(?:and\s)?\0\s?(?:{small})\b" for large, small in _UNITS.items())
    + ")"
)
_SEVERAL = re.compile(r"\0(?:[^\0]*[^\0\s({\[$])?[\s$]*\0")  # 5 or 6, 2 hours 2 minutes, but not "$42 (42 dollars)"
_WORDS = re.compile(r"(?! ?[A-Za-z]\b)[A-Za-z ]*")  # but no 5x
_RECKONED = re.compile(  # words after a number that may make another one of it
    rf"\b(?:{_WORD}|{_OPERATOR}|or|not|at\s(?:least|most)|to\sthe|squared|cubed|factorial|doubled|tripled|halved"
    rf"|(?:{'|'.join(_PARTS)})s?)\b",
    re.IGNORECASE,
)
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
    if number and _WORDS.fullmatch(bare, number.end()) and not _RECKONED.search(bare, number.end()):
        return _value(number)
    text = _in_figures(_plain(text))
    if "=" in text:
        text = _last_side(text)
    numbers = []

    def mark(number: re.Match) -> str:
        if not _is_stated(number):
            return "\1"
        numbers.append(number)
        return "\0"

    marked = _NUMBER.sub(mark, text)
    if _UNFINISHED.search(marked) or _SEVERAL.search(marked):
        return None
    values = set(map(_value, numbers))
    return values.pop() if len(values) == 1 else None


def _plain(text: str) -> str:
    """The text in plain characters: full-width, typographic and LaTeX forms spelt out, and references left out."""
    if _mentions(text, _PLACES):
        text = _REFERENCE.sub(lambda reference: reference[1] or reference[2] or "", text)
    if _mentions(text, "([\\\u20e3"):
        text = _LABEL.sub(lambda label: label[1] or "", text)
    if "=" in text:
        text = re.sub("=+>", "=", re.sub("[<>!]=(?!=)|=<", "≠", text))
    if not text.isascii():
        text = _SUPERSCRIPT.sub("^", _HIDDEN_SPACE.sub(" ", text)).translate(_PLAIN_CHARACTERS)
    if "\\" in text or "{," in text:
        text = re.sub(r"(?<=\d)(?>(?:\\!\s?|~|\{\})*)(?=\\[dtc]?frac)", " ", text)
        text = _FRACTION.sub(r"\1\2/\3\4 ", text)
        text = _LATEX.sub(lambda command: _LATEX_MEANING.get(command[0].replace(" ", ""), " "), text)
    return without_annotations(text) if "<<" in text else text


def _mentions(text: str, words: Iterable[str]) -> bool:
    """Whether one of these stands in a text: a quick look before a slow pattern."""
    text = text.lower()
    return any(word in text for word in words)


def _in_figures(text: str) -> str:
    """The text with its fractions in words as fractions: "2 and a half" is 2 1/2."""
    if not _mentions(text, _PARTS):
        return text
    text = _MIXED.sub(lambda m: f" {_count(m[2])}/{_PARTS[m[3].lower()]}{m[1]}", text)
    return _FRACTION_IN_WORDS.sub(lambda m: f"{m[1] or m[3]}/{_PARTS[(m[2] or m[4]).lower()]}", text)


def _count(word: str | None) -> int:
    word = (word or "").lower()
    return int(word) if word.isdecimal() else _COUNTS[word]


def without_annotations(text: str) -> str:
    """The text without GSM8K's calculator annotations, <<48/2=24>>."""
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


# ------------------------------------------------------------------------------------- the last number of a text

_MARKER = re.compile(  # of a list's item: "3. ", "**2)** ", "(1) ", "2.1. ", "4 - Add"
    r"(^[ \t>*_#+•-]*+[(\[]?|(?<=[.:;!?]\s)\(?)(?>(?:\d{1,2}\.(?=\d))*)(\d{1,2})"
    r"(?:[.)\]:](?=[*_\s]|$|(?<=\))[A-Za-z])|[ \t]?-[ \t](?=[A-Z*])|\Z)",
    re.MULTILINE,
)
_LISTED = re.compile(  # what stands between two numbers where one would have to choose
    r"\s?(?:[,;]\s?(?:or\s)?|or\s)\$?"  # 41, 42
    r"|(?:\s?[a-z]{1,12})?,?\s(?:or|to|vs\.?|versus|through|(?:out\s)?of)\s(?:[a-z]\s?=\s?)?\$?"  # x = 3 or x = 5
    r"|(?:\s?[a-z.]{1,12})?[ \t]?-[ \t]?\$?|\s*\n[ \t]*•\s*",  # 5 pm - 7 pm
    re.IGNORECASE,
)
_REMARK = re.compile(r"\n\W{0,9}(?:verif\w{1,9}|check|note|confidence|assumptions?)\b[^\n:]{0,40}:", re.IGNORECASE)
_BOLD = re.compile(  # the one bold number in the last sentence: "Tom earns **$24** in 3 days."
    r"(?<=[a-z,:] )\*\*([^*\n]{0,20}\d[^*\n]{0,30})\*\*(?![^\n]*(?:[=*]|[.!?]\s+\S))(?!.*\n.*\d)[^\n]*\d",
    re.IGNORECASE | re.DOTALL,
)
_BETWEEN = re.compile(r"\bbetween\s\$?$", re.IGNORECASE)
_CLAUSE_START = re.compile(r"[=\n]|[.!?;]\s")


def last_number(text: str) -> str | None:
    """The last number of a text, as written; `None` where it is one of several, or part of something else.

    >>> last_number("1. 48 / 2 = 24\\n2. Add the"), last_number("from 3:30 on"), last_number("41 or 42 eggs")
    ('24', None, None)
    """
    remark = _REMARK.search(text)
    if remark and NUMERAL.search(text, 0, remark.start()):
        text = text[: remark.start()]
    numeral = NUMERAL.search(text[::-1])
    if not numeral:
        return None
    end = len(text) - numeral.start()
    tail = text[max(0, end - MAX_LENGTH) : end + 40]
    if bold := _BOLD.search(tail):
        return bold[1]
    tail = _in_figures(_without_markers(_plain(f"\n{tail}")))
    *_, before, last = [None, None, *filter(_is_stated, _NUMBER.finditer(tail))]
    if not last:
        return None
    clause = 0
    if before:
        between = tail[before.end() : last.start()]
        a_pair = between == " and " and _BETWEEN.search(tail, max(0, before.start() - 9), before.start())
        if (a_pair or _LISTED.fullmatch(between)) and _value(before) != _value(last):
            return None  # "41 or 42", "40, 41, 42": which of them?
        *_, clause = [before.start(), *(before.end() + start.end() for start in _CLAUSE_START.finditer(between))]
    marked = _NUMBER.sub(lambda number: "\0" if _is_stated(number) else "\1", tail[clause:])
    return None if _UNFINISHED.search(marked) else last[0]


def _without_markers(text: str) -> str:
    """A bullet for each list item's number: one that follows on another item's, or is below 10 and begins a line."""
    numbers: set[int] = set()

    def bullet(marker: re.Match) -> str:
        number, before = int(marker[2]), text[: marker.start()]
        goes_on = marker.end() < len(text) or (number == 1 and before.rstrip().endswith((".", ":")))
        found = number - 1 in numbers or (number < 10 and before[-1:] in ("", "\n") and goes_on)
        numbers.add(number)
        return f"{marker[1]}• " if found else marker[0]

    return _MARKER.sub(bullet, text)
