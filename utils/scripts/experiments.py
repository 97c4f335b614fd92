"""Run the experiments and write what came of them: FINDINGS.md.

    python -m utils.scripts.experiments                              run all that are missing, and write the findings
    python -m utils.scripts.experiments group_size kl --seeds 3      only these, with seeds 0, 1, 2
    python -m utils.scripts.experiments kl --output runs/again       the same runs once more, somewhere else

Stopped at any time, the same command goes on with the runs that are missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils.experiments.catalogue import EXPERIMENTS, LABELS, REFERENCE_RUNS, SEEDS, run, stored
from utils.experiments.findings import WORDS, Row, by_seed, comparisons, gaps_by_seed, paired, points, verdict
from utils.experiments.grid import read_provenance, read_runs
from utils.files import write_text
from utils.stats import interval

ALSO = {  # how a further column is written
    "dead": ("dead groups", lambda value: f"{100 * value:.0f}%"),
    "format": ("format", lambda value: f"{100 * value:.0f}%"),
    "tokens": ("tokens per answer", lambda value: f"{value:.0f}"),
}


def page(
    experiments: Sequence[Any],
    labels: dict[str, str],
    rows: Sequence[Row],
    facts: dict[str, Any],
    conclusions: Sequence[str] = (),
) -> str:
    """The findings in Markdown, one line for each experiment, worded by the numbers alone.

    Args:
        experiments: of utils/experiments/catalogue.py.
        labels: arm name -> what the page calls it.
        rows: of these experiments' arms.
        facts: provenance.json of their folder.
        conclusions: sentences to end with.
    """
    made = comparisons(experiments, rows)
    level = 1 - 0.05 / max(1, len(made))
    lines = ["# Findings", "", *_head(rows, labels, facts), "", *_reading(made, rows, level), ""]
    lines += [_line(experiment, labels, rows, level) for experiment in experiments]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines += ["", *conclusions, "", f"Made on {facts['machine']}, one thread a run, with {versions}."]
    return "\n".join(lines) + "\n"


def _head(rows: Sequence[Row], labels: dict[str, str], facts: dict[str, Any]) -> list[str]:
    start = list(by_seed(rows, "default").values())
    spread = ""
    if len(start) > 1:
        found = interval(start)
        spread = (
            f" The default reaches {100 * found.mean:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}] "
            f"over {found.n} seeds, from {100 * min(start):.1f} to {100 * max(start):.1f}%; leniently "
            f"{100 * statistics.fmean(by_seed(rows, 'default', 'lenient').values()):.1f}%."
        )
    return [
        f"Strict accuracy of the tiny model on {facts['held_out']} held-out questions, greedy, after a short training; "
        f"untrained it is {100 * facts['untrained']['strict']:.1f}%.{spread}",
        f"The default: {', '.join(f'{name} {value:g}' for name, value in facts['start'].items())}.",
    ]


def _reading(made: Sequence[tuple[Any, str]], rows: Sequence[Row], level: float) -> list[str]:
    strict, lenient = (
        sum(verdict(paired(rows, arm, e.reference, metric)) != WORDS[2] for e, arm in made)
        for metric in ("strict", "lenient")
    )
    return [
        "Each number is the mean difference to the experiment's reference in percentage points, paired by seed, "
        "with its 95% t interval.",
        f"Of {len(made)} intervals {strict} leave out 0, and {lenient} under the lenient reading, which forgives the "
        f"layout; about {0.05 * len(made):.1f} would if nothing made any "
        f"difference. Those in bold still do at the level {100 * level:.2f}% (Bonferroni).",
        "For any other model these are hypotheses, not measurements.",
    ]


def _line(experiment: Any, labels: dict[str, str], rows: Sequence[Row], level: float) -> str:
    counts, parts = set(), []
    for arm in experiment.arms:
        if len(gaps_by_seed(rows, arm, experiment.reference)) < 2:
            parts.append(f"{labels[arm]} not measured")
            continue
        found = paired(rows, arm, experiment.reference)
        text = f"{labels[arm]} {points(found)} {verdict(found)}"
        sure = verdict(paired(rows, arm, experiment.reference, confidence=level)) != WORDS[2]
        parts.append(f"**{text}**" if sure else text)
        counts.add(found.n)
    seeds = "/".join(map(str, sorted(counts))) or "0"
    option = "" if seeds == "5" else f" --seeds {max(counts, default=2)}"
    reference = labels[experiment.reference]
    return (
        f"- {experiment.question} Against {reference}: {'; '.join(parts)}.{_also(experiment, labels, rows)} "
        f"n = {seeds} seeds. `python -m utils.scripts.experiments {experiment.name}{option} --output runs/again`"
    )


def _also(experiment: Any, labels: dict[str, str], rows: Sequence[Row]) -> str:
    if experiment.also is None:
        return ""
    name, write = ALSO[experiment.also]
    means = {arm: by_seed(rows, arm, experiment.also) for arm in (experiment.reference, *experiment.arms)}
    shown = [f"{labels[arm]} {write(statistics.fmean(m.values()))}" for arm, m in means.items() if m]
    return f" {name.capitalize()}: {', '.join(shown)}." if shown else ""


def agreement(rows: Sequence[Row], reference: Sequence[Row], metric: str = "strict") -> str:
    """One sentence on runs made again: how many gave the reference's value, and the largest difference."""
    there = {(row["arm"], row["seed"], row["settings"]): row[metric] for row in reference}
    gaps = [abs(row[metric] - there[k]) for row in rows if (k := (row["arm"], row["seed"], row["settings"])) in there]
    if not gaps:
        return "none of these runs is among the reference's"
    return (
        f"{sum(gap == 0 for gap in gaps)} of {len(gaps)} runs give the reference's {metric} rate, "
        f"the largest difference is {100 * max(gaps):.1f} points"
    )


CONCLUSIONS = (  # tests/test_experiments.py asks the recorded rows whether they still hold
    "The profile `tiny` takes its step of 16, its rate and its temperature from an arm of `together` that was better "
    "than the default, and makes four times as many completions. At that length neither larger steps nor another "
    "temperature nor another fall of the rate was seen to differ, so the early lead decides. The weight of the format "
    "stays at 0.2, although 0.5 was better here: at tiny's full length the layout is complete (README), and a lower "
    "weight keeps being right above looking right.",
    "For `t4`, inference and not measurement: what ruined runs was a cap that cuts answers off, a learning rate some "
    "times too high, and pay for the layout alone, so these deserve the first look; a small KL term or another "
    "averaging of the loss was not seen to repay an expensive run. Layout and maths are learnt at different speeds: "
    "log both.",
)


def write_findings(folder: str | Path = REFERENCE_RUNS) -> Path:
    """Write FINDINGS.md from a folder's rows: beside it for the reference runs, inside it for others."""
    folder = Path(folder).resolve()
    text = page(list(EXPERIMENTS.values()), LABELS, stored(folder), read_provenance(folder), CONCLUSIONS)
    return write_text((folder.parent if folder == REFERENCE_RUNS else folder) / "FINDINGS.md", text)


def _printer() -> Callable[[int, int, Row | None], None]:
    start, first = time.perf_counter(), 0

    def progress(done: int, total: int, row: Row | None) -> None:
        nonlocal first
        if row is None:
            first = done
            print(f"{total} runs, {done} of them done already", flush=True)
            return
        left = (time.perf_counter() - start) / (done - first) * (total - done) / 60
        print(
            f"{done:4d}/{total}  {row['arm']:18s} seed {row['seed']}  strict {100 * row['strict']:5.1f}%  "
            f"{row['train_seconds']:5.1f} s  about {left:.0f} min left",
            flush=True,
        )

    return progress


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.scripts.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(EXPERIMENTS)}; all unless given")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"seeds 0 to N-1 (default {SEEDS})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="J", help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=REFERENCE_RUNS, metavar="DIR", help="where the rows are kept")
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.names) - EXPERIMENTS.keys()):
        parser.error(f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    if args.seeds < 1 or args.jobs < 1:
        parser.error(f"--seeds and --jobs must be at least 1, got {args.seeds} and {args.jobs}")
    chosen = [EXPERIMENTS[name] for name in args.names or EXPERIMENTS]
    rows = run(chosen, range(args.seeds), args.output, args.jobs, _printer())
    if args.output.resolve() != REFERENCE_RUNS and (REFERENCE_RUNS / "runs.csv").exists():
        print(agreement(rows, read_runs(REFERENCE_RUNS)))
    print(f"the findings are in {write_findings(args.output)}")


if __name__ == "__main__":
    main()
