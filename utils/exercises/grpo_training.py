"""The checks of notebook 04, GRPO training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from utils.exercises.checks import NotYet, ask, call, check, same, shown
from utils.rewards.functions import group_advantages
from utils.rewards.groups import is_dead

LEVELS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))  # correct, format
DRAWS = 12


def made_group(right: Sequence[float], tidy: Sequence[float]) -> dict[str, Any]:
    """A group as rollouts.jsonl has it, from the two parts of its completions' rewards."""
    rewards = [r + 0.2 * t for r, t in zip(right, tidy, strict=True)]
    return {
        "question": "drawn for the check",
        "gold": "1",
        "completions": [f"completion {i}" for i in range(len(rewards))],
        "rewards": rewards,
        "parts": {"correctness_reward": list(right), "format_reward": list(tidy)},
        "advantages": group_advantages(rewards, len(rewards)) if len(set(rewards)) > 1 else [0.0] * len(rewards),
    }


def drawn_groups(rng: random.Random) -> dict[str, dict[str, Any]]:
    """One group of each kind, by what a wrong rule sees in it."""
    size = rng.randint(4, 9)
    level, other = rng.sample(LEVELS, 2)
    odd = rng.randrange(1, size - 1)
    plain = [level] * size
    one_off = [other if i == odd else level for i in range(size)]
    half = size // 2
    kinds = {
        "all earn the same": plain,
        "all are right, without the layout": [(1.0, 0.0)] * size,
        "all earn nothing": [(0.0, 0.0)] * size,
        "all earn the most": [(1.0, 1.0)] * 12,  # whose mean is not quite 1.2 in floating point
        "the first earns least": [(0.0, 0.0)] + [(1.0, 1.0)] * (size - 1),
        "two earn most, two nothing": [(1.0, 1.0)] * 2 + [(0.0, 0.0)] * 2,
        "one in the middle earns something else": one_off,
        "right ones all, with and without the layout": [(1.0, float(i < half)) for i in range(size)],
        "wrong ones all, with and without the layout": [(0.0, float(i < half)) for i in range(size)],
        "all in the layout, right and wrong": [(float(i < half), 1.0) for i in range(size)],
    }
    groups = {kind: made_group(*zip(*levels, strict=True)) for kind, levels in kinds.items()}
    balanced = made_group([0.5, 1.0, 0.0, 0.5, 0.5], [0.0] * 5)  # as a reward with shares gives them
    return groups | {"the first reward is the mean of all": balanced}


@check
def check_dead_share(
    dead_share: Callable[[dict[str, Any]], Any], rollouts: list[dict[str, Any]], history: list[dict[str, Any]]
) -> None:
    """Exercise 1: the share of a step's groups in which all earn the same, on drawn steps and beside TRL's log.

    Args:
        rollouts: the run's records, a step each.
        history: TRL's log of the same steps.
    """
    rng = random.Random()
    for kind, group in drawn_groups(rng).items():
        compare_share(dead_share, {"step": rng.randint(1, 999), "groups": [group]}, f"one group ({kind})")
    for _ in range(DRAWS):
        groups = list(drawn_groups(rng).values())
        groups = [rng.choice(groups) for _ in range(rng.randint(2, 7))]
        dead = sum(map(is_dead, groups))
        compare_share(
            dead_share, {"step": rng.randint(1, 999), "groups": groups}, f"{dead} of {len(groups)} groups dead"
        )
    logged = [line["frac_reward_zero_std"] for line in history]
    wrong = [
        record["step"]
        for record, share in zip(rollouts, logged, strict=False)
        if not same(ask(dead_share, record), share, 1e-6)
    ]
    if wrong:
        raise NotYet(f"{len(wrong)} steps of this run differ from TRL's log, the first is {wrong[0]}")


def compare_share(dead_share: Callable[[dict[str, Any]], Any], record: dict[str, Any], what: str) -> None:
    """Refuse another share than that of the groups in which all rewards are equal."""
    dead = sum(map(is_dead, record["groups"]))
    wanted, got = dead / len(record["groups"]), ask(dead_share, record)
    if same(got, wanted):
        return
    hint = ""
    if len(record["groups"]) == 1:
        rewards = [round(r, 2) for r in record["groups"][0]["rewards"]]
        hint = f": it is {'dead' if dead else 'alive'}, its rewards are {shown(rewards)}"
    elif dead > 1 and same(got, dead):
        hint = ": divide by the number of groups"
    elif same(got, 1 - wanted):
        hint = ": that is the share of those that teach"
    raise NotYet(f"{what}: the share is {wanted:.3g}, got {shown(got)}{hint}")


@check
def check_lucky(lucky: Callable[[int], Any]) -> None:
    """Exercise 2: the advantage of the only right completion among G."""
    rng = random.Random()
    for size in (rng.randint(3, 12), rng.randint(13, 100), rng.randint(101, 5_000), rng.randint(10**5, 10**6), 2):
        wanted, got = (size - 1) / size**0.5, ask(lucky, size)
        if not same(got, wanted, 1e-6):
            raise NotYet(f"{call(lucky, size)} should be {wanted:.7g}, got {shown(got)}{lucky_hint(size, got)}")


def lucky_hint(size: int, got: Any) -> str:
    """What was forgotten, where a known mistake gives the same number."""
    p = 1 / size
    mistakes = {
        "the sample's deviation divides by G - 1, the population's by G": (size - 1) ** 0.5,
        "that is the distance to the mean, not yet over the standard deviation": 1 - p,
        "divide by the standard deviation, not by the variance": (1 - p) / p,
        "leave out the tiny constant of the denominator": (1 - p) / (p**0.5 + 1e-4),
        "its mean is 1/G, subtract it": size**0.5,
        "that is one of the others, which are wrong": -(p**0.5),
        "its sign is turned": (1 - size) * p**0.5,
    }
    exact = next((f"; {name}" for name, value in mistakes.items() if same(got, value, 1e-6)), "")
    return exact or ("; do not round" if same(got, (size - 1) * p**0.5, 0.01) else "")
