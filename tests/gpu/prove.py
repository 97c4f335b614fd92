"""Proof on a GPU: GRPO steps of Qwen2.5's real shape through our own profile t4, each engine in a process of its own.

    python -m tests.gpu.prove --output DIR                        # 3B, 0.5B and the embedded model
    python -m tests.gpu.prove --output DIR --shape small            # the script alone, on any CPU
    GSM8K_DIR=… python -m tests.gpu.prove --output DIR --shape real --model MODEL     # real weights, from first to last

For a machine with a GPU and no network: the weights are random, see stand_in.py; packages that are missing there come
along with `python -m tests.gpu.wheels`. The GPU is made to look like a T4 (`ROOM`) by holding the rest of its memory,
because Unsloth sizes its chunks by what is free. An engine that runs out of memory there is measured again on the whole
GPU. Shape `tiny` trains the embedded model to the end and compares its accuracy with the runs recorded on a CPU.

Shape `real` asks MODEL, a folder of real weights, all of GSM8K's test split, trains it as the profile laptop does and
asks it again; what a call is cut off at, the next one goes on with. Weights travel in pieces where only small files do:

    tar -cC MODEL . | split -b 56M - runs/pieces/                    # here: one call each brings a piece there and
    cat runs/pieces/aa >> /tmp/model.tar                              # joins it; after the last: mkdir /tmp/model
    tar -xf /tmp/model.tar -C /tmp/model && (cd /tmp/model && sha256sum *)   # and compare with the same here

Each engine's numbers are in DIR/parts, also those of a run that was cut off; DIR/gpu.json and DIR/gpu.md hold them all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from tests.gpu.report import collect
from tests.gpu.stand_in import CONFIGS, random_model
from utils.data.questions import load_questions
from utils.evaluation import report
from utils.evaluation.evaluate import Verdict, evaluate
from utils.evaluation.protocol import local_name
from utils.files import ROOT, write_json
from utils.model.policy import Policy, load_policy
from utils.model.profiles import PROFILES, get_profile
from utils.scripts import record
from utils.scripts.commands import counter
from utils.setup import machine, versions
from utils.training.grpo import train
from utils.training.memory import GIB

ENGINES = ("unsloth", "transformers")
ROOM = int(14.56 * GIB)  # a T4's memory as torch names it in its out-of-memory messages


def about() -> dict[str, Any]:
    """Date, command, GPU, driver and versions."""
    gpu: dict[str, Any] = {"name": "no GPU", "driver": "none", "capability": "none", "memory": "none"}
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        memory = f"{torch.cuda.get_device_properties(0).total_memory / GIB:.1f} GiB"
        gpu = {"name": torch.cuda.get_device_name(), "driver": driver, "capability": capability, "memory": memory}
    folder = sys.argv.index("--output") + 1 if "--output" in sys.argv else None  # its name is nobody's business
    words = ["DIR" if i == folder else word for i, word in enumerate(sys.argv)][1:]
    command = shlex.join(["python", "-m", "tests.gpu.prove", *words])
    found = {"python": ".".join(map(str, sys.version_info[:3]))} | versions()
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"date": today, "command": command, "gpu": gpu, "versions": found, "machine": machine()}


@contextmanager
def only(room: int | None) -> Iterator[int]:
    """Hold the GPU's free memory but `room` bytes; yields the bytes in use then. None holds nothing."""
    if not torch.cuda.is_available():
        yield 0
        return
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    block = torch.empty(max(0, free - room) if room else 0, dtype=torch.uint8, device="cuda")
    free, total = torch.cuda.mem_get_info()
    try:
        yield total - free
    finally:
        del block
        torch.cuda.empty_cache()


def run_shown(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run a command, show what it prints as it prints it, and return (exit status, its last 40 lines)."""
    lines: list[str] = []
    env = env | {"PYTHONUNBUFFERED": "1"}  # or its error would not be the last it says
    with subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines = [*lines[-39:], line]
    return process.returncode, "".join(lines)


def prove_engine(shape: str, engine: str, model: Path, steps: int, path: Path, room: int | None) -> None:
    """Measure one engine in a fresh process; where the room is too small for it, again with all of the GPU."""
    job = {"shape": shape, "engine": engine, "steps": steps, "room": room, "about": about()}
    env = os.environ | {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with only(room) as used:
        write_json(path, job | {"used_before": used, "error": "stopped before its first step"})
        status, tail = run_shown([sys.executable, "-m", "tests.gpu.measure", str(path), str(model)], env)
    if status:
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"error": f"exit status {status}\n{tail}"})
    if status and room and "out of memory" in tail.lower():
        path.rename(path.with_stem(f"{path.stem}-room"))
        prove_engine(shape, engine, model, steps, path, room=None)


def prove_tiny(path: Path, limit: int | None = None, **changes: Any) -> dict[str, Any]:
    """Train the embedded model on this machine and compare its accuracy with the recorded runs.

    Args:
        limit: evaluate on that many questions instead of the whole test split.
        changes: numbers of the profile to change. With either, the comparison is only worth a test of this script.
    """
    profile, recorded = PROFILES["tiny"].replace(**changes), record.recorded()
    questions = load_questions(profile.dataset, "test")[:limit]
    with tempfile.TemporaryDirectory() as folder:
        base = evaluate(load_policy(profile), questions)
        result = train(profile, folder, seed=0)
        policy = load_policy(profile, result.adapter)
        trained = evaluate(policy, questions)
    summary = report.summarise("tiny", versions(), base, trained, seed=0, train_steps=result.steps)
    summary["train_seconds"] = round(result.seconds, 1)
    rates = [run["trained"]["strict"]["rate"] for run in recorded]
    off = abs(summary["trained"]["strict"]["rate"] - mean(rates))
    summary |= {
        "shape": "tiny",
        "engine": policy.engine,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else machine(),
        "device": str(next(policy.model.parameters()).device),
        "recorded": [{k: run[k] for k in ("machine", "seed", "base", "trained", "train_seconds")} for run in recorded],
        "same_as_recorded": off <= 3 * stdev(rates),
        "about": about(),
    }
    write_json(path, summary)
    return summary


def prove_real(model: str, folder: Path, path: Path, limit: int | None = None, **changes: Any) -> dict[str, Any]:
    """Measure a real model, train it as the profile laptop does, measure it again; a call goes on with the last.

    Args:
        model: a folder of weights, as `--model` takes it.
        folder: keeps the answers, checkpoints and adapter between calls.
        limit, changes: as in `prove_tiny`.
    """
    profile = get_profile("laptop", model).replace(**changes)
    questions, asked = load_questions(profile.dataset, "test")[:limit], {}

    def answers(who: str, policy: Policy) -> list[Verdict]:
        start = time.perf_counter()
        verdicts = evaluate(policy, questions, counter(who), folder / who)
        asked[f"{who}_seconds"] = round(time.perf_counter() - start, 1)  # of this call
        return verdicts

    policy = load_policy(profile)
    base = answers("base", policy)
    result = train(profile, folder / "run", seed=0, resume=True)
    trained = answers("trained", load_policy(profile, result.adapter))
    summary = report.summarise("laptop", versions(), base, trained, seed=0, train_steps=result.steps)
    on_gpu = torch.cuda.is_available()
    summary |= asked | {
        "shape": "real",
        "model": local_name(model),
        "engine": policy.engine,
        "train_seconds": round(result.seconds, 1),
        "peak_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,  # of this call
        "machine": torch.cuda.get_device_name() if on_gpu else machine(),
        "about": about(),
    }
    write_json(path, summary)
    return summary


def choices(allowed: tuple[str, ...]) -> Any:
    """An argparse type: a comma-separated list out of `allowed`."""

    def parse(text: str) -> list[str]:
        words = text.split(",")
        if wrong := [word for word in words if word not in allowed]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)} is none of {', '.join(allowed)}")
        return words

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the record")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of each engine (default 10)")
    parser.add_argument("--engines", type=choices(ENGINES), default=list(ENGINES))
    parser.add_argument("--model", help="folder of a real model, for --shape real")
    shapes = (*CONFIGS, "tiny", "real")
    parser.add_argument("--shape", type=choices(shapes), default=["qwen2.5-3b", "qwen2.5-0.5b", "tiny"])
    args = parser.parse_args()
    on_gpu, parts = torch.cuda.is_available(), (args.output / "parts").absolute()
    if ("real" in args.shape) != bool(args.model):
        parser.error("--shape real and --model FOLDER go together")
    print(json.dumps(about()), flush=True)
    if not on_gpu and set(args.shape) - {"small", "tiny", "real"}:
        sys.exit("skipped: no NVIDIA GPU was found, and the real shapes need one; on a CPU choose --shape small")
    for shape in args.shape:
        if shape == "tiny":
            prove_tiny(parts / "tiny.json")
            continue
        if shape == "real":
            prove_real(args.model, args.output / "real", parts / "real.json")
            continue
        with tempfile.TemporaryDirectory() as model:
            count = random_model(shape, Path(model), "cuda" if on_gpu else "cpu")
            print(f"{shape}: {count:,} random parameters written", flush=True)
            for engine in args.engines if on_gpu else ["transformers"]:
                prove_engine(
                    shape, engine, Path(model), args.steps, parts / f"{shape}-{engine}.json", ROOM if on_gpu else None
                )
    found = collect(args.output)
    print((args.output / "gpu.md").read_text(encoding="utf-8"))
    if found["failures"]:
        sys.exit(f"{len(found['failures'])} part(s) failed; see {args.output / 'gpu.md'}")


if __name__ == "__main__":
    main()
