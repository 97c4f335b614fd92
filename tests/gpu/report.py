"""What the parts of a proof say together: one JSON, one page of Markdown, the memory model beside what was measured.

python -m tests.gpu.report DIR     # once more, from DIR/parts, e.g. after runs of several commands
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tests.gpu.meter import PHASES
from utils.files import write_json, write_text
from utils.model.profiles import Profile
from utils.stats import p_value, percent
from utils.training.memory import GIB, memory_model, peak, size

GOAL = 14 * GIB  # of a T4's 14.6 GiB
NOT_PROVEN = (
    "A T4 was not used. Speed, the kernels for compute capability 7.5 and xformers' attention (Unsloth's on a T4) are "
    "not proven, and neither is vLLM: the model sampled by itself.",
    "The weights were random, of Qwen2.5's exact shape: memory and time per token are meant, not answers. "
    "Every completion is as long as allowed, which is the worst case.",
    "Prompts were written with the embedded model's tokenizer, padded to the longest allowed.",
)


def fit(part: dict[str, Any]) -> dict[str, Any]:
    """Memory of one engine: the parts measured, those of the memory model, and the goal.

    Returns:
        `parts`: {part: [measured bytes or None, model's bytes]}; `peak` likewise, for the whole process as the GPU
        sees it; `goal_met`, None where nothing was measured.
    """
    setup, steps = part["phases"]["setup"], part["phases"]["steps"]
    steps = [step for step in steps if {"generation", "forward", "backward", "optimizer"} <= step.keys()]
    on_gpu = setup["load"]["end"] is not None and bool(steps)
    model = memory_model(part["config"], Profile(**part["profile"]), part["engine"], part["room"] or None)

    def most(of: Any) -> int | None:
        return max(of(step) for step in steps) if on_gpu else None

    training = model["activations kept"] + max(model["one layer"], model["logits"])
    whole = most(lambda s: max(phase["reserved"] for phase in s.values()) + part["outside_torch"])
    in_tensors = most(lambda s: max(phase["peak"] for phase in s.values()))
    parts = {
        "weights": [setup["load"]["end"], model["weights"]],
        "adapters": [setup["adapters"]["end"] - setup["load"]["end"] if on_gpu else None, model["adapters"]],
        "gradients": [most(lambda s: s["optimizer"]["start"] - s["forward"]["start"]), model["gradients"]],
        "optimizer state": [most(lambda s: s["optimizer"]["end"] - s["optimizer"]["start"]), model["optimizer state"]],
        "sampling (KV cache)": [most(lambda s: s["generation"]["peak"] - s["generation"]["start"]), model["KV cache"]],
        "forward": [most(lambda s: s["forward"]["peak"] - s["forward"]["start"]), None],
        "backward": [most(lambda s: s["backward"]["peak"] - s["forward"]["start"]), None],
        "activations and logits": [
            most(lambda s: max(s[phase]["peak"] for phase in ("forward", "backward")) - s["forward"]["start"]),
            training,
        ],
        "reserve": [whole - in_tensors if on_gpu else None, model["reserve"]],
    }
    return {"parts": parts, "peak": [whole, peak(model)], "goal_met": whole <= GOAL if on_gpu else None}


def speed(part: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the first step, and of the others: [median, least, most]; by phase too; and tokens sampled a second.

    The first step compiles kernels, so it stands apart.
    """
    profile = Profile(**part["profile"])
    steps = part["phases"]["steps"][: len(part["log"])]
    whole = [sum(phase["seconds"] for phase in step.values()) for step in steps]
    sampled = [
        line["completions/mean_length"] * profile.completions_per_step / step["generation"]["seconds"]
        for line, step in zip(part["log"], steps, strict=True)
    ]
    by_phase = {name: spread([s[name]["seconds"] for s in steps[1:] if name in s]) for name in PHASES}
    return {
        "first_step": whole[0],
        "step": spread(whole[1:]),
        "phases": by_phase,
        "tokens_per_second": spread(sampled[1:]),
    }


def spread(values: list[float]) -> list[float] | None:
    """[median, least, most], None of nothing."""
    return [median(values), min(values), max(values)] if values else None


def learning(part: dict[str, Any]) -> dict[str, Any]:
    """Whether the steps were real: losses finite, gradients too but for the scaler's first tries, adapters moved.

    In float16 the gradient scaler starts too high by design and skips the steps that overflow until it has halved
    itself often enough: these come first, and none may follow a finite one.
    """
    losses = [isinstance(line["loss"], float | int) for line in part["log"]]
    norms = [isinstance(line["grad_norm"], float | int) for line in part["log"]]
    skipped = norms.index(True) if True in norms else len(norms)
    alive = [line["grad_norm"] for line in part["log"][skipped:] if isinstance(line["grad_norm"], float | int)]
    sound = all(losses) and all(norms[skipped:]) and bool(alive) and min(alive) > 0
    return {
        "steps": len(losses),
        "skipped_by_the_scaler": skipped,
        "dead_groups": max(line.get("frac_reward_zero_std", 0.0) for line in part["log"]),
        "adapters_changed": f"{part.get('changed', 0)} of {part['trainable']['tensors']}",
        "sound": sound and part["finished"] and part.get("changed") == part["trainable"]["tensors"],
    }


# --------------------------------------------------------------------------------------------- page


def seconds(values: list[float] | None) -> str:
    return "-" if values is None else f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def phase_lines(part: dict[str, Any]) -> list[str]:
    """The highest marks of one engine by phase: tensors, and what torch's allocator held."""
    setup, steps = part["phases"]["setup"], part["phases"]["steps"]
    lines = ["| phase | tensors at its end | tensors at its peak | held by torch |", "|---|---|---|---|"]
    found = list(setup.items()) + [(name, merged) for name in PHASES if (merged := highest(steps, name))]
    for name, phase in found:
        cells = (shown(phase[mark]) for mark in ("end", "peak", "reserved"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def highest(steps: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The highest `end`, `peak` and `reserved` of a phase over all steps; None where it never ran."""
    phases = [step[name] for step in steps if name in step]
    if not phases:
        return None
    return {mark: max((p[mark] for p in phases if p[mark] is not None), default=None) for mark in phases[0]}


def shown(n: float | None) -> str:
    return "not measured" if n is None else size(n)


def memory_lines(part: dict[str, Any]) -> list[str]:
    """One engine's memory by part, measured beside the model."""
    found = fit(part)
    lines = ["| part | measured | model | measured / model |", "|---|---|---|---|"]
    for name, (measured, modelled) in [*found["parts"].items(), ("at the peak, whole process", found["peak"])]:
        ratio = f"{measured / modelled:.2f}" if measured is not None and modelled else "-"
        lines.append(f"| {name} | {shown(measured)} | {'-' if modelled is None else size(modelled)} | {ratio} |")
    verdict = {True: "passed", False: "failed", None: "not measured"}[found["goal_met"]]
    return [*lines, "", f"Goal, at most {size(GOAL)} at the peak: **{verdict}**."]


def speed_table(parts: list[dict[str, Any]]) -> list[str]:
    """Engines side by side: medians over the steps after the first (least to most)."""
    lines = [
        "| model | engine | first step [s] | later steps [s] | sampling [s] | forward [s] | backward [s] | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        s = speed(part)
        phases = " | ".join(seconds(s["phases"][name]) for name in ("generation", "forward", "backward"))
        lines.append(
            f"| {part['shape']} | {part['engine']} | {s['first_step']:.2f} | {seconds(s['step'])} | {phases} "
            f"| {seconds(s['tokens_per_second'])} |"
        )
    return lines


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    gpu, lines = record["gpu"], [f"# GRPO on {record['gpu']['name']}", ""]
    lines += [f"{record['date']}, driver {gpu['driver']}, compute capability {gpu['capability']}, {gpu['memory']}.", ""]
    lines += [f"- `{command}`" for command in record["commands"]]
    lines += ["", ", ".join(f"{name} {version}" for name, version in record["versions"].items()), ""]
    lines += [f"- {sentence}" for sentence in record["not_proven"]]
    steps = [part for part in record["engines"] if part.get("log")]
    if steps:
        lines += ["", "## Speed", "", "Median of the steps after the first (least to most).", "", *speed_table(steps)]
    for part in steps:
        profile, did = Profile(**part["profile"]), learning(part)
        verdict = "sound" if did["sound"] else "**not sound**"
        room = f"a GPU with {size(part['room'])} free" if part["room"] else f"all of {part['device']}"
        lines += ["", f"## {part['shape']}, {part['engine']}, on {room}", ""]
        lines += [
            f"{profile.prompts_per_step} prompts of up to {part['prompt_tokens'][1]} tokens x {profile.group_size} "
            f"completions of up to {profile.max_completion_tokens}, {profile.micro_batch} at a time, LoRA rank "
            f"{profile.lora_rank}, {profile.dtype}. {did['steps']} steps, {did['skipped_by_the_scaler']} skipped by "
            f"the scaler, {did['adapters_changed']} adapter tensors changed: {verdict}."
        ]
        lines += ["", *phase_lines(part), "", *memory_lines(part)]
    for part in record["failures"]:
        lines += ["", f"## {part['shape']}, {part['engine']}: failed", "", "```", part["error"], "```"]
    if tiny := record["tiny"]:
        lines += ["", "## The embedded model, trained here and on a CPU", "", *tiny_lines(tiny)]
    if real := record["real"]:
        lines += ["", f"## {real['model']}, trained here", "", *real_lines(real)]
    return "\n".join(lines) + "\n"


def real_lines(real: dict[str, Any]) -> list[str]:
    """A real model before and after, with what it took."""
    lines = ["| | strict | lenient | format | truncated |", "|---|---|---|---|---|"]
    for who in ("base", "trained"):
        cells = (percent(real[who][mark]) for mark in ("strict", "lenient", "format", "truncated"))
        lines.append(f"| {who} | {' | '.join(cells)} |")
    flips = real["flips"]
    return [
        *lines,
        "",
        f"{real['n_test']:,} test questions, greedy: {flips['fixed']} fixed, {flips['broken']} broken, McNemar "
        f"{p_value(real['mcnemar_p'])}. Engine {real['engine']} on {real['machine']}: {real['train_steps']} steps in "
        f"{real['train_seconds']:.0f} s, at the peak {shown(real['peak_bytes'])}; the last call asked the base model "
        f"for {real['base_seconds']:.0f} s, the trained one for {real['trained_seconds']:.0f} s.",
    ]


def tiny_lines(tiny: dict[str, Any]) -> list[str]:
    """Strict accuracy on the test split, this machine beside the recorded CPU runs."""
    lines = ["| machine | seed | before | after | seconds |", "|---|---|---|---|---|"]
    for run in [tiny, *tiny["recorded"]]:
        before, after = (f"{100 * run[when]['strict']['rate']:.1f}%" for when in ("base", "trained"))
        lines.append(f"| {run['machine']} | {run['seed']} | {before} | {after} | {run['train_seconds']:.0f} |")
    verdict = "yes" if tiny["same_as_recorded"] else "no"
    return [*lines, "", f"Within three standard deviations of the recorded runs' mean: **{verdict}**."]


def collect(folder: Path) -> dict[str, Any]:
    """Put the parts of `folder` together and write its gpu.json and gpu.md.

    Raises:
        FileNotFoundError: no part is there.
    """
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "parts").glob("*.json"))]
    if not parts:
        raise FileNotFoundError(f"{folder / 'parts'} holds no part; run python -m tests.gpu.prove --output {folder}")
    last = max(parts, key=lambda part: part["about"]["date"])
    record = {
        **last["about"],
        "commands": sorted({part["about"]["command"] for part in parts}),
        "goal_bytes": GOAL,
        "not_proven": NOT_PROVEN,
        "engines": [part for part in parts if part["shape"] not in ("tiny", "real")],
        "real": next((part for part in parts if part["shape"] == "real"), None),
        "tiny": next((part for part in parts if part["shape"] == "tiny" and not part.get("error")), None),
        "failures": [part for part in parts if part.get("error")],
    }
    for part in record["engines"]:
        if part.get("log"):
            part |= {"memory": fit(part), "speed": speed(part), "learning": learning(part)}
    write_json(folder / "gpu.json", record)
    write_text(folder / "gpu.md", page(record))
    return record


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.gpu.report DIR")
    collect(Path(sys.argv[1]))
    print((Path(sys.argv[1]) / "gpu.md").read_text(encoding="utf-8"))
