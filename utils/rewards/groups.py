"""A look into one step of training: a whole group of completions with their rewards and advantages.

`group_table` is a pure function of a record of rollouts.jsonl; its HTML reads the same where styles are
stripped, as on GitHub. `inspector` puts two sliders above it.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from typing import Any

from utils.plots import BLUE, ORANGE

CELLS = 8  # characters of an advantage bar on either side of zero
PRE = "min-width:8em;white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;margin:0;max-width:34em"


def is_dead(group: dict[str, Any]) -> bool:
    """Whether all rewards of a group are equal: then every advantage is 0 and nothing is learnt from it."""
    return len(set(group["rewards"])) == 1


def advantage_bar(advantage: float, group_size: int) -> str:
    """An advantage as text: a bar left (below the group's mean) or right (above) of a zero line.

    A full bar is the largest advantage a group of this size can hold, (G - 1) / sqrt(G): one right of G.

    Example:
        >>> advantage_bar(2.47, group_size=8), advantage_bar(-1.2, group_size=8)
        ('        |████████', '    ████|        ')
    """
    length = min(CELLS, round(CELLS * abs(advantage) / ((group_size - 1) / group_size**0.5)))
    filled = "█" * max(length, int(advantage != 0))
    return f"{filled if advantage < 0 else '':>{CELLS}}|{filled if advantage > 0 else '':<{CELLS}}"


def completions_table(g: dict[str, Any], before: Sequence[float] | None = None) -> str:
    """One group as an HTML table, best reward first, identical completions in one row; model text is escaped.

    Args:
        g: a group as rollouts.jsonl holds it: `completions`, `parts`, `rewards` and `advantages`; and, where it is
            known, `truncated`.
        before: its advantages under another reward, for a last column; a changed sign is marked there.
    """
    headings = (
        "#",
        "completion",
        *map(_short, g["parts"]),
        "reward",
        "advantage",
        *([] if before is None else ["before"]),
    )
    heads = "".join(f"<th>{html.escape(h)}</th>" for h in headings)
    alike: dict[tuple[str, float], list[int]] = {}
    for i in sorted(range(len(g["rewards"])), key=lambda i: -g["rewards"][i]):
        alike.setdefault((g["completions"][i], g["rewards"][i]), []).append(i)
    rows = "".join(_row(g, who, before) for who in alike.values())
    return f"<table><tr>{heads}</tr>{rows}</table>"


def group_table(record: dict[str, Any], group: int) -> str:
    """One group of a training step with its question and verdict, as HTML.

    Args:
        record: one line of rollouts.jsonl.
        group: index into `record["groups"]`.
    Raises:
        IndexError: the step has no such group.
    """
    if not 0 <= group < len(record["groups"]):
        raise IndexError(f"step {record['step']} has groups 0 to {len(record['groups']) - 1}, got {group}")
    return _caption(record, group) + completions_table(record["groups"][group])


def _short(name: str) -> str:
    return name.removesuffix("_reward").removesuffix("_metric")


def _caption(record: dict[str, Any], group: int) -> str:
    g = record["groups"][group]
    mean, spread = statistics.fmean(g["rewards"]), statistics.stdev(g["rewards"])
    verdict = (
        "a dead group: all rewards are equal, so nothing is learnt from it"
        if is_dead(g)
        else (f"mean reward {mean:.2f}, standard deviation {spread:.2f}")
    )
    where = f"step {record['step']}, group {group} of 0–{len(record['groups']) - 1}"
    return (
        f"<p>{where}: {verdict}</p>"
        f"<p><b>{html.escape(g['question'])}</b> gold answer: <b>{html.escape(g['gold'])}</b></p>"
    )


def _row(g: dict[str, Any], who: list[int], before: Sequence[float] | None) -> str:
    i, numbers = who[0], " ".join(str(k + 1) for k in who)
    advantage = g["advantages"][i]
    colour = BLUE if advantage > 0 else ORANGE
    bar = f"<span style='color:{colour}'>{advantage_bar(advantage, len(g['rewards']))}</span>"
    parts = "".join(f"<td>{values[i]:.3g}</td>" for values in g["parts"].values())
    cut = g.get("truncated")
    text = html.escape(g["completions"][i]) + (" <i>(cut off)</i>" if cut and cut[i] else "")
    was = "" if before is None else _was(before[i], advantage)
    return (
        f"<tr><td>{numbers}</td><td><pre style='{PRE}'>{text}</pre></td>{parts}"
        f"<td><b>{g['rewards'][i]:.3g}</b></td>"
        f"<td><pre style='margin:0;white-space:pre;overflow:visible'>{bar} {advantage:+.2f}</pre></td>{was}</tr>"
    )


def _was(before: float, now: float) -> str:
    turned = (before > 0) - (before < 0) != (now > 0) - (now < 0)
    return f"<td>{f'<b>{before:+.2f} ⇄</b>' if turned else f'{before:+.2f}'}</td>"


def inspector(records: Sequence[dict[str, Any]]) -> Any:
    """Two sliders, step and group, above the table they choose.

    Args:
        records: lines of rollouts.jsonl.
    Returns:
        an ipywidgets box (7.7 and 8).
    """
    import ipywidgets as widgets

    by_step = {record["step"]: record for record in records}
    step = widgets.SelectionSlider(options=list(by_step), description="step", continuous_update=False)
    group = widgets.IntSlider(min=0, max=0, description="group", continuous_update=False)
    table = widgets.HTML()

    def show(change: Any = None) -> None:
        group.max = len(by_step[step.value]["groups"]) - 1
        table.value = group_table(by_step[step.value], group.value)

    step.observe(show, names="value")
    group.observe(show, names="value")
    show()
    return widgets.VBox([widgets.HBox([step, group]), table])
