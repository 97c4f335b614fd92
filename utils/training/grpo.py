"""GRPO training with TRL: one builder for every profile and engine, with a log, a live table, checkpoints and resume.

A run's folder holds

    settings.json     what was trained with what; a resumed run must match it
    log.jsonl         one line of metrics per optimizer step
    rollouts.jsonl    one line per optimizer step: every group's prompt, completions, rewards and advantages
    checkpoint-N/     adapter, optimizer and random state after step N; `complete.json` is written last
    adapter/          the trained LoRA adapter
    training.json     steps, seconds, whether finished, seed, the learning rate's schedules, versions, machine
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerState, set_seed

from utils.data.prompts import chat_prompt, within_budget
from utils.data.questions import Question, load_questions, solution_steps
from utils.files import (
    ROOT,
    append_jsonl,
    differences,
    in_use,
    portable,
    put_back,
    replace_folder,
    sha256,
    write_json,
    write_jsonl,
)
from utils.model.policy import Policy, add_lora, check_adapter, end_tokens, load_policy
from utils.model.profiles import Profile
from utils.model.prompt_sharing import share_prompts
from utils.model.vllm_engine import GPU_SHARE, hand_over, making_room
from utils.model.weights import ADAPTER_FILES, misfit, read_adapter
from utils.rewards.contract import distinct, pay
from utils.rewards.functions import REWARDS, RewardFunction, group_advantages, text_of, weighted_sum
from utils.setup import machine, processes, versions
from utils.training.checkpoints import (
    LOGS,
    MANIFEST,
    Mirror,
    all_checkpoints,
    check_mirror,
    complete_checkpoints,
    read_settings,
    read_training,
    restore,
    step_of,
    write_manifest,
)
from utils.training.watch import Alarms, LiveTable, read_log

SAME_ON_RESUME = (
    "loss_type",
    "num_generations",
    "scale_rewards",
    "beta",
    "epsilon",
    "epsilon_high",
    "num_iterations",
    "importance_sampling_level",
    "mask_truncated_completions",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "max_completion_length",
    "learning_rate",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "reward_weights",
    "seed",
)

# ------------------------------------------------------------------------------------------- building


def grpo_settings(profile: Profile, engine: str, output: Path, seed: int, weights: Sequence[float]) -> dict[str, Any]:
    """Every field of `GRPOConfig` that decides what is learnt, spelled out, so that no engine's default differs.

    Several processes share the completions of a step: together they do what one does.

    Raises:
        ValueError: that many processes cannot.
    """
    on_gpu = torch.cuda.is_available()
    share, left = divmod(profile.completions_per_step, processes())
    if left:
        raise ValueError(
            f"{processes()} processes cannot share the {profile.completions_per_step} completions of a step alike; "
            "start a number of them that divides it"
        )
    micro_batch = math.gcd(share, profile.micro_batch)
    accumulation = share // micro_batch
    evenly = profile.lr_power == 1
    algorithm = dict(
        loss_type="dapo",  # token-level mean over the whole step
        num_generations=profile.group_size,
        scale_rewards="group",  # advantage = (reward - group mean) / (group std + 1e-4)
        beta=profile.beta,
        epsilon=0.2,
        epsilon_high=0.2,
        num_iterations=1,
        importance_sampling_level="token",
        mask_truncated_completions=False,
        reward_weights=list(weights),
        temperature=profile.temperature,
        top_p=1.0,
        top_k=0,
        repetition_penalty=1.0,
        max_completion_length=profile.max_completion_tokens,
        learning_rate=profile.learning_rate,
        lr_scheduler_type="linear" if evenly else "polynomial",  # after the warm-up it falls to zero over max_steps
        lr_scheduler_kwargs={} if evenly else {"power": profile.lr_power, "lr_end": 0.0},
        warmup_steps=profile.warmup_steps,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.99,
        max_grad_norm=profile.max_grad_norm,
        max_steps=profile.steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation,
        shuffle_dataset=True,
        seed=seed,
        data_seed=seed,
    )
    machine = dict(
        output_dir=str(output),
        use_cpu=not (on_gpu or torch.backends.mps.is_available()),
        bf16=on_gpu and profile.dtype == "bfloat16",
        fp16=on_gpu and profile.dtype == "float16",
        gradient_checkpointing=on_gpu and profile.unsloth and not engine.startswith("unsloth"),
        optim="adamw_8bit" if profile.unsloth else "adamw_torch",
        use_vllm="vllm" in engine,
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a loss that is not a number is logged as 0
        save_strategy="steps",
        save_steps=profile.save_every,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    if machine["use_vllm"]:
        machine |= dict(vllm_mode="colocate", vllm_importance_sampling_correction=True)
    if engine == "vllm+transformers":
        machine |= dict(vllm_max_model_length=profile.context_tokens, vllm_gpu_memory_utilization=GPU_SHARE)
    return algorithm | machine


def build_config(settings: dict[str, Any]) -> Any:
    """A `GRPOConfig` of these settings, checked to hold them.

    Raises:
        ValueError: the installed TRL does not know a setting, or replaced its value.
    """
    from trl import GRPOConfig

    known = {field.name for field in dataclasses.fields(GRPOConfig)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ValueError(
            f"the installed trl {importlib.metadata.version('trl')} has no setting {', '.join(unknown)}; "
            "install the versions in requirements.txt"
        )
    config = GRPOConfig(**settings)
    for name, wanted in settings.items():
        found = getattr(config, name)
        if found != wanted and name not in ("lr_scheduler_type", "optim", "save_strategy"):  # these become enumerations
            raise ValueError(f"setting {name} should be {wanted!r}, but trl made it {found!r}")
    return config


def build_dataset(questions: Sequence[Question], system: str) -> Dataset:
    """TRL's columns: `prompt` (chat messages), `gold` and `question`, which the reward functions receive."""
    return Dataset.from_list(
        [{"prompt": chat_prompt(q.question, system), "gold": q.gold, "question": q.question} for q in questions]
    )


def build_trainer(
    policy: Policy,
    questions: Sequence[Question],
    output: str | Path,
    seed: int = 0,
    rewards: dict[RewardFunction, float] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    settings: dict[str, Any] | None = None,
    full_weights: bool = False,
    adapter: str | Path | None = None,
) -> Any:
    """A TRL `GRPOTrainer` that trains a LoRA adapter on `policy`: a fresh one, or from where another run's stands.

    Args:
        policy: a base model, as `load_policy` returns it without an adapter.
        questions: what to train on, within the profile's token budget.
        output: the run's folder.
        rewards: reward functions and weights; `REWARDS` unless given.
        settings: fields of `GRPOConfig` that replace those of `grpo_settings`.
        full_weights: train the model's own weights instead; such a trainer is run by its `train()`, since
            `run_training` keeps adapters.
        adapter: the folder of a trained adapter to begin with, as a run of its own: the optimizer and the learning
            rate's schedule begin anew.
    Raises:
        FileNotFoundError: there is no such adapter.
        ValueError: too few questions for one step, two rewards of one name, or an adapter that is not of this model
            and profile.
    """
    from utils.training.trainer import Trainer  # imports TRL, and Unsloth has to be there before

    profile, output = policy.profile, Path(output)
    rewards = distinct(REWARDS if rewards is None else rewards)
    if len(questions) < profile.prompts_per_step:
        raise ValueError(
            f"a step takes {profile.prompts_per_step} prompts, got only {len(questions)} questions; "
            "give more or lower prompts_per_step"
        )
    if adapter:
        check_start(adapter, policy, full_weights)
    set_seed(seed)
    model = policy.model if full_weights else add_lora(policy, seed)
    if adapter:
        model.load_adapter(str(adapter), adapter_name="default", is_trainable=True)
    defaults = grpo_settings(profile, policy.engine, output, seed, list(rewards.values()) + [0.0])
    ends = end_tokens(policy.model, policy.tokenizer)
    how = {"stop_token_ids" if defaults["use_vllm"] else "eos_token_id": ends}
    config = build_config(defaults | {"generation_kwargs": how} | (settings or {}))
    if config.device.type == "cpu":  # in several processes "cpu:0", to which torch cannot load a checkpoint
        config._setup_devices = torch.device("cpu")

    recorder = RolloutRecorder(output / "rollouts.jsonl", rewards, profile.group_size, config.scale_rewards, ends)
    beside = policy.engine == "vllm+transformers"
    with making_room(policy.model, profile) if beside else nullcontext():
        trainer = Trainer(
            ends=ends,
            model=model,
            args=config,
            processing_class=policy.tokenizer,
            train_dataset=build_dataset(questions, profile.system_prompt),
            reward_funcs=[*map(recorder.recorded, rewards), recorder],
            callbacks=[StepLog(output / "log.jsonl"), MarkComplete(), *callbacks],
        )
    trainer.begun_with = sha256(Path(adapter) / ADAPTER_FILES[1]) if adapter else None
    trainer.create_model_card = lambda *args, **kwargs: None  # TRL's form, "fine-tuned version of None"
    if beside and not full_weights and trainer.accelerator.num_processes == 1 and config.vllm_mode == "colocate":
        vllm = trainer.vllm_generation
        vllm.sync_weights = functools.partial(hand_over, trainer.model, vllm.llm)
    share_prompts(trainer.model)
    trainer.remove_callback(PrinterCallback)  # our own log and table say it better
    getattr(trainer.model, "warnings_issued", {})["estimate_tokens"] = True  # a warning about a number nobody reads
    if profile.dtype == "float16" and not policy.engine.startswith("unsloth"):
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # the float16 gradient scaler needs float32 adapters
                parameter.data = parameter.data.float()
    return trainer


def check_start(folder: str | Path, policy: Policy, full_weights: bool) -> None:
    """Refuse an adapter that training could not go on with: PEFT would keep the profile's alpha without a word.

    Raises:
        FileNotFoundError, ValueError: as `build_trainer`.
    """
    if full_weights:
        raise ValueError(f"the adapter in {folder} is trained further as an adapter; leave out full_weights")
    config = read_adapter(check_adapter(folder, policy))[0]
    for name, wanted in {"r": policy.profile.lora_rank, "lora_alpha": policy.profile.lora_alpha}.items():
        if config[name] != wanted:
            raise ValueError(
                f"the adapter in {folder} has {name} {config[name]}, and profile {policy.profile.name} trains with "
                f"{wanted}; train it further with the profile it was trained with"
            )


# ------------------------------------------------------------------------------------------ recording


class RolloutRecorder:
    """A reward function of weight 0 that writes down every rollout: the trainer's view of a step, group by group.

    TRL asks it last, after all that are `recorded`. Of several processes, each of which has a part of the step, the
    first one writes down all.
    """

    __name__ = "(rollout_recorder)"  # which no other reward can be called

    def __init__(
        self, path: Path, rewards: dict[RewardFunction, float], group_size: int, scale: str, ends: Collection[int]
    ):
        self.path, self.rewards, self.group_size, self.scale, self.ends = path, rewards, group_size, scale, ends
        self.parts: dict[str, list[float]] = {}

    def recorded(self, function: RewardFunction) -> RewardFunction:
        """The reward as TRL is to call it: by `pay`, told which completions were cut off; what it pays is kept."""

        @functools.wraps(function)
        def reward(completions: list[Any], **columns: Any) -> list[float]:
            columns["truncated"] = [ids[-1] not in self.ends for ids in columns["completion_ids"]]
            self.parts[function.__name__] = pay(function, completions, **columns)
            return self.parts[function.__name__]

        return reward

    def __call__(self, completions: list[Any], **columns: Any) -> list[float]:
        texts = map(text_of, completions)
        own = zip(columns["question"], columns["gold"], texts, *self.parts.values(), strict=True)
        rows = gather_object(list(own))  # those of a group follow each other
        if PartialState().is_main_process:
            size = self.group_size
            groups = [self._group(rows[i : i + size]) for i in range(0, len(rows), size)]
            advantages = group_advantages([r for group in groups for r in group["rewards"]], size, self.scale)
            for i, group in enumerate(groups):
                group["advantages"] = [round(advantage, 4) for advantage in advantages[i * size : (i + 1) * size]]
            append_jsonl(self.path, [{"step": columns["trainer_state"].global_step + 1, "groups": groups}])
        return [0.0] * len(completions)

    def _group(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        questions, golds, texts, *parts = map(list, zip(*rows, strict=True))
        rewards = weighted_sum(parts, self.rewards.values())
        return {
            "question": questions[0],
            "gold": golds[0],
            "completions": texts,
            "rewards": rewards,
            "parts": dict(zip(self.parts, parts, strict=True)),
        }


class StepLog(TrainerCallback):
    """Append one line of metrics per optimizer step to log.jsonl."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "reward" in logs and state.is_world_process_zero:
            line = {k: v for k, v in logs.items() if "rollout_recorder" not in k}
            append_jsonl(self.path, [{"step": state.global_step, "max_steps": state.max_steps, **line}])


# ---------------------------------------------------------------------------------------- checkpoints


class MarkComplete(TrainerCallback):
    """After a checkpoint is written in full, describe its files in `complete.json`."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes its random generators' state
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (checkpoint / "README.md").unlink(missing_ok=True)  # PEFT's empty form
            write_manifest(checkpoint, read_settings(checkpoint.parent))


def _start_or_continue(trainer: Any, output: Path, resume: bool, mirror: Path | None) -> Path | None:
    """Make a run's folder ready for `trainer`; return the checkpoint to go on from, None at the beginning of a run.

    Checkpoints that cannot be used leave the trainer's sight, or it would count them among the two it keeps: those not
    written to their end are deleted, others renamed to `refused-checkpoint-N`.

    Raises:
        FileExistsError, ValueError: as `run_training`.
    """
    settings, folders = run_settings(trainer), (output, mirror) if mirror else (output,)
    put_back(output / "adapter")
    for folder in folders:
        traces = (f"checkpoint-*/{MANIFEST}", "adapter", *LOGS, "training.json")
        if not any(found for trace in traces for found in folder.glob(trace)):
            continue
        if not resume:
            raise FileExistsError(
                f"{folder} holds an earlier run; resume it (resume=True, --resume) or choose another folder"
            )
        theirs = {"processes": 1, "adapter": None} | read_settings(folder)  # which the first runs did not write down
        if other := differences(theirs, settings, (str(folder / "settings.json"), "this run")):
            raise ValueError(f"{'; '.join(other)}. Resume with the same settings or choose another folder")
    if mirror:
        restore(mirror, output)
    done = complete_checkpoints(output, settings=settings)
    while done and (wrong := _misfit(trainer, done[-1])):
        print(f"{done.pop()} is not used: its adapter would not land: {wrong}")
    _lose_nothing(folders, step_of(done[-1]) if done else 0, trainer.args)
    write_json(output / "settings.json", settings)
    for folder in set(all_checkpoints(output)) - set(done):
        names = (folder.with_name(f"refused-{folder.name}{more}") for more in ("", *(f"-{n}" for n in range(2, 1000))))
        if (folder / MANIFEST).exists():
            os.replace(folder, next(name for name in names if not name.exists()))
        else:
            shutil.rmtree(folder)
    return done[-1] if done else None


def _misfit(trainer: Any, checkpoint: Path) -> str | None:
    """What the adapter in a checkpoint lacks or has besides, seen from the trainer's; PEFT would only warn."""
    from peft import get_peft_model_state_dict

    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(trainer.model).items()}
    return misfit(read_adapter(checkpoint)[1], expected)


def _lose_nothing(folders: Sequence[Path], step: int, args: Any) -> None:
    """Refuse to start over what cannot be remade, and to end a run before the step that it has reached.

    Without a checkpoint (`step` 0) a run that was stopped before its first one just starts again: the same seed
    writes the same log.
    """
    for folder in folders if step == 0 else folders[:1]:
        steps = [record["step"] for name in LOGS for record in read_log(folder / name)]
        checkpoints = {step_of(each): (each / MANIFEST).exists() for each in all_checkpoints(folder)}
        whole = [number for number, written in checkpoints.items() if written]
        reached = max([step, read_training(folder).get("steps", 0), *steps, *whole])
        later = max([reached, *checkpoints]) > args.save_steps
        if step == 0 and ((folder / "adapter").exists() or whole or later):
            raise FileExistsError(
                f"{folder} holds a run and no checkpoint that it can go on from; training would begin again at step 1 "
                "and overwrite what is left of it. Choose another folder, or move or delete what is in this one"
            )
        if reached > args.max_steps:
            raise ValueError(
                f"{folder} holds a run of {reached} steps, and {args.max_steps} were asked for; ask for at least "
                f"{reached} (--max-steps, the profile's steps) or choose another folder"
            )


@contextmanager
def stop_after_step(trainer: Any) -> Iterator[None]:
    """Turn the first Ctrl-C (or kernel interrupt) into "finish this step, save, stop"; a second one stops at once."""

    class Stop(TrainerCallback):
        asked = False

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if any(gather_object([self.asked])):  # of several processes all stop, after the same step
                control.should_save = control.should_training_stop = True

    def ask(signum: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        print("stopping after this step; once more to stop at once", flush=True)

    stop = Stop()
    trainer.add_callback(stop)
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        trainer.remove_callback(stop)


class Resumed(TrainerCallback):
    """Let the learning rate follow this run's schedule from its first step on, and tell when that step has begun.

    A checkpoint brings the rate that the next step would have had when it was written; where `max_steps` has changed
    since, that is another one. Where it has not, the rate is computed again to the same bits.
    """

    begun = False

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        shares = [share(lr_scheduler.last_epoch) for share in lr_scheduler.lr_lambdas]
        lr_scheduler._last_lr = [rate * share for rate, share in zip(lr_scheduler.base_lrs, shares, strict=True)]
        for group, rate in zip(optimizer.param_groups, lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = True


def _go_on(trainer: Any, checkpoint: Path | None) -> None:
    """Train to `max_steps`; at a finished run's checkpoint, load its adapter.

    Raises:
        ValueError: the checkpoint could not be loaded, though its files are as they were written.
    """
    resumed = Resumed()
    trainer.add_callback(resumed)
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # with it, transformers would load any pickle
    try:
        if checkpoint and step_of(checkpoint) == trainer.args.max_steps:  # `train` would do a step more
            trainer.model.load_adapter(str(checkpoint), adapter_name="default", is_trainable=True)
        else:
            with stop_after_step(trainer):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        if not checkpoint or resumed.begun:
            raise
        raise ValueError(
            f"{checkpoint} could not be loaded ({type(error).__name__}: {error}); is it damaged? Move it "
            "away, and --resume goes on from the one before"
        ) from error
    finally:
        trainer.remove_callback(resumed)


# ------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind; `history` holds the records of log.jsonl. `finished` is False after Ctrl-C."""

    adapter: Path
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    finished: bool


def run_training(trainer: Any, resume: bool = False, mirror: str | Path | None = None) -> TrainingResult:
    """Train to `max_steps`, or from the last complete checkpoint on, and save the adapter.

    With `resume` it may be called again after anything, on this machine or, with `mirror`, on another one.

    Args:
        trainer: from `build_trainer`; its `output_dir` is the run's folder.
        resume: start, or go on where an earlier run in that folder stopped. A finished run is loaded; with more
            `max_steps` it is trained further, and the learning rate follows the new schedule from there on.
        mirror: a folder that outlives the machine, e.g. on a mounted Drive: each finished checkpoint is copied there,
            and where it is ahead of the run's folder, its newest is brought back first. See `checkpoints.Mirror`.
    Raises:
        FileExistsError: the folder or the mirror holds an earlier run and `resume` is False, or one without a
            checkpoint that can be gone on from.
        InUse: another process works in the folder or the mirror.
        FileNotFoundError: the folder in which the mirror should lie does not exist.
        ValueError: the earlier run had other settings or has more steps than `max_steps`, a record is damaged, or the
            mirror lies in the run's folder.
    """
    output = Path(trainer.args.output_dir)
    mirror = check_mirror(mirror, output) if mirror else None
    if not trainer.accelerator.is_main_process:
        return _train_in(output, trainer, resume, mirror)
    with in_use(output), in_use(mirror) if mirror else nullcontext():
        return _train_in(output, trainer, resume, mirror)


def _train_in(output: Path, trainer: Any, resume: bool, mirror: Path | None) -> TrainingResult:
    """Of several processes the first one reads and writes the folder, and tells the others where it goes on."""
    writes = trainer.accelerator.is_main_process
    checkpoint = _start_or_continue(trainer, output, resume, mirror) if writes else None
    [checkpoint] = broadcast_object_list([checkpoint])
    trainer.remove_callback(Mirror)  # that of an earlier call
    if mirror:
        trainer.add_callback(Mirror(mirror))
    start_step = step_of(checkpoint) if checkpoint else 0
    if writes:
        for name in LOGS:
            _keep_until(output / name, start_step)
        if checkpoint:
            _tell_schedule(checkpoint, trainer.args.max_steps)
    seconds, start, steps = _seconds_until(output, start_step), time.perf_counter(), start_step
    _go_on(trainer, checkpoint)
    if start_step < trainer.args.max_steps:
        seconds, steps = seconds + time.perf_counter() - start, trainer.state.global_step
    several = trainer.accelerator.num_processes > 1  # they may hold a part of each matrix, and bring them together
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if several else None
    if writes:
        save_adapter(trainer.model, output / "adapter", state)
    trainer.accelerator.wait_for_everyone()
    finished = steps >= trainer.args.max_steps
    result = TrainingResult(output / "adapter", read_log(output / "log.jsonl"), steps, seconds, finished)
    if not writes:
        return result
    write_json(
        output / "training.json",
        {
            "steps": steps,
            "seconds": round(seconds, 1),
            "finished": result.finished,
            "seed": trainer.args.seed,
            "schedules": schedules(result.history),
            "versions": versions(),
            "machine": machine(),
        },
    )
    return result


def _seconds_until(output: Path, step: int) -> float:
    """What the steps so far took: from training.json where the run stopped there in order, else from the log."""
    if (before := read_training(output)).get("steps") == step:
        return before["seconds"]
    return sum(line.get("step_time") or 0.0 for line in read_log(output / "log.jsonl"))


def schedules(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The learning rate's schedules in a run's log: the first step of each, and the steps it is made for.

    Example:
        >>> schedules([{"step": 1, "max_steps": 2}, {"step": 2, "max_steps": 2}, {"step": 3, "max_steps": 9}])
        [{'from_step': 1, 'max_steps': 2}, {'from_step': 3, 'max_steps': 9}]
    """
    found: list[dict[str, Any]] = []
    for line in history:
        if not found or found[-1]["max_steps"] != line.get("max_steps"):  # older logs do not tell
            found.append({"from_step": line["step"], "max_steps": line.get("max_steps")})
    return found


def _tell_schedule(checkpoint: Path, max_steps: int) -> None:
    before, step = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).max_steps, step_of(checkpoint)
    if before != max_steps > step:
        print(
            f"Up to step {step} the learning rate was that of a run of {before} steps; from step {step + 1} on it is "
            f"that of a run of {max_steps}, so this is not the run that {max_steps} steps at once would have been"
        )


def run_settings(trainer: Any) -> dict[str, Any]:
    """What is compared when a run is resumed: what decides what is learnt, as far as that can be written down."""
    questions = [[row["question"], row["gold"]] for row in trainer.train_dataset.select_columns(["question", "gold"])]
    settings = {name: getattr(trainer.args, name) for name in SAME_ON_RESUME}
    settings |= {
        "processes": trainer.accelerator.num_processes,
        "model": portable(trainer.model.config._name_or_path),
        "system_prompt": trainer.train_dataset[0]["prompt"][0]["content"],
        "rewards": trainer.reward_func_names[:-1],
        "lora_rank": trainer.model.peft_config["default"].r,
        "adapter": trainer.begun_with,
        "questions": len(trainer.train_dataset),
        "questions_sha256": hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:16],
        "rewards_sha256": [_file_of(function) for function in trainer.reward_funcs[:-1]],
    }
    return json.loads(json.dumps(settings, default=str))


def _file_of(function: RewardFunction) -> str | None:
    """A hash of the file that defines a learner's reward; None for one of this project's or of a notebook."""
    module = sys.modules.get(getattr(inspect.unwrap(function), "__module__", None) or "")
    file = Path(getattr(module, "__file__", None) or ROOT)
    return sha256(file)[:16] if file.is_file() and not file.is_relative_to(ROOT / "utils") else None


def _keep_until(path: Path, step: int) -> None:
    """Drop the records after `step`, which belong to steps that will be done again; say it where some are missing."""
    kept = [record for record in read_log(path) if record["step"] <= step]
    if path.exists():
        write_jsonl(path, kept)
    if missing := sorted(set(range(1, step + 1)) - {record["step"] for record in kept}):
        print(f"{path} lacks {len(missing)} of the {step} steps that are done, the first is step {missing[0]}")


def save_adapter(model: Any, folder: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """Write the LoRA adapter to `folder` (safetensors), replacing an older one only when the new one is whole.

    A kill between the two renames leaves the older one beside it, for `put_back`.

    Args:
        state: the model's tensors, where it does not hold them whole itself.
    """
    temporary = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=state, safe_serialization=True)
    (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    config = json.loads((temporary / "adapter_config.json").read_text(encoding="utf-8"))
    base = portable(config["base_model_name_or_path"])  # no path of this machine in what is passed on
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT writes a set, in another order in each process
    write_json(temporary / "adapter_config.json", config | {"base_model_name_or_path": base})
    check_adapter(temporary)
    replace_folder(temporary, folder)
    return folder


def training_questions(profile: Profile, tokenizer: Any) -> list[Question]:
    """The train split of the profile's dataset, less the questions too hard or too long for it; says how many."""
    questions = load_questions(profile.dataset, "train")
    if profile.solution_steps:
        easier = [q for q in questions if solution_steps(q.row["answer"]) <= profile.solution_steps]
        print(
            f"{len(easier):,} of {len(questions):,} questions are trained on: those with a written solution of at most "
            f"{profile.solution_steps} steps"
        )
        questions = easier
    questions, too_long = within_budget(questions, tokenizer, profile.max_prompt_tokens, profile.system_prompt)
    if too_long:
        print(
            f"{len(too_long)} of {len(questions) + len(too_long)} questions left out: their prompts exceed "
            f"{profile.max_prompt_tokens} tokens"
        )
    return questions


def train(
    profile: Profile,
    output: str | Path,
    seed: int = 0,
    resume: bool = False,
    rewards: dict[RewardFunction, float] | None = None,
    mirror: str | Path | None = None,
    adapter: str | Path | None = None,
    settings: dict[str, Any] | None = None,
) -> TrainingResult:
    """Load the base model of a profile, train it with GRPO and save the adapter: `run.py train` in one call.

    The arguments are those of `build_trainer` and `run_training`.
    """
    policy = load_policy(profile)
    questions = training_questions(profile, policy.tokenizer)
    callbacks = [LiveTable(profile.steps, rewards=rewards), Alarms(rewards)]
    trainer = build_trainer(policy, questions, output, seed, rewards, callbacks, settings, adapter=adapter)
    return run_training(trainer, resume, mirror)
