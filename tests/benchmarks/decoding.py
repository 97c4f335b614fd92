"""The short decoding loop beside `model.generate`, in turn, on the embedded model.

    python -m tests.benchmarks.decoding

Rollouts: the completions of one training step of the profile tiny, at temperature 1.
Evaluation: greedy answers to the whole test split, base and recorded adapter. Medians over REPEATS and their range.
"""

import time
from argparse import ArgumentParser
from statistics import median
from unittest.mock import patch

from transformers import set_seed

from utils.data.questions import load_questions
from utils.model import network
from utils.model.policy import generate, load_policy, with_adapter
from utils.model.profiles import PROFILES
from utils.scripts.record import ADAPTER

REPEATS = 5


def timed(policy, questions, temperature, n, short):
    """Seconds, tokens and texts of one call, by the short loop or by `model.generate`."""
    set_seed(0)
    with patch.object(network, "suits", lambda model: short):
        start = time.perf_counter()
        samples = [sample for group in generate(policy, questions, temperature, n) for sample in group]
    return time.perf_counter() - start, sum(s.tokens for s in samples), [s.text for s in samples]


def spread(values, unit):
    return f"{median(values):8,.1f} {unit} [{min(values):,.1f}, {max(values):,.1f}]"


def main():
    ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # -h, or a wrong argument, runs nothing
    profile = PROFILES["tiny"]
    base = load_policy(profile)
    prompts, test = load_questions("tiny", "train")[: profile.prompts_per_step], load_questions("tiny", "test")
    rate = {True: [], False: []}
    for _ in range(REPEATS):
        for short in (True, False):
            seconds, tokens, _ = timed(base, prompts, 1.0, profile.group_size, short)
            rate[short].append(tokens / seconds)
    print(f"rollouts     short loop {spread(rate[True], 'tokens/s')}   generate {spread(rate[False], 'tokens/s')}")
    print(f"             ratio {median(a / b for a, b in zip(rate[True], rate[False], strict=True)):.2f}")
    for who in ("base", "trained"):
        policy = base if who == "base" else with_adapter(base, ADAPTER)
        seconds = {True: [], False: []}
        for _ in range(REPEATS):
            texts = {}
            for short in (True, False):
                took, _, texts[short] = timed(policy, test, 0.0, 1, short)
                seconds[short].append(took)
            assert texts[True] == texts[False], "greedy answers differ"
        print(f"{who:8} {len(test):,} greedy, same texts: {spread(seconds[True], 's')}, {spread(seconds[False], 's')}")


if __name__ == "__main__":
    main()
