"""The commands of run.py: their options, and what they do once the environment is set up.

    python -m utils.scripts.commands [train | evaluate | compare | score | notebooks | workshop] …

Without a command: the whole series.

The standard library is enough to import this module and to check a command line, which run.py does before anything is
installed. Each command imports what it needs.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import re
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.files import IN_USE, NO_ROOM, ROOT, InUse, in_use, read_json, read_jsonl, write_bytes, write_json, write_text
from utils.model.profiles import PROFILES, find_model, get_profile
from utils.setup import PYTHONS, rank

POSITIONALS = {"compare": ("base", "trained"), "score": ("folder",)}  # commands that need numpy and no model
FULL = (
    "No space left",
    "File too large",
    "Disk quota",
    "inline_container",
    "PytorchStreamWriter",
)  # as libraries say it
EMBEDDED = {"GRPO_PROFILE": "tiny", "GRPO_MODEL": ""}  # what the whole series and the committed notebooks run on
NAME_BYTES = 255  # of a file or folder, on all usual file systems

# -------------------------------------------------------------------------------------------------- options


def absolute(text: str) -> str:
    """Absolute form of a path that a file system can hold; nothing has to be there."""
    path, named = os.path.abspath(text), repr(text if len(text) < 80 else f"{text[:80]}…")
    try:
        path.encode("utf-8")  # as the records of a run are written
        os.lstat(os.path.join(path, "x" * 100))  # with room for the names below it
    except (FileNotFoundError, NotADirectoryError):
        pass
    except UnicodeEncodeError:
        raise ArgumentTypeError(
            f"{named} is no text in UTF-8; give a path that is, or, if this one is, set PYTHONUTF8=1"
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ArgumentTypeError(f"{named} cannot be used: {why}; give another path") from None
    if (longest := max((len(os.fsencode(name)) for name in Path(path).parts), default=0)) > NAME_BYTES:
        raise ArgumentTypeError(f"{named} holds a name of {longest} bytes; give one of at most {NAME_BYTES}")
    return path


def output_folder(text: str) -> str:
    """Absolute path of a folder that exists or can be made."""
    if not text.strip():
        raise ArgumentTypeError("'' is no folder; give one, for example runs/mine")
    path = Path(absolute(text))
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not nearest.exists():
        raise ArgumentTypeError(
            f"{str(nearest)!r} is a link to nothing; make what it points to, or give another folder"
        )
    if not nearest.is_dir():
        raise ArgumentTypeError(f"{str(nearest)!r} is a file; give the name of a folder")
    if not os.access(nearest, os.W_OK):
        raise ArgumentTypeError(f"cannot write in {str(nearest)!r}; give a folder you may write to")
    return str(path)


def existing_folder(text: str) -> str:
    """Absolute path of a folder that is there."""
    path = absolute(text)
    if not text.strip() or not os.path.isdir(path):
        raise ArgumentTypeError(f"there is no folder {text!r} (looked from {os.getcwd()}); check the path")
    return path


def existing_file(text: str) -> str:
    """Absolute path of a file that is there and can be read."""
    path = absolute(text)
    if text.strip() and os.path.isdir(path):
        raise ArgumentTypeError(f"{text!r} is a folder; give a file inside it")
    if not os.path.isfile(path):
        raise ArgumentTypeError(f"there is no file {text!r} (looked from {os.getcwd()}); check the path")
    if not os.access(path, os.R_OK):
        raise ArgumentTypeError(f"the file {text!r} cannot be read; check its permissions")
    return path


def model(text: str) -> str:
    """Absolute path of a model, or its hub name."""
    try:
        return find_model(text)
    except (ValueError, OSError) as error:
        raise ArgumentTypeError(str(error)) from None


def whole_number(least: int, most: int | None = None):
    """Argument type: an integer from `least` to `most`."""
    span = f"from {least} to {most}" if most else f"of at least {least}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most and value > most):
            raise ArgumentTypeError(f"{text!r} is not a whole number {span}; try {least + 20}")
        return value

    return parse


def learning_rate(text: str) -> float:
    """Argument type: a number above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1; try 1e-4")
    return value


def python_versions(text: str) -> str:
    """Argument type: Python versions that the pins have wheels for, with commas."""
    (major, oldest), (_, newest) = PYTHONS
    known = [f"{major}.{minor}" for minor in range(oldest, newest + 1)]
    if not all(version in known for version in text.split(",")):
        raise ArgumentTypeError(
            f"{text!r} is no list of {', '.join(known)}; give one, for example {known[0]},{known[1]}"
        )
    return text


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="run.py",
        description="GRPO on grade-school maths. Without a command: set up .venv, run the whole series on "
        "the embedded tiny model and leave notebooks, adapter, summary.json and report.html in runs/latest/.",
        epilog="'run.py COMMAND -h' shows a command's options.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, summary: str, example: str | None = None) -> ArgumentParser:
        epilog = f"example: python3 run.py {name} {example}" if example else None
        return commands.add_parser(name, help=summary, description=summary, epilog=epilog, allow_abbrev=False)

    def add_profile(command: ArgumentParser) -> None:
        where = (
            "tiny: embedded model, any CPU, no network. laptop: Qwen2.5-0.5B-Instruct, CPU or Apple GPU. "
            "t4, l4, a100: Qwen2.5-3B-Instruct on that GPU, with the packages of requirements.txt"
        )
        command.add_argument("--profile", required=True, choices=tuple(PROFILES), metavar="P", help=where)
        command.add_argument(
            "--model",
            type=model,
            metavar="M",
            help="folder, .gguf file or hub name, in the place of the profile's model; default: GRPO_MODEL, if set",
        )
        command.add_argument(
            "--output", required=True, type=output_folder, metavar="DIR", help="folder for the results"
        )

    test = add("test", "run the tests", "tests/test_run.py -k usage")
    test.add_argument("--fast", action="store_true", help="leave out what trains a model or needs a browser")
    test.add_argument("--engines", action="store_true", help="ask vLLM and 4-bit weights, in .venv-engines (8 GB)")
    test.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="for pytest; paths start at the project root")

    lab = add("lab", "open the notebooks in JupyterLab, on 127.0.0.1 only; Ctrl-C ends it")
    lab.add_argument("--port", type=whole_number(1024, 65535), metavar="N", help="default: 8888 or the next free")
    lab.add_argument("--no-browser", action="store_true", help="print the address, open no browser")

    train = add("train", "train a LoRA adapter with GRPO", "--profile tiny --output runs/mine --seed 1")
    add_profile(train)
    train.add_argument(
        "--dataset",
        choices=("tiny", "gsm8k"),
        metavar="NAME",
        help="tiny, or gsm8k (from the folder in GSM8K_DIR, else the hub); default: the profile's",
    )
    train.add_argument("--seed", type=whole_number(0, 2**32 - 1), metavar="S", help="default: the profile's")
    train.add_argument("--max-steps", type=whole_number(1), metavar="N", help="default: the profile's")
    train.add_argument("--prompts-per-step", type=whole_number(1), metavar="K", help="default: the profile's")
    train.add_argument("--learning-rate", type=learning_rate, metavar="R", help="its peak; default: the profile's")
    train.add_argument(
        "--adapter",
        type=existing_folder,
        metavar="DIR1",
        help="begin with this trained adapter, as a run of its own; default: a fresh one",
    )
    train.add_argument("--resume", action="store_true", help="start, or go on from the last checkpoint in DIR")
    train.add_argument(
        "--mirror",
        type=output_folder,
        metavar="DIR2",
        help="also copy finished checkpoints there; with --resume, bring back what is newer there",
    )
    train.add_argument("--reward", type=existing_file, metavar="FILE", help="Python file with reward functions")
    train.add_argument(
        "--scale-rewards",
        choices=("group", "batch", "none"),
        metavar="S",
        help="whose spread advantages are divided by: the group's (default), that of the whole batch, or none",
    )

    evaluate = add(
        "evaluate",
        "measure a model greedily on questions with known answers",
        "--profile tiny --adapter runs/latest/adapter --output runs/measured",
    )
    add_profile(evaluate)
    evaluate.add_argument("--adapter", type=existing_folder, metavar="DIR", help="default: the base model alone")
    evaluate.add_argument(
        "--base",
        type=existing_folder,
        metavar="DIR",
        help="stored evaluation to compare the adapter with; default: the base model is evaluated too, into DIR/base",
    )
    evaluate.add_argument(
        "--questions",
        type=existing_file,
        metavar="FILE.jsonl",
        help='rows {"question": "...", "answer": "... #### 42"}; default: the test split of the profile',
    )

    compare = add(
        "compare",
        "compare two stored evaluations, question by question; needs no model",
        "runs/measured/base runs/measured",
    )
    compare.add_argument("base", type=existing_folder, metavar="DIR_BASE", help="folder that evaluate left, before")
    compare.add_argument(
        "trained", type=existing_folder, metavar="DIR_TRAINED", help="folder that evaluate left, after"
    )
    compare.add_argument("--output", type=output_folder, metavar="DIR", help="also write DIR/comparison.json")

    score = add(
        "score", "judge stored completions by the present rules and write card.json; needs no model", "runs/measured"
    )
    score.add_argument(
        "folder",
        type=existing_folder,
        metavar="DIR",
        help="holds completions.jsonl; a line needs question, gold and completion",
    )

    notebooks = add(
        "notebooks", "re-execute the committed notebooks on profile tiny, and make those with the solutions"
    )
    notebooks.add_argument("--write", action="store_true", required=True, help="save the outputs in notebooks/")

    workshop = add("workshop", "what a teacher needs: a bundle to install from, a board of rewards", "--board rewards")
    job = workshop.add_mutually_exclusive_group(required=True)
    job.add_argument(
        "--bundle",
        type=output_folder,
        metavar="DIR",
        help="pack the repository and its wheels for Linux, macOS and Windows, to install without a network; goes on "
        "where it stopped",
    )
    job.add_argument(
        "--board",
        type=existing_folder,
        metavar="DIR",
        help="check, bench and train each reward file in DIR, which is Python and runs with your rights; writes "
        "board.html there",
    )
    workshop.add_argument(
        "--python",
        type=python_versions,
        metavar="V,V",
        help="with --bundle: for these versions, such as 3.11,3.12,3.13; default: this one's",
    )
    workshop.add_argument("--seed", type=whole_number(0, 2**32 - 1), metavar="S", help="with --board; default: 0")
    return parser


def ready() -> None:
    """What run.py and each command begin with: any text can be printed, and there is a folder to look from.

    Raises:
        SystemExit: the folder was deleted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        os.getcwd()
    except OSError:
        raise SystemExit("the folder you are in no longer exists; cd into one that does, and call this again") from None


def parse(argv: list[str]) -> Namespace:
    """Check a command line; on wrong use print the usage and the mend, and exit with status 2."""
    parser = build_parser()
    if argv[:1] == ["test"] and argv[1:] not in (["-h"], ["--help"]):
        own = {name: f"--{name}" in argv for name in ("fast", "engines")}
        rest = [each for each in argv[1:] if each not in ("--fast", "--engines")]
        return Namespace(command="test", **own, pytest=rest)
    args = parser.parse_args(argv)
    if getattr(args, "base", None) and args.command == "evaluate" and not args.adapter:
        parser.error("--base: a stored evaluation to compare an adapter with; name the adapter with --adapter")
    if args.command == "workshop" and (args.seed if args.bundle else args.python) is not None:
        parser.error("--seed goes with --board, and --python with --bundle; leave it out")
    return args


def options(args: Namespace) -> list[str]:
    """The parsed options as arguments again, for the child; paths have become absolute."""
    given = []
    for name, value in vars(args).items():
        if name == "command" or value is None or value is False:
            continue
        if name not in POSITIONALS.get(args.command, ()):
            given.append("--" + name.replace("_", "-"))
        given += [] if value is True else [str(value)]
    return given


# ------------------------------------------------------------------------------------------------- commands


def train(args: Namespace) -> None:
    """Train one adapter; leaves it in DIR/adapter."""
    from utils.rewards.bench import tried_rewards

    rewards = tried_rewards(args.reward) if args.reward else None  # in seconds, before torch is imported

    from utils.training.grpo import train as run
    from utils.training.preflight import preflight, summary, text_table

    profile = get_profile(args.profile, args.model)
    prompts = args.prompts_per_step or profile.prompts_per_step
    changes = {
        "dataset": args.dataset,
        "steps": args.max_steps,
        "prompts_per_step": prompts,
        "micro_batch": math.gcd(prompts * profile.group_size, profile.micro_batch),
        "learning_rate": args.learning_rate,
    }
    profile = profile.replace(**{name: value for name, value in changes.items() if value is not None})
    if profile.model != PROFILES["tiny"].model:  # there is nothing to download, and it fits anywhere
        checks = preflight(profile)
        print(text_table(checks))
        if any(check.verdict == "fail" for check in checks):
            raise RuntimeError(summary(checks))
    settings = {"scale_rewards": args.scale_rewards} if args.scale_rewards else None
    result = run(profile, args.output, args.seed or 0, args.resume, rewards, args.mirror, args.adapter, settings)
    if not result.finished:
        print(f"Stopped after step {result.steps} of {profile.steps}; go on with --resume.")
        raise SystemExit(130)
    print(f"Trained {result.steps} steps in {result.seconds:.0f} s; the adapter is in {shown(result.adapter)}")


def evaluate(args: Namespace) -> None:
    """Evaluate the base model and, where an adapter is given, the trained one on the same questions.

    Each finished batch is kept, in DIR and, for the base model beside an adapter, in DIR/base or the stored evaluation
    that `--base` names; a second call asks only what is missing there.
    """
    from utils.data.questions import load_questions, read_questions
    from utils.evaluation import report
    from utils.evaluation.evaluate import card_text, comparison_text, load_evaluation, too_long_text
    from utils.evaluation.evaluate import evaluate as run
    from utils.evaluation.protocol import PROTOCOL, Protocol, begin, header_of, protocol_of, read_header, require_same
    from utils.model.policy import check_adapter, fitting, load_policy, with_adapter
    from utils.setup import versions

    facts = training_facts(args.adapter)  # damage is named before minutes go into the base model
    profile, output, start = get_profile(args.profile, args.model), Path(args.output), time.perf_counter()
    questions = read_questions(args.questions) if args.questions else load_questions(profile.dataset, "test")
    folders = {"base": output}
    if args.adapter:
        folders = {"base": Path(args.base) if args.base else output / "base", "trained": output}
        check_adapter(args.adapter)  # what can be found out before minutes go into the base model
    policy = load_policy(profile)
    if args.adapter:
        check_adapter(args.adapter, policy)
    questions, too_long = fitting(policy, questions)
    if too_long:
        print(too_long_text(len(questions), too_long), flush=True)
    if any((folder / PROTOCOL).exists() for folder in folders.values()):
        print("Reading the answers that are there", flush=True)
    if args.base:
        theirs = read_header(Path(args.base))["protocol"]
        if theirs is None:
            raise ValueError(f"--base {args.base} holds no {PROTOCOL}; give a folder that run.py evaluate left")
        require_same(Protocol.from_dict(theirs), protocol_of(policy, questions), names=(args.base, "this call"))
        load_evaluation(args.base)  # or it says what is missing
    if args.adapter:
        adapted = dataclasses.replace(policy, adapter=Path(args.adapter))
        begin(output, header_of(adapted, questions, too_long=too_long), questions)
    if not args.base:
        run(policy, questions, counter("base model"), folders["base"], too_long)
    if args.adapter:
        run(with_adapter(policy, args.adapter), questions, counter("trained model"), output, too_long)
    evaluations = {who: load_evaluation(folder) for who, folder in folders.items()}
    verdicts = {who: evaluation.verdicts for who, evaluation in evaluations.items()}
    summary = report.summarise(
        profile.name,
        versions(),
        **verdicts,
        questions=args.questions or f"{profile.dataset} test",
        adapter=args.adapter,
        **facts,
        **({"too_long": too_long} if too_long else {}),
        **{name: evaluations["base"].header[name] for name in ("model", "weights", "protocol_hash")},
        total_seconds=round(time.perf_counter() - start, 1),
    )
    write_json(output / "summary.json", summary)
    print(card_text({who: evaluation.card for who, evaluation in evaluations.items()}))
    if args.adapter:
        print(comparison_text(summary))
    print(f"{report.verdict_line(summary)}\nsummary.json is in {shown(output)}")


def compare(args: Namespace) -> None:
    """Compare two stored evaluations; with an output folder, leave comparison.json there."""
    from utils.evaluation.evaluate import card_text, compare_folders, comparison_text

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
    from utils.evaluation.evaluate import card_text
    from utils.evaluation.evaluate import score as run

    evaluation = run(args.folder)
    print(card_text({"stored": evaluation.card}))
    print(f"card.json is in {shown(evaluation.folder)}")


def training_facts(adapter: str | None) -> dict[str, Any]:
    """Seed, steps and seconds of the training that left an adapter; {} where no training.json is beside it."""
    from utils.training.checkpoints import read_training

    if adapter is None or not (training := read_training(Path(adapter).parent)):
        return {}
    return {"seed": training["seed"], "train_steps": training["steps"], "train_seconds": training["seconds"]}


def counter(label: str) -> Callable[[int, int, int], None]:
    """A progress callback: a line at the start, after the first batch, and then each tenth or half minute."""
    from utils.stats import progress_text

    calls, told = [], [0.0, -1]  # when, and at which tenth

    def progress(done: int, total: int, strict: int) -> None:
        now, tenth = time.perf_counter(), done * 10 // total
        calls.append((now, done))
        if len(calls) > 2 and tenth == told[1] and now - told[0] < 30:
            return
        told[:] = now, tenth
        (start, known), to_go = calls[0], ""
        if done > known and (left := (now - start) / (done - known) * (total - done)) > 60:
            to_go = f", about {left / 60:,.0f} min to go"
        print(progress_text(label, done, total, strict) + to_go, flush=True)

    return progress


def series(args: Namespace) -> None:
    """Run the series into runs/latest; an earlier run is kept beside it, under the time it ended."""
    output = ROOT / "runs" / "latest"
    with in_use(output.parent):
        for mark in [*output.rglob(IN_USE)]:  # a run of one's own in there must not be moved away either
            with in_use(mark.parent):
                pass
        if os.path.lexists(output):
            ended = datetime.fromtimestamp(output.lstat().st_mtime).strftime("%Y-%m-%d-%H%M%S")
            os.replace(output, output.with_name(ended))
            print(f"The earlier run is now in runs/{ended}")
        run_series(output)


def run_series(output: Path) -> dict[str, Any]:
    """Execute all notebooks on profile tiny, gather their results in `output` and return the summary."""
    from utils.data.questions import load_questions
    from utils.evaluation import report
    from utils.evaluation.errors import solutions_of
    from utils.evaluation.evaluate import load_evaluation
    from utils.scripts.notebooks import NOTEBOOKS, execute

    start = time.perf_counter()
    for notebook in NOTEBOOKS:
        environment = EMBEDDED | {"GRPO_RUN_DIR": str(output)}
        seconds = execute(notebook, output / "notebooks" / notebook.name, environment, tell)
        tell(f"{notebook.stem}: done in {seconds:.0f} s", end="\n")
    summary = read_json(output / "summary.json", "run the series again: run.py")
    summary["total_seconds"] = round(time.perf_counter() - start, 1)
    base, trained = (load_evaluation(output / who).verdicts for who in ("base", "trained"))
    history, solutions = read_jsonl(output / "training" / "log.jsonl"), solutions_of(load_questions("tiny", "test"))
    page = report.write_report(output, summary, history, base, trained, solutions)
    print(f"{report.verdict_line(summary)}\nTook {summary['total_seconds']:.0f} s. Open {shown(page)} in a browser.")
    return summary


def write_notebooks(args: Namespace) -> None:
    """Execute the committed notebooks in place, so that outputs and stated minutes come from one clean run.

    Before that, the repository's address and tag are written into everything that names them; after it, the notebooks
    with the solutions, and the map of the series with the new minutes.
    """
    from utils.scripts.notebooks import PAGES, WITH_EXERCISES, addressed, execute, origin, write_solutions
    from utils.scripts.series import write_map

    with in_use(ROOT / "notebooks"), tempfile.TemporaryDirectory() as folder:
        for page in PAGES:
            write_text(page, addressed(page.read_text(encoding="utf-8"), *origin()))
        for notebook in WITH_EXERCISES:
            written = Path(folder) / notebook.name
            seconds = execute(notebook, written, EMBEDDED | {"GRPO_RUN_DIR": folder}, tell)
            minutes = f"CPU: {seconds / 60:.1f} min on {os.cpu_count()} cores ·"
            write_text(notebook, re.sub(r"CPU: [^·]*·", minutes, written.read_text(encoding="utf-8"), count=1))
            tell(f"{notebook.stem}: written after {seconds:.0f} s", end="\n")
        for notebook in write_solutions():
            seconds = execute(notebook, notebook, EMBEDDED | {"GRPO_RUN_DIR": f"{folder}/solutions"}, tell)
            tell(f"{notebook.stem}, solutions: written after {seconds:.0f} s", end="\n")
        write_map()


def workshop(args: Namespace) -> None:
    """Pack a bundle into a folder, or judge the rewards that lie in one."""
    if args.bundle:
        from utils.scripts.bundle import bundle

        bundle(args.bundle, args.python.split(",") if args.python else [])
    else:
        from utils.scripts.board import board

        board(args.board, args.seed or 0, tell)


def tell(message: str, end: str = "") -> None:
    """Show progress on one line in a terminal, on lines of their own elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\033[K{message}", end=end, flush=True)
    elif end:
        print(message, flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be said: relative to the working folder where it lies inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # it lies elsewhere, or this folder was deleted meanwhile
        return str(path)


COMMANDS: dict[str | None, Callable[[Namespace], Any]] = {
    None: series,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "score": score,
    "notebooks": write_notebooks,
    "workshop": workshop,
}


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing: of several processes that train together the first one speaks."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def main(argv: list[str]) -> None:
    """Run a command; what the user can mend ends in one line on stderr, with the traceback in error.log."""
    ready()
    args = parse(argv)
    try:
        alone = args.command in ("train", "evaluate") and rank() == 0  # of several processes the first one writes
        with in_use(args.output) if alone else nullcontext(), quiet() if rank() else nullcontext():
            COMMANDS[args.command](args)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except InUse as error:  # the folder is another's: nothing is written there
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    except Exception as error:
        folder = Path(getattr(args, "output", None) or getattr(args, "folder", None) or ROOT / "runs")
        log = folder / (f"error-{rank()}.log" if rank() else "error.log")  # of several processes each has its own
        try:
            write_bytes(log, traceback.format_exc().encode("utf-8", "backslashreplace"))
            where = f"\nThe traceback is in {shown(log)}"
        except OSError:
            where = ""
        mend = ""
        if isinstance(error, IsADirectoryError | NotADirectoryError):
            mend = ". Something else is expected there: move that away and call this again"
        if getattr(error, "errno", None) in NO_ROOM or any(words in str(error) for words in FULL):
            mend = (
                f". There is no room left in {shown(folder)}: free some and call this again; what was finished is kept"
            )
        raise SystemExit(f"{type(error).__name__}: {error}{mend}{where}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
