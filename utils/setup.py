"""The machine and its packages: what is here, what is wanted, and the set-up cell that installs what is missing.

Standard library only, `utils.files` included, since it runs before anything is installed. On one's own machine nothing
is installed: there `python3 run.py` makes an environment of its own.

What a hosted machine keeps. Its kernel has loaded numpy, pillow and matplotlib before the first cell runs, and its
ipywidgets fit its own front end, so these stay at the versions found: an installer that replaced them would make the
session mix two versions. With the small set its torch stays too: a CUDA build runs on the CPU as well, and the pinned
one would be another download of gigabytes.

Which set a hosted machine gets. The small one, which all notebooks need, unless `GRPO_PROFILE` asks for a profile that
trains on a GPU, and one is there: that takes 5 GB and some minutes, which the tiny model can do without.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from utils.files import ROOT

PYTHONS = ((3, 11), (3, 13))  # the oldest and the newest that the pinned set has wheels for
# for running and testing the series, not for a notebook
TOOLS = {"nbclient", "nbformat", "ipykernel", "jupyterlab", "pytest", "pytest-xdist", "hypothesis", "ruff"}
LOADED_BY_THE_KERNEL = ("numpy", "pillow", "matplotlib")
BESIDE_THE_PINS = ("torch", "numpy", "pillow", "pandas", "pyarrow", "huggingface_hub", "tokenizers", "safetensors")
RESULTS_DEPEND_ON = (
    "torch",
    "trl",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "unsloth",
    "vllm",
    "bitsandbytes",
)
MODULES = {"pillow": "PIL"}  # the import name, where it differs from the package's
GPU_PROFILES = ("t4", "l4", "a100")  # the profiles that need requirements.txt
RESTART = {
    "Colab": "Runtime > Restart session, then Runtime > Run all",
    "Kaggle": "Run > Restart & clear cell outputs, then Run All",
    None: "Kernel > Restart Kernel and Run All Cells",
}
NO_NETWORK = {
    "Colab": "try again in some minutes",
    "Kaggle": "switch on Settings > Internet (it needs a verified phone number)",
}


# ---------------------------------------------------------------------------------------- what is here


def host() -> str | None:
    """ "Colab" or "Kaggle", where the environment is ours to change; None on one's own machine."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return "Colab"
    return "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else None


def gpus() -> list[str]:
    """NVIDIA GPUs that answer, e.g. ["Tesla T4, 15360 MiB"]; asked without torch, which may be missing yet."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def read_pins(path: Path) -> dict[str, str]:
    """{"trl": "1.2.0", …} from a requirements file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def installed(package: str) -> str | None:
    """The version installed, without a build label such as +cpu; None where it is missing."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Installed versions, build labels included, of the packages that a result depends on."""
    found = {}
    for package in RESULTS_DEPEND_ON:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """What a run was timed on, e.g. "x86_64, 2 cores, Linux, Python 3.11.7"."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def processes() -> int:
    """How many processes train together, as their launcher (torchrun, accelerate) told them; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of the `processes` this is, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def require(pin: str, purpose: str) -> None:
    """Refuse to go on without an optional package.

    Args:
        pin: name and version, as a requirements file writes them.
        purpose: what needs it, as the message says.
    Raises:
        ImportError: it is missing, or another version is installed; names both and the mend.
    """
    name, _, wanted = pin.partition("==")
    found = installed(name)
    if found != wanted:
        raise ImportError(
            f"{purpose} needs {pin}, found {found or 'none'}; run `{sys.executable} -m pip install {pin}`"
        )


def loaded(package: str) -> str | None:
    """The version this session has imported, without a build label; None where it has not imported the package."""
    version = getattr(sys.modules.get(MODULES.get(package, package)), "__version__", None)
    return version.split("+")[0] if isinstance(version, str) else None


def wanted_pins(gpu: bool) -> dict[str, str]:
    """The pins that the notebooks need: those of the GPU file, or the small set, those of the CPU file."""
    pins = read_pins(ROOT / ("requirements.txt" if gpu else "requirements-cpu.txt"))
    return {name: version for name, version in pins.items() if name not in TOOLS}


def kept_versions(gpu: bool) -> dict[str, str]:
    """The packages that a hosted machine keeps, at the versions found there. See the head of this module."""
    names = (*LOADED_BY_THE_KERNEL, "ipywidgets", *(() if gpu else ("torch",)))
    return {name: version for name in names if (version := installed(name))}


def replaced(packages: list[str]) -> list[str]:
    """Those of `packages` whose imported version is no longer the installed one: only a restart mends that."""
    return [name for name in packages if loaded(name) and installed(name) and loaded(name) != installed(name)]


# ------------------------------------------------------------------------------------------- installing


def run_shown(command: list[str]) -> int:
    """Run a command, print what it says line by line as it comes, errors too, and return its exit status."""
    print("$", shlex.join(command), flush=True)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        try:
            for line in child.stdout or ():
                print(line, end="", flush=True)
        except BaseException:  # Ctrl-C or the kernel's stop button
            child.kill()
            raise
    return child.returncode


def install(pins: dict[str, str], kept: dict[str, str], where: str) -> None:
    """Install `pins` with uv, or pip where uv is missing, and keep the packages of `kept` at their versions.

    Where the installer refuses, it is asked once more with only ipywidgets kept: the pins may need another numpy,
    which `replaced` then reports.

    Raises:
        RuntimeError: the installer failed; its lines above say why.
    """
    uv = shutil.which("uv")
    installer = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    status = run_shown([*installer, *_exactly(pins | kept)])
    freed = [name for name in kept if name in LOADED_BY_THE_KERNEL]
    if status and freed:
        print(
            f"\nThe installer refused; its lines above say why. Once more, without keeping "
            f"{', '.join(_exactly({name: kept[name] for name in freed}))}: if one is replaced, a restart is needed.\n"
        )
        status = run_shown(
            [*installer, *_exactly(pins | {name: version for name, version in kept.items() if name not in freed})]
        )
    importlib.invalidate_caches()
    if status:
        raise RuntimeError(
            f"the installer stopped with status {status}; its lines above say why. If the network is the cause: "
            f"{NO_NETWORK[where]}. Then run this cell again; what is installed already is kept"
        )


def _exactly(pins: dict[str, str]) -> list[str]:
    return [f"{name}=={version}" for name, version in pins.items()]


# ---------------------------------------------------------------------------------------------- the cell


def table(pins: dict[str, str], kept: dict[str, str]) -> str:
    """One line a package: wanted, found, and what follows from it.

    Args:
        pins: what the notebooks want.
        kept: packages that stay at the machine's own version; empty on one's own machine.
    """
    beside = [name for name in dict.fromkeys((*BESIDE_THE_PINS, *kept)) if name not in pins and installed(name)]
    rows = [("package", "wanted", "found", "")]
    for name in (*pins, *beside):
        found = installed(name)
        if replaced([name]):
            note = f"{loaded(name)} is loaded: restart"
        elif found is None:
            note = "missing"
        elif name in kept:
            note = "kept: the machine's own"
        elif name not in pins:
            note = ""
        else:
            note = "ok" if found == pins[name] else "not the pinned version"
        rows.append((name, pins.get(name, "-"), found or "-", note))
    return "\n".join(f"{name:16s} {wanted:10s} {found:10s} {note}".rstrip() for name, wanted, found, note in rows)


def set_up() -> None:
    """Make this notebook's environment fit, as far as that is ours to do, and print what was wanted and found.

    It stops here, before anything else is downloaded, when the session cannot go on. A second call installs nothing.

    Raises:
        RuntimeError: packages are missing or the kernel must be restarted; the message says what to click.
    """
    where, found_gpus = host(), gpus()
    asked = os.environ.get("GRPO_PROFILE") in GPU_PROFILES
    gpu = bool(found_gpus) and asked if where else installed("unsloth") is not None
    print(f"{where or 'own machine'}, Python {sys.version.split()[0]}, GPU: {', '.join(found_gpus) or 'none'}")
    pins, kept = wanted_pins(gpu), kept_versions(gpu) if where else {}
    if where:
        _install_missing(pins, kept, where)
        kept = {name: version for name, version in kept.items() if installed(name) == version}
    print(table(pins, kept))
    stale = replaced([*pins, *(name for name in BESIDE_THE_PINS if name not in pins)])
    if stale:
        changes = ", ".join(f"{name} {loaded(name)} is loaded, {installed(name)} installed" for name in stale)
        raise RuntimeError(f"restart needed: {changes}. Choose {RESTART[where]}. No model was downloaded yet")
    missing = [name for name in pins if installed(name) is None]
    if missing:
        raise RuntimeError(
            f"not installed: {', '.join(missing)}. Run `python3 run.py lab` in the project's folder: it installs into "
            ".venv and opens this notebook there. For the GPU profiles: `pip install -r requirements.txt`"
        )
    if where and found_gpus and not asked:
        print(f"\nThis is the small set, for the tiny model: a minute on any machine. {for_the_gpu(where)}")


def for_the_gpu(where: str | None, profile: str = "t4") -> str:
    """How a machine with a GPU gets the packages for it, in a sentence."""
    if where is None:
        return "For a real model on this GPU: `pip install -r requirements.txt`."
    return (
        f"For a real model on this GPU, which takes hours: put `%env GRPO_PROFILE={profile}` into a cell above the "
        f"set-up cell and choose {RESTART[where]}; that installs about 5 GB more."
    )


def _install_missing(pins: dict[str, str], kept: dict[str, str], where: str) -> None:
    """Install the pins that are not met and not kept; say before what it is and how much.

    Raises:
        RuntimeError: no wheels for this Python, or the installer failed.
    """
    missing = {name: version for name, version in pins.items() if name not in kept and installed(name) != version}
    if not missing:
        return
    oldest, newest = PYTHONS
    if not oldest <= sys.version_info[:2] <= newest:
        raise RuntimeError(
            f"the pinned packages exist for Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}, and this is "
            f"{sys.version.split()[0]}; choose another runtime version (Colab: Runtime > Change runtime type)"
        )
    print(f"Installing {', '.join(missing)} and what they need{' (about 5 GB)' if 'vllm' in missing else ''}.")
    install({name: version for name, version in pins.items() if name not in kept}, kept, where)
    still = [name for name, version in missing.items() if installed(name) != version]
    if still:
        raise RuntimeError(
            f"the installer reported success, but {', '.join(still)} cannot be found at the pinned version by "
            f"{sys.executable}; choose {RESTART[where]}"
        )


def ram_bytes() -> int:
    """RAM: what is available where the system tells (Linux), else all there is."""
    if Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
