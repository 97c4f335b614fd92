"""The tiny world, shifted: three test sets that differ from the training data in one thing each.

    >>> [len(shifted(shift)) for shift in SHIFTS]
    [500, 500, 500]

A rise on the test split may be a habit that holds for this split alone. These sets ask how far it carries:

* longer: three events in every story, where training has two at most;
* larger: every number drawn lies above the range that training draws its place from, by up to a half, and results go
  up to 999, not 300;
* reworded: plots of the test split told in sentences that training never has. The words are training's own, since a
  byte-level tokenizer cuts a new word into pieces that this model has never read: that would test its vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from utils.tiny_world import TOPICS, Misfit, Problem, Story, distinct, split_of, tell

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
