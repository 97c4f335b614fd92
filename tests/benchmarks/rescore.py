"""How long a slider move in the Reward Lab takes: scoring the bank again, the lights, and the whole view.

    python -m tests.benchmarks.rescore

CPU times of one process, medians of REPEATS, so that other work on the machine disturbs them little. The goal is less
than 100 ms for a move; "first" is what a reward costs when it is new, before its scores on the bank are kept.
"""

import statistics
import time
from argparse import ArgumentParser
from collections.abc import Callable

from utils.rewards.bank import changed_rank, changed_sign, lights, load_bank, part_scores, rescore
from utils.rewards.functions import REWARDS
from utils.rewards.lab import RewardLab

REPEATS = 15


def milliseconds(work: Callable[[int], object]) -> str:
    """Median and spread of `work(0)`, `work(1)`, … in ms of CPU time."""
    times = []
    for i in range(REPEATS):
        start = time.process_time()
        work(i)
        times.append(1e3 * (time.process_time() - start))
    return f"{statistics.median(times):6.1f} ms   ({min(times):.1f} to {max(times):.1f})"


def main() -> None:
    ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # -h, or a wrong argument, runs nothing
    bank, functions, weights = load_bank(), list(REWARDS), list(REWARDS.values())
    default = rescore(bank, functions, weights)

    def first(i: int) -> None:
        part_scores.cache_clear()
        rescore(bank, functions, weights)

    def compare(i: int) -> None:
        changed_sign(default, default), changed_rank(default, default)

    lab = RewardLab(bank)

    def move(i: int) -> None:
        lab.sliders["format_reward"].value = 0.3 + 0.1 * (i % 15)

    print(f"{len(bank.completions):,} completions, {len(functions)} rewards")
    print(f"rescore, first    {milliseconds(first)}")
    print(f"rescore           {milliseconds(lambda i: rescore(bank, functions, weights))}")
    print(f"sign and rank     {milliseconds(compare)}")
    print(f"lights            {milliseconds(lambda i: lights(bank, default))}")
    print(f"a slider move     {milliseconds(move)}")


if __name__ == "__main__":
    main()
