"""The checks of notebook 02, Reward design."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from utils.data.answers import extract_answer
from utils.data.numbers import to_number
from utils.exercises.checks import NotYet, ask, call, check, same, shown
from utils.rewards.functions import (
    REWARDS,
    classic_rewards,
    correctness_reward,
    format_reward,
    total_reward,
    working_metric,
)

ENOUGH = 1.0  # points that the cheat must earn
SIZE = 4  # of the group


@check
def check_cheat(cheat: str) -> None:
    """Exercise 1: a text that the classic rewards pay whatever the gold is, and ours never."""
    if not isinstance(cheat, str) or not cheat.strip():
        raise NotYet(f"a text is wanted, this is {shown(cheat)}")
    outside = re.sub(r"<answer>.*?</answer>", "", cheat, flags=re.DOTALL) if "<answer>" in cheat else ""
    if working_metric([cheat]) != [0.0] or re.search(r"\d", outside):
        raise NotYet("there is working in it: write no sum, and no digits outside the answer")
    rng = random.Random()
    golds = [gold for gold in map(str, rng.sample(range(2, 20_000), 40)) if gold not in cheat]
    for gold in ["39", "7919", *golds]:
        classic, ours = (total_reward([cheat], rewards, gold=[gold])[0] for rewards in (classic_rewards, REWARDS))
        if ours and correctness_reward([cheat], gold=[gold])[0]:
            raise NotYet(f"it is right where the gold is {gold}: write it without knowing any question")
        if ours:
            raise NotYet(f"ours pays it {ours:g} for its layout: what must stand in a layout that is paid?")
        if classic < ENOUGH:
            raise NotYet(f"where the gold is {gold} the classic set pays it {classic:g}; {ENOUGH:g} or more is wanted")


@check
def check_group(group_for: Callable[[str], Any]) -> None:
    """Exercise 2: for any gold four texts, dead under the format reward and alive under the total."""
    rng = random.Random()
    golds = ["39", "0", *map(str, rng.sample(range(1, 1_000), 12)), f"{rng.randint(1, 9)},000"]
    for gold in [*golds, *answered(ask(group_for, "39"))]:  # what it answers wrongly to one question is right to others
        group = ask(group_for, gold)
        if not isinstance(group, list | tuple) or not all(isinstance(text, str) for text in group):
            raise NotYet(f"{call(group_for, gold)} should be a list of texts, got {shown(group)}")
        if len(group) != SIZE:
            raise NotYet(f"{call(group_for, gold)} should hold {SIZE} texts, it holds {len(group)}")
        layout, total = (paid(group, gold, rewards) for rewards in ({format_reward: 1.0}, REWARDS))
        if len(set(layout)) > 1:
            raise NotYet(f"where the gold is {gold} the format reward pays {told(layout)}: alive, dead is wanted")
        if len(set(total)) == 1:
            raise NotYet(f"where the gold is {gold} our total pays {told(total)}: dead, too; who of them is right?")


def answered(group: Any) -> list[str]:
    """The whole numbers that the texts of a group answer, as golds."""
    texts = [text for text in group if isinstance(text, str)] if isinstance(group, list | tuple) else []
    numbers = [to_number(extract_answer(text, "lenient")) for text in texts]
    return [str(number) for number in numbers if number is not None and number.denominator == 1]


def paid(group: list[str], gold: str, rewards: dict[Callable[..., list[float]], float]) -> list[float]:
    """What the rewards pay each text of a group with this gold."""
    return total_reward(list(group), rewards, gold=[gold] * len(group))


def told(values: list[float]) -> str:
    """Rewards in a row, e.g. "0.2, 0.2, 0, 0"."""
    return ", ".join(f"{value:g}" for value in values)


@check
def check_right_among(right_among: Callable[[list[float], list[float], float], Any]) -> None:
    """Exercise 3: the share of right ones among those that keep the layout or do not, for marks drawn afresh."""
    for right, clean in drawn_marks(random.Random()):
        for kept in (1.0, 0.0):
            chosen = [r for r, c in zip(right, clean, strict=True) if c == kept]
            got, wanted = ask(right_among, right, clean, kept), sum(chosen) / len(chosen)
            if not same(got, wanted):
                call = f"right_among(right, clean, {kept}) returns {shown(got)}"
                raise NotYet(
                    f"of {len(right)} marks {len(chosen)} have clean = {kept}, and {sum(chosen):g} of those are right, "
                    f"a share of {wanted:.4g}; {call}{likely(got, right, clean, kept)}"
                )


def drawn_marks(rng: random.Random) -> Iterator[tuple[list[float], list[float]]]:
    """Marks of right and clean for many completions to two; clean ones and others are among them every time."""
    for size in (400, 90, 16, 5, 2):
        clean = [1.0, 0.0] + [float(rng.random() < rng.choice((0.3, 0.8))) for _ in range(size - 2)]
        rng.shuffle(clean)
        chance = {1.0: rng.uniform(0.1, 0.5), 0.0: rng.uniform(0.5, 0.95)}
        yield [float(rng.random() < chance[c]) for c in clean], clean


def likely(got: Any, right: list[float], clean: list[float], kept: float) -> str:
    """The mistake that is likely behind a wrong share, as the end of a sentence."""
    chosen = [r for r, c in zip(right, clean, strict=True) if c == kept]
    if same(got, sum(chosen) / len(right)):
        return ": that is the share of all completions, divide by those that were chosen"
    if same(got, sum(right) / len(right)):
        return ": that is the share of right ones among all, whatever `kept` is"
    if sum(right) and same(got, sum(chosen) / sum(right)):
        return ": that is the share of those among the right ones, the other way round"
    return ""
