"""Which training is there to be judged: the one in a run's folder, the one in its mirror, or the recorded one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.files import read_jsonl
from utils.model.policy import check_adapter
from utils.training.checkpoints import complete_checkpoints, read_settings, read_training, restore, step_of


@dataclass(frozen=True)
class Trained:
    """A training that left an adapter.

    Attributes:
        folder: of the run, with its log.jsonl.
        adapter: in it, the finished one or a checkpoint's.
        recorded: whether it came with the project.
        steps: optimizer steps that the adapter was trained for.
        seconds: of the training; None where only checkpoints are left.
    """

    folder: Path
    adapter: Path
    recorded: bool
    steps: int
    seed: int | None
    seconds: float | None


def find_training(
    run: str | Path, recorded: str | Path, mirror: str | Path | None = None, notify: Callable[[str], None] = print
) -> Trained:
    """The training to judge, looked for before a model is asked anything.

    In this order: the finished adapter in `run`, its last whole checkpoint, the recorded run. A mirror's newest
    checkpoint is brought to `run` before, if that is behind.

    Args:
        run: folder of a training, as notebook 04 leaves it in RUN/training; it may be missing.
        recorded: folder of the recorded run of this profile; it may be missing.
        mirror: folder to which the training was mirrored.
        notify: receives what is brought back and which checkpoints are not used.
    Raises:
        FileNotFoundError: there is none; or no folder in which the mirror could lie, as where no Drive is mounted.
        ValueError: the adapter found is damaged, or mirror and run are two trainings.
    """
    run, recorded = Path(run), Path(recorded)
    if mirror:
        restore(mirror, run, notify)
    checkpoints = [] if (run / "adapter").exists() else complete_checkpoints(run, notify)
    places = [run / "adapter", *reversed(checkpoints), recorded / "adapter"]
    adapter = next((place for place in places if place.exists()), None)
    if adapter is None:
        raise FileNotFoundError(
            f"there is no trained model to judge: no adapter in {run}, and none is recorded in {recorded}. Run "
            "notebook 04 with the same PROFILE and RUN first; or, if it ran on another machine, set MIRROR to the "
            'folder on your Drive that it copied to; or set PROFILE = "tiny", for which an adapter is recorded'
        )
    check_adapter(adapter)
    folder = adapter.parent
    if adapter.name != "adapter":
        return Trained(folder, adapter, False, step_of(adapter), read_settings(folder).get("seed"), None)
    training = read_training(folder)
    steps = training.get("steps") or read_jsonl(folder / "log.jsonl")[-1]["step"]
    seed = training.get("seed", read_settings(folder).get("seed"))
    return Trained(folder, adapter, folder == recorded, steps, seed, training.get("seconds"))
