"""Which training notebook 05 judges, and that it stops before it asks anything where there is none."""

import shutil

import pytest

from tests.training.test_mirror import SETTINGS, make_checkpoint
from utils.files import ROOT, write_json, write_jsonl
from utils.training.trained import Trained, find_training

RECORDED = ROOT / "assets" / "runs" / "tiny" / "seed-0"


def test_without_a_run_of_ones_own_the_recorded_one_counts(tmp_path):
    found = find_training(tmp_path / "none", RECORDED)
    assert found == Trained(RECORDED, RECORDED / "adapter", True, 160, 0, found.seconds) and found.seconds > 0


def test_ones_own_finished_run_counts_first(tmp_path):
    make_checkpoint(tmp_path, 3)
    shutil.copytree(RECORDED / "adapter", tmp_path / "adapter")
    write_json(tmp_path / "training.json", {"steps": 20, "seconds": 5.5, "finished": True, "seed": 7})
    assert find_training(tmp_path, RECORDED) == Trained(tmp_path, tmp_path / "adapter", False, 20, 7, 5.5)
    (tmp_path / "training.json").unlink()  # a run can do without
    write_jsonl(tmp_path / "log.jsonl", [{"step": 1}, {"step": 2}])
    assert find_training(tmp_path, RECORDED) == Trained(tmp_path, tmp_path / "adapter", False, 2, 0, None)


def test_the_last_whole_checkpoint_counts_where_nothing_was_finished(tmp_path):
    checkpoints = [make_checkpoint(tmp_path, step, SETTINGS | {"seed": 4}) for step in (3, 6)]
    assert find_training(tmp_path, RECORDED) == Trained(tmp_path, checkpoints[1], False, 6, 4, None)
    (checkpoints[1] / "optimizer.pt").unlink()
    told = []
    assert find_training(tmp_path, RECORDED, notify=told.append).adapter == checkpoints[0]
    assert len(told) == 1 and "optimizer.pt is missing" in told[0]


def test_a_mirror_is_brought_back_first(tmp_path):
    make_checkpoint(tmp_path / "drive", 6)
    told = []
    found = find_training(tmp_path / "run", tmp_path / "none recorded", tmp_path / "drive", told.append)
    assert found.adapter == tmp_path / "run" / "checkpoint-6" and found.steps == 6 and not found.recorded
    assert len(told) == 1 and "brought checkpoint-6 back" in told[0]
    with pytest.raises(FileNotFoundError, match="mount the Drive first"):
        find_training(tmp_path / "run", RECORDED, tmp_path / "no" / "drive")


def test_without_any_the_ways_out_are_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        find_training(tmp_path / "run", tmp_path / "recorded")
    for way in (str(tmp_path / "run"), str(tmp_path / "recorded"), "notebook 04", "MIRROR", 'PROFILE = "tiny"'):
        assert way in str(error.value)


def test_a_damaged_adapter_is_named_before_anything_is_asked(tmp_path):
    shutil.copytree(RECORDED / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        find_training(tmp_path, RECORDED)
