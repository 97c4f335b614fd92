#!/usr/bin/env python3
"""Set the project up and run it. Standard library only; Linux, macOS, Windows; Python 3.11 or newer.

    python3 run.py                the whole series on the embedded tiny model -> runs/latest/
    python3 run.py test           all tests
    python3 run.py lab            the notebooks in JupyterLab
    python3 run.py train          one GRPO training
    python3 run.py evaluate       one evaluation
    python3 run.py compare        two stored evaluations side by side
    python3 run.py score          judge stored completions again
    python3 run.py notebooks      re-execute the notebooks and save their outputs
    python3 run.py COMMAND -h     the options of a command

The first start makes `.venv` beside this file, installs torch's CPU build and then requirements-cpu.txt
into it, and stamps it with a hash of the pins; later starts find the stamp and need no network.
A Python that already holds these pins is used as it is. The GPU profiles always use the Python that
started this file, since their packages are the user's choice (`pip install -r requirements.txt`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "grpo-math-stamp"
REQUIREMENTS = ROOT / "requirements-cpu.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MIN_PYTHON = (3, 11)
PROFILES = ("tiny", "t4", "l4", "a100", "laptop")
GPU_PROFILES = ("t4", "l4", "a100")
POSITIONALS = {"compare": ("base", "trained"), "score": ("folder",)}  # commands that need numpy and no model
INSTALL_GB = 3  # .venv takes 1.6 GB, the downloaded wheels 0.4 GB; the rest is room for the runs
SIGNAL_GRACE_S = 5  # how long a child may take to react to a Ctrl-C that it should have received itself


class Failure(Exception):
    """Something the user can mend; its text is shown without a traceback."""


# --- the command line -----------------------------------------------------------------------------------


def output_folder(text: str) -> str:
    """Absolute path of a folder that exists or can be made."""
    path = Path(os.path.abspath(text))
    if not text.strip():
        raise ArgumentTypeError("'' is no folder; give one, for example runs/mine")
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise ArgumentTypeError(f"{str(nearest)!r} is a file; give the name of a folder")
    if not os.access(nearest, os.W_OK):
        raise ArgumentTypeError(f"cannot write in {str(nearest)!r}; give a folder you may write to")
    return str(path)


def existing_folder(text: str) -> str:
    """Absolute path of a folder that is there."""
    if not text.strip() or not os.path.isdir(text):
        raise ArgumentTypeError(f"there is no folder {text!r} (looked from {os.getcwd()}); check the path")
    return os.path.abspath(text)


def existing_file(text: str) -> str:
    """Absolute path of a file that is there and can be read."""
    if os.path.isdir(text):
        raise ArgumentTypeError(f"{text!r} is a folder; give a file inside it")
    if not os.path.isfile(text):
        raise ArgumentTypeError(f"there is no file {text!r} (looked from {os.getcwd()}); check the path")
    if not os.access(text, os.R_OK):
        raise ArgumentTypeError(f"the file {text!r} cannot be read; check its permissions")
    return os.path.abspath(text)


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
        command.add_argument("--profile", required=True, choices=PROFILES, metavar="P", help=where)
        command.add_argument(
            "--output", required=True, type=output_folder, metavar="DIR", help="folder for the results"
        )

    test = add("test", "run the tests", "tests/test_run.py -k usage")
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
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    train.add_argument(
        "--mirror",
        type=output_folder,
        metavar="DIR2",
        help="also copy finished checkpoints there; with --resume, bring back what is newer there",
    )
    train.add_argument("--reward", type=existing_file, metavar="FILE", help="Python file with reward functions")

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

    notebooks = add("notebooks", "re-execute the committed notebooks on profile tiny")
    notebooks.add_argument("--write", action="store_true", required=True, help="save the outputs in notebooks/")
    return parser


def parse(argv: list[str]) -> Namespace:
    """Check a command line; on wrong use print the usage and the mend, and exit with status 2."""
    parser = build_parser()
    if argv[:1] == ["test"] and argv[1:] not in (["-h"], ["--help"]):
        return Namespace(command="test", pytest=argv[1:])
    args = parser.parse_args(argv)
    if getattr(args, "resume", False) and not os.path.isdir(args.output) and not args.mirror:
        parser.error(
            f"--resume: there is no folder {args.output!r} to go on from; "
            "name the folder of the run to continue, or leave --resume out"
        )
    if getattr(args, "base", None) and args.command == "evaluate" and not args.adapter:
        parser.error("--base: a stored evaluation to compare an adapter with; name the adapter with --adapter")
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


def child_arguments(args: Namespace) -> list[str]:
    """What Python is to run for a command, after the interpreter's own name."""
    if args.command == "test":
        return ["-m", "pytest", *args.pytest]
    if args.command == "lab":
        as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        first = os.path.join("notebooks", "00_start_here.ipynb")
        here = f"--ServerApp.root_dir={ROOT}"
        return ["-m", "jupyterlab", "--ip=127.0.0.1", here, *as_root, *options(args), first]
    return ["-m", "utils.commands", *([args.command] if args.command else []), *options(args)]


# --- child processes ------------------------------------------------------------------------------------


def needs_network(args: Namespace) -> bool:
    """Whether a command may read from the model hub; the embedded model with embedded data never does."""
    if getattr(args, "profile", "tiny") != "tiny":
        return True
    if getattr(args, "dataset", None) == "gsm8k":
        return not os.environ.get("GSM8K_DIR")
    return args.command == "lab"


def child_environment(python: str, network: bool) -> dict[str, str]:
    """The user's environment (proxies, pip settings, GSM8K_DIR …) with what a child needs beside it."""
    env = dict(os.environ, PYTHONUTF8="1", PYTHONUNBUFFERED="1")
    env.setdefault("PYTHONHASHSEED", "0")
    env.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a warning at every fork
    if python != sys.executable:
        env.update(PYTHONNOUSERSITE="1", PIP_USER="0")
        for name in ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"):  # they belong to the other Python
            env.pop(name, None)
    if not network:
        env["HF_HUB_OFFLINE"] = "1"
    return env


def terminal_sends_ctrl_c() -> bool:
    """True when Ctrl-C comes from a terminal, which sends it to the child as well."""
    if os.name == "nt":
        return True
    try:
        with open("/dev/tty") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def call(command: list[str], env: dict[str, str], stderr=None) -> int:
    """Run a child to its end and return its exit status (128 + n when signal n ended it).

    Ctrl-C reaches the child too, which shares the terminal's process group; it is given the time to save
    its work, and then this process exits with 130. The third Ctrl-C kills the child. A SIGINT that was
    sent to this process alone is passed on, and so is SIGTERM.
    """
    child = subprocess.Popen(command, cwd=ROOT, env=env, stderr=stderr)
    presses, terminated = 0, False

    def on_interrupt(*_) -> None:
        nonlocal presses
        presses += 1
        if presses == 1:
            print("\nInterrupted: waiting for the running program to save its work.", file=sys.stderr, flush=True)
            if not terminal_sends_ctrl_c():
                late = threading.Timer(SIGNAL_GRACE_S, child.send_signal, [signal.SIGINT])
                late.daemon = True
                late.start()
        elif presses == 3:
            child.kill()

    def on_terminate(*_) -> None:
        nonlocal terminated
        terminated = True
        child.terminate()

    before = signal.signal(signal.SIGINT, on_interrupt), signal.signal(signal.SIGTERM, on_terminate)
    try:
        status = child.wait()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    if presses or terminated:
        raise SystemExit(130 if presses else 143)
    return status if status >= 0 else 128 - status


def query(python: str, code: str) -> str:
    """What a line of Python prints in another interpreter; empty when that fails."""
    try:
        env = child_environment(python, network=False)
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def shown(command: list[str]) -> str:
    """A command as one would type it."""
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def say(text: str) -> None:
    print(text, flush=True)


# --- the environment ------------------------------------------------------------------------------------


def read_pins(path: Path) -> dict[str, str]:
    """Pins of a requirements file: {"torch": "2.13.0", …}, in the order of the file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def here_already(pins: dict[str, str]) -> bool:
    """Whether this very Python holds every pin; a build label such as +cpu does not count."""
    try:
        return all(importlib.metadata.version(name).split("+")[0] == pins[name] for name in pins)
    except importlib.metadata.PackageNotFoundError:
        return False


def venv_python() -> str:
    return str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def venv_version() -> str:
    """Python version of `.venv`, for example "3.11"; empty when it is missing, broken or too old."""
    code = f"import sys; print('%d.%d' % sys.version_info[:2] if sys.version_info >= {MIN_PYTHON} else '')"
    return query(venv_python(), code) if VENV.exists() else ""


def stamp_for(version: str, pins: dict[str, str]) -> str:
    """What the stamp must hold for `.venv` to be complete: a hash of its Python version and the pins."""
    return hashlib.sha256(repr((version, sorted(pins.items()))).encode()).hexdigest()


def is_stamped(version: str, pins: dict[str, str]) -> bool:
    return bool(version) and STAMP.is_file() and STAMP.read_text() == stamp_for(version, pins)


def check_writable() -> None:
    if not os.access(ROOT, os.W_OK):
        raise Failure(
            f"cannot write in the project folder {ROOT}. Copy the project to a folder of your own, "
            "or correct the permissions."
        )


def check_space() -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < INSTALL_GB:
        raise Failure(
            f"the set-up needs {INSTALL_GB} GB, and {free:.1f} GB are free for {ROOT}. Free some space and run again."
        )


def check_not_gpu_environment(python: str) -> None:
    """Refuse to overwrite a `.venv` into which the user has installed requirements.txt."""
    if query(python, "from importlib.util import find_spec as f; print(f('unsloth') or f('vllm') or '')"):
        raise Failure(
            f"{VENV} holds the GPU packages of requirements.txt, and this command would replace some. "
            "Rename that folder (for example to .venv-gpu) and run again."
        )


def make_venv() -> None:
    """Make `.venv`; where this Python has no ensurepip (Debian without python3-venv), its own pip will do."""
    without_pip = [] if importlib.util.find_spec("ensurepip") else ["--without-pip"]
    if without_pip and not importlib.util.find_spec("pip"):
        raise Failure(
            "this Python has neither ensurepip nor pip. Install them and run again "
            "(Debian, Ubuntu: sudo apt install python3-venv)."
        )
    command = [sys.executable, "-m", "venv", *(["--clear"] if VENV.exists() else []), *without_pip, str(VENV)]
    status = call(command, child_environment(sys.executable, network=True))
    if status or not venv_version():
        raise Failure(
            f"could not make the virtual environment; this command failed with status {status}:\n"
            f"  {shown(command)}\nThe lines above say why. Mend: delete {VENV} and run again; "
            "on Debian and Ubuntu first: sudo apt install python3-venv."
        )


def pip_install(python: str) -> list[str]:
    """The start of a pip command that installs into `.venv`."""
    pip = [python, "-m", "pip"]
    if not query(python, "import pip; print(pip.__version__)"):
        pip = [sys.executable, "-m", "pip", "--python", python]
    return [*pip, "install", "--disable-pip-version-check"]


def torch_attempts(version: str, system: str) -> list[list[str]]:
    """pip arguments to try in turn. On Linux plain torch is a 3 GB CUDA build, so `+cpu` is asked for."""
    if system == "Linux":
        return [[f"torch=={version}+cpu"], ["--index-url", CPU_INDEX, f"torch=={version}+cpu"]]
    return [[f"torch=={version}"]]


def install_torch(python: str, version: str) -> None:
    """Install torch alone; a torch of this version that is there already, of whatever build, is kept.

    The first attempt fails on most Linux machines, so its complaints are shown only when all have failed.
    """
    if query(python, "import torch; print(torch.__version__)").split("+")[0] == version:
        return
    env = child_environment(python, network=True)
    attempts = torch_attempts(version, platform.system())
    failed = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        for attempt in attempts:
            command = [*pip_install(python), *attempt]
            say("  pip install " + shown(attempt))
            if call(command, env, stderr=None if attempt is attempts[-1] else complaints) == 0:
                return
            failed.append(shown(command))
        complaints.seek(0)
        sys.stderr.write(complaints.read())
    raise Failure(no_torch_message(version, failed, pip_install(python)))


def no_torch_message(version: str, failed: list[str], pip: list[str]) -> str:
    wanted = torch_attempts(version, platform.system())[-1]
    return "\n".join(
        [
            f"could not install a CPU build of torch {version}; the lines above say why. Tried:",
            *(f"  {command}" for command in failed),
            f"This is {platform.system()} {platform.machine()} with Python {platform.python_version()};",
            "the pins suit Python 3.11 to 3.13 on 64-bit Linux, Windows and macOS 14 (Apple silicon).",
            space_report(),
            "Mend, one of:",
            "  - where a line above says `No space left`: free some, or set TMPDIR to a folder with room;",
            f"  - let pip reach {CPU_INDEX} (HTTPS_PROXY, `pip config`), and run again;",
            "  - download the wheels on a machine of the same kind that can, and bring them here:",
            f"      {shown(['python3', '-m', 'pip', 'download', '-d', 'wheels', *wanted])}",
            "      PIP_FIND_LINKS=/path/to/wheels python3 run.py",
            "  - put a build of this torch into .venv yourself; it is kept (plain torch on Linux: 3 GB):",
            f"      {shown([*pip, f'torch=={version}'])}",
        ]
    )


def install_requirements(python: str) -> None:
    command = [*pip_install(python), "-r", str(REQUIREMENTS)]
    status = call(command, child_environment(python, network=True))
    if status:
        raise Failure(
            f"the installation stopped; this command failed with status {status}:\n"
            f"  {shown(command)}\nThe lines above say why. {space_report()}\n"
            "Mend: check the space and the network (HTTPS_PROXY, `pip config list`), and run again; "
            "what is installed already is kept."
        )


def space_report() -> str:
    places = {"the project": ROOT, "temporary files (TMPDIR)": Path(tempfile.gettempdir())}
    free = [f"{shutil.disk_usage(place).free / 1e9:.1f} GB for {name}" for name, place in places.items()]
    return f"Free space: {', '.join(free)}; the installation needs {INSTALL_GB} GB."


def set_up(pins: dict[str, str]) -> str:
    """Make `.venv` complete if it is not, and return its Python.

    The stamp goes first and comes back last, so an installation that is cut short is taken up again.
    """
    python, version = venv_python(), venv_version()
    if is_stamped(version, pins):
        return python
    check_writable()
    STAMP.unlink(missing_ok=True)
    say(f"Setting up {VENV} (the first time only, a few minutes).")
    if version:
        check_not_gpu_environment(python)
    else:
        check_space()
        say("[1/3] virtual environment")
        make_venv()
    say(f"[2/3] torch {pins['torch']}, CPU build")
    install_torch(python, pins["torch"])
    say(f"[3/3] {REQUIREMENTS.name}")
    install_requirements(python)
    draft = STAMP.with_suffix(".new")
    draft.write_text(stamp_for(venv_version(), pins))
    draft.replace(STAMP)
    return python


def gpu_python(profile: str) -> str:
    """The Python for a GPU profile: this one, if it holds the packages."""
    needed = ("torch", "transformers", "trl", "peft", "datasets")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not any(importlib.util.find_spec(name) for name in ("unsloth", "bitsandbytes")):
        missing.append("unsloth (or bitsandbytes)")
    if missing:
        command = [sys.executable, "-m", "pip", "install", "-r", str(ROOT / "requirements.txt")]
        raise Failure(
            f"profile {profile} runs on a GPU with the packages of the Python that started run.py, "
            f"and {sys.executable} lacks: {', '.join(missing)}.\nMend: on Linux with an NVIDIA GPU, "
            "in this Python or in a virtual environment of your own (say .venv-gpu)\n"
            f"  {shown(command)}\nor choose --profile tiny or laptop, which set up their own .venv."
        )
    return sys.executable


def choose_python(args: Namespace) -> str:
    profile = getattr(args, "profile", "tiny")
    if profile in GPU_PROFILES:
        return gpu_python(profile)
    if args.command in POSITIONALS and importlib.util.find_spec("numpy"):
        return sys.executable
    pins = read_pins(REQUIREMENTS)
    inside_venv = Path(sys.prefix).resolve() == VENV.resolve()
    if not inside_venv and here_already(pins):
        return sys.executable
    return set_up(pins)


def main(argv: list[str] | None = None) -> int:
    if sys.version_info < MIN_PYTHON:
        found = "%d.%d" % sys.version_info[:2]
        sys.stderr.write(
            "run.py: needs Python 3.11 or newer, and this is %s; start it with a newer one, "
            "for example python3.12 run.py\n" % found
        )
        return 1
    args = parse(sys.argv[1:] if argv is None else argv)
    # The shell makes what a script starts with `&` ignore SIGINT; here it always means: save and stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if args.command in (None, "notebooks"):
            check_writable()
        python = choose_python(args)
        return call([python, *child_arguments(args)], child_environment(python, needs_network(args)))
    except Failure as failure:
        print(f"run.py: {failure}", file=sys.stderr)
    except OSError as error:
        print(f"run.py: {error}. Check the permissions and free space of {ROOT}.", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
