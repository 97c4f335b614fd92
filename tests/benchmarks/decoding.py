"""The short decoding loop beside `model.generate`, in turn, on the embedded model or on a real one.

    python -m tests.benchmarks.decoding
    GSM8K_DIR=… python -m tests.benchmarks.decoding --model DEST    # a quarter of an hour with 0.5 B on two cores
        --vllm .venv-engines/bin/python                             # and vLLM's CPU build, between two halves of it

Without a model:
Rollouts: the completions of one training step of the profile tiny, at temperature 1.
Evaluation: greedy answers to the whole test split, base and recorded adapter. Medians over REPEATS and their range.

With one, in the profile laptop: 8 completions to each of 4 questions of GSM8K, at temperature 1, none of which ends
before the cap, so that both ways write the same number of tokens. Two floors, which no loop can go below, from what is
measured here: the arithmetic one is 2 operations for each parameter and token, at the rate at which this machine
multiplies matrices of that type; the other is reading every weight once for each token that the rows get, at the rate
at which it reads memory.
"""

import os
import subprocess
import time
from argparse import ArgumentParser
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
from transformers import set_seed

from utils.data.questions import load_questions
from utils.model import network
from utils.model.policy import generate, load_policy, with_adapter
from utils.model.profiles import PROFILES, get_profile
from utils.scripts.record import ADAPTER
from utils.setup import machine

VLLM = "vllm+transformers"
REPEATS = 5
ROUNDS = 3  # of a real model
CAP = 200  # tokens of its completions
QUESTIONS, GROUP = 4, 8  # of a real model
SHAPES = ((1024, 1024, 1024), (2048, 1024, 4096), (4096, 896, 4864))  # rows, inputs, outputs of a product


def timed(policy, questions, temperature, n, short):
    """Seconds, tokens and texts of one call, by the short loop or by `model.generate`."""
    set_seed(0)
    with patch.object(network, "suits", lambda model: short):
        start = time.perf_counter()
        samples = [sample for group in generate(policy, questions, temperature, n) for sample in group]
    return time.perf_counter() - start, sum(s.tokens for s in samples), [s.text for s in samples]


def rates(policy, questions, n, repeats):
    """Tokens per second at temperature 1, in turn: {short loop or not: one for each repeat}."""
    found = {True: [], False: []}
    for _ in range(repeats):
        for short in found:
            seconds, tokens, _ = timed(policy, questions, 1.0, n, short)
            found[short].append(tokens / seconds)
    return found


def spread(values, unit):
    return f"{median(values):8,.1f} {unit} [{min(values):,.1f}, {max(values):,.1f}]"


def print_rates(found):
    print(f"rollouts     short loop {spread(found[True], 'tokens/s')}   generate {spread(found[False], 'tokens/s')}")
    print(f"             ratio {median(a / b for a, b in zip(found[True], found[False], strict=True)):.2f}")


def embedded():
    profile = PROFILES["tiny"]
    base = load_policy(profile)
    prompts, test = load_questions("tiny", "train")[: profile.prompts_per_step], load_questions("tiny", "test")
    print_rates(rates(base, prompts, profile.group_size, REPEATS))
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


@contextmanager
def never_ending():
    """No completion ends before the cap: no token has the number that is looked for, and vLLM looks for none."""
    patches = [patch("utils.model.policy.end_tokens", lambda model, tokenizer: [model.config.vocab_size])]
    if os.environ.get("GRPO_ENGINE") == VLLM:
        import vllm

        patches = [
            patch("utils.model.policy.end_tokens", lambda model, tokenizer: []),
            patch.object(vllm, "SamplingParams", partial(vllm.SamplingParams, ignore_eos=True)),
        ]
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


def real(model, python):
    questions = load_questions("gsm8k", "train")[:QUESTIONS]
    policy = load_policy(get_profile("laptop", model).replace(max_completion_tokens=CAP))
    one = replace(policy, profile=policy.profile.replace(max_completion_tokens=1))
    with never_ending():
        if policy.engine == VLLM:  # this is the process that `python` started
            timed(one, questions, 1.0, GROUP, True)
            found = [timed(policy, questions, 1.0, GROUP, True)[:2] for _ in range(ROUNDS)]
            print(f"vLLM {spread([tokens / seconds for seconds, tokens in found], 'tokens/s')}", flush=True)
            return
        dtype, parameters = policy.model.dtype, policy.model.num_parameters()
        print(f"{machine()}, {torch.get_num_threads()} threads; {parameters:,} parameters in {dtype}")
        rates(one, questions, GROUP, 1)  # warms up
        found = rates(policy, questions, GROUP, ROUNDS)
        print(f"{QUESTIONS} prompts x {GROUP} completions of {CAP} tokens, {ROUNDS} times in turn")
        print_rates(found)
        if python:
            command = [python, "-m", "tests.benchmarks.decoding", "--model", model]
            subprocess.run(command, env=os.environ | {"GRPO_ENGINE": VLLM}, check=True)
            print_rates(rates(policy, questions, GROUP, ROUNDS))
    arithmetic, reading = matmul_rate(dtype), read_rate()
    weights = sum(parameter.nbytes for parameter in policy.model.parameters())
    floors = {
        f"arithmetic   {arithmetic / 1e9:,.0f} GFLOP/s": arithmetic / (2 * parameters),
        f"memory       {reading / 1e9:,.1f} GB/s": QUESTIONS * GROUP * reading / weights,
    }
    for what, rate in floors.items():
        print(f"{what}, which would be {rate:,.0f} tokens/s; ", end="")
        print(f"short loop {median(found[True]) / rate:.1%} of it, generate {median(found[False]) / rate:.1%}")


def read_rate():
    """Bytes of memory read per second, by the fastest of 5 sums over a gigabyte."""
    numbers, best = torch.ones(2**28), 0.0
    for _ in range(5):
        start = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.nbytes / (time.perf_counter() - start))
    return best


def matmul_rate(dtype):
    """Multiplications and additions per second of matrices of this type: the best of `SHAPES`, of 10 products each."""
    best = 0.0
    for rows, inputs, outputs in SHAPES:
        a, b = torch.rand(rows, inputs).to(dtype), torch.rand(outputs, inputs).to(dtype)
        for _ in range(10):
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            best = max(best, 2 * rows * inputs * outputs / (time.perf_counter() - start))
    return best


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder, .gguf file or hub name of a real model; needs GSM8K")
    parser.add_argument("--vllm", metavar="PYTHON", help="also ask vLLM, in the environment of this python")
    args = parser.parse_args(argv)
    real(args.model, args.vllm) if args.model else embedded()


if __name__ == "__main__":
    main()
