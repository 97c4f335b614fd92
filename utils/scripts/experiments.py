"""Run the experiments and write what came of them: FINDINGS.md and its picture, findings.png.

    python -m utils.scripts.experiments                              run all that are missing, and write the findings
    python -m utils.scripts.experiments group_size kl --seeds 3      only these, with seeds 0, 1, 2
    python -m utils.scripts.experiments kl --output runs/again       the same runs once more, somewhere else

Stopped at any time, the same command goes on with the runs that are missing.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from utils.experiments.catalogue import EXPERIMENTS, LABELS, REFERENCE_RUNS, SEEDS, run, stored
from utils.experiments.findings import (
    WORDS,
    Row,
    by_seed,
    comparisons,
    forest,
    gaps_by_seed,
    paired,
    points,
    survives,
    verdict,
)
from utils.experiments.grid import read_provenance, read_runs
from utils.files import write_bytes, write_text
from utils.plots import png
from utils.stats import interval

COMMAND = "python -m utils.scripts.experiments"
NO_BREAK = "\N{NO-BREAK SPACE}"
ALSO = {  # how a further column is written
    "dead": ("dead groups", lambda value: f"{100 * value:.0f}%"),
    "format": ("format", lambda value: f"{100 * value:.0f}%"),
    "tokens": ("tokens per answer", lambda value: f"{value:.0f}"),
}

# ------------------------------------------------------------------------------------------------ the page


def page(
    experiments: Sequence[Any],
    labels: dict[str, str],
    rows: Sequence[Row],
    facts: dict[str, Any],
    picture: str,
    conclusions: Sequence[str] = (),
) -> str:
    """The findings in Markdown, worded by the numbers alone: what was measured, a picture, a table, the commands.

    Args:
        experiments: of utils/experiments/catalogue.py.
        labels: arm name -> what the page calls it.
        rows: of these experiments' arms.
        facts: provenance.json of their folder.
        picture: where the page finds the forest plot.
        conclusions: what to conclude, a paragraph each; the part is left out where there is none.
    """
    made = comparisons(experiments, rows)
    lines = ["# Findings", "", *_head(rows, facts)]
    if conclusions:
        lines += ["", "## What to conclude", "", *(f"{k}. {text}" for k, text in enumerate(conclusions, start=1))]
    alternative = "Forest plot: every arm's difference in strict accuracy with its 95% interval, question by question"
    lines += ["", "## Every difference", "", *_reading(made, rows), "", f"![{alternative}]({picture})", ""]
    lines += ["| question, and its arms | difference | 95% interval | verdict | also |", "|---|--:|:-:|---|--:|"]
    lines += [line for experiment in experiments for line in _table(experiment, labels, rows, len(made))]
    lines += ["", "## Again", "", "The rows of one question once more, compared with these:", "", "```bash"]
    lines += [f"{COMMAND} {e.name}{_seeds_option(e, rows)} --output runs/again" for e in experiments]
    return "\n".join([*lines, "```"]) + "\n"


def _head(rows: Sequence[Row], facts: dict[str, Any]) -> list[str]:
    arms, seeds = ({row[name] for row in rows} for name in ("arm", "seed"))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    start = list(by_seed(rows, "default").values())
    spread = ""
    if len(start) > 1:
        found = interval(start)
        spread = (
            f" The default reaches {100 * found.mean:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}] "
            f"over {found.n} seeds, from {100 * min(start):.1f} to {100 * max(start):.1f}%; leniently "
            f"{100 * fmean(by_seed(rows, 'default', 'lenient').values()):.1f}%."
        )
    return [
        "Which settings of GRPO matter on the tiny model? Short trainings, each beside its reference: "
        f"{len(rows)} runs of {len(arms)} arms over {len(seeds)} seeds.",
        "",
        f"- **Measured:** strict accuracy (the right number in the layout asked for) on {facts['held_out']} held-out "
        f"questions, greedy; untrained it is {100 * facts['untrained']['strict']:.1f}%.{spread}",
        f"- **The default:** {', '.join(f'{name} {value:g}' for name, value in facts['start'].items())}.",
        f"- **Made on** {facts['machine']}, one thread a run, with {versions}.",
    ]


def _reading(made: Sequence[tuple[Any, str]], rows: Sequence[Row]) -> list[str]:
    strict, lenient = (
        sum(verdict(paired(rows, arm, e.reference, metric)) != WORDS[2] for e, arm in made)
        for metric in ("strict", "lenient")
    )
    return [
        "Each number is the mean difference to the question's reference in percentage points, paired by seed, "
        f"with its 95% t interval; n = {SEEDS} seeds unless it says otherwise.",
        f"Of {len(made)} intervals {strict} leave out 0, and {lenient} under the lenient reading, which forgives the "
        f"layout; about {0.05 * len(made):.1f} would if nothing made any difference. Those in bold, filled in the "
        f"picture, still do at the level {100 * (1 - 0.05 / max(1, len(made))):.2f}% (Bonferroni).",
        "The last column is what a question is about besides accuracy; beside the question stands its reference's.",
    ]


def _table(experiment: Any, labels: dict[str, str], rows: Sequence[Row], asked: int) -> list[str]:
    """A line of the table for the experiment's question, with what its reference has, and one for each arm."""
    also = _also(experiment, experiment.reference, rows)
    name = f"{ALSO[experiment.also][0]} {also}" if also else ""
    lines = [(f"_{experiment.question}_ `{experiment.name}`", "", "", "", name)]
    for arm in experiment.arms:
        lines.append((labels[arm], *_cells(rows, arm, experiment.reference, asked), _also(experiment, arm, rows)))
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _cells(rows: Sequence[Row], arm: str, reference: str, asked: int) -> list[str]:
    """Difference, interval and verdict of one arm, none of which breaks over lines."""
    if len(gaps_by_seed(rows, arm, reference)) < 2:
        return ["", "", "not measured"]
    found = paired(rows, arm, reference)
    mean, bounds = points(found).split(" ", 1)
    bounds += "" if found.n == SEEDS else f", n = {found.n}"
    mark = "**" if survives(rows, arm, reference, asked) else ""
    return [f"{mark}{cell}{mark}".replace(" ", NO_BREAK) for cell in (mean, bounds, verdict(found))]


def _also(experiment: Any, arm: str, rows: Sequence[Row]) -> str:
    """One arm's mean of the experiment's further column; nothing where there is none."""
    values = by_seed(rows, arm, experiment.also).values() if experiment.also else ()
    return ALSO[experiment.also][1](fmean(values)) if values else ""


def _seeds_option(experiment: Any, rows: Sequence[Row]) -> str:
    """What the command needs where the arms have not the usual number of seeds in common with their reference."""
    counts = [len(gaps_by_seed(rows, arm, experiment.reference)) for arm in experiment.arms]
    return "" if max(counts) in (0, SEEDS) else f" --seeds {max(counts)}"


# ------------------------------------------------------------------------------------------ what to conclude

CONCLUSIONS = (  # tests/experiments/test_script.py asks the recorded rows whether each still holds
    "**One run proves little.** The default alone ends between {least[default]:.1%} and {most[default]:.1%}, for "
    "no other cause than the seed. A change that is tried once and gains less than these {spread:.1f} points has "
    "shown nothing.",
    "**Three things ruin a run:** a token cap that cuts answers off in training (24 tokens: {gap[cap_24]:+.1f} "
    "points), pay for the layout alone ({gap[format_only]:+.1f}), and a learning rate four times the default's "
    "({gap[lr_0.008]:+.1f}). The first two survive Bonferroni, the third is worse at 95% only. No other mean "
    "difference is beyond {rest:.1f} points.",
    "**What is better here is better laid out.** For each of the {better} arms that beat the default at 95%, no "
    "difference is seen once the layout is forgiven. None of the {better} survives Bonferroni: they are hints that "
    "deserve more seeds.",
    "**Rewards decide whether the layout comes along.** Of the greedy answers {format[correctness_only]:.0%} have it "
    "after pay for correctness alone, {format[default]:.0%} with 0.2 for the format, {format[format_0.5]:.0%} with 0.5 "
    "and {format[classic]:.0%} under the classic set. By the lenient reading the four lie between {low_lenient:.1%} "
    "and {high_lenient:.1%}.",
    "**No difference seen is a result.** The size of the groups, a KL term, `dr_grpo`, GSPO, another scaling of the "
    "advantages, another order of the questions: none was seen to matter in runs this short. Nor is any shown not to: "
    "half of the intervals reach {half:.1f} points or more to either side, and a smaller effect is easily missed.",
    "**The placebo did nothing.** `dapo` in 4 passes is the default with its sums rounded in another order, and every "
    "seed ends at the same accuracy. What moved in the other arms was moved by their settings, if only onto another "
    "path of the sampling.",
    "**Dead groups are a symptom, not a verdict.** {dead[temperature_0.5]:.0%} of the groups taught nothing at "
    "temperature 0.5, against {dead[default]:.0%} by default, and yet it ends better ({gap[temperature_0.5]:+.1f}, at "
    "95% only). To leave such questions out beforehand was not seen to help ({gap[with_spread]:+.1f}). It "
    "took {wait:.1f} seconds of sampling a run, and {dead[with_spread]:.0%} of the groups are dead all the same: one "
    "that is alive at the start may be dead some steps later, because every completion is right.",
    "**A mean can hide an accident.** Of the runs with 8 completions a step one ends at {least[step_8]:.1%}: it lost "
    "the layout, hardly the maths; the best reaches {most[step_8]:.1%}. At half the rate the worst ends at "
    "{least[step_8_lr_0.001]:.1%}. One run of rank 64 ends at {least[rank_64]:.1%}, the next at {second:.1%}.",
    "**Gains do not add up.** Temperature 0.5 alone {gap[temperature_0.5]:+.1f}, 16 completions a step alone "
    "{gap[step_16]:+.1f}, both at once {gap[t0.5_16_0.002]:+.1f}: what is mended once cannot be mended again.",
    "**Some settings cannot differ by construction.** In one pass a step `bnpo` is `dapo`; with one update for each "
    "batch the ratio is 1, so that nothing is clipped, and the sequence's ratio has the same gradient as the tokens'. "
    "That is why `bnpo` runs in 4 passes here, and why GSPO and its reference use every batch twice.",
    "**Early is not late.** At four times the length all arms lie between {low_long:.1%} and {high_long:.1%}, every "
    "answer is laid out, and no difference is seen. The profile `tiny` therefore takes its step, rate and temperature "
    "from an arm that was ahead early ({gap[t0.7_16_0.002]:+.1f}, at 95% only), and keeps 0.2 for the format, although "
    "0.5 was ahead early too ({gap[format_0.5]:+.1f}, at 95% only). A comparison made early says how soon, one made "
    "late how far.",
    "**For any other model these are hypotheses, not measurements.** This one has 0.9 million parameters, and its "
    "questions come from templates. On a larger one the cap, the learning rate and pay for the layout deserve the "
    "first look; a small KL term was not seen to repay an expensive run. And log layout and maths apart, for they are "
    "learnt at different speeds.",
)


def conclude(rows: Sequence[Row]) -> list[str]:
    """`CONCLUSIONS` with the numbers of these rows, which hold every arm."""
    arms = {row["arm"] for row in rows}
    made = comparisons(list(EXPERIMENTS.values()), rows)
    found = [paired(rows, arm, experiment.reference) for experiment, arm in made]
    gap = {arm: 100 * paired(rows, arm, "default").mean for arm in arms}
    ruined = ("cap_24", "format_only", "lr_0.008")
    means = {
        metric: {arm: fmean(by_seed(rows, arm, metric).values()) for arm in arms}
        for metric in ("strict", "lenient", "format", "dead")
    }
    lenient = [means["lenient"][arm] for arm in ("correctness_only", "default", "format_0.5", "classic")]
    long = [means["strict"][arm] for arm in ("long", *EXPERIMENTS["full_length"].arms)]
    least, most = ({arm: pick(by_seed(rows, arm).values()) for arm in arms} for pick in (min, max))
    numbers = {
        "spread": 100 * (most["default"] - least["default"]),
        "rest": max(100 * abs(f.mean) for f, (_, arm) in zip(found, made, strict=True) if arm not in ruined),
        "better": sum(verdict(f) == WORDS[0] for f in found),
        "wait": fmean(by_seed(rows, "with_spread", "prepare_seconds").values()),
        "second": sorted(by_seed(rows, "rank_64").values())[1],
        "half": median(100 * (f.high - f.mean) for f in found),
        "low_lenient": min(lenient),
        "high_lenient": max(lenient),
        "low_long": min(long),
        "high_long": max(long),
    }
    return [text.format(**numbers, **means, gap=gap, least=least, most=most) for text in CONCLUSIONS]


# ----------------------------------------------------------------------------------------------- the command


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


def write_findings(folder: str | Path = REFERENCE_RUNS) -> Path:
    """Write FINDINGS.md and findings.png from a folder's rows, and return where the page is.

    For the reference runs the page stands beside the folder and the picture in assets/figures. For other runs both
    stand in the folder, and the page shows what was asked there and draws no conclusions: those are about the
    reference runs.
    """
    folder = Path(folder).resolve()
    rows, everything, sentences = stored(folder), list(EXPERIMENTS.values()), []
    asked = [e for e in everything if any(gaps_by_seed(rows, arm, e.reference) for arm in e.arms)]
    made, target, picture = comparisons(asked, rows), folder / "FINDINGS.md", folder / "findings.png"
    if folder == REFERENCE_RUNS:
        target, picture = folder.parent / "FINDINGS.md", folder.parents[1] / "figures" / "findings.png"
        sentences = conclude(rows) if len(made) == sum(len(e.arms) for e in everything) else []
    write_bytes(picture, png(forest(rows, LABELS, asked, len(made)), dpi=220))
    link = Path(os.path.relpath(picture, target.parent)).as_posix()
    return write_text(target, page(asked, LABELS, rows, read_provenance(folder), link, sentences))


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
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
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
