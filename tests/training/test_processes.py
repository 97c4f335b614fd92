"""Several processes train together, started by torch's own launcher over gloo: files, first steps, resume, a kill."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from tests.training import in_step
from tests.training.in_step import STEPS
from utils.files import ROOT, read_json, read_jsonl
from utils.model.profiles import PROFILES
from utils.training.grpo import grpo_settings

pytestmark = pytest.mark.slow
COUNTS = (1, 2, 4)  # with 4 a group of 8 is shared by two processes


def start(folder, processes, *options, **more):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GRPO_ENGINE": ""}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "tests.training.in_step", str(folder), *options],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more,
    )  # fmt: skip


def done(process):
    out = process.communicate(timeout=900)[0]
    assert process.returncode == 0, out
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs with the same completions, by their number of processes."""
    folders = {count: tmp_path_factory.mktemp("run") / str(count) for count in COUNTS}
    for count, folder in folders.items():
        done(start(folder, count, "--written"))
    return folders


@pytest.mark.parametrize("count", COUNTS)
def test_a_run_has_its_files_once(runs, count):
    folder = runs[count]
    assert [line["step"] for line in read_jsonl(folder / "log.jsonl")] == list(range(1, STEPS + 1))
    assert [line["step"] for line in read_jsonl(folder / "rollouts.jsonl")] == list(range(1, STEPS + 1))
    assert read_json(folder / "settings.json", "")["processes"] == count
    listed = read_json(folder / f"checkpoint-{STEPS}" / "complete.json", "")["files"]
    random_states = [name for name in listed if name.startswith("rng_state")]
    assert len(random_states) == count
    assert not [*folder.glob(".adapter*")] and (folder / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("count", COUNTS[1:])
def test_the_same_completions_give_the_same_steps(runs, count):
    one, several = runs[1], runs[count]
    assert read_jsonl(one / "rollouts.jsonl") == read_jsonl(several / "rollouts.jsonl")
    for name in ("loss", "grad_norm", "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length"):
        for a, b in zip(read_jsonl(one / "log.jsonl"), read_jsonl(several / "log.jsonl"), strict=True):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (name, a["step"])
    weights = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, several)]
    for name, tensor in weights[0].items():  # where a gradient is nearly 0, Adam makes a whole step of its sign
        assert (tensor - weights[1][name]).norm() < 0.01 * tensor.norm(), name


def test_other_numbers_of_processes_are_refused_by_name(runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["in_step", str(runs[2]), "--resume"])
    with pytest.raises(ValueError, match="processes is 2 in .* and 1 in this run"):
        in_step.main()


def test_a_number_that_does_not_divide_the_completions_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")  # as the launcher tells it
    with pytest.raises(ValueError, match="3 processes cannot share the 16 completions of a step alike"):
        grpo_settings(PROFILES["tiny"], "transformers", tmp_path, 0, [1.0, 0.2])


def test_one_that_is_killed_ends_all_and_the_run_goes_on_to_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done(start(whole, 2))
    launcher = start(killed, 2)
    while launcher.poll() is None and not (killed / "checkpoint-2" / "complete.json").exists():
        time.sleep(0.05)
    workers = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    out = launcher.communicate(timeout=600)[0]
    assert launcher.returncode != 0, out
    assert not (killed / "adapter").exists(), "it was finished before the kill"
    done(start(killed, 2, "--resume"))
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (whole, killed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_jsonl(whole / "rollouts.jsonl") == read_jsonl(killed / "rollouts.jsonl")


def test_ctrl_c_stops_all_after_the_same_step(tmp_path):
    folder = tmp_path / "run"
    launcher = start(folder, 2)
    while launcher.poll() is None and not (folder / "log.jsonl").exists():
        time.sleep(0.05)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=600)
    steps = [line["step"] for line in read_jsonl(folder / "log.jsonl")]
    assert len(steps) < STEPS and (folder / f"checkpoint-{steps[-1]}" / "complete.json").exists()
    done(start(folder, 2, "--resume"))
    assert [line["step"] for line in read_jsonl(folder / "log.jsonl")] == list(range(1, STEPS + 1))
