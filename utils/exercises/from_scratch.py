"""The checks of notebook 03, GRPO from scratch.

torch is imported where it is used, so that the checks of the other notebooks load without it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from utils.exercises.checks import NotYet, ask, call, check, same, shown, truth

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 8  # batches of a check
FLOAT32 = 1e-4  # two float32 means of the same terms, taken in another order, differ by less


# ------------------------------------------------------------------------------------ which tokens are silent


@check
def check_gets_gradient(gets_gradient: Callable[[float, float, float], Any]) -> None:
    """Exercise 1: whether a token gets a gradient, from its ratio, its advantage and epsilon."""
    rng = random.Random()
    cases = [(1.0, rng.choice((-1, 1)) * rng.uniform(0.1, 2), rng.uniform(0.1, 0.4)), (1.1, 0.0, 0.2)]
    for _ in range(DRAWS):
        epsilon = rng.uniform(0.05, 0.45)
        ratios = (
            1 + epsilon * rng.uniform(1.1, 3),
            1 - epsilon * rng.uniform(1.1, 2),
            1 + epsilon * rng.uniform(-1, 1),
            rng.uniform(3, 9),
            *(1 + side * (epsilon + step) for side in (1, -1) for step in (0.01, -0.01)),  # where other ranges end
        )
        cases += [
            (round(ratio, 3), round(sign * rng.uniform(0.1, 2), 2), round(epsilon, 2))
            for ratio in ratios
            for sign in (1, -1)
            if abs(abs(ratio - 1) - round(epsilon, 2)) > 0.002  # at the corner itself the slope is a convention
        ]
        cases.append((round(ratios[0], 3), 0.0, round(epsilon, 2)))
    rng.shuffle(cases)
    for ratio, advantage, epsilon in cases:
        got, wanted = ask(gets_gradient, ratio, advantage, epsilon), has_slope(ratio, advantage, epsilon)
        said = f"{call(gets_gradient, ratio, advantage, epsilon)} should be {wanted}, got {shown(got)}"
        if truth(got) is None:
            raise NotYet(f"{said}; True or False is wanted")
        if truth(got) is not wanted:
            raise NotYet(f"{said}; {why(ratio, advantage, epsilon)}")


def has_slope(ratio: float, advantage: float, epsilon: float) -> bool:
    """Whether min(r A, clip(r) A) changes with r: not beyond the limit that the advantage points to, nor if A is 0."""
    if advantage == 0:
        return False
    return ratio < 1 + epsilon if advantage > 0 else ratio > 1 - epsilon


def why(ratio: float, advantage: float, epsilon: float) -> str:
    """The rule that decides this case."""
    if advantage == 0:
        return "an advantage of 0 teaches nothing, clipped or not"
    if abs(ratio - 1) <= epsilon:
        return "within 1 ± epsilon nothing is clipped"
    if (ratio > 1) == (advantage > 0):
        return "it has gone far enough in the direction that its advantage points to"
    return "it went the wrong way, and `min` leaves the gradient that brings it back"


# ------------------------------------------------------------------------------------------ a third average


def ragged_mask(rng: random.Random) -> Tensor:
    """A mask (N, C) of completions of different lengths, one token at least, none as long as the mask is wide."""
    import torch

    lengths = rng.sample(range(1, 30), rng.randint(2, 7))
    width = max(lengths) + rng.randint(1, 6)
    return (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).int()


def noise(rng: random.Random, mask: Tensor) -> Tensor:
    """Numbers like `mask` in shape, in the padding too: what is forgotten there shows."""
    import torch

    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(rng.getrandbits(40))) + 0.5


@check
def check_dr_grpo(dr_grpo: Callable[[Tensor, Tensor, int], Any], trl: tuple[Tensor, Tensor, int, float]) -> None:
    """Exercise 2: Dr. GRPO's mean of token losses, on drawn batches and beside TRL's on the notebook's.

    Args:
        trl: losses (N, C), mask (N, C), the longest completion allowed [tokens], TRL's loss.
    """
    rng = random.Random()
    batches = []
    for _ in range(DRAWS):
        mask = ragged_mask(rng)
        batches.append((noise(rng, mask), mask, mask.size(1) + rng.randint(3, 200)))
    for x, mask, longest in batches:
        got, total = number(ask(dr_grpo, x, mask, longest)), (x * mask).sum().item()
        if not same(got, got):
            raise NotYet(f"one number is wanted, a batch of {len(mask)} completions gives {shown(got)}")
        if not same(got, total / (len(mask) * longest), FLOAT32):
            case = f"of {len(mask)} completions, {mask.size(1)} columns and {longest} tokens allowed"
            raise NotYet(f"a batch {case} gives {shown(got)}{averaged_wrongly(got, x, mask, longest)}")
    x, mask, longest, theirs = trl
    got = number(ask(dr_grpo, x, mask, longest))
    if not same(got, theirs, FLOAT32):
        raise NotYet(f"on the notebook's batch yours is {shown(got)}, TRL's {theirs:+.6f}")


def number(value: Any) -> Any:
    """A tensor of one number as that number; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def averaged_wrongly(got: Any, x: Tensor, mask: Tensor, longest: int) -> str:
    """What was divided, or by what, where a known mistake gives the same number."""
    n, columns = mask.shape
    total = (x * mask).sum()
    mistakes = {
        "the width of the batch depends on the longest completion that happened to be sampled": total / (n * columns),
        "that is the longest completion that was sampled, not the longest allowed": total / (n * mask.sum(1).max()),
        "its sign is turned": -total / (n * longest),
        "divided by the tokens that exist, which is the mean of `dapo`": total / mask.sum(),
        "the mean inside each completion first is that of `grpo`": ((x * mask).sum(1) / mask.sum(1)).mean(),
        "the padding is in the sum": x.sum() / (n * longest),
        "the number of completions is in the divisor, too": total / longest,
        "the longest completion allowed is in the divisor, too": total / n,
    }
    return next(
        (f": {name}" for name, value in mistakes.items() if same(got, value, FLOAT32)), "; what divides the sum?"
    )


# ---------------------------------------------------------------------------------- one ratio per completion


@check
def check_log_weight(
    log_weight: Callable[[Tensor, Tensor], Any], trl: tuple[Tensor, Tensor, Callable[[Tensor], Any], float]
) -> None:
    """Exercise 3: GSPO's log-ratio of each completion, on drawn batches and beside TRL's on the notebook's.

    Args:
        trl: log-ratios (N, C), mask (N, C), the loss as a function of the log-ratio of each completion, TRL's loss.
    """
    rng = random.Random()
    for _ in range(DRAWS):
        mask = ragged_mask(rng)
        log_ratio = noise(rng, mask)
        compare_weights(ask(log_weight, log_ratio, mask), log_ratio, mask)
    log_ratio, mask, loss, theirs = trl
    got = ask(log_weight, log_ratio, mask)
    compare_weights(got, log_ratio, mask)
    ours = number(ask(loss, got))
    if not same(ours, theirs, FLOAT32):
        raise NotYet(f"on the notebook's batch the loss is {shown(ours)}, TRL's {theirs:+.6f}")


def compare_weights(got: Any, log_ratio: Tensor, mask: Tensor) -> None:
    """Refuse what is not the mean log-ratio over the tokens that exist, one number a completion."""
    import torch

    shape = (len(mask), 1)
    if not isinstance(got, torch.Tensor):
        raise NotYet(f"a tensor of shape {shape} is wanted, got {shown(got)}")
    if tuple(got.shape) != shape:
        raise NotYet(f"the shape should be {shape}, one number for each of {len(mask)} completions: {tuple(got.shape)}")
    total, count = (log_ratio * mask).sum(1, keepdim=True), mask.sum(1, keepdim=True)
    if close(got, total / count):
        return
    mistakes = {
        "its sign is turned": -total / count,
        "the padding is in the mean": log_ratio.mean(1, keepdim=True),
        "the padding counts in the divisor": total / mask.size(1),
        "the sum grows with the length; its mean is wanted": total,
        "the padding is in the sum": log_ratio.sum(1, keepdim=True) / count,
        "the logarithm is wanted; `policy_term` takes the exponential": (total / count).exp(),
        "the mean is taken of the log-ratios, not of the ratios": (log_ratio.exp() * mask).sum(1, keepdim=True) / count,
        "the mean is taken of the log-ratios, then nothing more": (
            (log_ratio.exp() * mask).sum(1, keepdim=True) / count
        ).log(),
        "each completion has its own mean": (total.sum() / count.sum()).expand(shape),
    }
    hint = next((name for name, value in mistakes.items() if close(got, value)), "mind which tokens exist")
    raise NotYet(f"for {len(mask)} completions of {count.flatten().tolist()} tokens the numbers are others: {hint}")


def close(got: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors of one shape agree up to rounding; NaN does not."""
    return bool(((got.float() - wanted).abs() <= FLOAT32 * wanted.abs().clamp(min=1)).all())
