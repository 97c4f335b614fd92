"""A run that loses its machine: kill -9, a lost folder, a full or vanished mirror, damaged and foreign checkpoints."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from utils.files import ROOT, portable, put_back, read_jsonl, replace_folder, write_json, write_jsonl
from utils.training import checkpoints as mirrors
from utils.training.checkpoints import (
    Mirror,
    all_checkpoints,
    complete_checkpoints,
    flaw,
    mirror_checkpoint,
    read_settings,
    read_training,
    restore,
    write_manifest,
)
from utils.training.watch import read_log

SETTINGS = {"seed": 0, "model": "assets/tiny_model", "rewards": ["a"], "beta": 0.0}
CONTENT = {"adapter_model.safetensors": 40_000, "optimizer.pt": 3_000, "scheduler.pt": 10, "rng_state.pth": 500}


def make_checkpoint(run, step, settings=SETTINGS):
    """A checkpoint as training leaves one, with random numbers in it."""
    checkpoint = run / f"checkpoint-{step}"
    (checkpoint / "ref").mkdir(parents=True, exist_ok=True)
    for name, size in CONTENT.items():
        numbers = torch.tensor(list(random.Random(f"{step} {name}").randbytes(size)), dtype=torch.uint8)
        if name.endswith(".safetensors"):
            save_file({"numbers": numbers.half()}, checkpoint / name)
        else:
            torch.save({"numbers": numbers}, checkpoint / name)
    (checkpoint / "ref/weights.bin").write_bytes(bytes(900))
    write_json(
        checkpoint / "adapter_config.json",
        {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 16, "lora_alpha": 32},
    )
    write_json(checkpoint / "trainer_state.json", {"global_step": step, "max_steps": 9})
    write_json(run / "settings.json", settings)
    write_jsonl(run / "log.jsonl", [{"step": i + 1, "reward": 0.5} for i in range(step)])
    write_jsonl(run / "rollouts.jsonl", [{"step": i + 1, "groups": []} for i in range(step)])
    write_manifest(checkpoint, settings)
    return checkpoint


def content(folder):
    return {f.relative_to(folder): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def save(callback, run, step):
    callback.on_save(
        SimpleNamespace(output_dir=str(run)), SimpleNamespace(global_step=step, is_world_process_zero=True), None
    )


@pytest.fixture
def run(tmp_path):
    make_checkpoint(tmp_path / "run", 3)
    make_checkpoint(tmp_path / "run", 6)
    return tmp_path / "run"


# ------------------------------------------------------------------------------------ what is refused, and why


def flip_a_bit(checkpoint):
    path = checkpoint / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[1234] ^= 1
    path.write_bytes(content)


def manifest(checkpoint):
    return json.loads((checkpoint / "complete.json").read_text())


def rewritten(checkpoint, name, content):
    """Other content in a file, or none, and a manifest that agrees."""
    if content is None:
        (checkpoint / name).unlink()
    else:
        (checkpoint / name).write_bytes(content)
    write_manifest(checkpoint, SETTINGS)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda c: os.truncate(c / "optimizer.pt", 100), "optimizer.pt is truncated: 100 bytes instead of "),
        (lambda c: (c / "optimizer.pt").write_bytes(bytes(30_001)), "optimizer.pt is altered: 30,001 bytes"),
        (flip_a_bit, "optimizer.pt was altered (sha256 "),
        (lambda c: (c / "ref/weights.bin").unlink(), "ref/weights.bin is missing"),
        (lambda c: (c / "complete.json").unlink(), "it was not written to its end (complete.json is missing)"),
        (lambda c: os.truncate(c / "complete.json", 50), "complete.json is damaged"),
        (lambda c: (c / "complete.json").write_text("[]"), "complete.json is damaged"),
        (lambda c: (c / "complete.json").write_text('{"optimizer.pt": 3000}'), "complete.json is damaged"),
        (lambda c: (c / "complete.json").write_text("[" * 100_000), "complete.json is damaged"),
        (lambda c: write_manifest(c, []), "complete.json is damaged"),
        (lambda c: write_json(c / "complete.json", manifest(c) | {"step": 8}), "not of step 6: complete.json says 8"),
        (lambda c: rewritten(c, "optimizer.pt", None), "optimizer.pt is missing"),
        (lambda c: rewritten(c, "adapter_model.safetensors", b"{}"), "the adapter in"),
        (lambda c: rewritten(c, "trainer_state.json", b""), "trainer_state.json is damaged"),
        (lambda c: rewritten(c, "trainer_state.json", b"[]"), "trainer_state.json is damaged"),
        (lambda c: rewritten(c, "trainer_state.json", b"[" * 100_000), "trainer_state.json is damaged"),
        (lambda c: rewritten(c, "trainer_state.json", b'{"odd": 6}'), "trainer_state.json is damaged"),
        (lambda c: rewritten(c, "trainer_state.json", b'{"global_step": "6"}'), "damaged (global_step is '6')"),
        (lambda c: rewritten(c, "trainer_state.json", b'{"global_step": 8}'), "step 6: trainer_state.json says 8"),
        (lambda c: write_manifest(c, SETTINGS | {"seed": 3}), "it belongs to another run: seed is 3 in it and 0 in"),
        (lambda c: write_manifest(c, SETTINGS | {"model": "Qwen/x"}), "another run: model is 'Qwen/x' in it"),
        (lambda c: write_manifest(c, SETTINGS | {"rewards": ["b"]}), "rewards is ['b'] in it and ['a'] in this"),
    ],
)
def test_a_checkpoint_that_is_not_whole_or_not_ours_is_refused_by_name(run, damage, reason):
    assert [c.name for c in complete_checkpoints(run)] == ["checkpoint-3", "checkpoint-6"]
    damage(run / "checkpoint-6")
    said = []
    assert [c.name for c in complete_checkpoints(run, said.append)] == ["checkpoint-3"]
    assert len(said) == 1 and f"{run / 'checkpoint-6'} is not used: " in said[0] and reason in said[0]


class Evil:
    """What a pickle can do: on loading it calls any function."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_that_would_run_something_is_refused_by_name_and_not_run(run, tmp_path, name, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"numbers": Evil(tmp_path / "ran")}, run / "checkpoint-6" / name)
    write_manifest(run / "checkpoint-6", SETTINGS)
    said = []
    assert [c.name for c in complete_checkpoints(run, said.append)] == ["checkpoint-3"]
    assert f"{name} is damaged, or holds more than tensors and numbers" in said[0]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [True, False], ids=["with its step", "of old, without a step"])
def test_a_checkpoint_under_the_name_of_another_step_is_refused(run, keep):
    fake = shutil.copytree(run / "checkpoint-6", run / "checkpoint-999")
    written = manifest(fake)
    assert written["step"] == 6
    for checkpoint in all_checkpoints(run):
        content = manifest(checkpoint)
        write_json(checkpoint / "complete.json", content if keep else {k: content[k] for k in ("settings", "files")})
    said = []
    assert [c.name for c in complete_checkpoints(run, said.append)] == ["checkpoint-3", "checkpoint-6"]
    assert "checkpoint-999 is not used: it is not of step 999" in said[0] and said[0].endswith("says 6")


GARBAGE = {
    "empty": b"",
    "a list": b"[]\n",
    "a number": b"42\n",
    "no JSON": bytes(range(256)) + b"\n",
    "not UTF-8": b'{"seed": "\xff", "steps": 3, "step": 3}\n',
    "nested": b"[" * 100_000 + b"\n",
    "nested objects": b'{"step":' * 100_000 + b"\n",
    "nothing but NUL": bytes(300) + b"\n",
    "cut": b'{"step": 3,\n',
    "numbers as text": b'{"seed": "0", "steps": "6", "seconds": "2.0", "step": "3"}\n',
    "not numbers": b'{"seed": 0, "steps": NaN, "seconds": null, "step": NaN}\n',
    "a long number": b'{"step": ' + b"9" * 5_000 + b"}\n",
}
READERS = {
    "settings.json": lambda run: read_settings(run),
    "training.json": lambda run: read_training(run),
    "log.jsonl": lambda run: read_log(run / "log.jsonl"),
    "rollouts.jsonl": lambda run: read_log(run / "rollouts.jsonl"),
}
HARMLESS = {  # a log without a line has a gap, which is told; settings are compared, value by value
    *(("log.jsonl", "empty"), ("rollouts.jsonl", "empty")),
    *(("settings.json", "numbers as text"), ("settings.json", "not numbers")),
}


@pytest.mark.parametrize("damage", GARBAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_record_is_named_with_its_mend(run, name, damage):
    (run / name).write_bytes(GARBAGE[damage])
    if (name, damage) in HARMLESS:
        assert READERS[name](run) is not None
        return
    with pytest.raises(ValueError, match=rf"{name}.* is damaged \(.*(delete it|move the file away)"):
        READERS[name](run)


def test_other_folders_are_no_checkpoints(run):
    for name in ("checkpoint-6 (1)", "checkpoint-best", "refused-checkpoint-9"):
        (run / name).mkdir()
    assert [c.name for c in complete_checkpoints(run)] == ["checkpoint-3", "checkpoint-6"]
    assert complete_checkpoints(run / "nowhere") == []


def test_damaged_settings_are_named_and_can_be_deleted(run, tmp_path):
    os.truncate(run / "settings.json", 9)
    with pytest.raises(ValueError, match="settings.json is damaged .* delete it"):
        restore(run, tmp_path / "fresh")
    (run / "settings.json").unlink()
    assert restore(run, tmp_path / "fresh").name == "checkpoint-6"


def test_the_embedded_model_has_the_same_name_in_every_clone():
    assert portable(str(ROOT / "assets" / "tiny_model")) == "assets/tiny_model"
    assert portable("Qwen/Qwen2.5-3B-Instruct") == "Qwen/Qwen2.5-3B-Instruct"
    assert portable("/elsewhere/model") == "/elsewhere/model"


# ----------------------------------------------------------------------------------------- mirror and restore


def test_the_mirror_holds_the_last_two_checkpoints_and_the_records(run, tmp_path):
    callback = Mirror(tmp_path / "mirror")
    for step in (3, 6, 9):
        make_checkpoint(run, step)
        save(callback, run, step)
    assert sorted(f.name for f in (tmp_path / "mirror").iterdir()) == [
        "checkpoint-6",
        "checkpoint-9",
        "log.jsonl",
        "rollouts.jsonl",
        "settings.json",
    ]
    for name in ("checkpoint-6", "checkpoint-9"):
        assert content(tmp_path / "mirror" / name) == content(run / name)


@pytest.mark.parametrize("local", [None, 3])
def test_restore_fills_a_folder_that_is_empty_or_behind(run, tmp_path, local, capsys):
    mirror_checkpoint(run / "checkpoint-6", tmp_path / "mirror")
    fresh = tmp_path / "fresh"
    if local:
        make_checkpoint(fresh, local)
    assert restore(tmp_path / "mirror", fresh) == fresh / "checkpoint-6"
    assert content(fresh / "checkpoint-6") == content(run / "checkpoint-6")
    assert len(read_jsonl(fresh / "log.jsonl")) == len(read_jsonl(fresh / "rollouts.jsonl")) == 6
    assert "brought checkpoint-6 back" in capsys.readouterr().out
    assert restore(tmp_path / "mirror", fresh) is None, "a second time there is nothing to do"


def test_restore_leaves_a_folder_alone_that_is_ahead(run, tmp_path):
    mirror_checkpoint(run / "checkpoint-3", tmp_path / "mirror")
    before = content(run)
    assert restore(tmp_path / "mirror", run) is None
    assert content(run) == before
    assert restore(tmp_path / "empty", run) is None


def test_restore_uses_the_previous_checkpoint_when_the_newest_is_damaged(run, tmp_path):
    for step in (3, 6):
        mirror_checkpoint(run / f"checkpoint-{step}", tmp_path / "mirror")
    flip_a_bit(tmp_path / "mirror" / "checkpoint-6")
    said = []
    assert restore(tmp_path / "mirror", tmp_path / "fresh", said.append).name == "checkpoint-3"
    assert "checkpoint-6 is not used: optimizer.pt was altered" in said[0] and len(said) == 2


def test_restore_does_not_mix_two_runs(run, tmp_path):
    make_checkpoint(tmp_path / "other", 9, SETTINGS | {"seed": 7})
    mirror_checkpoint(tmp_path / "other" / "checkpoint-9", tmp_path / "mirror")
    with pytest.raises(ValueError, match="not the same run: seed is 7 in .* and 0 in"):
        restore(tmp_path / "mirror", run)
    assert [c.name for c in all_checkpoints(run)] == ["checkpoint-3", "checkpoint-6"]


def test_a_drive_that_is_not_mounted_is_not_made(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="mount the Drive first"):
        restore(tmp_path / "drive" / "MyDrive" / "grpo", run)
    assert not (tmp_path / "drive").exists()


# -------------------------------------------------------------------------------------- what goes wrong there


def test_a_full_mirror_is_said_once_and_tried_again(run, tmp_path, monkeypatch):
    said, real, room = [], shutil.copyfile, [0]
    callback = Mirror(tmp_path / "mirror", said.append)
    save(callback, run, 3)

    def full(source, target):
        if Path(source).stat().st_size > room[0]:
            Path(target).write_bytes(Path(source).read_bytes()[: room[0]])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(mirrors.shutil, "copyfile", full)
    for room[0] in (0, 2_000, 10_000):  # nothing, the records, or a part of the checkpoint find room
        save(callback, run, 6)
        assert [c.name for c in complete_checkpoints(tmp_path / "mirror", said.append)] == ["checkpoint-3"]
        assert (tmp_path / "mirror" / "log.jsonl").read_bytes() == (run / "log.jsonl").read_bytes()
        assert not (tmp_path / "mirror" / ".checkpoint-new").exists(), "a part of a checkpoint only takes up room"
    assert len(said) == 1 and "NOT MIRRORED: checkpoint-6" in said[0] and "No space left" in said[0]
    monkeypatch.undo()
    save(callback, run, 6)
    assert len(said) == 2 and "mirrored again: checkpoint-6" in said[1]
    assert len(complete_checkpoints(tmp_path / "mirror")) == 2


def test_a_mirror_that_is_gone_does_not_come_back_on_the_wrong_disk(run, tmp_path):
    said = []
    drive = tmp_path / "drive"
    drive.mkdir()
    callback = Mirror(drive / "grpo", said.append)
    save(callback, run, 3)
    shutil.rmtree(drive)
    save(callback, run, 6)
    assert not drive.exists() and "NOT MIRRORED: checkpoint-6" in said[0]


def test_a_copy_that_reads_back_differently_is_no_copy(run, tmp_path, monkeypatch):
    real, said = shutil.copyfile, []

    def lossy(source, target):
        real(source, target)
        if Path(target).name == "optimizer.pt":
            flip_a_bit(Path(target).parent)

    monkeypatch.setattr(mirrors.shutil, "copyfile", lossy)
    save(Mirror(tmp_path / "mirror", said.append), run, 6)
    assert complete_checkpoints(tmp_path / "mirror") == []
    assert "the copy is not what was written: optimizer.pt was altered" in said[0]


def killed_at(operation, work):
    """Do `work` in a forked process that ends, as by kill -9, just before its n-th change on disk; True if it did."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def on_event(event, arguments):
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
                count += 1
                if count == operation:
                    os._exit(9)

        sys.addaudithook(on_event)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_before_any_single_change_on_disk_the_mirror_still_holds_a_whole_checkpoint(run, tmp_path):
    make_checkpoint(run, 9)
    mirror, fresh, operation, steps_seen = tmp_path / "mirror", tmp_path / "fresh", 0, set()
    while True:
        operation += 1
        for folder in (mirror, fresh):
            shutil.rmtree(folder, ignore_errors=True)
        for step in (3, 6):
            mirror_checkpoint(run / f"checkpoint-{step}", mirror)
        killed = killed_at(operation, lambda: mirror_checkpoint(run / "checkpoint-9", mirror))
        restored = restore(mirror, fresh, notify=lambda sentence: None)
        assert flaw(restored, SETTINGS) is None
        steps_seen.add(restored.name)
        assert len(read_jsonl(fresh / "log.jsonl")) >= 6, "the log must not end before the checkpoint"
        mirror_checkpoint(run / "checkpoint-9", mirror)  # tried again, it succeeds and leaves nothing behind
        assert [c.name for c in complete_checkpoints(mirror)] == ["checkpoint-6", "checkpoint-9"]
        assert not [f for f in mirror.iterdir() if f.name.startswith(".")]
        if not killed:
            break
    assert operation > 15 and steps_seen == {"checkpoint-6", "checkpoint-9"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_before_any_single_change_on_disk_one_whole_folder_is_found(tmp_path):
    """How an adapter and a merged model take the place of an older one."""
    folder, new, operation, found = tmp_path / "adapter", tmp_path / ".adapter-new", 0, []
    while True:
        operation += 1
        for place, text in ((folder, "old"), (new, "new")):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            for name in ("config", "weights"):
                (place / name).write_text(text)
        killed = killed_at(operation, lambda: replace_folder(new, folder))
        put_back(folder)  # the next start
        texts = {name: (folder / name).read_text() for name in ("config", "weights")}
        assert len(set(texts.values())) == 1
        found.append(texts["config"])
        assert not [f.name for f in tmp_path.iterdir() if f not in (folder, new)]
        if not killed:
            break
    assert found == ["old", "old"] + ["new"] * (len(found) - 2) and len(found) > 4


def test_a_rename_that_fails_leaves_the_old_folder_in_its_place(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nowhere", tmp_path / "old")
    assert [f.name for f in tmp_path.iterdir()] == ["old"]


def test_what_is_deleted_is_emptied_first(run, monkeypatch):
    """A Drive's bin counts the size of what was deleted."""
    seen = {}
    monkeypatch.setattr(mirrors.shutil, "rmtree", lambda folder: seen.update(content(folder)))
    mirrors.remove(run / "checkpoint-3")
    assert len(seen) == len(CONTENT) + 3 and not any(seen.values())
    assert flaw(run / "checkpoint-3") == "it was not written to its end (complete.json is missing)"


# ------------------------------------------------------------------------------------------------- kill -9

TRAIN = """
import sys
from utils.data.questions import load_questions
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.training.grpo import build_trainer, run_training
profile = get_profile("tiny").replace(
    steps=10, prompts_per_step=2, group_size=4, micro_batch=8, max_completion_tokens=24, save_every=1)
trainer = build_trainer(load_policy(profile), load_questions("tiny", "train")[:40], sys.argv[1], seed=3)
run_training(trainer, resume=True, mirror=sys.argv[2] if len(sys.argv) > 2 else None)
"""


def start(*folders):
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, *map(str, folders)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_at_random_moments_and_moved_to_a_fresh_machine_a_run_ends_in_the_same_adapter(tmp_path):
    straight = start(tmp_path / "straight")
    assert straight.wait() == 0, straight.stdout.read()
    run, mirror, rng, said = tmp_path / "run", tmp_path / "mirror", random.Random(0), ""
    for steps in (3, 6, 8):
        training = start(run, mirror)
        while lines_in(run / "log.jsonl") < steps:
            assert training.poll() is None, training.stdout.read()
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        training.send_signal(signal.SIGKILL)
        assert training.wait() == -signal.SIGKILL
        said += training.stdout.read()
        with (run / "log.jsonl").open("a") as log:
            log.write('{"step": 99, "rew')  # as a kill in the middle of a line leaves it
        if steps == 6:
            shutil.rmtree(run)  # the machine is gone, the mirror is left
    last = start(run, mirror)
    said += last.communicate()[0]
    assert last.returncode == 0, said
    assert re.findall(r"brought checkpoint-\d+ back", said), "one start was on an empty machine"
    for name in ("adapter/adapter_model.safetensors", "rollouts.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    assert [line["step"] for line in read_jsonl(run / "log.jsonl")] == list(range(1, 11))
    assert [c.name for c in complete_checkpoints(mirror)] == ["checkpoint-9", "checkpoint-10"]
    assert json.loads((mirror / "settings.json").read_text())["model"] == "assets/tiny_model"
