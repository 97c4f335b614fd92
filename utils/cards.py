"""An evaluation in plain text: a rate with its interval, the card, the comparison of two, and how far one has come.

>>> percent({"rate": 82 / 150, "low": 0.467, "high": 0.624})
'54.7% [46.7, 62.4]'
"""

from __future__ import annotations

from typing import Any

from utils.statistics import wilson_interval

NAMES = {
    "strict": "strict",
    "lenient": "lenient",
    "format": "format",
    "truncated": "truncated",
    "no_answer": "no answer",
}


def percent(rate: dict[str, Any]) -> str:
    """A rate with its interval, e.g. "54.7% [52.0, 57.3]"."""
    if rate["rate"] is None:
        return "not recorded"
    return f"{100 * rate['rate']:.1f}% [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def p_value(p: float) -> str:
    """A p-value after its letter, e.g. "p = 0.0072" or "p < 1e-6"."""
    return "p < 1e-6" if p < 1e-6 else f"p = {p:.2g}"


def progress_text(label: str, done: int, total: int, strict: int | None = None) -> str:
    """Where an evaluation stands.

    >>> progress_text("base model", 640, 1319, strict=374)
    'base model: 640 of 1,319, strict 58.4% [54.6, 62.2]'
    """
    so_far = ""
    if strict is not None and done:
        low, high = wilson_interval(strict, done)
        so_far = f", strict {percent({'rate': strict / done, 'low': low, 'high': high})}"
    return f"{label}: {done:,} of {total:,}{so_far}"


def card_text(cards: dict[str, dict[str, Any]]) -> str:
    """The rates of one or several cards side by side.

    Args:
        cards: {heading: content of card.json}.
    """
    rows = [["", *cards]]
    rows += [[said, *(percent(card[name]) for card in cards.values())] for name, said in NAMES.items()]
    tokens = [card["mean_tokens"] for card in cards.values()]
    rows.append(["mean tokens", *("not recorded" if mean is None else f"{mean:.1f}" for mean in tokens)])
    rows.append(["questions", *(f"{card['n']:,}" for card in cards.values())])
    rows.append(["protocol", *(card["protocol_hash"] or "not recorded" for card in cards.values())])
    return "\n".join(f"{row[0]:13}" + "".join(f"{value:24}" for value in row[1:]).rstrip() for row in rows)


def comparison_text(comparison: dict[str, Any]) -> str:
    """What `utils.evaluation.compare` found, in sentences."""
    n, flips, gain, change = (comparison[name] for name in ("n", "flips", "gain", "difference"))
    least, needed = comparison["detectable"], comparison["needed"]
    lines = [
        f"Flips: {flips['fixed']:,} fixed, {flips['broken']:,} broken; {flips['both']:,} right both times, "
        f"{flips['neither']:,} wrong both times. McNemar {p_value(comparison['mcnemar_p'])}.",
        f"Strict: {100 * change['points']:+.1f} points [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}] "
        f"= {gain['format_fixed']:,} format fixed + {gain['maths_fixed']:,} maths fixed - {gain['broken']:,} broken, "
        f"of {n:,}.",
    ]
    if least["paired"] is None:
        lines.append(f"{n:,} questions are too few to notice a true gain of any size.")
    else:
        apart = "" if least["unpaired"] is None else f" or of {_points(least['unpaired'])} (each answers its own)"
        lines.append(
            f"{n:,} questions notice, four times in five, a true gain of {_points(least['paired'])} (both models "
            f"answer the same ones, as here){apart}."
        )
    if needed["paired"] is not None:
        lines.append(
            f"To notice a difference like this one takes {needed['paired']:,} of the same questions, or "
            f"{needed['unpaired']:,} for each model."
        )
    return "\n".join(lines)


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
