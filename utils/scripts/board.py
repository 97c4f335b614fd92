"""A board of rewards for a room: each file in a folder checked, benched, trained briefly and ranked.

    DIR/*.py          rewards, as the Reward Lab's Export writes them and `run.py train --reward` takes them
    DIR/board.jsonl   what was measured, one line for each file (by its hash) and seed
    DIR/board.html    the same for a projector; it loads nothing and reloads itself while trainings run

All files start from the same adapter and see the same questions, and each runs in a process of its own: what one does
to Python, or to itself, touches no other. One that cannot serve, hangs or exits is a line with its reason. The lesson
is in the second seed: call it again with `--seed 1` and see what of the order is left.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import html
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utils.experiments import short_run
from utils.files import append_jsonl, in_use, portable, read_jsonl, sha256, write_text
from utils.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, new_axes, png
from utils.rewards.bank import lights, load_bank, rescore
from utils.rewards.bench import GRACE_S, LIMIT_S, bench, check_rewards
from utils.rewards.functions import LOAD_LIMIT_S, RewardFunction, total_reward
from utils.stats import percent

RECORD, PAGE = "board.jsonl", "board.html"
STEP_LIMIT_S = 300.0  # without a sign of life: a step, an evaluation, the import of torch; each takes seconds as a rule
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)  # of the seeds
STYLE = """
body { font: 20px/1.4 system-ui, sans-serif; margin: 1.5rem 2rem; color: #1b1b1b; } h1 { margin: 0 0 .5rem; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child { min-width: 9rem; } td:first-child, td:last-child { white-space: normal; overflow-wrap: anywhere; }
td:first-child { max-width: 14rem; } img { max-width: 100%; height: auto; }
p.lesson { font-size: 1.2em; max-width: 60rem; }
"""

Tell = Callable[..., None]


@dataclass(frozen=True)
class Entry:
    """A file on the board: what each seed gave, or why it could not be trained."""

    name: str
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    problem: str = ""

    def strict(self, seed: int) -> float | None:
        """Its strict accuracy after the training with this seed, a share; None where there was none."""
        return self.results[seed]["strict"]["rate"] if seed in self.results else None


class Unfit(Exception):
    """A file that cannot be put on the board; the message says why."""


def board(folder: str | Path, seed: int = 0, tell: Tell = print) -> list[Entry]:
    """Judge every reward file in a folder with one seed, print the board and write it beside the files.

    Args:
        folder: holds files that end in .py; those whose name begins with a dot or an underscore are left out.
        tell: called with a line that says where it stands, and with `end="\\n"` for lines that stay.
    Returns:
        The entries, best first.
    Raises:
        ValueError: no such files, or a damaged record.
        InUse: another process works there.
        KeyboardInterrupt: passed on, once what is finished is printed; it is stored already.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.glob("*.py") if path.name[0] not in "._")
    if not paths:
        raise ValueError(f"{folder} holds no .py file; put rewards there, as the Reward Lab's Export writes them")
    with in_use(folder):
        problems: dict[str, str] = {}
        new = [path for path in paths if seed not in results_of(folder, path)]
        if new:
            print(
                f"{len(new)} of {len(paths)} files are run now, with seed {seed}. They are Python and do on this "
                f"machine what you may do, so read them before: {', '.join(path.name for path in new)}",
                flush=True,
            )
        try:
            for path in new:
                write_page(folder, entries_of(folder, paths, problems), running=True)
                judge(folder, path, seed, problems, tell)
        finally:
            entries = entries_of(folder, paths, problems)
            page = write_page(folder, entries)
            print(f"\n{text_of(entries)}\n\nFor the projector: {page}", flush=True)
    return entries


def judge(folder: Path, path: Path, seed: int, problems: dict[str, str], tell: Tell) -> None:
    """Train one file and store what it gave, or note why not; nothing where its twin was trained meanwhile."""
    if seed in results_of(folder, path):
        return
    start = time.perf_counter()
    try:
        key = {"sha256": sha256(path), "seed": seed, "settings": settings()}
        row = judged_apart(path, seed, lambda doing: tell(f"{path.name}: {doing}"))
        row["seconds"] = round(time.perf_counter() - start, 1)
        append_jsonl(folder / RECORD, [key | row])
        said = f"strict {percent(row['strict'])}"
    except (Unfit, OSError) as error:
        said = problems[path.name] = str(error)
    tell(f"{path.name}: {said}; {time.perf_counter() - start:.0f} s", end="\n")


# --------------------------------------------------------------------------------------- one file, in its own process


def judged_apart(path: Path, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """What `_measured` returns, from a process that can be ended whatever holds it.

    Raises:
        Unfit: the file cannot serve, raises in the training, hangs or ends the process.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_judge, args=(path, seed, theirs))
    worker.start()
    theirs.close()
    doing, limit_s, found = "starting Python", STEP_LIMIT_S, "hangs; look for a loop without end"
    try:
        while ours.poll(limit_s + GRACE_S):
            said = ours.recv()
            if isinstance(said, dict):
                return said
            if isinstance(said, str):
                raise Unfit(said.removeprefix(f"{path}: "))
            doing, limit_s = said
            tell(doing)
    except EOFError:
        found = "ends the whole process; take out what exits"
    finally:
        worker.kill()
        worker.join()
    raise Unfit(f"{doing} {found}")


def _judge(path: Path, seed: int, pipe: Any) -> None:
    """Send (what begins now, seconds until the next word) again and again, then what was measured or why nothing."""
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            pipe.send(_measured(path, seed, lambda doing, limit_s: pipe.send((doing, limit_s))))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        pipe.send(str(error) if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: {error}")


def _measured(path: Path, seed: int, say: Callable[[str, float], None]) -> dict[str, Any]:
    """Check, bench and train the rewards of a file."""
    say("loading it", LOAD_LIMIT_S)
    rewards = check_rewards(path, lambda name: say(f"checking {name}", LIMIT_S))
    say("benching it", 2 * LIMIT_S)
    as_trl_does = {_on_messages(function): weight for function, weight in rewards.items()}
    bank, rows = load_bank(), bench(functools.partial(total_reward, rewards=as_trl_does))
    scores = rescore(bank, list(as_trl_does), list(as_trl_does.values()))
    say("starting the training", STEP_LIMIT_S)
    run = short_run.short_run(
        rewards, lambda history, steps: say(f"seed {seed}, step {len(history)} of {steps}", STEP_LIMIT_S), seed
    )
    return {
        "functions": {function.__name__: weight for function, weight in rewards.items()},
        "bench": [sum(row.passed for row in rows), len(rows)],
        "dead": scores.dead_share,
        "lights": [light.name for light in lights(bank, scores) if light.lit],
        "reward": [run.history[0]["reward"], run.history[-1]["reward"]],
        "untrained": run.before["strict"],
        "strict": run.after["strict"],
    }


def _on_messages(function: RewardFunction) -> RewardFunction:
    """The reward with texts passed as TRL passes them: a file need not understand anything else."""

    @functools.wraps(function)
    def reward(completions: list[str], **columns: Any) -> list[float]:
        return function(completions=[[{"role": "assistant", "content": text}] for text in completions], **columns)

    return reward


# ------------------------------------------------------------------------------------------------------- the record


@functools.cache
def settings() -> str:
    """A hash of what a result depends on beside file and seed: numbers of the training, questions, weights."""
    profile = dataclasses.asdict(short_run.PROFILE)
    weights = sha256(Path(profile["model"]) / "model.safetensors")
    profile["model"] = portable(profile["model"])
    definition = [profile, short_run.HELD_OUT, weights]
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:12]


def results_of(folder: Path, path: Path) -> dict[int, dict[str, Any]]:
    """{seed: what it gave} of a file, by its content; none for one that cannot be read."""
    record = folder / RECORD
    try:
        rows = read_jsonl(record) if record.is_file() else []
        digest = sha256(path)
        return {row["seed"]: row for row in rows if row["sha256"] == digest and row["settings"] == settings()}
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record} is damaged ({error}); move it away, and the files are trained again") from error


def entries_of(folder: Path, paths: Sequence[Path], problems: dict[str, str]) -> list[Entry]:
    """The board: best of the first seed first, then what has no result yet, then what cannot serve."""
    entries = [Entry(path.stem, results_of(folder, path), problems.get(path.name, "")) for path in paths]
    seeds = seeds_of(entries)

    def order(entry: Entry) -> tuple:
        rates = [entry.strict(seed) for seed in seeds]
        return not entry.results, bool(entry.problem), [1.0 if rate is None else -rate for rate in rates], entry.name

    return sorted(entries, key=order)


def seeds_of(entries: Sequence[Entry]) -> list[int]:
    """The seeds that any entry was trained with, ascending."""
    return sorted({seed for entry in entries for seed in entry.results})


def places(entries: Sequence[Entry], seed: int) -> dict[str, int]:
    """The place of each entry that was trained with a seed, 1 is best; equals share a place.

    >>> at = lambda rate: {0: {"strict": {"rate": rate}}}
    >>> places([Entry("a", at(0.7)), Entry("b", at(0.8)), Entry("c", at(0.7)), Entry("d")], seed=0)
    {'a': 2, 'b': 1, 'c': 2}
    """
    rates = {entry.name: rate for entry in entries if (rate := entry.strict(seed)) is not None}
    return {name: 1 + sum(other > rate for other in rates.values()) for name, rate in rates.items()}


# ------------------------------------------------------------------------------------------------------- what is said


def lesson(entries: Sequence[Entry]) -> str:
    """How the order changed from each seed to the next, in sentences; for one seed what it does not say."""
    seeds = seeds_of(entries)
    if not seeds:
        return ""
    if len(seeds) == 1:
        return (
            f"This is one seed. The intervals cover the choice of questions, not the luck of the training: train again "
            f"with --seed {seeds[0] + 1} before you believe the order."
        )
    return " ".join(_change(entries, *pair) for pair in itertools.pairwise(seeds))


def _change(entries: Sequence[Entry], first: int, second: int) -> str:
    both = [entry for entry in entries if {first, second} <= entry.results.keys()]
    if len(both) < 2:
        return f"Seeds {first} and {second} have fewer than two files in common, so no order to compare."
    before, after = places(both, first), places(both, second)
    pairs = list(itertools.combinations(before, 2))
    turned = sum((before[a] - before[b]) * (after[a] - after[b]) < 0 for a, b in pairs)
    moved = [f"{name} from {before[name]} to {after[name]}" for name in before if before[name] != after[name]]
    told = f"From seed {first} to seed {second}, {turned} of {len(pairs)} pairs of rewards turned round"
    told += f" (place of {', '.join(moved)})." if moved else "; every reward kept its place."
    own = max(both, key=lambda e: abs(e.strict(second) - e.strict(first)))
    shift = 100 * abs(own.strict(second) - own.strict(first))
    best, next_best = sorted((entry.strict(first) for entry in both), reverse=True)[:2]
    return (
        f"{told} {own.name} alone moved by {shift:.1f} points between these seeds; the first two of seed {first} "
        f"are {100 * (best - next_best):.1f} points apart."
    )


def table_of(entries: Sequence[Entry]) -> list[list[str]]:
    """Head and rows of the board; a row without results is a name and a sentence."""
    seeds = seeds_of(entries)
    ranks = {seed: places(entries, seed) for seed in seeds}
    head = [
        "reward",
        "bench",
        "dead",
        *(f"strict, seed {seed}" for seed in seeds),
        "its own reward",
        "seconds",
        "lights",
    ]
    return [head, *(_cells(entry, seeds, ranks) for entry in entries)]


def _cells(entry: Entry, seeds: Sequence[int], ranks: dict[int, dict[str, int]]) -> list[str]:
    if not entry.results:
        return [entry.name, f"not trained: {entry.problem}" if entry.problem else "waits"]
    results = [entry.results[seed] for seed in seeds if seed in entry.results]
    row = results[0]
    strict = [
        f"{ranks[seed][entry.name]}. {percent(entry.results[seed]['strict'])}" if seed in entry.results else ""
        for seed in seeds
    ]
    rises = ", ".join(f"{first:.2f} to {last:.2f}" for first, last in (each["reward"] for each in results))
    seconds = ", ".join(f"{each['seconds']:.0f}" for each in results)
    says = ", ".join(row["lights"]) + (f"; not trained again: {entry.problem}" if entry.problem else "")
    return [entry.name, f"{row['bench'][0]} of {row['bench'][1]}", f"{row['dead']:.0%}", *strict, rises, seconds, says]


def heading(entries: Sequence[Entry]) -> str:
    """What was measured, and where the untrained model stands."""
    untrained = next((row["untrained"] for entry in entries for row in entry.results.values()), None)
    told = f"The tiny model trained for {short_run.PROFILE.steps} steps under each reward"
    if not untrained:
        return f"{told}."
    return f"{told}, then asked {untrained['n']} held-out questions. Untrained: strict {percent(untrained)}."


COLUMNS = (
    "bench: rows of the reward bench in order. dead: groups of the stored bank that it pays all the same. "
    "strict: place, share right and in the layout, 95% interval over the questions. "
    "its own reward: mean of the first and of the last step. lights: what the bank warns of."
)


def text_of(entries: Sequence[Entry]) -> str:
    """The board for a terminal."""
    table = table_of(entries)
    widths = [max(len(row[i]) for row in table if len(row) > i) for i in range(len(table[0]) - 1)]
    widths[1] = max(len(row[1]) for row in table if len(row) > 2)
    lines = ["  ".join(map(str.ljust, row, [*widths[: len(row) - 1], 0])) for row in table]
    return "\n".join([heading(entries), "", *lines, "", COLUMNS, lesson(entries)]).rstrip()


def write_page(folder: Path, entries: Sequence[Entry], running: bool = False) -> Path:
    """Write board.html; while trainings run it reloads itself."""
    head, *rows = [[html.escape(cell) for cell in row] for row in table_of(entries)]
    reload = "<meta http-equiv='refresh' content='5'>" if running else ""
    picture = ""
    if seeds_of(entries):
        data = base64.b64encode(png(figure_of(entries))).decode()
        picture = f"<p><img alt='strict accuracy of each reward and seed' src='data:image/png;base64,{data}'></p>"
    body = [
        f"<h1>Board of rewards</h1><p>{html.escape(heading(entries))}</p>",
        f"<table><thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead><tbody>",
        *(f"<tr>{_td(row, len(head))}</tr>" for row in rows),
        f"</tbody></table><p class='lesson'>{html.escape(lesson(entries))}</p>{picture}<p>{html.escape(COLUMNS)}</p>",
    ]
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>{reload}"
        f"<title>Board of rewards</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>"
    )
    return write_text(folder / PAGE, page)


def _td(row: Sequence[str], columns: int) -> str:
    """The cells of a row, of which the last one fills the line."""
    fills = f" colspan='{columns - len(row) + 1}'" if len(row) < columns else ""
    return "".join(f"<td>{cell}</td>" for cell in row[:-1]) + f"<td{fills}>{row[-1]}</td>"


def figure_of(entries: Sequence[Entry]) -> Figure:
    """Strict accuracy with its interval, a line for each reward and a colour for each seed."""
    shown, seeds = [entry for entry in entries if entry.results], seeds_of(entries)
    figure = Figure(figsize=(10, 1.4 + (0.3 + 0.16 * len(seeds)) * len(shown)), layout="constrained")
    axes = new_axes(figure, title="", x="strict accuracy on held-out questions, 95% interval [%]", y="", grid="x")
    for i, seed in enumerate(seeds):
        rates = {line: e.results[seed]["strict"] for line, e in enumerate(shown) if seed in e.results}
        ends = [
            [100 * (r["rate"] - r["low"]) for r in rates.values()],
            [100 * (r["high"] - r["rate"]) for r in rates.values()],
        ]
        height = [line + (i - (len(seeds) - 1) / 2) * 0.5 / len(seeds) for line in rates]
        colour, label = COLOURS[i % len(COLOURS)], f"seed {seed}"
        means = [100 * r["rate"] for r in rates.values()]
        axes.errorbar(means, height, xerr=ends, fmt="o", color=colour, capsize=4, markersize=8, label=label)
    untrained = next(row["untrained"] for entry in shown for row in entry.results.values())
    axes.axvline(100 * untrained["rate"], color=GREY, linestyle="--", label="untrained")
    axes.set_yticks(range(len(shown)), [entry.name.replace("$", r"\$") for entry in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    figure.legend(loc="outside upper right", ncols=len(seeds) + 1, frameon=False)
    return figure
