"""One engine, one model, one process: GRPO steps under the meter. `tests.gpu.prove` starts it; see there."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.gpu.meter import EachStep, Meter
from tests.gpu.stand_in import full_prompts, hash_reward, proof_profile
from utils.data.prompts import prompt_tokens
from utils.data.questions import load_questions
from utils.files import write_json
from utils.model.policy import load_policy
from utils.setup import versions
from utils.training.grpo import build_trainer, run_training

LOG = ("loss", "grad_norm", "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length")


def measure(path: Path, model: Path) -> dict[str, Any]:
    """Train with GRPO as the job in `path` says, and add what was measured to it after every step and at the end.

    Args:
        path: a JSON file with `shape`, `engine` ("unsloth" or "transformers"; what is above it on the ladder counts as
            not installed), `steps`, `room` (what the GPU was made to look like [bytes], None for all of it) and
            `used_before` (bytes of the GPU in use before this process began).
        model: folder of the random model.
    Raises:
        RuntimeError: another engine came out than the one asked for.
    """
    import torch

    os.environ.setdefault("UNSLOTH_GRPO_PREFIX_GROUPER", "0")  # Unsloth leaves it out beside vLLM, as on a T4
    part = json.loads(path.read_text(encoding="utf-8"))
    shape, engine, steps = part["shape"], part["engine"], part["steps"]
    hidden = ("vllm",) if engine == "unsloth" else ("vllm", "unsloth")
    sys.modules.update({name: None for name in hidden})  # type: ignore[dict-item]  # importing them now fails
    on_gpu = torch.cuda.is_available()
    profile = proof_profile(shape, model, steps, on_gpu)
    meter, notices, work = Meter(), [], tempfile.TemporaryDirectory()

    meter.enter("load")
    policy = load_policy(profile, notify=notices.append)
    print(*notices, sep="\n", flush=True)
    if policy.engine != engine:
        raise RuntimeError(f"asked for {engine}, got {policy.engine}: {'; '.join(notices)}")
    questions = load_questions("tiny", "train")[: steps * profile.prompts_per_step]
    questions = full_prompts(questions, policy.tokenizer, profile.max_prompt_tokens, profile.system_prompt)
    lengths = [prompt_tokens(policy.tokenizer, q.question, profile.system_prompt) for q in questions]
    meter.enter("adapters")
    trainer = build_trainer(policy, questions, work.name, rewards={hash_reward: 1.0})
    before = {name: p.detach().cpu().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    meter.watch(trainer)
    meter.enter(None)

    def record() -> None:
        log = [json.loads(line) for line in (Path(work.name) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        part["phases"] = {"setup": meter.setup, "steps": meter.steps}
        part["log"] = [{name: finite(line[name]) for name in LOG if name in line} for line in log]
        if on_gpu:
            free, total = torch.cuda.mem_get_info()
            part["outside_torch"] = total - free - part["used_before"] - torch.cuda.memory_reserved()
        write_json(path, part)
        print(f"{shape} {engine}: step {len(log)} of {steps}", flush=True)

    part.pop("error", None)
    part |= {
        "finished": False,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "profile": asdict(profile.replace(model=shape)),
        "config": json.loads((model / "config.json").read_text(encoding="utf-8")),
        "notices": notices,
        "versions": versions(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("UNSLOTH_", "PYTORCH_"))},
        "prompt_tokens": [min(lengths), max(lengths)],
        "trainable": {"tensors": len(before), "elements": sum(p.numel() for p in before.values())},
        "adapter_dtypes": sorted({str(p.dtype) for p in before.values()}),
    }
    trainer.add_callback(EachStep(record))
    run_training(trainer)
    meter.enter(None)
    after = {name: p.detach().cpu() for name, p in trainer.model.named_parameters() if p.requires_grad}
    part["changed"] = sum(not torch.equal(before[name], after[name]) for name in before)
    part["finished"] = True
    record()
    work.cleanup()
    return part


def finite(x: float) -> float | str:
    """The number, or "nan", "inf", "-inf", which JSON has no numbers for."""
    return x if math.isfinite(x) else str(float(x))


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Path(sys.argv[2]))
