"""summary.json and report.html: what a run measured, in numbers and on one page that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils import plots
from utils.cards import p_value, percent
from utils.evaluation import Verdict, compare, rates
from utils.files import write_json, write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
h1, h2 { line-height: 1.2; } img { max-width: 100%; height: auto; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; }
.card { flex: 1 1 11rem; border: 1px solid #ddd; border-radius: .5rem; padding: .8rem 1rem; }
.card b { font-size: 1.5rem; display: block; white-space: nowrap; } .card small { color: #555; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #eee; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .6rem; border-radius: .3rem; }
"""


def summarise(
    profile: str,
    versions: dict[str, str],
    base: Sequence[Verdict],
    trained: Sequence[Verdict] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The content of summary.json: rates with intervals, and, with a trained model, the paired comparison.

    Args:
        more: further entries, e.g. `seed`, `train_steps`, `train_seconds`, `total_seconds`, `base_pass`.
    """
    summary: dict[str, Any] = {"profile": profile, "versions": versions, "n_test": len(base), "base": rates(base)}
    if trained is not None:
        summary |= {"trained": rates(trained), **compare(base, trained)}
    return summary | more


def verdict_line(summary: dict[str, Any]) -> str:
    """One sentence with the result, the interval and the paired test."""
    if "trained" not in summary:
        return f"Base model: strict {percent(summary['base']['strict'])} of {summary['n_test']:,} questions."
    return (
        f"Strict accuracy went from {percent(summary['base']['strict'])} to {percent(summary['trained']['strict'])} "
        f"on {summary['n_test']:,} test questions: {summary['flips']['fixed']} fixed, "
        f"{summary['flips']['broken']} broken, "
        f"McNemar {p_value(summary['mcnemar_p'])}."
    )


def write_report(
    folder: str | Path,
    summary: dict[str, Any],
    history: Sequence[dict[str, Any]],
    base: Sequence[Verdict],
    trained: Sequence[Verdict],
) -> Path:
    """Write summary.json and a self-contained report.html into `folder`; return the report's path."""
    folder = Path(folder)
    write_json(folder / "summary.json", summary)
    body = [
        f"<h1>GRPO on profile {html.escape(summary['profile'])}</h1>",
        f"<p>{verdict_line(summary)}</p>",
        _cards(summary),
    ]
    if summary["profile"] == "tiny":
        body.append(
            "<p>The tiny model is a teaching model: it was made to be able but careless in a small world of templated "
            "problems. These numbers show that the training works, not what it would bring a larger model.</p>"
        )
    body += [
        "<h2>Before and after</h2>",
        _image(plots.before_after(summary), "bars: before and after"),
        "<h2>Learning curves</h2>",
        _image(plots.learning_curves(history), "learning curves"),
        _table(summary),
    ]
    for title, wanted in (
        ("Fixed by training", lambda b, t: t.strict and not b.strict),
        ("Broken by training", lambda b, t: b.strict and not t.strict),
        ("Wrong before and after", lambda b, t: not b.strict and not t.strict),
    ):
        pairs = [(b, t) for b, t in zip(base, trained, strict=True) if wanted(b, t)]
        body += [f"<h2>{title}: {len(pairs)} questions</h2>", pairs_table(pairs[:3]) if pairs else ""]
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>GRPO-Math report</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>"
    )
    return write_text(folder / "report.html", page)


def _cards(summary: dict[str, Any]) -> str:
    cards = []
    for name in ("strict", "lenient", "format", "truncated"):
        before, after = summary["base"][name], summary["trained"][name]
        cards.append(
            f"<div class='card'>{name}<b>{100 * before['rate']:.1f} → {100 * after['rate']:.1f}%</b>"
            f"<small>[{100 * before['low']:.1f}, {100 * before['high']:.1f}] → "
            f"[{100 * after['low']:.1f}, {100 * after['high']:.1f}]</small></div>"
        )
    return f"<div class='cards'>{''.join(cards)}</div>"


def _image(figure: Any, alt: str) -> str:
    return f"<img alt='{alt}' src='data:image/png;base64,{base64.b64encode(plots.png(figure)).decode()}'>"


def _table(summary: dict[str, Any]) -> str:
    rows = {
        "seed": summary.get("seed"),
        "training steps": summary.get("train_steps"),
        "training time": f"{summary.get('train_seconds', 0):.0f} s",
        "test questions": summary["n_test"],
        **{f"base {k}, sampled": f"{100 * v:.1f}%" for k, v in summary.get("base_pass", {}).items()},
        "versions": ", ".join(f"{k} {v}" for k, v in summary["versions"].items()),
    }
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<h2>How it was measured</h2><table>{cells}</table>"


def pairs_table(pairs: Sequence[tuple[Verdict, Verdict]]) -> str:
    """Questions with the completions before and after, as an HTML table; everything the model wrote is escaped."""
    pre = "<pre style='white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;margin:0'>"
    rows = "".join(
        f"<tr><td style='width:32%;text-align:left'>{html.escape(b.question)} <b>gold {html.escape(b.gold)}</b></td>"
        + "".join(f"<td>{pre}{html.escape(v.completion)}</pre></td>" for v in (b, t))
        + "</tr>"
        for b, t in pairs
    )
    return f"<table><tr><th>question</th><th>before</th><th>after</th></tr>{rows}</table>"
