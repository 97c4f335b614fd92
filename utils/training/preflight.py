"""Preflight: will this profile run on this machine? Asked before anything is downloaded; each problem names its mend.

`probe` asks the same of the token cap, once the base model is loaded.
"""

from __future__ import annotations

import csv
import html
import json
import math
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from utils.data.questions import Question
from utils.files import ROOT
from utils.model.policy import Policy, generate, ladder
from utils.model.profiles import PROFILES, QWEN_05B, QWEN_3B, Profile, gpu_profile, is_local
from utils.plots import histogram
from utils.setup import for_the_gpu, host, installed, ram_bytes, read_pins
from utils.stats import wilson_interval
from utils.training.memory import GIB, adam_bytes, lora_tensors, memory_model, model_config, parameters, peak, size

PACKAGES = ("torch", "trl", "transformers", "peft", "datasets", "accelerate")
GPU_PACKAGES = ("vllm", "unsloth", "unsloth_zoo", "bitsandbytes", "torchao")
HOST_RAM = 6 * GIB  # Python, CUDA libraries and offloaded activations beside a GPU: assumed, not measured
T4_STEP = (24.0, 8, 200)  # seconds a step, completions, tokens: a public Unsloth + vLLM log of Qwen2.5-3B on a T4
T4_TOKENS = 300  # mean completion of Qwen2.5-3B-Instruct on GSM8K before training, from public logs
RUNS = ROOT / "assets" / "runs"  # the recorded ones, in a folder for each profile
PROFILED = 16  # completions of a step in step_profile_qwen_*.csv there (tests/benchmarks/profile_step.py)
SESSION_HOURS = 12  # a free Colab session lasts up to this long
LONG_HOURS = 3  # of which one should know before
FIRST_LOOK = 20  # steps
CUT_OFF_ALLOWED = 0.05  # share of completions that the token cap may cut off


@dataclass(frozen=True)
class Check:
    """One line of the preflight; `verdict` is "ok", "warn" or "fail", and `mend` is empty where it is "ok"."""

    name: str
    found: str
    verdict: str
    mend: str = ""


def preflight(profile: Profile) -> list[Check]:
    """What the profile needs against what the machine has. Nothing is downloaded.

    Divisibility and the like are the profile's own rules: one that breaks them cannot be made.
    """
    passes = profile.completions_per_step // profile.micro_batch
    batches = (
        f"{profile.prompts_per_step} prompts x {profile.group_size} completions = {passes} x {profile.micro_batch}"
    )
    checks = [_gpu(profile), _memory(profile), _disk(profile), _versions(profile), Check("batches", batches, "ok")]
    return [*checks, _tokens(profile), _time(profile)] + [_ram()] * profile.unsloth


def _gpu(profile: Profile) -> Check:
    import torch

    try:
        profile.check_machine()
    except RuntimeError as error:
        found, _, mend = str(error).partition("; ")
        if shutil.which("nvidia-smi") and torch.version.cuda is None:
            mend = f"the installed torch {torch.__version__} is a CPU build: install requirements.txt"
        return Check("GPU", found, "fail", mend)
    if not torch.cuda.is_available():
        return Check("GPU", f"not needed, {profile.name} computes in {profile.dtype} on any machine", "ok")
    capability = torch.cuda.get_device_capability()
    found = f"{torch.cuda.get_device_name()}, compute capability {capability[0]}.{capability[1]}, {profile.dtype}"
    if profile.unsloth and capability < (7, 5):
        return Check("GPU", found, "fail", "4-bit training needs 7.5: choose a T4 or newer (on Kaggle: GPU T4 x2)")
    if not profile.unsloth and (made_for_it := gpu_profile()):
        found += f"; the profile {made_for_it} is made for it"
    return Check("GPU", found, "ok")


def expected_engine(profile: Profile) -> str:
    """The entry of `policy.ENGINES` that the installed packages allow."""
    rungs = ladder(profile)
    return next((rung for rung in rungs if all(installed(package) for package in rung.split("+"))), rungs[-1])


def _memory(profile: Profile) -> Check:
    import torch

    on_gpu, engine = torch.cuda.is_available(), expected_engine(profile)
    free, total = torch.cuda.mem_get_info() if on_gpu else (0 if profile.unsloth else ram_bytes(), None)
    name = "GPU memory" if on_gpu or profile.unsloth else "memory"
    try:
        config = model_config(profile.model)
    except ValueError as error:
        return Check(name, f"{size(free)} free, the need is not estimated", "warn", str(error))
    parts = memory_model(config, profile, engine, total)
    need, largest = peak(parts), sorted(parts, key=parts.get, reverse=True)[:3]
    shown = ", ".join(f"{part} {size(parts[part])}" for part in largest)
    found = f"{size(free)} free, {engine} takes up to {size(need)} at the longest allowed (estimated; {shown})"
    if profile.unsloth and not on_gpu:
        return Check(name, found, "fail", "see the line above")
    if need <= free:
        return Check(name, found, "ok")
    if on_gpu and need <= total:
        return Check(name, found, "warn", "something else holds the rest: restart the runtime, close other notebooks")
    mend = "lower max_completion_tokens, or choose a machine with more memory"
    for micro_batch in range(profile.micro_batch - 1, 0, -1):
        if profile.completions_per_step % micro_batch == 0:
            less = peak(memory_model(config, profile.replace(micro_batch=micro_batch), engine, total))
            if less <= free:
                mend = f"micro_batch={micro_batch} takes up to {size(less)} and trains the same"
                break
    if engine == "vllm+transformers" and profile.unsloth:
        mend = "set GRPO_ENGINE=transformers, whose weights have 4 bits"
    return Check(name, found, "fail" if name == "GPU memory" else "warn", mend)


def _ram() -> Check:
    found = f"{size(ram_bytes())} available, about {size(HOST_RAM)} wanted beside a GPU (assumed)"
    if ram_bytes() >= HOST_RAM:
        return Check("RAM", found, "ok")
    return Check("RAM", found, "warn", "restart the runtime; if the kernel dies while loading, choose more RAM")


def _disk(profile: Profile) -> Check:
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache")).absolute()
    cache = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = min(shutil.disk_usage(folder).free for folder in (cache, ROOT))
    try:
        config = model_config(profile.model)
    except ValueError as error:
        return Check("disk", f"{size(free)} free, the need is not estimated", "warn", str(error))
    download = 0 if is_local(profile.model) else 2 * sum(parameters(config))
    lora = lora_tensors(config, profile.lora_rank)
    checkpoints = 3 * (4 * sum(lora) + adam_bytes(lora, profile.unsloth))  # two are kept while the next is written
    found = (
        f"{size(free)} free, up to {size(download)} to download (16-bit weights), {size(checkpoints)} of checkpoints"
    )
    if free >= download + checkpoints:
        return Check("disk", found, "ok")
    return Check("disk", found, "fail", f"free some of it, or set HF_HOME to a larger disk than that of {cache}")


def _versions(profile: Profile) -> Check:
    import torch

    name = "requirements.txt" if profile.unsloth else "requirements-cpu.txt"
    matter = {*PACKAGES, *(GPU_PACKAGES if profile.unsloth else ())}
    if host() or torch.cuda.is_available():
        matter.remove("torch")  # it comes with the machine or with vllm, whichever the CPU file names
    pins = {p: version for p, version in read_pins(ROOT / name).items() if p in matter}
    wrong = {p: installed(p) for p in pins if installed(p) != pins[p]}
    if not wrong:
        return Check("versions", f"{len(pins)} packages as in {name}", "ok")
    found = ", ".join(f"{p} {version or 'missing'} (wanted {pins[p]})" for p, version in wrong.items())
    if any(wrong.get(p, "") is None for p in PACKAGES):
        return Check("versions", found, "fail", f"run the set-up cell again, or: pip install -r {name}")
    if profile.unsloth and expected_engine(profile) == "transformers" and not installed("bitsandbytes"):
        return Check("versions", found, "fail", for_the_gpu(host(), profile.name))
    mend = (
        f"install {name}; as it is, training would go on with {expected_engine(profile)}, untested with these versions"
    )
    return Check("versions", found, "warn", mend)


def _tokens(profile: Profile) -> Check:
    cap = profile.max_completion_tokens
    found = f"{profile.max_prompt_tokens} of prompt + {cap} of completion, of {profile.context_tokens}"
    if profile.model == QWEN_3B and cap < T4_TOKENS:
        mend = f"its answers average {T4_TOKENS} before training (public logs): raise the cap, and measure with `probe`"
        return Check("tokens", found, "warn", mend)
    return Check("tokens", found, "ok")


def estimate_seconds(profile: Profile) -> tuple[float, str] | None:
    """(seconds of the whole run, where the figure comes from); None where nothing like it was measured."""
    completions = profile.steps * profile.completions_per_step
    if profile.model == PROFILES["tiny"].model:
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in (RUNS / "tiny").glob("*/training.json")]
        each = fmean(run["seconds"] / run["steps"] for run in runs) / PROFILES["tiny"].completions_per_step
        return completions * each, f"from {len(runs)} recorded runs on 2 CPU cores"
    measured = RUNS / f"step_profile_qwen_{profile.dtype}.csv"
    if profile.name == "laptop" and measured.exists() and _has_the_size_of(QWEN_05B, profile.model):
        with measured.open(encoding="utf-8", newline="") as file:
            step = next(float(row["seconds"]) for row in csv.DictReader(file) if row["part"] == "median step")
        return completions * step / PROFILED, f"from measured steps in {profile.dtype} on 2 CPU cores"
    if profile.name == "t4" and profile.model == QWEN_3B:
        seconds, group, length = T4_STEP
        mean = min(T4_TOKENS, profile.max_completion_tokens)
        source = (
            f"an estimate from others' T4 log ({seconds:g} s for {group} x {length} tokens), scaled to {mean} tokens"
        )
        return completions * mean * seconds / (group * length), source
    return None


def _has_the_size_of(known: str, model: str) -> bool:
    try:
        return parameters(model_config(model)) == parameters(model_config(known))
    except ValueError:
        return False


def _time(profile: Profile) -> Check:
    estimate = estimate_seconds(profile)
    if estimate is None:
        return Check("time", f"not measured for {profile.name}", "ok")
    seconds, source = estimate
    found = f"about {duration(seconds)}, {source}"
    if seconds <= LONG_HOURS * 3600:
        return Check("time", found, "ok")
    mend = (
        f"for a first look, about {duration(seconds * FIRST_LOOK / profile.steps)}, set STEPS = {FIRST_LOOK} (in a "
        f"terminal --max-steps {FIRST_LOOK})"
    )
    if profile.unsloth:
        mend += f"; for the whole run plan to resume: a free session ends after {SESSION_HOURS} hours at the latest"
    return Check("time", found, "warn", mend)


def duration(seconds: float) -> str:
    """Hours, or minutes up to an hour and a half, e.g. "84 minutes"; less than one counts as one."""
    minutes = max(1, round(seconds / 60))
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{minutes} minute{'s' * (minutes > 1)}"


# --------------------------------------------------------------------------------------------- tables


def summary(checks: Sequence[Check]) -> str:
    """One sentence: go, go with care, or stop."""
    for verdict, sentence in (("fail", "Stop here: {}. Nothing was downloaded."), ("warn", "It may run; mind: {}.")):
        names = [check.name for check in checks if check.verdict == verdict]
        if names:
            return sentence.format(", ".join(names))
    return f"All {len(checks)} checks passed."


def text_table(checks: Sequence[Check]) -> str:
    """The checks for a terminal: a line each, with its mend below."""
    lines = [f"{c.verdict:4}  {c.name:10}  {c.found}" + (f"\n      -> {c.mend}" if c.mend else "") for c in checks]
    return "\n".join([*lines, summary(checks)])


def html_table(checks: Sequence[Check]) -> str:
    """The checks for a notebook; it reads the same where styles are stripped."""
    rows = [("", "check", "found", "what to do"), *((c.verdict, c.name, c.found, c.mend) for c in checks)]
    cells = ["".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{c}</tr>' for c in cells)}</table><p><b>{html.escape(summary(checks))}</b></p>"


# ---------------------------------------------------------------------------------------- token budget


@dataclass(frozen=True)
class Probe:
    """Sampled lengths against the cap.

    Attributes:
        lengths: tokens of each completion, sorted, up to `sampled_to`.
        share_cut: share of completions that the cap cuts off.
        proposal: the cap that would fit 95% of them; None where the present one fits, or `sampled_to` hides it.
        extra: what the proposal costs by part, and at the peak [bytes].
    """

    lengths: list[int]
    cap: int
    sampled_to: int
    share_cut: float
    proposal: int | None
    extra: dict[str, int]

    def __str__(self) -> str:
        n, cut = len(self.lengths), round(self.share_cut * len(self.lengths))
        low, high = wilson_interval(cut, n)
        said = f"the cap of {self.cap} tokens cuts off {cut} of {n} completions (95% interval {low:.0%} to {high:.0%})"
        if self.share_cut <= CUT_OFF_ALLOWED:
            return f"{said}: it fits."
        if self.proposal is None:
            further = f"run probe(policy, questions, sample_to={2 * self.sampled_to})"
            return f"{said}. Sampled to {self.sampled_to} tokens, nobody knows how long they would get: {further}."
        cost = ", ".join(f"{part} {size(more)}" for part, more in self.extra.items() if more)
        return f"{said}. {self.proposal} tokens would fit 95% of them and cost more memory: {cost}."

    def figure(self) -> Any:
        """Histogram of the lengths with the cap drawn in."""
        return histogram({"base model": self.lengths}, "does the cap fit?", "tokens per completion", cap=self.cap)


def probe(
    policy: Policy, questions: Sequence[Question], n: int = 32, sample_to: int | None = None, seed: int = 0
) -> Probe:
    """Sample a completion of each of n questions with the base model, at the temperature of training.

    Args:
        sample_to: where sampling stops [tokens], at the profile's cap unless given. Stopped at a cap that is too
            short, lengths tell that it is, not what would fit.
        seed: draws the questions, and the tokens (vLLM draws those with the seed of its engine).
    """
    import torch

    profile, cap = policy.profile, policy.profile.max_completion_tokens
    sample_to = sample_to or cap
    chosen = random.Random(seed).sample(list(questions), min(n, len(questions)))
    longer = Policy(policy.model, policy.tokenizer, _with_cap(profile, sample_to), policy.engine, policy.adapter)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        samples = [group[0] for group in generate(longer, chosen, temperature=profile.temperature)]
    lengths = sorted(s.tokens for s in samples)
    share = fmean(s.truncated or s.tokens >= cap for s in samples)
    proposal, extra = None, {}
    if share > CUT_OFF_ALLOWED >= fmean(s.truncated for s in samples):
        proposal = 32 * math.ceil((lengths[math.ceil(0.95 * len(lengths)) - 1] + 1) / 32)  # + 1: the end token
        config = model_config(profile.model)
        before, after = (memory_model(config, p, policy.engine) for p in (profile, _with_cap(profile, proposal)))
        extra = {part: after[part] - before[part] for part in after} | {"at the peak": peak(after) - peak(before)}
    return Probe(lengths, cap, sample_to, share, proposal, extra)


def _with_cap(profile: Profile, cap: int) -> Profile:
    context = max(profile.context_tokens, profile.max_prompt_tokens + cap)
    return profile.replace(max_completion_tokens=cap, context_tokens=context)
