"""The checks of notebook 04, held against wrong solutions."""

from statistics import fmean, mean

import numpy as np
import pytest
import torch

from tests.exercises.given import hold, solution
from utils.exercises.grpo_training import check_dead_share, check_lucky
from utils.files import ROOT, read_jsonl
from utils.rewards.functions import group_advantages
from utils.rewards.groups import is_dead

NAME = "04_grpo_training"


def by(dead):
    """A solution that calls a group dead by `dead(rewards)`."""
    return lambda record: fmean(dead(group["rewards"]) for group in record["groups"])


def test_exercise_1():
    run = ROOT / "assets" / "runs" / "laptop" / "seed-0"
    rollouts, history = read_jsonl(run / "rollouts.jsonl.gz")[:20], read_jsonl(run / "log.jsonl")[:20]
    right = solution(NAME, 1, fmean=fmean)["dead_share"]
    logged = {record["step"]: line["frac_reward_zero_std"] for record, line in zip(rollouts, history, strict=True)}
    hold(
        check_dead_share,
        right,
        {
            "the stub": (lambda record: 0.0, "all earn the same"),
            "the mean is the first reward": (by(lambda r: abs(fmean(r) - r[0]) < 1e-9), "mean of all"),
            "the first is the last": by(lambda r: r[0] == r[-1]),
            "nobody earns anything": by(lambda r: not any(r)),
            "all are right": by(lambda r: min(r) >= 1),
            "only correctness is looked at": lambda record: fmean(
                len(set(group["parts"]["correctness_reward"])) == 1 for group in record["groups"]
            ),
            "counted, not shared": (lambda record: sum(map(is_dead, record["groups"])), "divide by the number"),
            "the others": (lambda record: 1 - right(record), "it is dead"),
            "the first group alone": lambda record: float(is_dead(record["groups"][0])),
            "two kinds of reward at most": by(lambda r: len(set(r)) <= 2),
            "the mean advantage": by(lambda r: abs(mean(group_advantages(r, len(r)))) < 1e-6),
            "looked up in the log": lambda record: logged.get(record["step"], 0.0),
            "looked up, else a guess": lambda record: logged.get(record["step"], 0.5),
            "only pairs are compared": by(lambda r: all(a == b for a, b in zip(r[::2], r[1::2], strict=False))),
            "the first is the least": by(lambda r: r[0] == min(r)),
            "a deviation of exactly 0": by(lambda r: np.std(r) == 0),
            "text": lambda record: str(right(record)),
            "a misspelt key": (lambda record: fmean(len(set(g["reward"])) == 1 for g in record["groups"]), "KeyError"),
        },
        rollouts,
        history,
        also=[by(lambda r: np.ptp(r) == 0), by(lambda r: all(a == b for a, b in zip(r, r[1:], strict=False)))],
    )
    assert "differ from TRL's log, the first is 1" in check_dead_share(
        right, rollouts, [line | {"frac_reward_zero_std": 0.1} for line in history]
    )


@pytest.mark.parametrize("size", [2, 5, 64])
def test_what_exercise_2_calls_right_is_the_advantage(size):
    lucky = solution(NAME, 2)["lucky"]
    assert lucky(size) == pytest.approx(group_advantages([1.0] + [0.0] * (size - 1), size)[0], rel=1e-3)


def test_exercise_2():
    table = {G: (G - 1) / G**0.5 for G in (2, 4, 8, 16, 64)}
    hold(
        check_lucky,
        solution(NAME, 2)["lucky"],
        {
            "the stub": lambda G: None,
            "the population's deviation": (lambda G: (G - 1) ** 0.5, "population"),
            "not divided": (lambda G: 1 - 1 / G, "distance to the mean"),
            "the variance": (lambda G: G - 1, "variance"),
            "the mean forgotten": (lambda G: G**0.5, "subtract"),
            "with the constant": (lambda G: (1 - 1 / G) / (G**-0.5 + 1e-4), "tiny constant"),
            "whole numbers": lambda G: (G - 1) // G**0.5,
            "a table of sizes": lambda G: table.get(G),
            "a table, else nearly": lambda G: table.get(G, G**0.5),
            "constant": lambda G: 0.7071,
            "a text": lambda G: "(G - 1) / sqrt(G)",
            "rounded": (lambda G: round((G - 1) / G**0.5, 2), "do not round"),
            "one of the others": (lambda G: -1 / G**0.5, "one of the others"),
            "too large for a float": lambda G: 10**400,
            "several": lambda G: torch.ones(G)[:9],
        },
        also=[lambda G: (1 - 1 / G) / np.std(np.eye(1, G), ddof=1), lambda G: torch.tensor((1 - 1 / G) * G**0.5)],
    )
