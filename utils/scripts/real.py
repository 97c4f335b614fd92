"""Measure and train a real model from first to last, in as many sittings as it takes.

    python -m utils.scripts.real base --model DEST --work FOLDER            the untrained model: hours on 2 cores
    python -m utils.scripts.real trained --model DEST --work FOLDER         train one seed, and measure it alike
    python -m utils.scripts.real publish --work FOLDER                      copy what is finished to assets/runs/qwen

Each call goes on where the one before was stopped. Base and trained model answer the same questions under one protocol:

    test     all of GSM8K's test split, greedy
    svamp    all of SVAMP, greedy: other questions than it was trained on
    pass     the first 200 test questions, 8 samples each at temperature 1
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.data.questions import load_questions
from utils.evaluation import report, sampling
from utils.evaluation.evaluate import compare, evaluate, load_evaluation, rates
from utils.evaluation.protocol import ANSWERS, CARD, pack, read_header, unpack
from utils.files import ROOT, write_json, write_text
from utils.model.policy import Policy, load_policy, with_adapter
from utils.model.profiles import Profile, get_profile
from utils.scripts.commands import counter
from utils.setup import machine
from utils.training.grpo import train

RUNS = ROOT / "assets" / "runs" / "qwen"
SETS = {"test": ("gsm8k", "test"), "svamp": ("svamp", "test")}
SAMPLED, SAMPLES = 200, 8
LOGS = ("log.jsonl", "training.json", "settings.json")


def measure(policy: Policy, folder: Path) -> None:
    """Ask everything that is not in `folder` yet."""
    for name, (dataset, split) in SETS.items():
        evaluate(policy, load_questions(dataset, split), counter(f"{folder.name}, {name}"), folder / name)
    questions = load_questions(*SETS["test"])[:SAMPLED]
    sampling.collect(policy, questions, folder / "pass", SAMPLES, progress=lambda done, n: print(f"pass {done}/{n}"))


def measure_trained(profile: Profile, folder: Path, seed: int) -> None:
    """Train, or go on training, and measure what came out."""
    result = train(profile, folder / "run", seed, resume=True)
    if result.finished:
        measure(with_adapter(load_policy(profile), result.adapter), folder)


def summary_of(base: Path, trained: Path) -> dict[str, Any]:
    """summary.json of a finished seed, from the stored answers of both models and the log of the training."""
    who = {"base": base, "trained": trained}
    judged = {name: {w: load_evaluation(folder / name) for w, folder in who.items()} for name in SETS}
    ballots = {w: sampling.read_ballots(folder / "pass" / ANSWERS) for w, folder in who.items()}
    run = json.loads((trained / "run" / "training.json").read_text(encoding="utf-8"))
    verdicts = {w: evaluation.verdicts for w, evaluation in judged["test"].items()}
    header = judged["test"]["base"].header
    return report.summarise(
        "laptop",
        run["versions"],
        **verdicts,
        seed=run["seed"],
        train_steps=run["steps"],
        train_seconds=run["seconds"],
        machine=machine(),
        svamp={
            **{w: rates(evaluation.verdicts) for w, evaluation in judged["svamp"].items()},
            **compare(*(evaluation.verdicts for evaluation in judged["svamp"].values())),
        },
        sampling={w: sampling.curves(b) for w, b in ballots.items()} | {"gain": sampling.gain_curves(**ballots)},
        **{name: header[name] for name in ("model", "weights", "protocol", "protocol_hash")},
    )


def publish(work: Path, target: Path = RUNS) -> None:
    """Copy what is finished: stored answers, compressed; of a seed also its log, adapter, summary and card."""
    for folder in sorted(path.parent for path in work.glob(f"*/*/{ANSWERS}")):
        each = 1 if (folder / CARD).exists() else SAMPLES
        if (folder / ANSWERS).read_bytes().count(b"\n") == read_header(folder)["questions"] * each:
            pack(folder, target / folder.relative_to(work))
        else:
            print(f"{folder} is not finished")
    for run in sorted(work.glob("seed-*/run")):
        place = target / run.parent.name
        for name in LOGS:
            if (run / name).exists():
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(run / name, place / name)
        if (place / "test").exists():
            shutil.copytree(run / "adapter", place / "adapter", dirs_exist_ok=True)
            summary = summary_of(work / "base", run.parent)
            write_json(place / "summary.json", summary)
            write_text(place / "card.md", report.model_card(summary))
            print(report.verdict_line(summary))


def take_up(work: Path, source: Path = RUNS) -> None:
    """Bring recorded answers back to `work`, so that what they cost is not paid again."""
    for packed in source.glob(f"*/*/{ANSWERS}.gz"):
        folder = work / packed.parent.relative_to(source)
        if not folder.exists():
            unpack(packed.parent, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.scripts.real", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("base", "trained", "publish"))
    parser.add_argument("--model", help="folder, .gguf file or hub name")
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.what == "publish":
        publish(args.work)
        return
    take_up(args.work)
    profile = get_profile("laptop", args.model)
    if args.what == "base":
        measure(load_policy(profile), args.work / "base")
    else:
        measure_trained(profile, args.work / f"seed-{args.seed}", args.seed)


if __name__ == "__main__":
    main()
