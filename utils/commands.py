"""What the commands of run.py do once the environment is set up; run.py checks the arguments and calls

python -m utils.commands [train | evaluate | compare | score | notebooks] …        without a command: the whole series
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.cards import card_text, comparison_text, progress_text
from utils.files import read_jsonl, write_json, write_text
from utils.profiles import ROOT, get_profile


def train(args: Namespace) -> None:
    """Train one adapter; leaves it in DIR/adapter."""
    from utils.preflight import preflight, summary, text_table
    from utils.rewards import load_rewards
    from utils.training import train as run

    profile = get_profile(args.profile)
    changes = {"dataset": args.dataset, "steps": args.max_steps}
    profile = profile.replace(**{name: value for name, value in changes.items() if value is not None})
    rewards = load_rewards(args.reward) if args.reward else None
    if profile.name != "tiny":  # for tiny there is nothing to download, and it fits anywhere
        checks = preflight(profile)
        print(text_table(checks))
        if any(check.verdict == "fail" for check in checks):
            raise RuntimeError(summary(checks))
    result = run(profile, args.output, args.seed or 0, args.resume, rewards, args.mirror)
    if not result.finished:
        print(f"Stopped after step {result.steps} of {profile.steps}; go on with --resume.")
        raise SystemExit(130)
    print(f"Trained {result.steps} steps in {result.seconds:.0f} s; the adapter is in {shown(result.adapter)}")


def evaluate(args: Namespace) -> None:
    """Evaluate the base model and, where an adapter is given, the trained one on the same questions.

    Each finished batch is kept, in DIR and, for the base model beside an adapter, in DIR/base or the stored evaluation
    that `--base` names; a second call asks only what is missing there.
    """
    from utils import report, stored
    from utils.data import load_questions, read_questions
    from utils.evaluation import evaluate as run
    from utils.evaluation import load_evaluation
    from utils.policy import check_adapter, load_policy, with_adapter
    from utils.protocol import Protocol, protocol_of, require_same
    from utils.setup import versions

    profile, output, start = get_profile(args.profile), Path(args.output), time.perf_counter()
    questions = read_questions(args.questions) if args.questions else load_questions(profile.dataset, "test")
    folders = {"base": output}
    if args.adapter:
        folders = {"base": Path(args.base) if args.base else output / "base", "trained": output}
        check_adapter(args.adapter)  # this and what follows before minutes go into the base model
    policy = load_policy(profile)
    if args.base:
        theirs = stored.read_header(Path(args.base))["protocol"]
        if theirs is None:
            raise ValueError(f"--base {args.base} holds no {stored.PROTOCOL}; give a folder that run.py evaluate left")
        require_same(Protocol.from_dict(theirs), protocol_of(policy, questions), names=(args.base, "this call"))
        load_evaluation(args.base)  # or it says what is missing
    if args.adapter:
        adapted = dataclasses.replace(policy, adapter=Path(args.adapter))
        stored.begin(output, stored.header_of(adapted, questions), questions)
    if not args.base:
        run(policy, questions, counter("base model"), folders["base"])
    if args.adapter:
        run(with_adapter(policy, args.adapter), questions, counter("trained model"), output)
    evaluations = {who: load_evaluation(folder) for who, folder in folders.items()}
    verdicts = {who: evaluation.verdicts for who, evaluation in evaluations.items()}
    summary = report.summarise(
        profile.name,
        versions(),
        **verdicts,
        questions=args.questions or f"{profile.dataset} test",
        adapter=args.adapter,
        **training_facts(args.adapter),
        protocol_hash=evaluations["base"].header["protocol_hash"],
        total_seconds=round(time.perf_counter() - start, 1),
    )
    write_json(output / "summary.json", summary)
    print(card_text({who: evaluation.card for who, evaluation in evaluations.items()}))
    if args.adapter:
        print(comparison_text(summary))
    print(f"{report.verdict_line(summary)}\nsummary.json is in {shown(output)}")


def compare(args: Namespace) -> None:
    """Compare two stored evaluations; with an output folder, leave comparison.json there."""
    from utils.evaluation import compare_folders

    base, trained, comparison = compare_folders(args.base, args.trained)
    cards = {"base": base.card, "trained": trained.card}
    print(f"base     {shown(base.folder)}\ntrained  {shown(trained.folder)}\n\n{card_text(cards)}\n")
    print(comparison_text(comparison))
    if base.header["protocol_hash"] is None:
        print("Neither folder says how it was measured: whether they may be compared is for you to know.")
    if args.output:
        path = write_json(Path(args.output) / "comparison.json", comparison | cards)
        print(f"comparison.json is in {shown(path.parent)}")


def score(args: Namespace) -> None:
    """Judge stored completions by the present rules and leave card.json beside them."""
    from utils.evaluation import score as run

    evaluation = run(args.folder)
    print(card_text({"stored": evaluation.card}))
    print(f"card.json is in {shown(evaluation.folder)}")


def training_facts(adapter: str | None) -> dict[str, Any]:
    """Seed, steps and seconds of the training that left an adapter; {} where no training.json is beside it."""
    facts = Path(adapter).parent / "training.json" if adapter else None
    if facts is None or not facts.is_file():
        return {}
    training = json.loads(facts.read_text(encoding="utf-8"))
    return {"seed": training["seed"], "train_steps": training["steps"], "train_seconds": training["seconds"]}


def counter(label: str) -> Callable[[int, int, int], None]:
    """A progress callback that prints a line each time another tenth is done, with the strict rate so far."""
    shown_tenths = 0

    def progress(done: int, total: int, strict: int) -> None:
        nonlocal shown_tenths
        if done * 10 // total > shown_tenths:
            shown_tenths = done * 10 // total
            print(progress_text(label, done, total, strict), flush=True)

    return progress


def series(args: Namespace) -> None:
    """Run the series into runs/latest; an earlier run is kept beside it, under the time it ended."""
    output = ROOT / "runs" / "latest"
    if output.exists():
        ended = datetime.fromtimestamp(output.stat().st_mtime).strftime("%Y-%m-%d-%H%M%S")
        os.replace(output, output.with_name(ended))
        print(f"The earlier run is now in runs/{ended}")
    run_series(output)


def run_series(output: Path) -> dict[str, Any]:
    """Execute all notebooks on profile tiny, gather their results in `output` and return the summary."""
    from utils import report
    from utils.data import load_questions
    from utils.error_types import solutions_of
    from utils.evaluation import load_evaluation
    from utils.series import NOTEBOOKS, execute

    start = time.perf_counter()
    for notebook in NOTEBOOKS:
        environment = {"GRPO_PROFILE": "tiny", "GRPO_RUN_DIR": str(output)}
        seconds = execute(notebook, output / "notebooks" / notebook.name, environment, tell)
        tell(f"{notebook.stem}: done in {seconds:.0f} s", end="\n")
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    summary["total_seconds"] = round(time.perf_counter() - start, 1)
    base, trained = (load_evaluation(output / who).verdicts for who in ("base", "trained"))
    history, solutions = read_jsonl(output / "training" / "log.jsonl"), solutions_of(load_questions("tiny", "test"))
    page = report.write_report(output, summary, history, base, trained, solutions)
    print(f"{report.verdict_line(summary)}\nTook {summary['total_seconds']:.0f} s. Open {shown(page)} in a browser.")
    return summary


def write_notebooks(args: Namespace) -> None:
    """Execute the committed notebooks in place, so that outputs and stated minutes come from one clean run."""
    from utils.series import NOTEBOOKS, execute

    with tempfile.TemporaryDirectory() as folder:
        for notebook in NOTEBOOKS:
            written = Path(folder) / notebook.name
            seconds = execute(notebook, written, {"GRPO_PROFILE": "tiny", "GRPO_RUN_DIR": folder}, tell)
            minutes = f"CPU: {seconds / 60:.1f} min on {os.cpu_count()} cores ·"
            write_text(notebook, re.sub(r"CPU: [^·]*·", minutes, written.read_text(encoding="utf-8"), count=1))
            tell(f"{notebook.stem}: written after {seconds:.0f} s", end="\n")


def tell(message: str, end: str = "") -> None:
    """Show progress on one line in a terminal, on lines of their own elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\033[K{message}", end=end, flush=True)
    elif end:
        print(message, flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be said: relative to the working folder where it lies inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


COMMANDS: dict[str | None, Callable[[Namespace], Any]] = {
    None: series,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "score": score,
    "notebooks": write_notebooks,
}


def main(argv: list[str]) -> None:
    """Run a command; what the user can mend ends in one line on stderr, with the traceback in error.log."""
    from run import parse

    args = parse(argv)
    try:
        COMMANDS[args.command](args)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        folder = Path(getattr(args, "output", None) or ROOT / "runs")
        try:
            write_text(folder / "error.log", traceback.format_exc())
            where = f"\nThe traceback is in {shown(folder / 'error.log')}"
        except OSError:
            where = ""
        raise SystemExit(f"{type(error).__name__}: {error}{where}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
