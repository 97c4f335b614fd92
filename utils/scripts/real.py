"""Measure and train a real model from first to last, in as many sittings as it takes.

    python -m utils.scripts.real base --model DEST --work FOLDER            the untrained model: hours on 2 cores
    python -m utils.scripts.real trained --model DEST --work FOLDER         train one seed, and measure it alike
    python -m utils.scripts.real measure --model DEST --work FOLDER         measure what `run.py train` left in FOLDER/
                                                                            seed-*/run, e.g. a seed trained further
    python -m utils.scripts.real publish --work FOLDER                      copy what is finished to assets/runs/laptop,
                                                                            fill the README's table, draw its pictures
    python -m utils.scripts.real unpack --work FOLDER                       bring it back from there, to go on with it

Each call goes on where the one before was stopped. Base and trained model answer the same questions under one protocol:

    test     all of GSM8K's test split, greedy
    svamp    all of SVAMP, greedy: other questions than it was trained on
    pass     the first 200 test questions, 8 samples each at temperature 1
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils import plots
from utils.data.questions import load_questions, solution_steps
from utils.evaluation import report, sampling
from utils.evaluation.evaluate import Verdict, compare, evaluate, load_evaluation, rates
from utils.evaluation.figures import card_figure
from utils.evaluation.protocol import ANSWERS, Protocol, local_name, pack, read_header, require_same, unpack
from utils.files import ROOT, InUse, read_jsonl, sha256, write_bytes, write_json, write_text
from utils.model.policy import Policy, load_policy, with_adapter
from utils.model.profiles import PROFILES, Profile, get_profile, is_local
from utils.model.weights import ADAPTER_FILES
from utils.scripts.commands import counter, model, output_folder, whole_number
from utils.scripts.record import FIGURES, fill_readme, results_rows
from utils.stats import percent
from utils.training.checkpoints import read_settings, read_training
from utils.training.grpo import train

PROFILE = "laptop"
RUNS = ROOT / "assets" / "runs" / "laptop"
SETS = {"test": ("gsm8k", "test"), "svamp": ("svamp", "test")}
PASS, RUN = "pass", "run"  # folders beside those of `SETS`
SAMPLED, SAMPLES = 200, 8
LOGS, ROLLOUTS = ("log.jsonl", "settings.json", "training.json"), "rollouts.jsonl"
PLACES = {"settings.json": "model", "adapter/adapter_config.json": "base_model_name_or_path"}
BY_STEPS = "by_solution_steps.json"
MARKERS = ("<!-- real: written by python -m utils.scripts.real publish -->", "<!-- end of real -->")


def measure(policy: Policy, folder: Path) -> None:
    """Ask everything that is not in `folder` yet."""
    for name, (dataset, split) in SETS.items():
        evaluate(policy, load_questions(dataset, split), counter(f"{folder.name}, {name}"), folder / name)

    def tell(done: int, of: int) -> None:
        print(f"{folder.name}, {PASS}: {done} of {of} questions", flush=True)

    questions = load_questions(*SETS["test"])[:SAMPLED]
    sampling.collect(policy, questions, folder / PASS, SAMPLES, progress=tell)


def measure_trained(profile: Profile, folder: Path, seed: int) -> None:
    """Train, or go on training where there are checkpoints, and measure what came out."""
    run = folder / RUN
    unpacked = finished(run) and not any(run.glob("checkpoint-*"))
    if unpacked or train(profile, run, seed, resume=True).finished:
        measure(with_adapter(load_base(profile), run / "adapter"), folder)


def measure_finished(profile: Profile, work: Path) -> None:
    """Measure every run that lies finished in the work folder; one that is measured asks nothing."""
    for run in sorted(work.glob(f"seed-*/{RUN}")):
        if finished(run):
            measure(with_adapter(load_base(profile), run / "adapter"), run.parent)


def load_base(profile: Profile) -> Policy:
    """The untrained model in the type that the profile names, also on a machine that imitates it and trains in another:
    answers from two machines can then be compared."""
    return load_policy(profile.replace(dtype=PROFILES[PROFILE].dtype))


def finished(folder: Path) -> bool:
    """Whether a run has all its steps, or stored answers are there to all their questions."""
    if folder.name == RUN:
        return read_training(folder).get("finished", False)
    lines = (folder / ANSWERS).read_bytes().count(b"\n") if (folder / ANSWERS).exists() else 0
    questions = read_header(folder)["questions"] or 0
    return lines == questions * (SAMPLES if folder.name == PASS else 1) > 0


def summary_of(base: Path, trained: Path) -> dict[str, Any]:
    """summary.json of a seed: of what both models were asked, from the stored answers and the log of the training.

    Raises:
        ValueError: the two were not measured alike, or an answer is damaged.
    """
    who = {"base": base, "trained": trained}
    both = [name for name in (*SETS, PASS) if all(finished(folder / name) for folder in who.values())]
    for name in both:
        protocols = (Protocol.from_dict(read_header(folder / name)["protocol"]) for folder in who.values())
        require_same(*protocols, names=(f"{base / name}", f"{trained / name}"))
    judged = {n: {w: load_evaluation(folder / n) for w, folder in who.items()} for n in both if n != PASS}
    more: dict[str, Any] = {}
    if "svamp" in both:
        verdicts = {w: evaluation.verdicts for w, evaluation in judged["svamp"].items()}
        more["svamp"] = {**{w: rates(of) for w, of in verdicts.items()}, **compare(*verdicts.values())}
    if PASS in both:
        ballots = {w: sampling.read_ballots(folder / PASS / ANSWERS) for w, folder in who.items()}
        more["sampling"] = {w: sampling.curves(b) for w, b in ballots.items()} | {
            "gain": sampling.gain_curves(**ballots)
        }
    run = json.loads((trained / RUN / "training.json").read_text(encoding="utf-8"))
    if before := begun_with(trained):
        more["begun_with"] = {"run": before.name, **{k: read_training(before / RUN)[k] for k in ("steps", "seconds")}}
    header, told = judged["test"]["base"].header, ("model", "weights", "protocol", "protocol_hash", "too_long")
    return report.summarise(
        PROFILE,
        run["versions"],
        **{w: evaluation.verdicts for w, evaluation in judged["test"].items()},
        seed=run["seed"],
        train_steps=run["steps"],
        train_seconds=run["seconds"],
        machine=run["machine"],
        by_solution_steps=strict_by_steps({who: evaluation.verdicts for who, evaluation in judged["test"].items()}),
        **more,
        **{name: header[name] for name in told if name in header},
    )


def begun_with(trained: Path) -> Path | None:
    """The seed's folder beside this one whose adapter this run began with; None for a fresh adapter.

    Raises:
        ValueError: it lies not there.
    """
    if not (wanted := read_settings(trained / RUN).get("adapter")):
        return None
    for adapter in trained.parent.glob(f"seed-*/{RUN}/adapter/{ADAPTER_FILES[1]}"):
        if sha256(adapter) == wanted:
            return adapter.parents[2]
    raise ValueError(f"{trained / RUN} began with an adapter {wanted[:12]} … that no run in {trained.parent} has left")


def publish(work: Path, target: Path = RUNS) -> None:
    """Copy what is finished, and say what is not: stored answers, compressed; of a seed its logs, rollouts and adapter;
    where both models have answered the test, also summary and card."""
    for who in ("base", *sorted(path.name for path in work.glob("seed-*"))):
        parts = [*SETS, PASS] + [RUN] * (who != "base")
        done = [part for part in parts if finished(work / who / part)]
        for part in parts:
            if part not in done:
                print(f"{work / who / part} is not finished")
            elif part == RUN:
                copy_run(work / who / part, target / who)
                for name, key in PLACES.items():  # no path of this machine in what is passed on
                    told = json.loads((target / who / name).read_text(encoding="utf-8"))
                    if is_local(told[key]):
                        write_json(target / who / name, told | {key: local_name(told[key])})
                rollouts = (work / who / part / ROLLOUTS).read_bytes()
                write_bytes(target / who / f"{ROLLOUTS}.gz", gzip.compress(rollouts, mtime=0))
            else:
                pack(work / who / part, target / who / part)
                if (who, part) == ("base", PASS):
                    write_json(target / who / BY_STEPS, by_solution_steps(work / who / part))
        compared = work / "base" / "test", work / who / "test", work / who / RUN
        if who != "base" and all(map(finished, compared)):
            summary = summary_of(work / "base", work / who)
            write_json(target / who / "summary.json", summary)
            write_text(target / who / "card.md", report.model_card(summary))
            print(report.verdict_line(summary))


def strict_by_steps(verdicts: dict[str, list[Verdict]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Both models' strict rates on test questions with so many steps in their written solution; "8" are 8 and more."""
    steps = {q.id: min(8, solution_steps(q.row["answer"])) for q in load_questions(*SETS["test"])}
    return {
        str(n): {who: rates([v for v in each if steps[v.id] == n])["strict"] for who, each in verdicts.items()}
        for n in sorted({steps[verdict.id] for verdict in verdicts["base"]})
    }


def by_solution_steps(folder: Path) -> dict[str, dict[str, int]]:
    """Of the sampled questions with so many steps in their written solution, how many had none, some or all of their
    samples right (leniently): GRPO learns from those with some."""
    questions = load_questions(*SETS["test"])[:SAMPLED]
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for question, ballot in zip(questions, sampling.read_ballots(folder / ANSWERS), strict=True):
        right = "none" if not ballot.right else "all" if ballot.right == len(ballot.votes) else "some"
        found[solution_steps(question.row["answer"])][right] += 1
    return {str(n): {right: counts[right] for right in ("none", "some", "all")} for n, counts in sorted(found.items())}


def show(runs: Path = RUNS) -> None:
    """Fill the README's table of the published seeds, and draw the pictures of the first."""
    folders = sorted(path.parent for path in runs.glob("seed-*/summary.json"))
    if not folders:
        return
    summaries = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in folders]
    history = read_jsonl(folders[0] / "log.jsonl")
    pictures = {
        "real_before_after": card_figure(summaries[0]["base"], summaries[0]["trained"]),
        "real_learning_curves": plots.learning_curves(history),
    }
    for name, figure in pictures.items():
        write_bytes(FIGURES / f"{name}.png", plots.png(figure))
    fill_readme(MARKERS, results_table(summaries))


def results_table(summaries: Sequence[dict[str, Any]]) -> str:
    """The README's table of these seeds, and what else was measured of the first, in Markdown."""
    s = summaries[0]
    measured = (
        f"{s['model']}, trained and measured on {s['machine']}: {s['n_test']:,} test questions, greedy, 95% Wilson "
        "intervals."
    )
    if sampled := s.get("sampling"):
        most = sampled["base"]["k"][-1]
        passed = {k: [sampled[who]["pass"]["mean"][k - 1] for who in ("base", "trained")] for k in (1, most)}
        gained = ", ".join(f"pass@{k} {before:.1%} → {after:.1%}" for k, (before, after) in passed.items())
        measured += f" Seed {s['seed']}, sampled on {sampled['gain']['questions']} of them, read leniently: {gained}."
    if svamp := s.get("svamp"):
        strict = " → ".join(percent(svamp[who]["strict"]) for who in ("base", "trained"))
        measured += f" SVAMP, {svamp['n']:,} questions of another kind, strict: {strict}."
    return "\n".join([*results_rows(list(summaries)), "", measured])


def copy_run(run: Path, target: Path) -> None:
    """Copy adapter and logs of a finished run."""
    shutil.copytree(run / "adapter", target / "adapter", dirs_exist_ok=True)
    for name in LOGS:
        write_bytes(target / name, (run / name).read_bytes())


def take_up(work: Path, source: Path = RUNS) -> None:
    """Bring recorded answers and runs back to `work`, so that what they cost is not paid again."""
    for packed in sorted(source.glob(f"*/*/{ANSWERS}.gz")):
        folder = work / packed.parent.relative_to(source)
        if not (folder / ANSWERS).exists():
            unpack(packed.parent, folder)
            print(f"{folder} is there again")
    for adapter in sorted(source.glob("seed-*/adapter")):
        if not (run := work / adapter.parent.name / RUN).exists():
            copy_run(adapter.parent, run)
            write_bytes(run / ROLLOUTS, gzip.decompress((adapter.parent / f"{ROLLOUTS}.gz").read_bytes()))
            print(f"{run} is there again")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.scripts.real", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("base", "trained", "measure", "publish", "unpack"))
    parser.add_argument("--model", type=model, help="folder, .gguf file or hub name; the profile's own unless given")
    parser.add_argument("--work", type=output_folder, required=True, help="where everything is kept")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0)
    args = parser.parse_args(arguments)
    work = Path(args.work)
    if args.what == "publish" and not (work / "base").is_dir():
        parser.error(f"--work {work} holds no answers of the base model; name the folder that `base` was given")
    try:
        if args.what == "publish":
            publish(work)
            show()
        elif args.what == "unpack":
            take_up(work)
        elif args.what == "base":
            measure(load_base(get_profile(PROFILE, args.model)), work / "base")
        elif args.what == "measure":
            measure_finished(get_profile(PROFILE, args.model), work)
        else:
            measure_trained(get_profile(PROFILE, args.model), work / f"seed-{args.seed}", args.seed)
    except (OSError, ValueError, InUse) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
