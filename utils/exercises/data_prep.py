"""The checks of notebook 01, The data."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from utils.data.answers import gold_answer
from utils.data.audit import words
from utils.data.questions import Question, to_question
from utils.data.tiny_world import PEOPLE, problems
from utils.exercises.checks import NotYet, ask, call, check, listed, same, shown

NAMES = [name for name, _, _ in PEOPLE]
FAULTS = {  # what is wrong with a row: the fields that make it so, where {n} is a number drawn afresh
    "its question is empty": {"question": ""},
    "its question is blank": {"question": " \n"},
    "it has no question": {"question": None},
    "its answer is empty": {"answer": ""},
    "it has no answer": {"answer": None},
    "its gold is a word": {"answer": "They have {n}.\n#### forty"},
    "its gold is nan, as tables write what is missing": {"answer": "They have {n}.\n#### nan"},
    "it has no ####: the digits stand in the working": {"answer": "Of {n} jars 1{n} are left."},
    "its gold is missing: the digits stand in the working": {"answer": "Of {n} jars {n} are left.\n####"},
    "its gold states two numbers": {"answer": "That is hard to say.\n#### {n} or 1{n}"},
}
GOLDS = {  # what there is to say of a gold that can be read: how it is written
    "a plain number can be read": "{n}",
    "a thousands comma keeps no number from being read": "1,{n}",
    "a negative gold is a gold": "-{n}",
    "a dollar sign keeps no number from being read": "$1{n}",
    "a gold need not be whole": "{n}.50",
    "0 is a gold like any other": "0",
}


@check
def check_malformed(malformed: Callable[[list[dict[str, str]]], Any]) -> None:
    """Exercise 1: the positions of the rows that cannot be used, for rows drawn afresh."""
    rng = random.Random()
    every = [*FAULTS, *GOLDS]
    for reasons in ([], *(rng.choices(every, k=k) for k in (1, 5, 9)), rng.sample(every, len(every))):
        rows = [drawn_row(reason, rng) for reason in reasons]
        rows, reasons = rows + rows[:2], reasons + reasons[:2]  # a row may stand twice
        answer, wanted = ask(malformed, rows), [i for i, row in enumerate(rows) if not usable(row)]
        got = listed(answer)
        if got is None or not all(type(i) is int for i in got):
            raise NotYet(f"a list of positions is wanted, for {len(rows)} rows you return {shown(answer)}")
        for i in got:
            if not 0 <= i < len(rows):
                raise NotYet(f"of {len(rows)} rows none is at position {i}")
        for i, row in enumerate(rows):
            if (i in got) is not (i in wanted):
                told = "cannot be used" if i in wanted else "can be used"
                raise NotYet(f"{row} {told}: {reasons[i]}")
        if got != wanted:
            raise NotYet(f"each position once and in order is wanted, {shown(wanted)}; you return {shown(got)}")


def drawn_row(reason: str, rng: random.Random) -> dict[str, str]:
    """A row like GSM8K's with this fault of `FAULTS`, or with a gold that is written in this way of `GOLDS`."""
    n = rng.randint(100, 999)
    row = {"question": f"How many jars are {n} jars?", "answer": f"Let us count.\n#### {n}"}
    row |= FAULTS.get(reason) or {"answer": f"Let us count.\n#### {GOLDS[reason]}"}
    return {field: text.format(n=n) for field, text in row.items() if text is not None}


def usable(row: dict[str, str]) -> bool:
    """Whether the loader would take the row."""
    try:
        to_question(row, "row")
    except ValueError:
        return False
    return True


@check
def check_leaks(leaks: Callable[[list[Question], list[Question]], Any]) -> None:
    """Exercise 2: questions planted in fresh stories are found, and stories that are only alike are not accused."""
    rng = random.Random()
    for _ in range(4):
        train, leaked, innocent = planted(rng)
        other = [*leaked, *innocent]
        rng.shuffle(other)
        got = ask(leaks, train, other)
        if not isinstance(got, list | tuple) or not all(isinstance(q, Question) for q in got):
            raise NotYet(f"a list of the questions of `other` is wanted, you return {shown(got)}")
        for q in leaked:
            if q not in got:
                raise NotYet(f"not found though it stands in `train`, {q.row['how']}: {q.question!r}")
        for q in got:
            if q not in leaked:
                raise NotYet(f"accused wrongly, {q.row.get('how', 'it is a new story')}: {q.question!r}")
        if len(got) != len(leaked):
            raise NotYet(f"{len(leaked)} questions are leaked, you return {len(got)}: some of them twice")


def planted(rng: random.Random) -> tuple[list[Question], list[Question], list[Question]]:
    """A train split, questions that leaked from it and questions that did not; `row["how"]` says what was done."""
    train, innocent = stories("train", 40, rng), stories("test", 20, rng)
    named = [q for q in train if any(re.search(rf"\b{name}\b", q.question) for name in NAMES)]
    plain, loud, *renamed = rng.sample(named, 5)
    leaked = [made(plain, plain.question, "as it is"), made(loud, loud.question.upper(), "in capitals")]
    leaked += [made(q, with_other_names(q.question, rng), "with other names") for q in renamed]
    leaked[-1] = made(renamed[-1], leaked[-1].question.upper(), "with other names and in capitals")

    pairs = [two_drives(rng, "{}ville"), two_drives(rng, "Mac{}"), two_farms(rng), two_ways(rng)]
    pairs.append(two_days(train, rng))
    train += [one for one, _ in pairs]
    numbers = [q for q in train if len(set(re.findall(r"\d+", q.question))) > 1]
    known = {nameless(q.question) for q in train}
    innocent += [made(q, swapped(q.question), "its numbers stand in another order") for q in rng.sample(numbers, 6)]
    innocent += [made(q, one_more(q.question), "a number of it is another") for q in rng.sample(numbers, 3)]
    innocent += [other for _, other in pairs]
    return train, leaked, [q for q in innocent if nameless(q.question) not in known]


def stories(split: str, count: int, rng: random.Random) -> list[Question]:
    """Fresh questions of the tiny world; no plot of one split occurs in another."""
    told = itertools.islice(problems(split, seed=rng.getrandbits(32)), count)
    return [Question(problem.question, gold_answer(problem.answer), {}) for problem in told]


def made(q: Question, text: str, how: str) -> Question:
    """The question with another text; `how` it was made of the first."""
    return replace(q, question=text, row={"how": how})


def with_other_names(text: str, rng: random.Random) -> str:
    """The same story, told about other people; no name stays, and two people stay two."""
    shift = rng.randrange(1, len(NAMES))
    whole = re.compile(rf"\b({'|'.join(NAMES)})\b")
    return whole.sub(lambda found: NAMES[(NAMES.index(found[0]) + shift) % len(NAMES)], text)


def nameless(text: str) -> tuple[str, ...]:
    """The words and numbers of a text in their order, without the names: what makes two questions the same here."""
    return tuple(word for word in words(text) if word.capitalize() not in NAMES)


def swapped(text: str) -> str:
    """The first number of a text and the next one that differs, exchanged: the same words, another problem."""
    first, *others = re.finditer(r"\d+", text)
    second = next(found for found in others if found[0] != first[0])
    between = text[first.end() : second.start()]
    return text[: first.start()] + second[0] + between + first[0] + text[second.end() :]


def one_more(text: str) -> str:
    """The text with its first number raised by one."""
    return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), text, count=1)


def two_drives(rng: random.Random, town: str) -> tuple[Question, Question]:
    """Two different problems whose words are the same but for the towns, and the towns are named after people."""
    who, *people = rng.sample(NAMES, 4)
    a, b, c = (town.format(name) for name in people)
    near, far = rng.sample(range(5, 60), 2)
    text = f"From {a} to {b} it is {near} km, and from {b} to {c} {far} km. {who} drives from {{}} to {{}} and back."
    text += " How many km is that?"
    here, there = ((a, b, near), (b, c, far))
    how = "it is about another town: a name within a word is no name"
    return (
        Question(text.format(*here[:2]), str(2 * here[2]), {}),
        Question(text.format(*there[:2]), str(2 * there[2]), {"how": how}),
    )


def two_farms(rng: random.Random) -> tuple[Question, Question]:
    """Two different problems with the same words, and the same numbers in the same order."""
    hens, ducks, a, b = rng.sample(range(2, 30), 4)
    text = f"A farm has {hens} {{}} and {ducks} {{}}. Each of the hens lays {a} eggs and each of the ducks {b}."
    text += " How many eggs is that?"
    return (
        Question(text.format("hens", "ducks"), str(hens * a + ducks * b), {}),
        Question(text.format("ducks", "hens"), str(ducks * a + hens * b), {"how": "its words stand in another order"}),
    )


def two_ways(rng: random.Random) -> tuple[Question, Question]:
    """Two different problems with the same words that hold the same pairs and triples of neighbours."""
    who, n, more = rng.choice(NAMES), rng.randint(3, 40), rng.randint(3, 40)
    steps = ["doubles it then", f"adds {more} to it then"]
    text = f"{who} takes {n} and writes it down. Who sees it then {{}} {{}} reads it out. Which number is read?"
    return (
        Question(text.format(*steps), str(2 * n + more), {}),
        Question(text.format(*steps[::-1]), str(2 * (n + more)), {"how": "its words stand in another order"}),
    )


def two_days(train: list[Question], rng: random.Random) -> tuple[Question, Question]:
    """Two long texts that differ in one number alone."""
    day = Question(" ".join(q.question for q in rng.sample(train, 12)), "0", {})
    return day, made(day, one_more(day.question), "a number of it is another")


@check
def check_smallest_cap(smallest_cap: Callable[[list[int], float], Any]) -> None:
    """Exercise 3: the lowest cap that leaves a share of lengths whole, for lengths and shares drawn afresh."""
    rng = random.Random()
    for lengths, share in drawn_lengths(rng):
        got, wanted = ask(smallest_cap, lengths, share), lowest_cap(lengths, share)
        if not same(got, wanted, 0.0):
            reason = f"{call(smallest_cap, lengths, share)} should be {wanted}, got {shown(got)}"
            raise NotYet(reason + likely(got, wanted, lengths, share))


def drawn_lengths(rng: random.Random) -> list[tuple[list[int], float]]:
    """Lengths in tokens with the share that must stay whole; the shares of the first can be met exactly."""
    exact = [(rng.sample(range(20, 400, 3), 4 * k), share) for k in (1, 2, 10) for share in (0.25, 0.5, 0.75, 1.0)]
    repeated = [rng.randint(30, 40)] * 150 + [rng.randint(41, 60) for _ in range(51)]
    rng.shuffle(repeated)
    return [
        *exact,
        *((repeated, share) for share in (0.1, 0.6, 0.9)),
        (rng.sample(range(300, 900), rng.randint(151, 190)), 0.99),
        ([rng.randint(20, 90)], 0.5),
    ]


def lowest_cap(lengths: Sequence[int], share: float) -> int:
    """The lowest cap at which at least `share` of the lengths are whole."""
    return next(cap for cap in sorted(lengths) if sum(n <= cap for n in lengths) / len(lengths) >= share)


def likely(got: Any, wanted: int, lengths: Sequence[int], share: float) -> str:
    """The mistake that is likely behind a wrong cap, as the end of a sentence."""
    if same(got, wanted + 1, 0.0):
        return "; a completion as long as the cap is whole"
    if not same(got, got):
        return "; one number is wanted"
    if got not in lengths:
        return "; a cap is a length that occurs: between two of them a quantile only interpolates"
    whole = sum(n <= got for n in lengths) / len(lengths)
    if whole < share:
        return f"; that leaves {whole:.0%} whole, and {share:.0%} is wanted: are the lengths in order?"
    return f"; that leaves {whole:.0%} whole: at least {share:.0%} is wanted, not more, and a lower cap would do"
