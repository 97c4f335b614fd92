"""Rows and runs that take no time, for the tests of this folder."""

from utils.experiments.grid import Arm, fingerprint

TWO = [Arm("a", "first"), Arm("b", "second", settings={"scale_rewards": "none"})]


def row_of(arm, seed, strict=0.5, settings=None):
    rest = {"lenient": 0.6, "format": 0.9, "truncated": 0.0, "tokens": 30.0, "dead": 0.25, "steps": 2}
    seconds = {"train_seconds": 1.5, "prepare_seconds": 0.0}
    return (
        {"arm": arm.name, "seed": seed, "settings": settings or fingerprint(arm, 8), "strict": strict} | rest | seconds
    )


def curve_of(arm, seed, strict=0.5):
    key = {"arm": arm.name, "seed": seed, "settings": fingerprint(arm, 8)}
    return [key | {"step": s, "strict": strict, "reward": 0.7, "tokens": 30.0, "dead": 0.0} for s in (1, 3)]


def rows_with(**values):
    """Rows of arms of these names, one for each value: seed 0, 1, and so on."""
    return [row_of(Arm(name, name), s, v, "x") for name, many in values.items() for s, v in enumerate(many)]
