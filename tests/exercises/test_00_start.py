"""The checks of notebook 00, held against wrong solutions."""

import re

import numpy as np

from tests.exercises.given import hold, solution
from utils.exercises.start import check_shows_working, check_texts

NAME = "00_start_here"
SUM = r"(\d+) *([-+*/]) *(\d+) *= *(\d+)"


def true(a, sign, b, c):
    a, b, c = int(a), int(b), int(c)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[sign]


def test_exercise_1():
    right = solution(NAME, 1)["mine"]
    hold(
        check_texts,
        right,
        {
            "nothing written": ({"both": "", "only lenient": "", "well formed but wrong": ""}, "no text"),
            "a wrong answer without a number": (
                right | {"well formed but wrong": "<reasoning>Hm.</reasoning><answer>many</answer>"},
                "without a number",
            ),
            "an empty reasoning": (right | {"both": "<reasoning></reasoning><answer>42</answer>"}, "in the layout"),
            "a reasoning of dots": (right | {"both": "<reasoning>…</reasoning><answer>42</answer>"}, "no reasoning"),
            "right in both modes, twice": (right | {"only lenient": right["both"]}, "not be in the layout"),
            "the right answer where a wrong one is wanted": (
                right | {"well formed but wrong": right["both"]},
                "not be strictly right",
            ),
            "a word before the tags": (right | {"both": "So " + right["both"]}, "should be in the layout"),
            "no dictionary": ("42", "no text"),
        },
    )


def test_exercise_2():
    right = solution(NAME, 2)["shows_working"]
    cases = ("6 * 7 = 42 eggs", "first 9=9, then 12/4=3")

    def first_only(text):
        found = re.search(SUM, text)
        return bool(found) and true(*found.groups())

    def floor_division(text):
        signs = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
        signs["/"] = lambda a, b: a // b if b else None
        return any(signs[s](int(a), int(b)) == int(c) for a, s, b, c in re.findall(SUM, text))

    def swapped(text):
        swap = {"+": "-", "-": "+", "*": "*", "/": "/"}
        return any(true(a, swap[s], b, c) for a, s, b, c in re.findall(SUM, text))

    def inside(text):
        return any(true(*found) for found in re.findall(f"(?={SUM})", text))

    def prefix(text):
        return any(true(*found) for found in re.findall(SUM[:-5] + r"(\d\d?)", text))

    def divides_by_zero(text):
        return any(int(a) / int(b) == int(c) if s == "/" else true(a, s, b, c) for a, s, b, c in re.findall(SUM, text))

    def spaced(text):
        return any(true(*found) for found in re.findall(SUM.replace(" *", " "), text))

    def truthy(text):
        return [found for found in re.findall(SUM, text) if true(*found)]

    def ranged(text):
        found = re.findall(SUM.replace("-+*/", "+*-/"), text)
        return any(true(a, s if s in "+*-" else "/", b, c) for a, s, b, c in found)

    def nearly(text):
        return any(
            true(a, s, b, c) or (s == "/" and int(b) and abs(int(a) / int(b) - int(c)) < 0.05)
            for a, s, b, c in re.findall(SUM, text)
        )

    def endless(text):
        while True:
            pass

    hold(
        check_shows_working,
        right,
        {
            "only the last sum": (
                lambda text: ([False] + [true(*found) for found in re.findall(SUM, text)])[-1],
                "one true sum is enough",
            ),
            "only the first two": (lambda text: any(true(*found) for found in re.findall(SUM, text)[:2]), "comes last"),
            "every sum": (
                lambda text: all(true(*found) for found in re.findall(SUM, text) or [(1, "+", 1, 1)]),
                "all of them",
            ),
            "all spaces removed": (lambda text: right(text.replace(" ", "")), "parts two numbers"),
            "a range of signs": (ranged, "a hyphen means a range"),
            "a quotient that nearly comes out": nearly,
            "a difference without its sign": lambda text: any(
                true(*found) or (found[1] == "-" and true(found[2], "-", found[0], found[3]))
                for found in re.findall(SUM, text)
            ),
            "one digit on the right": lambda text: any(
                true(*found) for found in re.findall(SUM.replace(r"(\d+) *=", r"(\d) *="), text)
            ),
            "as many spaces on both sides": lambda text: any(
                true(a, *rest) for a, _, *rest in re.findall(r"(\d+)( ?)([-+*/])\2(\d+)\2=\2(\d+)", text)
            ),
            "only the first sum": (first_only, "all of them"),
            "floor division": (floor_division, "exactly"),
            "plus and minus swapped": swapped,
            "a sum that begins within a number": (inside, "a number begins"),
            "the beginning of a result": prefix,
            "division by zero": (divides_by_zero, "ZeroDivisionError"),
            "spaces wanted": spaced,
            "a list instead of True": (truthy, "should be True"),
            "any equals sign": lambda text: "=" in text,
            "the printed cases": lambda text: text in cases,
            "the printed cases' shape": lambda text: "eggs" in text or "then" in text,
            "always true": lambda text: True,
            "the stub": lambda text: None,
        },
        also=[lambda text: np.any([true(*found) for found in re.findall(SUM, text)])],
    )
    assert "did not return" in quickly(endless)


def quickly(function):
    from utils.exercises import checks

    before, checks.LIMIT_S = checks.LIMIT_S, 0.2
    try:
        return check_shows_working(function)
    finally:
        checks.LIMIT_S = before
