"""What a run measured: summary.json, report.html on one page that needs nothing else, and the model card."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utils.evaluation.browser import example_table, pair_up, select
from utils.evaluation.errors import transitions
from utils.evaluation.evaluate import CHANGES, Verdict, compare, comparison_text, gain_text, rates, too_long_text
from utils.evaluation.figures import (
    card_figure,
    flips_figure,
    length_accuracy,
    pass_curves,
    reward_and_accuracy,
    transition_matrix,
)
from utils.files import portable, write_json, write_text
from utils.model.profiles import PROFILES
from utils.plots import learning_curves, png
from utils.stats import p_value, percent

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
.picture { overflow-x: auto; } img { display: block; width: 100%; min-width: 40rem; height: auto; }
summary { cursor: pointer; font-weight: bold; }
table { border-collapse: collapse; width: 100%; } th { white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #eee; }
td { overflow-wrap: anywhere; } pre { background: #f6f6f6; } .examples table { table-layout: fixed; }
@media (max-width: 40rem) {
  .examples tr, .examples td { display: block; width: auto !important; }
  .examples tr:first-child { display: none; }
  .examples td:nth-child(2)::before { content: "before: "; } .examples td:nth-child(3)::before { content: "after: "; }
  .examples td { border: 0; } .examples tr { border-bottom: 1px solid #999; padding: .6rem 0; }
}
"""
TINY_MODEL = portable(PROFILES["tiny"].model)
TINY = (
    "The tiny model is a teaching model: it was made to be able but careless in a small world of templated problems. "
    "These numbers show that the training works, not what it would bring a larger model."
)
NOT_PROVED = (
    "That another training would do as well: the intervals cover the choice of questions, not the luck of a seed.",
    "That it carries over: the test questions are of the same kind as those trained on.",
    "That the reasoning is right: only the final number is judged.",
    "That the effect is large because p is small: p says that the flips are no coin tosses, the points say how much.",
    "That others would measure the same: strict asks for the layout of this project's prompt, and answers are greedy.",
)
EXAMPLES = (("fixed", "Fixed by training"), ("broken", "Broken by training"), ("neither", "Wrong before and after"))


def summarise(
    profile: str,
    versions: dict[str, str],
    base: Sequence[Verdict],
    trained: Sequence[Verdict] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The content of summary.json: rates with intervals, and, with a trained model, the paired comparison.

    Args:
        more: further entries, e.g. `seed`, `train_steps`, `train_seconds`, `total_seconds`, `base_pass`; `write_report`
            draws "sampling" ({"base", "trained", "gain"} as `sampling.curves` and `gain_curves` give them) and
            "held_out" (rates with their "step", of checkpoints in between), and lists "protocol" and its hash;
            `verdict_line` says which questions were "too_long" (as in card.json).
    """
    summary: dict[str, Any] = {"profile": profile, "versions": versions, "n_test": len(base), "base": rates(base)}
    if trained is not None:
        summary |= {"trained": rates(trained), **compare(base, trained)}
    return summary | more


def verdict_line(summary: dict[str, Any]) -> str:
    """One sentence with the result, the interval and the paired test; another one where some questions did not fit."""
    n = summary["n_test"]
    unasked = f" {too_long_text(n, summary['too_long'])}" if "too_long" in summary else ""
    if "trained" not in summary:
        return f"Base model: strict {percent(summary['base']['strict'])} of {n:,} questions.{unasked}"
    return (
        f"Strict accuracy went from {percent(summary['base']['strict'])} to {percent(summary['trained']['strict'])} "
        f"on {n:,} test questions: {summary['flips']['fixed']} fixed, "
        f"{summary['flips']['broken']} broken, "
        f"McNemar {p_value(summary['mcnemar_p'])}.{unasked}"
    )


def chance_text(summary: Mapping[str, Any]) -> str:
    """What McNemar's p says, in words."""
    p = summary["mcnemar_p"]
    often = "fewer than one time in a million" if p < 1e-6 else f"about one time in {float(f'{1 / p:.2g}'):,.0f}"
    return (
        "McNemar's test looks at the flips alone. Had training made no difference, each would be fixed or broken like "
        f"the toss of a coin, and a result at least as lopsided would come {often if p < 0.5 else 'as often as not'}. "
        "That is the p in the pictures; how large the change is, it does not say."
    )


def write_report(
    folder: str | Path,
    summary: dict[str, Any],
    history: Sequence[dict[str, Any]],
    base: Sequence[Verdict],
    trained: Sequence[Verdict],
    solutions: Mapping[str, str] | None = None,
) -> Path:
    """Write summary.json and a self-contained report.html into `folder`; return the report's path.

    Args:
        summary: as `summarise` gives it.
        history: records of the training's log.jsonl.
        solutions: worked solution by question text, see `errors.solutions_of`; they tell wrong plans apart.
    """
    folder = Path(folder)
    write_json(folder / "summary.json", summary)
    matrix = transition_matrix(transitions(base, trained, solutions))
    body = [
        f"<h1>GRPO on profile {html.escape(summary['profile'])}</h1>",
        _paragraph(verdict_line(summary)),
        _paragraph(chance_text(summary)),
        _paragraph(TINY) if base_model(summary) == TINY_MODEL else "",
        *(f"<h2>{title}</h2>{_image(figure, title)}{text}" for title, figure, text in _pictures(summary, history)),
        f"<h2>Errors, before and after</h2>{_image(matrix, 'errors')}",
        f"<h2>Length and accuracy</h2>{_image(length_accuracy(base, trained), 'length and accuracy')}",
        *_examples(base, trained, solutions),
        f"<h2>How it was measured</h2><details><summary>Seed, versions, protocol</summary>{_table(summary)}</details>",
        f"<h2>What this does not prove</h2><ul>{''.join(f'<li>{each}</li>' for each in NOT_PROVED)}</ul>",
    ]
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>GRPO-Math report</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>"
    )
    return write_text(folder / "report.html", page)


def held_out(summary: Mapping[str, Any], last: int) -> dict[int, dict[str, Any]]:
    """Optimizer step -> strict rate on held-out questions: base at 0, trained model at `last`, checkpoints."""
    between = {row["step"]: row for row in summary.get("held_out", ())}
    return {0: summary["base"]["strict"]} | between | {last: summary["trained"]["strict"]}


def _pictures(summary: dict[str, Any], history: Sequence[dict[str, Any]]) -> list[tuple[str, Figure, str]]:
    """(title, figure, HTML below it) of all that the summary and the log tell."""
    flips, strict, *sizes = map(_paragraph, comparison_text(summary).splitlines())
    changes = f"<ul>{''.join(f'<li>{name}: {meaning}</li>' for name, meaning in CHANGES.items())}</ul>"
    explained = "".join((flips, strict, changes, *sizes))
    shown = [
        ("Before and after", card_figure(summary["base"], summary["trained"]), ""),
        ("Question by question", flips_figure(summary), explained),
        ("Reward and held-out accuracy", reward_and_accuracy(history, held_out(summary, history[-1]["step"])), ""),
        ("Learning curves", learning_curves(history), ""),
    ]
    if "sampling" in summary:
        shown.insert(2, ("Ability added, or concentrated?", pass_curves(**summary["sampling"]), ""))
    return shown


def _examples(base: Sequence[Verdict], trained: Sequence[Verdict], solutions: Mapping[str, str] | None) -> list[str]:
    examples, parts = pair_up(base, trained, solutions), []
    for flip, title in EXAMPLES:
        chosen = select(examples, flip=flip)
        parts += [
            f"<h2>{title}: {len(chosen):,} of {len(examples):,} questions</h2>",
            f"<div class='examples'>{example_table(chosen[:3])}</div>" if chosen else "",
        ]
    return parts


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _image(figure: Figure, alt: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"
    return f"<div class='picture'><img alt='{alt}' src='{source}'></div>"


def _table(summary: dict[str, Any]) -> str:
    protocol = {k: "none" if v is None else v for k, v in summary.get("protocol", {}).items()}
    rows = {
        "training seed": summary.get("seed"),
        "training steps": summary.get("train_steps"),
        "training time": f"{seconds:,.0f} s" if (seconds := summary.get("train_seconds")) is not None else None,
        "test questions": summary["n_test"],
        **{f"base {k}, sampled, strict": f"{100 * v:.1f}%" for k, v in summary.get("base_pass", {}).items()},
        "versions": ", ".join(f"{k} {v}" for k, v in summary["versions"].items()),
        "protocol hash": summary.get("protocol_hash"),
        **{f"protocol: {name.replace('_', ' ')}": value for name, value in protocol.items()},
    }
    cells = (
        f"<tr><th>{html.escape(name)}</th><td>{html.escape('not recorded' if value is None else str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


LICENCES = {  # of the base models: (lines of the hub's front matter, what the reader should know)
    "Qwen/Qwen2.5-3B-Instruct": (
        "license: other\nlicense_name: qwen-research\n"
        "license_link: https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
        "Qwen Research License: no commercial use, nor of what is derived from the model. Improved using Qwen.",
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": ("license: apache-2.0", "Apache License 2.0."),
    "assets/tiny_model": ("license: mit", "MIT License."),
}


def base_model(summary: dict[str, Any]) -> str:
    """The model that a summary is about, as protocol.json names it; an older summary's is its profile's."""
    return summary.get("model") or portable(PROFILES[summary["profile"]].model)


def model_card(summary: dict[str, Any]) -> str:
    """A model card (Markdown with the hub's front matter) from summary.json; what is not in it is "not measured"."""
    profile, missing = PROFILES[summary["profile"]], "not measured"
    base, trained = base_model(summary), summary.get("trained")
    on_hub = len(summary.get("weights") or "") != 64  # a revision of the hub, or a SHA-256 of what lay in a folder
    where = f"page, https://huggingface.co/{base}" if on_hub else "folder, or whoever it came from"
    front, licence = LICENCES.get(base, ("license: unknown", f"not known here; see the model's own {where}."))
    after = {name: percent(rate) for name, rate in trained.items()} if trained else {}
    facts = {
        "base model": f"{base} (profile {profile.name})",
        **({"weights of the base model": summary["weights"]} if summary.get("weights") else {}),
        "trained on": f"the train split of {profile.dataset}, by GRPO alone (LoRA adapter)",
        "optimizer steps, seed": f"{summary.get('train_steps', missing)}, {summary.get('seed', missing)}",
        "training time": missing if (seconds := summary.get("train_seconds")) is None else f"{seconds:,.0f} s",
        "test questions": f"{summary['n_test']:,}, {Path(summary.get('questions') or f'{profile.dataset} test').name}",
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()) or missing,
    }
    rates = [
        f"| {_cell(name)} | {percent(rate)} | {after.get(name, missing)} |" for name, rate in summary["base"].items()
    ]
    doubt = "The base is a teaching model: the gain shows that training works, not what it would bring elsewhere."
    if base != TINY_MODEL:
        front += f"\nbase_model: {base}" if on_hub else ""
        front += "\ndatasets: [openai/gsm8k]" if profile.dataset == "gsm8k" else ""
        doubt = "Whether the base model has seen the test questions before is not known."
    split = f" {gain_text(summary['gain'])}" if summary.get("gain", {}).keys() == CHANGES.keys() else ""
    unmeasured = "" if trained else f" Trained model, flips and p-value: {missing}."
    return f"""---
{front}
tags: [grpo, lora, maths]
---
# {_cell(base.rpartition("/")[2])}, trained with GRPO

Works out grade-school maths between `<reasoning>` tags, then gives the number between `<answer>` tags (GRPO-Math).

| | |
|---|---|
{"".join(f"| {name} | {_cell(fact)} |{chr(10)}" for name, fact in facts.items())}
## Before and after

| greedy decoding, 95% Wilson intervals | base | trained |
|---|---|---|
{chr(10).join(rates)}

{_cell(verdict_line(summary), "%[]").replace("](", "]&#40;")}{unmeasured}{split}
*Strict*: the right number in its tag, in a clean layout. *Lenient*: the right number anywhere.

## Limitations

- {doubt}
- One training, one seed: the intervals cover the choice of questions only. Answers are judged, not reasons.
- The table is of the adapter on the model it was trained on; merged and quantised copies round: {missing}.
- Licence of the base model, and so of these weights: {licence}
"""


def _cell(text: str, harmless: str = "") -> str:
    """A text as one cell of a Markdown table: what could end the cell, be markup or HTML is written by its number."""
    return re.sub(
        rf"<(?! )|[^<\w .,:/+()\-{re.escape(harmless)}]", lambda sign: f"&#{ord(sign[0])};", " ".join(text.split())
    )
