"""The set-up cell and its module on machines that are not here: nothing is installed, the installers are scripts.

The fake installers read and write a JSON file of versions, which also answers `importlib.metadata.version`; so what
is tested is the real command line, the real output and the real decisions.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from utils import setup
from utils.files import ROOT
from utils.scripts.notebooks import NOTEBOOKS, WITH_EXERCISES, origin

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the installers that stand in are Unix scripts")
GPU_PINS, CPU_PINS = (setup.read_pins(ROOT / name) for name in ("requirements.txt", "requirements-cpu.txt"))
COLAB = {  # versions in the image of 2026-08-19
    "torch": "2.11.0+cu128",
    "transformers": "5.15.0",
    "peft": "0.20.0",
    "datasets": "4.0.0",
    "accelerate": "1.13.0",
    "numpy": "2.1.3",
    "pillow": "11.3.0",
    "pandas": "2.2.3",
    "matplotlib": "3.10.0",
    "ipywidgets": "7.7.1",
    "torchao": "0.10.0",
}
KERNEL_LOADED = {"numpy": "2.1.3", "PIL": "11.3.0", "matplotlib": "3.10.0"}
INSTALLER = """#!{python}
import json, sys
from pathlib import Path
world = Path({world!r})
state = json.loads(world.read_text())
state["calls"].append(sys.argv)
wanted = dict(word.split("==") for word in sys.argv if "==" in word)
refused = [name for name, version in state["refuses"] if wanted.get(name) == version or name == "everything"]
print("error: no solution for", refused, file=sys.stderr) if refused else print("Installed", len(wanted), "packages")
if not refused and not state["lies"]:
    state["versions"].update(wanted)
    state["versions"].update(state["brings"] if "vllm" in wanted else {{}})
world.write_text(json.dumps(state))
sys.exit(1 if refused else 0)
"""


class Machine:
    """A machine of which only the set-up knows: its versions, loaded modules, installers and GPU."""

    def __init__(self, folder, monkeypatch):
        self.world, self.bin = folder / "world.json", folder / "bin"
        self.bin.mkdir()
        self.state = {"versions": dict(COLAB), "calls": [], "refuses": [], "lies": False, "brings": {"torch": "2.9.0"}}
        python = self.script("python", INSTALLER.format(python=sys.executable, world=str(self.world)))
        self.sys = SimpleNamespace(modules={}, executable=str(python), version="3.12.11 ", version_info=(3, 12, 11))
        self.load(KERNEL_LOADED)
        for name in ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG", "GRPO_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setattr(setup, "sys", self.sys)
        monkeypatch.setattr(importlib.metadata, "version", self.version)

    def script(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def with_uv(self):
        self.script("uv", INSTALLER.format(python=sys.executable, world=str(self.world)))
        return self

    def with_gpu(self, line="Tesla T4, 15360 MiB", status=0):
        self.script("nvidia-smi", f"#!/bin/sh\necho '{line}'\nexit {status}\n")
        return self

    def load(self, modules):
        self.sys.modules = {name: SimpleNamespace(__version__=version) for name, version in modules.items()}

    @property
    def state(self):
        return json.loads(self.world.read_text())

    @state.setter
    def state(self, state):
        self.world.write_text(json.dumps(state))

    def change(self, **parts):
        self.state = self.state | parts

    def version(self, package):
        if package not in (versions := self.state["versions"]):
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    def requested(self, call=-1):
        return dict(word.split("==") for word in self.state["calls"][call] if "==" in word)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def colab(machine, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-external_20260819")
    monkeypatch.setenv("GRPO_PROFILE", "t4")
    return machine


# ------------------------------------------------------------- Colab with a GPU, and a profile that trains on it


def test_colab_with_a_gpu_gets_every_pin_of_requirements_txt_except_what_it_keeps(colab, capsys):
    colab.with_uv().with_gpu()
    setup.set_up()
    own = {"numpy": "2.1.3", "pillow": "11.3.0", "matplotlib": "3.10.0", "ipywidgets": "7.7.1"}
    assert colab.requested() == GPU_PINS | own
    call = colab.state["calls"]
    assert len(call) == 1 and call[0][1:5] == ["pip", "install", "--python", colab.sys.executable]
    out = capsys.readouterr().out
    assert out.startswith("Colab, Python 3.12.11, GPU: Tesla T4, 15360 MiB\nInstalling trl, transformers")
    assert "Installed 15 packages" in out, "what the installer says must be seen"
    assert re.search(r"^vllm +0\.11\.2 +0\.11\.2 +ok$", out, re.M)
    assert re.search(r"^ipywidgets +8\.1\.9 +7\.7\.1 +kept: the machine's own$", out, re.M)
    assert re.search(r"^torch +- +2\.9\.0$", out, re.M) and re.search(r"^numpy +- +2\.1\.3 +kept", out, re.M)


def test_a_second_run_installs_nothing(colab, capsys):
    colab.with_uv().with_gpu()
    setup.set_up()
    first = capsys.readouterr().out
    setup.set_up()
    second = capsys.readouterr().out
    assert len(colab.state["calls"]) == 1 and "Installing" not in second
    assert second.partition("\n")[2].startswith("package ") and first.endswith(second.partition("\n")[2])


def test_pip_is_used_where_uv_is_missing(colab):
    colab.with_gpu()
    setup.set_up()
    assert colab.state["calls"][0][:4] == [colab.sys.executable, "-m", "pip", "install"]
    assert colab.requested()["numpy"] == "2.1.3"


def test_a_replaced_torch_that_is_loaded_asks_for_a_restart_and_after_it_all_is_well(colab, capsys):
    colab.with_uv().with_gpu().load(KERNEL_LOADED | {"torch": "2.11.0+cu128"})
    for _ in range(2):  # running the cell again does not help, and says so again
        with pytest.raises(
            RuntimeError,
            match=r"restart needed: torch 2\.11\.0 is loaded, 2\.9\.0 installed\. Choose Runtime > Restart",
        ):
            setup.set_up()
        assert re.search(r"^torch .*2\.11\.0 is loaded: restart$", capsys.readouterr().out, re.M)
    colab.load(KERNEL_LOADED | {"torch": "2.9.0+cu128"})
    setup.set_up()
    assert len(colab.state["calls"]) == 1


def test_a_numpy_that_does_not_fit_is_given_up_and_the_restart_announced(colab, capsys):
    colab.with_uv().with_gpu().load(KERNEL_LOADED | {"numpy": "2.3.5"})
    colab.change(
        versions=COLAB | {"numpy": "2.3.5"}, refuses=[["numpy", "2.3.5"]], brings={"torch": "2.9.0", "numpy": "2.2.6"}
    )
    with pytest.raises(RuntimeError, match=r"restart needed: numpy 2\.3\.5 is loaded, 2\.2\.6 installed"):
        setup.set_up()
    out = capsys.readouterr().out
    assert "error: no solution for ['numpy']" in out
    assert "without keeping numpy==2.3.5, pillow==11.3.0, matplotlib==3.10.0" in out
    assert colab.requested()["ipywidgets"] == "7.7.1", "ipywidgets are never given up on Colab"
    assert "numpy" not in colab.requested()


def test_an_installer_that_fails_is_shown_and_stops_the_notebook(colab, capsys):
    colab.with_uv().with_gpu().change(refuses=[["everything", ""]])
    with pytest.raises(RuntimeError, match="the installer stopped with status 1; its lines above say why"):
        setup.set_up()
    assert "error: no solution for ['everything']" in capsys.readouterr().out


def test_an_installer_that_reports_a_success_it_did_not_have_is_not_believed(colab):
    colab.with_uv().with_gpu().change(lies=True)
    with pytest.raises(RuntimeError, match="reported success, but trl, transformers.* cannot be found"):
        setup.set_up()


def test_a_python_without_wheels_is_refused_before_anything_is_installed(colab):
    colab.with_uv().with_gpu().sys.version_info = (3, 14, 0)
    with pytest.raises(RuntimeError, match=r"exist for Python 3\.11 to 3\.13.*Change runtime type"):
        setup.set_up()
    assert not colab.state["calls"]


# ----------------------------------------------------------------------------------- hosted without a GPU


def with_the_small_set(colab):
    """Set up, and check that the small set was asked for and nothing else, and what the machine has was kept."""
    setup.set_up()
    asked, own = colab.requested(), setup.kept_versions(gpu=False)
    assert own == {
        "numpy": "2.1.3",
        "pillow": "11.3.0",
        "matplotlib": "3.10.0",
        "ipywidgets": "7.7.1",
        "torch": "2.11.0",
    }
    notebook_pins = {name: version for name, version in CPU_PINS.items() if name not in setup.TOOLS}
    assert asked == notebook_pins | own


@pytest.mark.parametrize("driver", ["absent", "without a GPU"])
def test_colab_without_a_gpu_keeps_its_torch(colab, driver, capsys):
    colab.with_uv()
    if driver != "absent":
        colab.with_gpu("NVIDIA-SMI has failed", status=9)
    with_the_small_set(colab)
    out = capsys.readouterr().out
    assert "GPU: none" in out and re.search(r"^torch +2\.13\.0 +2\.11\.0 +kept: the machine's own$", out, re.M)
    assert "%env" not in out


@pytest.mark.parametrize("profile", [None, "", "tiny", "laptop"])
def test_colab_with_a_gpu_gets_the_small_set_unless_a_profile_asks_for_the_other(colab, profile, monkeypatch, capsys):
    monkeypatch.delenv("GRPO_PROFILE") if profile is None else monkeypatch.setenv("GRPO_PROFILE", profile)
    colab.with_uv().with_gpu().load(KERNEL_LOADED | {"torch": "2.11.0+cu128"})
    with_the_small_set(colab)  # no restart is asked for: nothing that is loaded was replaced
    out = capsys.readouterr().out
    assert "GPU: Tesla T4" in out and "vllm" not in out and "5 GB)" not in out
    assert "put `%env GRPO_PROFILE=t4` into a cell above the set-up cell and choose Runtime > Restart" in out


def test_a_hosted_machine_without_torch_gets_the_pinned_one(colab):
    colab.with_uv().change(versions={"numpy": "2.1.3"})
    colab.load({"numpy": "2.1.3"})
    setup.set_up()
    assert colab.requested()["torch"] == CPU_PINS["torch"]
    assert colab.requested()["ipywidgets"] == CPU_PINS["ipywidgets"]


def test_kaggle_is_told_apart(machine, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("GRPO_PROFILE", "t4")
    machine.with_uv().with_gpu("Tesla T4, 15360 MiB'; echo 'Tesla T4, 15360 MiB").change(refuses=[["everything", ""]])
    with pytest.raises(RuntimeError, match="Settings > Internet"):
        setup.set_up()
    assert capsys.readouterr().out.startswith("Kaggle, Python 3.12.11, GPU: Tesla T4, 15360 MiB, Tesla T4, 15360 MiB\n")


# ---------------------------------------------------------------------------------------- one's own machine


def test_nothing_is_installed_on_ones_own_machine(machine):
    machine.with_uv().change(versions={"torch": "2.13.0"})
    with pytest.raises(RuntimeError, match=r"not installed: trl, transformers, .*python3 run\.py lab"):
        setup.set_up()
    assert not machine.state["calls"]


def test_the_cpu_set_serves_a_machine_with_a_gpu(machine, capsys):
    """`run.py lab` installs the CPU set on a laptop with a GPU as well; its notebooks must open."""
    machine.with_gpu().change(versions=CPU_PINS | {"torch": "2.13.0+cpu"})
    machine.load({"torch": "2.13.0+cpu"})
    setup.set_up()
    out = capsys.readouterr().out
    assert re.search(r"^torch +2\.13\.0 +2\.13\.0 +ok$", out, re.M) and "vllm" not in out


def test_another_version_is_shown_and_not_refused(machine, capsys):
    machine.change(versions=CPU_PINS | {"trl": "1.14.2"})
    machine.load({})
    setup.set_up()
    assert re.search(r"^trl +1\.2\.0 +1\.14\.2 +not the pinned version$", capsys.readouterr().out, re.M)


def test_unsloth_makes_it_the_gpu_set(machine, capsys):
    machine.with_gpu().change(versions=GPU_PINS | {"torch": "2.9.0"})
    machine.load({})
    setup.set_up()
    assert re.search(r"^vllm +0\.11\.2 +0\.11\.2 +ok$", capsys.readouterr().out, re.M)


def test_the_packages_installed_here_never_ask_for_a_restart():
    """`__version__` and the installed version agree for the real packages: no false alarm."""
    names = [*(name for name in CPU_PINS if name not in setup.TOOLS), *setup.BESIDE_THE_PINS]
    modules = [setup.MODULES.get(name, name) for name in names]
    code = (
        f"import {', '.join(modules)}\nfrom utils.setup import loaded, replaced\n"
        f"print(replaced({names}), [name for name in {names} if not loaded(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[] []", done.stdout + done.stderr[-500:]


# ------------------------------------------------------------------------------------------------ the cell


CELL = next(c.source for c in nbformat.read(NOTEBOOKS[0], as_version=4).cells if c.cell_type == "code")
GIT = """#!{python}
import json, shutil, sys
from pathlib import Path
Path({folder!r}, "git.json").write_text(json.dumps(sys.argv[1:]))
if {fails}:
    sys.exit("fatal: Remote branch not found in upstream origin")
for name in ("utils/__init__.py", "utils/setup.py", "utils/files.py", "requirements.txt", "requirements-cpu.txt"):
    target = Path(sys.argv[-1], name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path({root!r}, name), target)
"""


def run_cell(folder, before="", git_fails=False, cwd=None):
    (folder / "bin").mkdir(exist_ok=True)
    git = folder / "bin" / "git"
    git.write_text(GIT.format(python=sys.executable, folder=str(folder), root=str(ROOT), fails=git_fails))
    git.chmod(0o755)
    after = "\nprint('UTILS', utils.__file__, 'FIRST', sys.path[0])"
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLAB_RELEASE_TAG")}
    return subprocess.run(
        [sys.executable, "-c", before + CELL + after],
        cwd=cwd or folder,
        env=env | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


def test_the_cell_finds_the_checkout_it_lies_in(tmp_path):
    done = run_cell(tmp_path, cwd=ROOT / "notebooks")
    assert f"UTILS {ROOT / 'utils' / '__init__.py'} FIRST {ROOT}" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "git.json").exists()


def test_the_cell_clones_the_tag_once_where_there_is_no_checkout(tmp_path):
    done = run_cell(tmp_path)
    root = tmp_path / "grpo-math"
    assert f"UTILS {root / 'utils' / '__init__.py'} FIRST {root}" in done.stdout, done.stdout + done.stderr
    assert re.search(r"^trl +\S+ +\S+ +\S", done.stdout, re.M), "the table"
    source, tag = origin()
    clone = ["clone", "--depth=1", f"--branch={tag}", source, str(root)]
    assert json.loads((tmp_path / "git.json").read_text()) == clone
    (tmp_path / "git.json").unlink()
    assert f"FIRST {root}" in run_cell(tmp_path).stdout
    assert not (tmp_path / "git.json").exists()


def test_a_failed_clone_is_shown(tmp_path):
    done = run_cell(tmp_path, git_fails=True)
    assert done.returncode and "fatal: Remote branch not found" in done.stdout


def test_another_package_named_utils_is_told_apart(tmp_path):
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=lambda *_: {"setup.py", "__pycache__"})
    done = run_cell(tmp_path, before="import utils\n", cwd=tmp_path)
    assert "restart the session, run this cell first" in done.stderr, done.stdout + done.stderr
    assert str(tmp_path / "utils" / "__init__.py") in done.stderr


def test_the_cell_holds_no_pin_and_names_no_package():
    assert "==" not in CELL
    assert not [name for name in GPU_PINS | CPU_PINS if re.search(rf"\b{name}\b", CELL)]
    for path in (Path(setup.__file__), *WITH_EXERCISES):
        assert not re.search(r"\w==\d", path.read_text(encoding="utf-8")), f"{path.name} holds a pin of its own"
