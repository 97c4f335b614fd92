"""The tiny world: an endless supply of grade-school word problems in GSM8K's own shape.

    >>> problem = next(problems("test", seed=0))
    >>> print(problem.question)                                             # doctest: +SKIP
    Zoe has 4 trays with 12 rolls in each. She drops 9 of them. How many rolls does Zoe have now?
    >>> print(problem.answer)                                               # doctest: +SKIP
    Zoe has 4*12=<<4*12=48>>48 rolls.
    Then she has 48-9=<<48-9=39>>39 rolls.
    #### 39

A story is an opening, up to two events and an ending; together they take one to five steps of arithmetic on
whole numbers up to 300. The three splits are disjoint by construction: a problem's *plot* (its kinds of sentences and
its numbers, without names and things) is hashed, and the hash decides the split. So no plot of the test split
occurs in the training split even under other names, however many problems are drawn.

A rise on the test split may be a habit that holds for this split alone. Three shifted test sets, which differ from the
training data in one thing each, ask how far it carries:

* longer: three events in every story, where training has two at most;
* larger: every number drawn lies above the range that training draws its place from, by up to a half, and results go
  up to 999, not 300;
* reworded: plots of the test split told in sentences that training never has. The words are training's own, since a
  byte-level tokenizer cuts a new word into pieces that this model has never read: that would test its vocabulary.

    >>> [len(shifted(shift)) for shift in SHIFTS]
    [500, 500, 500]
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

SPLIT_SIZES = {"train": 7_473, "validation": 500, "test": 1_319}  # train and test as in GSM8K
LARGEST = 300

PEOPLE = [
    *((name, "she", "her") for name in ("Mia", "Zoe", "Ana", "Lena", "Ruth", "Nora", "Ida", "Fay")),
    *((name, "he", "him") for name in ("Tom", "Ben", "Max", "Omar", "Leo", "Sam", "Raj", "Kofi")),
]


@dataclass(frozen=True)
class Topic:
    """The words of one corner of the world; `make` and `lose` are verbs, `box` is what things lie in."""

    name: str
    items: tuple[str, ...]
    box: str
    make: str
    lose: str


TOPICS = [
    Topic("bakery", ("rolls", "muffins", "pies"), "trays", "bakes", "burns"),
    Topic("farm", ("eggs", "apples", "melons"), "baskets", "picks", "drops"),
    Topic("school", ("pens", "rulers", "notes"), "boxes", "buys", "loses"),
    Topic("beach", ("shells", "stones", "crabs"), "buckets", "finds", "drops"),
    Topic("workshop", ("toys", "chairs", "lamps"), "crates", "builds", "breaks"),
    Topic("garden", ("roses", "beans", "plants"), "rows", "grows", "cuts"),
    Topic("art", ("cards", "beads", "masks"), "boxes", "makes", "loses"),
    Topic("library", ("books", "maps", "comics"), "shelves", "reads", "lends"),
    Topic("party", ("cups", "candles", "hats"), "packs", "buys", "breaks"),
    Topic("sport", ("balls", "medals", "caps"), "bags", "wins", "loses"),
    Topic("post", ("letters", "stamps", "parcels"), "bags", "sorts", "sends"),
    Topic("kitchen", ("plates", "bowls", "jars"), "shelves", "cleans", "breaks"),
]


@dataclass(frozen=True)
class Problem:
    """One word problem. `answer` is a solution as GSM8K writes it: annotated steps, then `#### number`.

    `asks` is the kind of its last question, e.g. "share"; `steps` counts the lines of working.
    """

    question: str
    answer: str
    topic: str
    asks: str
    steps: int


class Misfit(Exception):
    """The numbers drawn do not fit the story (a remainder, a negative, too large): draw another."""


@dataclass
class Story:
    """A story being told: `quantity` is how many things the hero has after the sentences so far.

    `plot` is what the split is decided by: the kinds of sentences and the numbers drawn, in their order.
    """

    largest: ClassVar[int] = LARGEST
    rng: random.Random
    topic: Topic
    quantity: int = 0
    sentences: list[str] = field(default_factory=list)
    working: list[str] = field(default_factory=list)
    plot: list[str | int] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.name, self.she, self.her), (self.other, _, _) = self.rng.sample(PEOPLE, 2)
        self.She = self.she.capitalize()
        self.items = self.rng.choice(self.topic.items)

    def number(self, low: int, high: int) -> int:
        n = self.rng.randint(low, high)
        self.plot.append(n)
        return n

    def say(self, *variants: str) -> None:
        self.sentences.append(self.rng.choice(variants))

    def step(self, before: str, a: int, op: str, b: int, after: str) -> int:
        """Append one line of working, `before a op b = result after`, and return the result."""
        if op == "/" and a % b:
            raise Misfit
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]
        if not 1 <= result <= self.largest:
            raise Misfit
        self.working.append(f"{before} {a}{op}{b}=<<{a}{op}{b}={result}>>{result} {after}.")
        return result


def _has(s: Story) -> None:
    s.quantity = a = s.number(5, 90)
    s.say(f"{s.name} has {a} {s.items}.", f"There are {a} {s.items} that belong to {s.name}.")


def _boxes(s: Story) -> None:
    k, a = s.number(2, 9), s.number(3, 20)
    s.say(
        f"{s.name} has {k} {s.topic.box} with {a} {s.items} in each.",
        f"{s.name} has {k} {s.topic.box}. Each holds {a} {s.items}.",
    )
    s.quantity = s.step(f"{s.name} has", k, "*", a, s.items)


def _twice_a_day(s: Story) -> None:
    a, b = s.number(5, 60), s.number(5, 60)
    s.say(
        f"{s.name} {s.topic.make} {a} {s.items} in the morning and {b} in the evening.",
        f"In the morning {s.name} {s.topic.make} {a} {s.items}, and in the evening {b} more.",
    )
    s.quantity = s.step(f"{s.name} {s.topic.make}", a, "+", b, s.items)


def _daily(s: Story) -> None:
    a, k = s.number(3, 20), s.number(2, 9)
    s.say(
        f"{s.name} {s.topic.make} {a} {s.items} a day for {k} days.",
        f"Every day {s.name} {s.topic.make} {a} {s.items}. {s.She} does this for {k} days.",
    )
    s.quantity = s.step(f"{s.name} {s.topic.make}", a, "*", k, s.items)


def _gain(s: Story) -> None:
    b = s.number(3, 60)
    s.say(f"{s.other} gives {s.her} {b} more.", f"Then {s.she} gets {b} more from {s.other}.")
    s.quantity = s.step(f"Then {s.she} has", s.quantity, "+", b, s.items)


def _loss(s: Story) -> None:
    b = s.number(3, 60)
    s.say(f"{s.She} {s.topic.lose} {b} of them.", f"Then {s.she} {s.topic.lose} {b} {s.items}.")
    s.quantity = s.step(f"Then {s.she} has", s.quantity, "-", b, s.items)


def _half(s: Story) -> None:
    s.say(f"{s.She} gives half of them to {s.other}.", f"{s.She} keeps only half of them.")
    s.quantity = s.step("Half of them is", s.quantity, "/", 2, s.items)


def _now(s: Story) -> None:
    s.say(f"How many {s.items} does {s.name} have now?", f"How many {s.items} does {s.she} have in the end?")


def _share(s: Story) -> None:
    k = s.number(2, 9)
    s.say(
        f"{s.She} shares them equally among {k} friends. How many {s.items} does each friend get?",
        f"{k} friends share all of them equally. How many {s.items} are there for each friend?",
    )
    s.quantity = s.step("Each friend gets", s.quantity, "/", k, s.items)


def _sell(s: Story) -> None:
    p = s.number(2, 9)
    s.say(
        f"{s.She} sells them for ${p} each. How many dollars does {s.she} get?",
        f"{s.other} buys them all for ${p} each. How many dollars does {s.other} pay?",
    )
    s.quantity = s.step("That is", s.quantity, "*", p, "dollars")


def _together(s: Story) -> None:
    b = s.number(3, 40)
    s.say(
        f"{s.other} has {b} more {s.items} than {s.name}. How many {s.items} do they have together?",
        f"{s.other} has {b} {s.items} more than {s.she} has. How many {s.items} is that for both?",
    )
    others = s.step(f"{s.other} has", s.quantity, "+", b, s.items)
    s.quantity = s.step("Together they have", s.quantity, "+", others, s.items)


def _times(s: Story) -> None:
    k = s.number(2, 6)
    s.say(f"{s.other} has {k} times as many {s.items} as {s.name}. How many {s.items} does {s.other} have?")
    s.quantity = s.step(f"{s.other} has", s.quantity, "*", k, s.items)


def _missing(s: Story) -> None:
    goal = s.number(20, 200)
    s.say(f"{s.She} wants {goal} {s.items}. How many more {s.items} does {s.she} need?")
    s.quantity = s.step(f"{s.She} needs", goal, "-", s.quantity, s.items)


OPENINGS: list[Callable[[Story], None]] = [_has, _boxes, _twice_a_day, _daily]
EVENTS: list[Callable[[Story], None]] = [_gain, _loss, _half]
ENDINGS: list[Callable[[Story], None]] = [_now, _share, _sell, _together, _times, _missing]


def split_of(plot: list[str | int]) -> str:
    """The split that a plot belongs to, decided by its hash: 8 in 10 train, 1 validation, 1 test."""
    bucket = hashlib.sha256(repr(plot).encode()).digest()[0] % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def tell(story: Story, events: int) -> Problem:
    """Tell a story of an opening, so many events and an ending.

    Raises:
        Misfit: the numbers drawn do not fit, or the story needs no arithmetic.
    """
    rng = story.rng
    for chapter in (rng.choice(OPENINGS), *rng.choices(EVENTS, k=events), rng.choice(ENDINGS)):
        story.plot.append(chapter.__name__)
        chapter(story)
    if not story.working:
        raise Misfit
    return Problem(
        question=" ".join(story.sentences),
        answer="\n".join([*story.working, f"#### {story.quantity}"]),
        topic=story.topic.name,
        asks=chapter.__name__.lstrip("_"),
        steps=len(story.working),
    )


def problems(split: str, seed: int) -> Iterator[Problem]:
    """Yield problems of one split without end; the same seed yields the same sequence.

    Raises:
        ValueError: `split` is not one of train, validation, test.
    """
    if split not in SPLIT_SIZES:
        raise ValueError(f"split must be one of {', '.join(SPLIT_SIZES)}, got {split!r}")
    rng = random.Random(f"{split}-{seed}")
    while True:
        events = rng.choice((0, 1, 1, 2))
        story = Story(rng, rng.choice(TOPICS))
        try:
            problem = tell(story, events)
        except Misfit:
            continue
        if split_of(story.plot) == split:
            yield problem


def tiny_split(split: str) -> list[Problem]:
    """The fixed split of `SPLIT_SIZES[split]` problems with distinct questions, the same on every machine."""
    return distinct(problems(split, seed=0), SPLIT_SIZES[split])


def distinct(stream: Iterator[Problem], count: int) -> list[Problem]:
    """The first `count` problems of an endless stream, each question once."""
    chosen: dict[str, Problem] = {}
    for problem in stream:
        chosen.setdefault(problem.question, problem)
        if len(chosen) == count:
            return list(chosen.values())
    raise AssertionError("an endless stream ended")


# --------------------------------------------------------------------------------------------------- the world shifted

SHIFTS = ("longer", "larger", "reworded")
SHIFT_SIZE = 500


class _Larger(Story):
    largest: ClassVar[int] = 999  # three digits, as LARGEST has

    def number(self, low: int, high: int) -> int:
        return super().number(high + 1, high + high // 2)


class _Reworded(Story):
    def say(self, *variants: str) -> None:
        """Say it as `WORDINGS` does; the numbers are those drawn since the chapter began."""
        begins = max(i for i, entry in enumerate(self.plot) if isinstance(entry, str))
        chapter, *numbers = self.plot[begins:]
        super().say(*(wording.format(*numbers, s=self) for wording in WORDINGS[chapter]))


WORDINGS = {  # {0}, {1} are the chapter's numbers
    "_has": ("{0} {s.items} belong to {s.name}.", "In the morning {s.name} has {0} {s.items}."),
    "_boxes": (
        "There are {1} {s.items} in each of the {0} {s.topic.box} that belong to {s.name}.",
        "Each of {0} {s.topic.box} holds {1} {s.items}, and all of them belong to {s.name}.",
    ),
    "_twice_a_day": (
        "{s.name} {s.topic.make} {0} {s.items} in the morning. In the evening {s.she} {s.topic.make} {1} more.",
        "There are {0} {s.items} that {s.name} {s.topic.make} in the morning and {1} in the evening.",
    ),
    "_daily": (
        "{s.name} {s.topic.make} {s.items} for {1} days, {0} of them each day.",
        "In each of {1} days {s.name} {s.topic.make} {0} {s.items}.",
    ),
    "_gain": (
        "{s.other} has {0} {s.items} and gives all of them to {s.her}.",
        "{s.She} gets {0} {s.items} from {s.other}.",
    ),
    "_loss": (
        "There are {0} {s.items} that {s.she} {s.topic.lose}.",
        "{s.She} {s.topic.lose} {0} of all the {s.items}.",
    ),
    "_half": ("{s.other} gets half of all the {s.items} from {s.her}.", "Then {s.she} gives {s.other} half of them."),
    "_now": ("How many {s.items} belong to {s.name} now?", "How many {s.items} does {s.name} have in all?"),
    "_share": (
        "How many {s.items} does each friend get, now that {0} friends share all of them equally?",
        "{s.She} gives all of them to {0} friends, equally many to each. How many {s.items} is that for each friend?",
    ),
    "_sell": (
        "Each of them sells for ${0}. How many dollars does {s.she} get for all of them?",
        "{s.other} buys each of them for ${0}. How many dollars does {s.she} get from {s.other}?",
    ),
    "_together": (
        "{s.other} has as many {s.items} as {s.name} and {0} more. How many {s.items} do both of them have together?",
        "There are {0} more {s.items} that belong to {s.other} than to {s.name}. How many do they have in all?",
    ),
    "_times": (
        "{s.other} has {0} {s.items} for each that {s.name} has. How many {s.items} is that?",
        "How many {s.items} does {s.other} have with {0} times as many as {s.name}?",
    ),
    "_missing": (
        "How many more {s.items} does {s.name} need to have {0} of them?",
        "{s.She} wants to have {0} in the end. How many more {s.items} does {s.she} need to get?",
    ),
}


def shifted(shift: str) -> list[Problem]:
    """The fixed test set of one shift: `SHIFT_SIZE` problems with distinct questions, the same on every machine.

    Raises:
        ValueError: `shift` is not one of `SHIFTS`.
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, got {shift!r}")
    return distinct(_problems(shift), SHIFT_SIZE)


def _problems(shift: str) -> Iterator[Problem]:
    kind = {"longer": Story, "larger": _Larger, "reworded": _Reworded}[shift]
    rng = random.Random(f"shift-{shift}")
    while True:
        events = rng.choice((3,) if shift == "longer" else (0, 1, 1, 2))
        story = kind(rng, rng.choice(TOPICS))
        try:
            problem = tell(story, events)
        except Misfit:
            continue
        if split_of(story.plot) == "test":
            yield problem
