"""Speed and verdicts of the answer checker, beside math-verify and the usual last-number regex.

    python -m tests.benchmarks.answers

Three corpora, the same texts for each: completions in the taught layout, half of them right, their answers
written in several ways; the forms of tests/data/test_answers.py (our own, so no fair contest: read those rows as
what would be missed); and, where GSM8K_DIR names a folder with example_model_solutions.jsonl, the 5,276
published samples with their labels. math-verify is optional (pip install math-verify==0.9.0). Times are CPU
times of one process, medians of REPEATS passes, so that other work on the machine disturbs them little.
"""

import json
import logging
import os
import random
import re
import statistics
import time
from argparse import ArgumentParser
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from tests.data.test_answers import FOOD, NOT_NUMBERS, NUMBERS, completion
from utils.data.answers import gold_answer, is_correct

REPEATS = 5
SLOW_SAMPLE = 300  # texts of a corpus that math-verify, some hundred times slower, is timed on
FORMS = [
    "{}",
    "{}",
    "{}",
    "{}",
    "${}",
    "{:,}",
    "${:,}.",
    "{} dollars",
    "**{}**",
    r"\boxed{{{}}}",
    "{}.00",
    "3 + 4 = {}",
]

Case = tuple[str, str, bool]  # text, gold, whether the text is right
Checker = Callable[[str, str], bool]


def strict(text: str, gold: str) -> bool:
    return is_correct(text, gold)


def lenient(text: str, gold: str) -> bool:
    return is_correct(text, gold, "lenient")


def last_number(text: str, gold: str) -> bool:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return bool(numbers) and numbers[-1].replace(",", "") == gold.replace(",", "")


def math_verify_checker() -> Checker | None:
    try:
        from math_verify import parse, verify
    except ImportError:
        return None
    logging.disable(logging.WARNING)  # it warns at each call that nothing stops a slow one
    return lambda text, gold: verify(
        parse(gold, parsing_timeout=None), parse(text, parsing_timeout=None), timeout_seconds=None
    )


def laid_out(count: int = 2_000) -> list[Case]:
    """Completions of about 300 characters in the taught layout; half of them state a wrong number."""
    chance, cases = random.Random(0), []
    for _ in range(count):
        gold, right = chance.randint(-20, 5_000), chance.random() < 0.5
        steps = "\n".join(f"Then there are {n} + {n + 3} = {2 * n + 3} apples." for n in chance.sample(range(99), 6))
        stated = chance.choice(FORMS).format(gold if right else gold + chance.randint(1, 9))
        cases.append((completion(stated, steps), str(gold), right))
    return cases


def forms() -> list[Case]:
    """Each form of the tables in the taught layout; one that states no single number is always wrong."""
    readable = [(text, value) for text, value, _ in NUMBERS if len(text) < 1_000 and abs(value) < 10**30]
    right = [(completion(text), str(Fraction(value)), True) for text, value in readable]
    return right + [(completion(text), "5", False) for text, _ in NOT_NUMBERS if len(text) < 1_000]


def published_samples() -> list[Case]:
    """The labelled GPT-3 samples of openai/grade-school-math; none without GSM8K_DIR."""
    folder = Path(os.environ.get("GSM8K_DIR", ""))
    names = "example_model_solutions.jsonl", "test.jsonl"
    if not all((folder / name).is_file() for name in names):
        return []
    samples, tests = ((folder / name).read_text(encoding="utf-8").strip("\n").split("\n") for name in names)
    return [
        (sample["solution"], gold_answer(json.loads(test)["answer"]), sample["is_correct"])
        for row, test in zip(samples, tests, strict=True)
        for sample in json.loads(row).values()
        if isinstance(sample, dict)
    ]


def seconds(checker: Checker, cases: list[Case]) -> float:
    """Median seconds a pass over the cases takes."""
    passes = []
    for _ in range(REPEATS):
        start = time.process_time()
        for text, gold, _right in cases:
            checker(text, gold)
        passes.append(time.process_time() - start)
    return statistics.median(passes)


def main() -> None:
    ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # -h, or a wrong argument, runs nothing
    checkers = {"strict": strict, "lenient": lenient, "last-number regex": last_number}
    if slow := math_verify_checker():
        checkers["math-verify"] = slow
    corpora = {"taught layout": laid_out(), "forms": forms(), "published samples": published_samples()}
    print(f"{'corpus':<18} {'checker':<18} {'texts/s':>9} {'µs/text':>8} {'x regex':>8}  right verdicts")
    for corpus, cases in corpora.items():
        each, right = {}, {}
        for name, checker in checkers.items():
            if not cases or (corpus == "published samples" and name == "strict"):  # they have no tags
                continue
            judged = random.Random(1).sample(cases, min(len(cases), SLOW_SAMPLE)) if checker is slow else cases
            each[name] = seconds(checker, judged) / len(judged)
            right[name] = f"{sum(checker(text, gold) is label for text, gold, label in judged)} of {len(judged)}"
        for name, cost in each.items():
            ratio = each["last-number regex"] / cost
            print(f"{corpus:<18} {name:<18} {1 / cost:>9,.0f} {cost * 1e6:>8.1f} {ratio:>8.2f}  {right[name]}")

    food = {unit: "<answer>42</answer>" + (unit * 500_000)[:500_000] for unit in FOOD}
    food["nested tags"] = "<answer>" * 10_000 + "42" + "</answer>" * 10_000
    times = {unit: seconds(lenient, [(text, "42", True)]) for unit, text in food.items()}
    worst = sorted(times, key=times.get, reverse=True)[:3]
    usual = statistics.median(times.values())
    print(f"\n500,000 characters of {len(FOOD)} kinds after an answer, lenient: median {usual * 1e3:.1f} ms; slowest:")
    print(", ".join(f"{unit!a} {times[unit] * 1e3:.1f} ms" for unit in worst))


if __name__ == "__main__":
    main()
