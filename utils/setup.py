"""The set-up cell's work: install what is missing on Colab or Kaggle, and show wanted and found versions.

Standard library only, since it runs before anything is installed. On one's own machine nothing is installed: there
`python3 run.py` makes an environment of its own.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT_ON_COLAB = {
    "ipywidgets",
    "jupyterlab",
    "ipykernel",
    "pytest",
    "hypothesis",
    "ruff",
}  # Colab's own, or not needed there


def hosted() -> bool:
    """Whether this is a hosted notebook (Colab or Kaggle), where the environment is ours to change."""
    return "COLAB_RELEASE_TAG" in os.environ or "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def has_gpu() -> bool:
    """Whether an NVIDIA GPU answers; asked without importing torch, which may not be installed yet."""
    return (
        bool(shutil.which("nvidia-smi")) and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    )


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


def install(pins: dict[str, str]) -> None:
    """Install these pins with uv, or pip where uv is missing; errors are shown, not captured.

    Raises:
        subprocess.CalledProcessError: the installer failed; its lines above say why.
    """
    installer = ["uv", "pip", "install", "--system"] if shutil.which("uv") else [sys.executable, "-m", "pip", "install"]
    subprocess.run([*installer, *(f"{name}=={version}" for name, version in pins.items())], check=True)


def set_up() -> None:
    """Make this notebook's environment fit, as far as that is ours to do, and print a table of what was found.

    Raises:
        RuntimeError: packages are missing or the kernel must be restarted; the message says what to click.
    """
    pins = read_pins(ROOT / ("requirements.txt" if has_gpu() else "requirements-cpu.txt"))
    pins = {name: version for name, version in pins.items() if name not in KEPT_ON_COLAB}
    numpy_before = installed("numpy") if "numpy" in sys.modules else None
    missing = {name: version for name, version in pins.items() if installed(name) != version}
    if missing and hosted():
        install(missing)
        missing = {name: version for name, version in pins.items() if installed(name) != version}
    print(f"Python {sys.version.split()[0]}, {'GPU' if has_gpu() else 'CPU'}")
    for name, version in pins.items():
        print(f"  {name:14s} {version:10s} {'found ' + str(installed(name)) if name in missing else 'ok'}")
    if numpy_before and installed("numpy") != numpy_before:
        raise RuntimeError(
            f"numpy was replaced ({numpy_before} is loaded, {installed('numpy')} installed): choose "
            "Runtime > Restart session, then run this cell again; nothing was downloaded in vain"
        )
    if missing and not hosted():
        raise RuntimeError(
            f"not installed as pinned: {', '.join(missing)}. Run `python3 run.py lab` in the project's folder: "
            "it installs into .venv and opens this notebook there"
        )
