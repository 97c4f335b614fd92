"""The checks of notebook 03, held against wrong solutions, and their truth against the notebook's own functions."""

import math
import random

import nbformat
import numpy as np
import pytest
import torch

from tests.exercises.given import hold, solution
from utils.exercises.from_scratch import check_dr_grpo, check_gets_gradient, check_log_weight, has_slope
from utils.files import ROOT

NAME = "03_grpo_from_scratch"


@pytest.fixture(scope="module")
def taught():
    """The functions that the notebook defines, by name."""
    names = {"torch": torch}
    for cell in nbformat.read(ROOT / "notebooks" / f"{NAME}.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith(("def policy_term", "MEANS = ")):
            exec(cell.source.split("\nper_token = ")[0], names)
    return names


@pytest.fixture
def batch():
    """What the notebook's batch would be: log-ratios, mask, advantages."""
    torch.manual_seed(0)
    mask = (torch.arange(20) < torch.tensor([4, 20, 9, 13]).unsqueeze(1)).int()
    return 0.3 * torch.randn(4, 20), mask, torch.tensor([1.2, -0.7, 0.3, -0.8])


def test_what_exercise_1_calls_true_is_what_autograd_says(taught):
    rng = random.Random(0)
    for _ in range(200):
        ratio, advantage, epsilon = (
            rng.uniform(0.3, 1.7),
            rng.choice((-1.3, -0.2, 0.0, 0.4, 2.0)),
            rng.uniform(0.1, 0.5),
        )
        logps = torch.tensor([[ratio]]).log().requires_grad_()
        taught["policy_term"](logps, torch.zeros(1, 1), torch.tensor([advantage]), epsilon).sum().backward()
        assert has_slope(ratio, advantage, epsilon) is bool(logps.grad)


def test_exercise_1():
    table = {(1.0, 1.0): True, (1.3, 1.0): False, (1.3, -1.0): True, (0.7, 1.0): True, (0.7, -1.0): False}

    def both_sides(ratio, advantage, epsilon):
        return advantage != 0 and abs(ratio - 1) < epsilon

    def swapped(ratio, advantage, epsilon):
        return has_slope(2 - ratio, advantage, epsilon)

    def of_0_2(ratio, advantage, epsilon):
        return has_slope(ratio, advantage, 0.2)

    def zero_too(ratio, advantage, epsilon):
        return ratio < 1 + epsilon if advantage >= 0 else ratio > 1 - epsilon

    hold(
        check_gets_gradient,
        solution(NAME, 1)["gets_gradient"],
        {
            "a plain clamp": (both_sides, "the wrong way"),
            "the two sides swapped": swapped,
            "epsilon ignored": of_0_2,
            "an advantage of zero": (zero_too, "teaches nothing"),
            "a quotient for the lower end": lambda r, a, e: r < 1 + e if a > 0 else r > 1 / (1 + e) if a < 0 else False,
            "a quotient for the upper end": lambda r, a, e: r < 1 / (1 - e) if a > 0 else r > 1 - e if a < 0 else False,
            "the logarithm clipped": lambda r, a, e: a != 0 and math.log(r) * math.copysign(1, a) < e,
            "a third limit": lambda r, a, e: has_slope(r, a, e) and r < 3,
            "True or nothing": (lambda r, a, e: True if has_slope(r, a, e) else None, "True or False is wanted"),
            "only the ratio": lambda ratio, advantage, epsilon: ratio < 1 + epsilon,
            "one of the printed cases": lambda ratio, advantage, epsilon: table.get((ratio, advantage), False),
            "always": lambda ratio, advantage, epsilon: True,
            "never": lambda ratio, advantage, epsilon: False,
            "numbers": lambda ratio, advantage, epsilon: int(has_slope(ratio, advantage, epsilon)),
            "the stub": lambda ratio, advantage, epsilon: None,
            "the old answer, a list": [True, False, True, True, False, False],
            "two arguments": (lambda ratio, advantage: True, "TypeError"),
        },
        also=[
            lambda r, a, e: np.logical_and(a != 0, np.sign(a) * (r - 1) < e),
            lambda r, a, e: torch.tensor(a != 0 and min(r * a, min(max(r, 1 - e), 1 + e) * a) == r * a),
        ],
    )


def test_exercise_2(taught, batch):
    x, mask, _ = batch
    trl = x, mask, 96, (x * mask).sum().item() / (4 * 96)

    def ragged(x, mask, longest):
        return torch.stack([row[: int(m.sum())].sum() / longest for row, m in zip(x, mask, strict=True)]).sum()

    right = solution(NAME, 2)["dr_grpo"]
    hold(
        check_dr_grpo,
        right,
        {
            "the stub": (lambda x, mask, longest: (x * mask).sum() / mask.sum(), "dapo"),
            "the width of the batch": (
                lambda x, mask, longest: (x * mask).sum() / mask.numel(),
                "happened to be sampled",
            ),
            "the original average": (lambda x, mask, longest: taught["MEANS"]["grpo"](x, mask), "that of `grpo`"),
            "the mask forgotten": (lambda x, mask, longest: x.sum() / (len(x) * longest), "padding"),
            "only the longest": lambda x, mask, longest: (
                (x * mask).sum() / longest
            ),  # now and then it looks like another
            "a sum over rows": ragged,
            "only the completions": (lambda x, mask, longest: (x * mask).sum() / len(x), "longest completion allowed"),
            "the notebook's 96": lambda x, mask, longest: (x * mask).sum() / (len(x) * 96),
            "the notebook's 16 completions": lambda x, mask, longest: (x * mask).sum() / (16 * longest),
            "the number that TRL prints": lambda x, mask, longest: torch.tensor(trl[3]),
            "the number for that shape": lambda x, mask, longest: trl[3] if x.shape == (4, 20) else x.mean(),
            "one number a completion": (lambda x, mask, longest: (x * mask).sum(1) / longest, "one number is wanted"),
            "the longest that was sampled": (
                lambda x, mask, longest: (x * mask).sum() / (len(x) * mask.sum(1).max()),
                "not the longest allowed",
            ),
            "the sign turned": (lambda x, mask, longest: -(x * mask).sum() / (len(x) * longest), "its sign"),
            "text": (lambda x, mask, longest: str((x * mask).sum().item() / (len(x) * longest)), "one number"),
            "nothing": lambda x, mask, longest: None,
        },
        trl,
        also=[
            lambda x, mask, longest: ((x * mask).sum(-1) / longest).mean(),
            lambda x, mask, longest: np.sum(x.numpy() * mask.numpy()) / (len(mask) * longest),
            lambda x, mask, longest: x[mask.bool()].sum().view(1) / (len(mask) * longest),
        ],
    )
    assert "on the notebook's batch" in check_dr_grpo(right, (*trl[:3], 2 * trl[3]))


def test_exercise_3(taught, batch):
    log_ratio, mask, advantages = batch
    right = solution(NAME, 3)["log_weight"]

    def loss(weight):
        return taught["MEANS"]["dapo"](taught["policy_term"](weight, torch.zeros_like(weight), advantages), mask)

    trl = log_ratio, mask, loss, loss(right(log_ratio, mask)).item()

    def looped(log_ratio, mask):
        return torch.stack([row[: int(m.sum())].mean() for row, m in zip(log_ratio, mask, strict=True)])

    assert check_log_weight(lambda x, m: looped(x, m).unsqueeze(1), trl) == "solved"
    hold(
        check_log_weight,
        right,
        {
            "the stub": (lambda x, m: x, "the shape should be"),
            "the padding in the mean": (lambda x, m: x.mean(1, keepdim=True), "the padding is in the mean"),
            "the width as divisor": (lambda x, m: (x * m).mean(1, keepdim=True), "divisor"),
            "the sum": (lambda x, m: (x * m).sum(1, keepdim=True), "its mean is wanted"),
            "the padding in the sum": lambda x, m: x.sum(1, keepdim=True) / m.sum(1, keepdim=True),
            "the ratio": (lambda x, m: right(x, m).exp(), "logarithm"),
            "the mean ratio's logarithm": lambda x, m: right(x.exp(), m).log(),
            "one mean for all": (lambda x, m: ((x * m).sum() / m.sum()).expand(len(x), 1), "its own mean"),
            "the wrong shape": (looped, "the shape should be"),
            "a float": lambda x, m: 0.1,
            "the batch by heart": lambda x, m: right(log_ratio, mask),
            "zeros, as on a fresh batch": lambda x, m: torch.zeros(len(x), 1),
            "the sign turned": (lambda x, m: -right(x, m), "its sign"),
            "not a number": lambda x, m: right(x, m) * float("nan"),
            "a name that is not there": (lambda x, m: log_ration / m, "NameError"),  # noqa: F821
        },
        trl,
    )
    assert "on the notebook's batch" in check_log_weight(right, (*trl[:3], trl[3] + 0.1))
