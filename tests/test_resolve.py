"""The pinned sets can be installed: uv resolves them against the package index, and installs nothing.

`network`: each test asks the index. Without uv or without an answer from the index they skip and say so.
"""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

from utils.files import ROOT
from utils.setup import LOADED_BY_THE_KERNEL, read_pins

pytestmark = pytest.mark.network

GPU_FILE = ROOT / "requirements.txt"
PYTHONS = ("3.11", "3.12", "3.13")
NEWER = {"trl": "1.14.2", "transformers": "5.17.0", "vllm": "0.26.0"}  # for GPUs from Ampere on; the rest is as pinned
# What a Colab GPU runtime has in its kernel (images of June and August 2026); these must stay as they are.
COLAB_KERNEL = {"ipywidgets": "7.7.1", "ipython": "7.34.0", "ipykernel": "6.17.1", "matplotlib": "3.10.0"}
COLAB_NUMPY = {"3.12": {"numpy": "2.0.2", "pillow": "11.3.0"}, "3.13": {"numpy": "2.1.3", "pillow": "11.3.0"}}
NO_ANSWER = re.compile(r"error sending request|dns error|tcp connect error|operation timed out", re.IGNORECASE)


def resolve(pins: dict[str, str], python: str, folder) -> dict[str, str]:
    """Every package that installing `pins` on Linux x86_64 with that Python would bring, with its version."""
    if not (find_spec("uv") or shutil.which("uv")):
        pytest.skip("uv is not installed: pip install -r requirements-dev.txt")
    uv = [sys.executable, "-m", "uv"] if find_spec("uv") else ["uv"]
    wanted = folder / "wanted.txt"
    wanted.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
    how = ["--quiet", "--no-header", "--no-annotate"]
    target = ["--python-platform=x86_64-manylinux_2_28", f"--python-version={python}"]
    done = subprocess.run([*uv, "pip", "compile", *how, *target, str(wanted)], capture_output=True, text=True)
    if NO_ANSWER.search(done.stderr):
        pytest.skip(f"the package index does not answer: {done.stderr.strip().splitlines()[-1].strip()}")
    assert done.returncode == 0, done.stderr
    return dict(line.split("==") for line in done.stdout.splitlines() if "==" in line)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_gpu_set_resolves(python, tmp_path):
    pins = read_pins(GPU_FILE)
    found = resolve({name.replace("_", "-"): version for name, version in pins.items()}, python, tmp_path)
    assert {name: found[name.replace("_", "-")] for name in pins} == pins
    assert found["torch"] == "2.9.0", "requirements.txt says that vllm brings this torch"


@pytest.mark.parametrize("python", COLAB_NUMPY)
def test_the_gpu_set_resolves_beside_what_a_colab_kernel_has_loaded(python, tmp_path):
    """The set-up cell keeps these versions; if this fails, Colab's users get a restart (see `utils.setup.install`)."""
    kept = COLAB_KERNEL | COLAB_NUMPY[python]
    assert kept.keys() >= {*LOADED_BY_THE_KERNEL, "ipywidgets"}
    found = resolve(read_pins(GPU_FILE) | kept, python, tmp_path)
    assert {name: found[name] for name in kept} == kept


def test_the_newer_set_resolves(tmp_path):
    found = resolve(read_pins(GPU_FILE) | NEWER, "3.12", tmp_path)
    assert {name: found[name] for name in NEWER} == NEWER


def test_a_set_that_cannot_be_installed_is_noticed(tmp_path):
    with pytest.raises(AssertionError, match="No solution found"):
        resolve({"trl": "1.2.0", "accelerate": "0.1.0"}, "3.12", tmp_path)
