"""Checkpoints that can be gone on from: written in full, as they were written, and mirrored where that is wanted.

The last file of a checkpoint, `complete.json`, holds its step, the run's settings, and the size and sha256 of every
other file:

    {"step": 40, "settings": {"seed": 0, …}, "files": {"optimizer.pt": {"bytes": 1398107, "sha256": "5f0c…"}, …}}

A hash tells that a file is as it was written, not who wrote it: what a pickle would run is never loaded (`flaw`).

A mirror is a copy of a run that outlives the machine: finished checkpoints in a second folder, such as a mounted Google
Drive. `run_training(trainer, resume=True, mirror="/content/drive/MyDrive/grpo-math")` is the whole of "start or
continue": on a fresh machine it first brings back what the mirror holds. Training writes to the local disk, for a
Drive's synchronisation lags; only whole checkpoints are copied, verified as the mirror gives them back. When Drive
uploads them is its own affair; `drive.flush_and_unmount()` waits for it.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from utils.files import differences, json_object, read_json, sha256, write_json
from utils.model.policy import check_adapter

MANIFEST = "complete.json"
NEEDED = (  # where one is missing, transformers goes on without what it holds
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
)
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what JSON raises that is not as written
LOGS = ("log.jsonl", "rollouts.jsonl")
RECORDS = ("settings.json", *LOGS)
KEEP = 2  # checkpoints in the mirror


def write_manifest(checkpoint: Path, settings: dict[str, Any]) -> None:
    """Describe all files of a checkpoint as they are now in its `complete.json`."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    files = {
        file.relative_to(checkpoint).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file()
    }
    write_json(checkpoint / MANIFEST, {"step": step_of(checkpoint), "settings": settings, "files": files})


def read_settings(run: Path) -> dict[str, Any]:
    """A run's settings.json; {} where there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / "settings.json"
    return read_json(path, "delete it, the checkpoints hold the same settings") if path.exists() else {}


def read_training(run: Path) -> dict[str, Any]:
    """A run's training.json; {} where there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path, mend = run / "training.json", "delete it, a run can do without; --resume writes it again"
    if not path.exists():
        return {}
    training = read_json(path, mend)
    for name in ("seed", "steps", "seconds"):
        kinds = (int, float) if name == "seconds" else (int,)
        if type(value := training.get(name)) not in kinds or not 0 <= value < math.inf:
            raise ValueError(f"{path} is damaged ({name} is {value!r:.40}, no number from 0 on); {mend}")
    return training


def flaw(checkpoint: Path, settings: dict[str, Any] | None = None, step: int | None = None) -> str | None:
    """Why a checkpoint cannot be gone on from, naming the file or setting; None for a whole one of this run.

    Args:
        settings: those of the run it should belong to; not compared where None.
        step: after which it should have been written; not compared where None.
    """
    try:
        if not (checkpoint / MANIFEST).exists():
            return f"it was not written to its end ({MANIFEST} is missing)"
        manifest = json_object((checkpoint / MANIFEST).read_bytes())
        files = manifest["files"]
        random = _random_states(manifest["settings"].get("processes", 1))
        for name, wanted in (dict.fromkeys([*NEEDED, *random]) | files).items():
            path = checkpoint / name
            if not path.is_file() or wanted is None:
                return f"{name} is missing"
            if (size := path.stat().st_size) != wanted["bytes"]:
                return f"{name} is {'truncated' if size < wanted['bytes'] else 'altered'}: " + (
                    f"{size:,} bytes instead of {wanted['bytes']:,}"
                )
            if (found := sha256(path)) != wanted["sha256"]:
                return f"{name} was altered (sha256 {found[:12]}…, when written {wanted['sha256'][:12]}…)"
        other = [] if settings is None else differences(manifest["settings"], settings, ("it", "this run"))
    except OSError as error:
        return f"it cannot be read ({error})"
    except DAMAGED as error:
        return f"{MANIFEST} is damaged ({type(error).__name__}: {error})"
    if other:
        return f"it belongs to another run: {'; '.join(other)}"
    return _wrong_state(checkpoint, manifest.get("step"), step) or _unloadable(checkpoint)


def _random_states(processes: int) -> list[str]:
    """The files in which transformers keeps the random generators of so many processes."""
    return ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]


def _wrong_state(checkpoint: Path, written: Any, step: int | None) -> str | None:
    """What is wrong with trainer_state.json and the step; `written` stands in the manifest (not in those of old)."""
    try:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except DAMAGED as error:
        return f"trainer_state.json is damaged ({type(error).__name__}: {error})"
    for name, usual in vars(TrainerState()).items():
        kind = int | float if type(usual) in (int, float) else type(usual)
        if usual is not None and not isinstance(value := getattr(state, name), kind):
            return f"trainer_state.json is damaged ({name} is {value!r:.40})"
    wanted = state.global_step if step is None else step
    for name, found in ((MANIFEST, written), ("trainer_state.json", state.global_step)):
        if found not in (None, wanted):
            return f"it is not of step {wanted}: {name} says {found!r:.40}"
    return None


def _unloadable(checkpoint: Path) -> str | None:
    """Which file cannot be loaded, or holds more than tensors and numbers: as a pickle, it runs what it likes."""
    from transformers.trainer import safe_globals  # numpy's arrays, for rng_state.pth

    try:
        check_adapter(checkpoint)
    except (ValueError, RecursionError) as error:
        return str(error)
    for path in sorted(checkpoint.glob("*.pt*")):
        try:
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # bytes that are no pickle raise nearly anything
            return f"{path.name} is damaged, or holds more than tensors and numbers ({type(error).__name__})"
    return None


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def all_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoint folders of a run, whole or not, oldest first."""
    return sorted((c for c in Path(run).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", c.name)), key=step_of)


def complete_checkpoints(
    run: str | Path, notify: Callable[[str], None] = print, settings: dict[str, Any] | None = None
) -> list[Path]:
    """The checkpoints of a run that can be gone on from, oldest first.

    Args:
        notify: receives a sentence for each other checkpoint, with the reason.
        settings: they tell which checkpoints are the run's own; those in its settings.json unless given.
    """
    settings, whole = settings or read_settings(Path(run)) or None, []
    for checkpoint in all_checkpoints(run):
        if reason := flaw(checkpoint, settings, step_of(checkpoint)):
            notify(f"{checkpoint} is not used: {reason}")
        else:
            whole.append(checkpoint)
    return whole


# ---------------------------------------------------------------------------------------------------------- the mirror


class Mirror(TrainerCallback):
    """Copy each finished checkpoint and the run's records to a folder.

    It never stops a training: a folder that is full or gone is reported once, and tried again at the next checkpoint.
    """

    def __init__(self, folder: str | Path, notify: Callable[[str], None] = print):
        self.folder, self.notify, self.failing = Path(folder), notify, False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            mirror_checkpoint(checkpoint, self.folder)
        except OSError as error:
            with suppress(OSError):  # what was copied of it only takes up room; a folder that is gone keeps it
                remove(self.folder / ".checkpoint-new")
            if not self.failing:
                self.notify(
                    f"NOT MIRRORED: {checkpoint.name} could not be copied to {self.folder} ({error}). Training goes "
                    "on, its checkpoints on this machine only, and the next one is tried again. Free some space there "
                    "(on Drive in its bin, too) or mount it again"
                )
            self.failing = True
        else:
            if self.failing:
                self.notify(f"mirrored again: {checkpoint.name} is in {self.folder}")
            self.failing = False


def check_mirror(folder: str | Path, run: str | Path | None = None) -> Path:
    """Return a mirror's folder as an absolute path.

    Args:
        run: folder of the run that it is to mirror.
    Raises:
        ValueError: it is that folder, or lies in it.
        FileNotFoundError: the folder around it is missing, as it is where no Drive is mounted; making it would put the
            copies on the disk that will be lost.
    """
    folder = Path(folder).absolute()
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"the mirror {folder} cannot be made: there is no folder {folder.parent}; "
            "mount the Drive first (google.colab.drive.mount), or make that folder"
        )
    if run is not None and folder.resolve().is_relative_to(Path(run).resolve()):
        raise ValueError(f"the mirror {folder} lies in the run's own folder {run}; give one elsewhere")
    return folder


def mirror_checkpoint(checkpoint: Path, mirror: Path) -> None:
    """Copy a checkpoint and its run's records to `mirror`, and delete all but the last `KEEP` there up to its step."""
    mirror.mkdir(exist_ok=True)
    _copy_run(checkpoint, mirror)
    for old in [c for c in all_checkpoints(mirror) if step_of(c) <= step_of(checkpoint)][:-KEEP]:
        remove(old)


def restore(mirror: str | Path, output: str | Path, notify: Callable[[str], None] = print) -> Path | None:
    """Bring a mirror's newest whole checkpoint, with the records, into a run's folder that is empty or behind.

    Returns:
        The checkpoint in `output`; None where the mirror holds nothing newer.
    Raises:
        ValueError: `output` holds checkpoints of another run.
    """
    mirror, output = check_mirror(mirror), Path(output)
    there, here = complete_checkpoints(mirror, notify), complete_checkpoints(output, notify=lambda sentence: None)
    if here and (other := differences(read_settings(mirror), read_settings(output), (str(mirror), str(output)))):
        raise ValueError(f"not the same run: {'; '.join(other)}. Choose another folder for one of them")
    if not there or (here and step_of(here[-1]) >= step_of(there[-1])):
        return None
    output.mkdir(parents=True, exist_ok=True)
    _copy_run(there[-1], output)
    notify(f"brought {there[-1].name} back from {mirror}")
    return output / there[-1].name


def _copy_run(checkpoint: Path, folder: Path) -> None:
    """Records first: a log that is ahead of its checkpoint is cut when the run goes on, one behind would have a gap."""
    for name in RECORDS:
        if (checkpoint.parent / name).exists():
            shutil.copyfile(checkpoint.parent / name, folder / f".{name}-new")
            os.replace(folder / f".{name}-new", folder / name)
    temporary, target = folder / ".checkpoint-new", folder / checkpoint.name
    remove(temporary)
    for file in [f for f in checkpoint.rglob("*") if f.is_file()]:
        copy = temporary / file.relative_to(checkpoint)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    if reason := flaw(temporary):
        raise OSError(f"the copy is not what was written: {reason}")
    remove(target)
    os.replace(temporary, target)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, if it is there: first what makes it look whole, then what makes it large.

    Google Drive keeps what is deleted in its bin for 30 days and counts its size, so the files are emptied before
    (https://github.com/voicepaw/so-vits-svc-fork/pull/581).
    """
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    for file in [f for f in checkpoint.rglob("*") if f.is_file()]:
        os.truncate(file, 0)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)
