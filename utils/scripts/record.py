"""Make what is recorded in assets/.

    python -m utils.scripts.record           the reference runs, about 4 minutes on 2 cores
    python -m utils.scripts.record rescore   their summaries, from the stored answers and by the rules of today
    python -m utils.scripts.record bank      the bank of completions, about a minute
    python -m utils.scripts.record bank --model MODEL [--adapter FOLDER]    the bank of a real model, hours on a CPU

The last may be stopped at any time and called again; without an adapter it samples the base model alone, and a later
call with one adds the trained model.

For each seed the first trains profile tiny, evaluates base and trained model on the whole test split, and writes

    assets/runs/tiny/base/      the answers of the base model to the test split
    assets/runs/tiny/seed-N/    summary.json, training.json, log.jsonl, the answers; seed 0 also keeps its adapter
    assets/figures/             the README's pictures, drawn from those files
    README.md                   the results table between its two markers, written from those files
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import set_seed

from utils import plots
from utils.data.prompts import PROMPTS
from utils.data.questions import Question, load_questions
from utils.evaluation import report, sampling
from utils.evaluation.evaluate import compare_folders, correct_counts, evaluate, rates
from utils.evaluation.figures import card_figure
from utils.evaluation.protocol import ANSWERS, Answer, header_of, pack, read_answers, revision
from utils.files import ROOT, InUse, differences, read_json, read_jsonl, write_bytes, write_json, write_text
from utils.model.policy import Policy, check_adapter, generate, load_policy, with_adapter
from utils.model.profiles import PROFILES, Profile, get_profile
from utils.rewards.bank import BANKS, FILE, PROVENANCE, REAL, Group, load_bank
from utils.rewards.bank import FOLDER as BANK
from utils.setup import machine, versions
from utils.stats import pass_at_k, percent
from utils.training.grpo import train

SEEDS = (0, 1, 2)
TEST = "test"
RUNS, FIGURES, README = ROOT / "assets" / "runs" / "tiny", ROOT / "assets" / "figures", ROOT / "README.md"
MARKERS = ("<!-- results: written by python -m utils.scripts.record -->", "<!-- end of results -->")
PASS_QUESTIONS = 256
ADAPTER = RUNS / "seed-0" / "adapter"
BANK_QUESTIONS = 160  # of the validation split; two policies and groups of 8 make 2,560 completions
BANK_SEED, BANK_TEMPERATURE = 0, 1.0
LARGEST_BANK = 1_500_000  # bytes, compressed
REAL_QUESTIONS = 64  # two policies, two prompts and groups of 8 make 2,048 completions
REAL_PROFILE = "laptop"
RAW = ROOT / "runs" / "bank"  # the answers of a real model as they are sampled
REMOVE_BANK = "remove that folder, and runs/bank, to sample it anew"


def record(seeds: tuple[int, ...] = SEEDS) -> None:
    """Train and evaluate every seed and write its folder."""
    with tempfile.TemporaryDirectory() as folder:
        _record(seeds, Path(folder))


def _record(seeds: tuple[int, ...], work: Path) -> None:
    profile = PROFILES["tiny"]
    questions = load_questions(profile.dataset, "test")
    policy = load_policy(profile)
    base = evaluate(policy, questions, output=work / "base" / TEST)
    pack(work / "base" / TEST, RUNS / "base" / TEST)
    set_seed(0)
    counts = correct_counts(policy, questions[:PASS_QUESTIONS], n=8)
    base_pass = {f"pass@{k}": fmean(pass_at_k(8, right, k) for right in counts) for k in (1, 8)}
    for seed in seeds:
        start, run, target = time.perf_counter(), work / f"seed-{seed}", RUNS / f"seed-{seed}"
        result = train(profile, run, seed)
        trained = evaluate(load_policy(profile, result.adapter), questions, output=run / TEST)
        pack(run / TEST, target / TEST)
        for name in ("training.json", "log.jsonl"):
            shutil.copy(run / name, target / name)
        if seed == seeds[0]:
            shutil.copytree(result.adapter, target / "adapter", dirs_exist_ok=True)
        summary = report.summarise(
            "tiny",
            versions(),
            base,
            trained,
            seed=seed,
            base_pass=base_pass,
            pass_questions=PASS_QUESTIONS,
            train_steps=result.steps,
            train_seconds=round(result.seconds, 1),
            total_seconds=round(time.perf_counter() - start, 1),
            machine=machine(),
        )
        write_json(target / "summary.json", summary)
        print(report.verdict_line(summary), flush=True)


def rescore(runs: Path = RUNS) -> None:
    """Write the rates and the comparison of every recorded run anew, from its stored answers; no model is needed."""
    for path in sorted(runs.glob("seed-*/summary.json")):
        base, trained, comparison = compare_folders(runs / "base" / TEST, path.parent / TEST)
        marks = {"base": rates(base.verdicts), "trained": rates(trained.verdicts)}
        write_json(path, read_json(path, "") | marks | comparison)


def recorded() -> list[dict[str, Any]]:
    """The summaries of the recorded runs, by seed."""
    return [json.loads((RUNS / f"seed-{seed}" / "summary.json").read_text(encoding="utf-8")) for seed in SEEDS]


def results_rows(summaries: list[dict[str, Any]]) -> list[str]:
    """A table of runs in Markdown, one line each, with its head; of a run that began with the adapter of another, that
    one's steps and time stand before its own."""
    lines = [
        "| seed | strict before | strict after | lenient | format | fixed / broken | McNemar p | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in summaries:
        base, trained = s["base"], s["trained"]
        change = [
            f"{100 * base[name]['rate']:.1f} → {100 * trained[name]['rate']:.1f}%" for name in ("lenient", "format")
        ]
        p, earlier = s["mcnemar_p"], s.get("begun_with")
        legs = ([earlier] if earlier else []) + [{"steps": s["train_steps"], "seconds": s["train_seconds"]}]
        steps = " + ".join(str(leg["steps"]) for leg in legs)
        unit, per = ("s", 1) if max(leg["seconds"] for leg in legs) < 600 else ("min", 60)
        time = " + ".join(f"{leg['seconds'] / per:.0f}" for leg in legs)
        lines.append(
            " | ".join(
                [
                    f"| {earlier['run'].replace('-', ' ')} trained on" if earlier else f"| {s['seed']}",
                    percent(base["strict"]),
                    f"**{percent(trained['strict'])}**",
                    *change,
                    f"{s['flips']['fixed']} / {s['flips']['broken']}",
                    "< 1e-6" if p < 1e-6 else f"{p:.2g}",
                    f"{steps} steps, {time} {unit} |",
                ]
            )
        )
    return lines


def results_table(summaries: list[dict[str, Any]]) -> str:
    """The README's table of these runs, and how they were measured, in Markdown."""
    s = summaries[0]
    measured = (
        f"Measured on {s['machine']}: {s['n_test']:,} test questions, greedy, 95% Wilson intervals. The base model, "
        f"sampled on {s['pass_questions']} of them and read strictly: pass@1 {100 * s['base_pass']['pass@1']:.1f}%, "
        f"pass@8 {100 * s['base_pass']['pass@8']:.1f}%."
    )
    return "\n".join([*results_rows(summaries), "", measured])


def publish() -> None:
    """Draw the figures and write the README's table from the recorded runs."""
    summaries = recorded()
    FIGURES.mkdir(parents=True, exist_ok=True)
    card = card_figure(summaries[0]["base"], summaries[0]["trained"])
    (FIGURES / "before_after.png").write_bytes(plots.png(card))
    history = read_jsonl(RUNS / "seed-0" / "log.jsonl")
    (FIGURES / "learning_curves.png").write_bytes(plots.png(plots.learning_curves(history)))
    fill_readme(MARKERS, results_table(summaries))


def fill_readme(markers: tuple[str, str], text: str) -> None:
    """Replace what stands between two marks in the README."""
    before, rest = README.read_text(encoding="utf-8").split(markers[0])
    after = rest.split(markers[1])[1]
    write_text(README, f"{before}{markers[0]}\n{text}\n{markers[1]}{after}")


# ---------------------------------------------------------------------------------------------------- the bank


def collect(policy: Policy, questions: Sequence[Question], name: str) -> list[Group]:
    """Sample one group for each question, of the profile's size and cap, at temperature 1: all that the model may say.

    Args:
        policy: from `load_policy`.
        name: what to call it in the bank, e.g. "base".
    """
    profile = policy.profile
    sampled = generate(policy, questions, temperature=BANK_TEMPERATURE, n=profile.group_size)
    return [
        Group(name, q.question, q.gold, tuple(s.text for s in group), tuple(s.tokens for s in group))
        for q, group in zip(questions, sampled, strict=True)
    ]


def save_bank(groups: Sequence[Group], folder: str | Path, provenance: dict[str, Any]) -> None:
    """Write the groups, compressed, with their provenance beside them; the same groups give the same bytes.

    Raises:
        ValueError: they take more than `LARGEST_BANK` bytes; nothing is written.
    """
    text = "".join(json.dumps(_row(group), ensure_ascii=False) + "\n" for group in groups)
    path, packed = Path(folder) / FILE, gzip.compress(text.encode("utf-8"), mtime=0)
    if len(packed) > LARGEST_BANK:
        raise ValueError(
            f"{path} would have {len(packed):,} bytes, and a bank may have {LARGEST_BANK:,}; ask fewer questions"
        )
    write_bytes(path, packed)
    write_json(path.with_name(PROVENANCE), provenance)


def _row(group: Group) -> dict[str, Any]:
    """The fields of a group that are not their defaults."""
    fields = ((field, getattr(group, field.name)) for field in dataclasses.fields(group))
    return {field.name: value for field, value in fields if value != field.default}


def record_bank() -> None:
    """Sample the bank of assets/ from the embedded model and the adapter of seed 0."""
    profile = PROFILES["tiny"]
    questions = load_questions(profile.dataset, "validation")[:BANK_QUESTIONS]
    policy = load_policy(profile)
    set_seed(BANK_SEED)
    groups = collect(policy, questions, "base")
    groups += collect(with_adapter(policy, ADAPTER), questions, "trained")
    provenance = {
        "command": "python -m utils.scripts.record bank",
        "base": "assets/tiny_model",
        "trained": ADAPTER.relative_to(ROOT).as_posix(),
        "questions": f"the first {BANK_QUESTIONS} of the tiny validation split, the same for both",
        "group_size": profile.group_size,
        "temperature": BANK_TEMPERATURE,
        "max_completion_tokens": profile.max_completion_tokens,
        "seed": BANK_SEED,
        "versions": versions(),
    }
    save_bank(groups, BANK, provenance)


def record_real_bank(
    profile: Profile,
    adapter: str | Path | None = None,
    raw: Path = RAW,
    folder: Path = BANKS[REAL],
    asked: int = REAL_QUESTIONS,
) -> None:
    """Sample the bank of a profile's model and, where an adapter is given, of the model it trained.

    Both answer the same questions of the train split, under the prompt "words" and the profile's own, a group each.
    A policy that the bank holds already is not asked again. Of one that is interrupted nothing is lost but the last
    `sampling.TOGETHER` questions.

    Args:
        raw: for the answers as they come, a folder a policy and prompt.
        folder: of the bank.
    Raises:
        ValueError: the bank is of another model, adapter or protocol, or would be too large.
    """
    questions = random.Random(BANK_SEED).sample(load_questions(profile.dataset, "train"), asked)
    there = all((folder / name).is_file() for name in (FILE, PROVENANCE))
    provenance = read_json(folder / PROVENANCE, REMOVE_BANK) if there else {}
    groups = load_bank(folder).groups if there else ()
    policy = load_policy(profile)
    if adapter:
        check_adapter(adapter, policy)  # not only when hours have gone by
    for name in ("base", "trained") if adapter else ("base",):
        policy = with_adapter(policy, adapter) if name == "trained" else policy
        made, who = _made(policy, questions)
        policies = provenance.get("policies", {})
        known = provenance | policies.get(name, who)
        if provenance and (differ := differences(made | who, known, ("this call", str(folder)))):
            raise ValueError(f"{folder} holds other completions: {'; '.join(differ)}. Mend: {REMOVE_BANK}")
        if name not in policies:
            new = [group for prompt in made["prompts"] for group in _sampled(policy, questions, prompt, raw, name)]
            groups = [*(group for group in groups if group.policy != name), *new]
            provenance = made | {"policies": policies | {name: who | {"versions": versions(), "machine": machine()}}}
            save_bank(groups, folder, provenance)


def _made(policy: Policy, questions: Sequence[Question]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the provenance says of a whole bank, and of this policy in it."""
    profile, header = policy.profile, header_of(policy, questions)
    made = {
        "command": "python -m utils.scripts.record bank --model MODEL --adapter FOLDER",
        "model": header["model"],
        "weights": header["weights"],
        "dtype": profile.dtype,
        "questions": f"{len(questions)} of the {profile.dataset} train split, drawn by random.Random(seed).sample",
        "revision": revision(questions),
        "prompts": {prompt: PROMPTS[prompt] for prompt in dict.fromkeys(["words", profile.prompt])},
        "group_size": profile.group_size,
        "temperature": BANK_TEMPERATURE,
        "max_completion_tokens": profile.max_completion_tokens,
        "seed": BANK_SEED,
    }
    return made, {key: header[key] for key in ("adapter", "adapter_weights")}


def _sampled(policy: Policy, questions: Sequence[Question], prompt: str, raw: Path, name: str) -> list[Group]:
    """The groups of one policy under one prompt, from its answers in a folder of `raw`, once all are there."""
    folder = raw / f"{name} {prompt}".replace(" ", "-")
    policy = dataclasses.replace(policy, profile=policy.profile.replace(prompt=prompt))

    def tell(done: int, of: int) -> None:
        print(f"{folder}: {done} of {of} questions", flush=True)

    sampling.collect(policy, questions, folder, policy.profile.group_size, BANK_SEED, tell)
    answers: dict[int, list[Answer]] = {}
    for answer in read_answers(folder / ANSWERS):
        answers.setdefault(answer.index, []).append(answer)
    return [
        Group(
            name,
            same[0].question.question,
            same[0].question.gold,
            tuple(a.sample.text for a in same),
            tuple(a.sample.tokens for a in same),
            prompt,
            tuple(a.sample.truncated for a in same),
        )
        for same in answers.values()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.scripts.record", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("runs", "rescore", "bank"), default="runs")
    parser.add_argument("--model", help="sample the bank of this model: a folder, a .gguf file or a hub name")
    parser.add_argument("--adapter", type=Path, help="what it learnt, to sample the trained model, too")
    args = parser.parse_args(arguments)
    if args.model and args.what != "bank" or args.adapter and not args.model:
        parser.error("--model goes with bank, and --adapter with --model")
    if args.model:
        try:
            record_real_bank(get_profile(REAL_PROFILE, args.model), args.adapter)
        except (OSError, ValueError, InUse) as error:
            parser.exit(1, f"{error}\n")
    elif args.what == "bank":
        record_bank()
    else:
        record() if args.what == "runs" else rescore()
        publish()


if __name__ == "__main__":
    main()
