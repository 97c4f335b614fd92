"""What a running training shows: a live table in a notebook, plain lines in a terminal.

TRL's own table has the step and a loss that is zero by construction; this one tells whether anything is learnt.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from utils.cards import progress_text
from utils.files import read_jsonl
from utils.plots import learning_curves, png

COLUMNS = {  # heading: TRL's metric
    "reward": "reward",
    "correct": "rewards/correctness_reward/mean",
    "format": "rewards/format_reward/mean",
    "strict": "rewards/strict_metric/mean",
    "dead groups": "frac_reward_zero_std",
    "tokens": "completions/mean_length",
    "cut off": "completions/clipped_ratio",
    "seconds": "step_time",
}
SHARES = ("correct", "format", "strict", "dead groups", "cut off")


def cell(heading: str, line: dict[str, Any]) -> str:
    """One metric of a log line as the table shows it; "-" where it was not logged."""
    value = line.get(COLUMNS[heading])
    if value is None:
        return "-"
    if heading in SHARES:
        return f"{100 * value:.0f}%"
    return f"{value:.0f}" if heading == "tokens" else f"{value:.2f}"


def html_table(history: list[dict[str, Any]], steps: int, last: int = 8) -> str:
    """The last few log lines as an HTML table under a progress bar."""
    done = history[-1]["step"] if history else 0
    head = "".join(f"<th>{html.escape(h)}</th>" for h in ("step", *COLUMNS))
    rows = "".join(
        f"<tr><td>{line['step']}</td>" + "".join(f"<td>{cell(h, line)}</td>" for h in COLUMNS) + "</tr>"
        for line in history[-last:]
    )
    return (
        f"<progress value='{done}' max='{steps}'></progress> step {done} of {steps}<table><tr>{head}</tr>{rows}</table>"
    )


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel (a notebook, Colab, or one executed headless)."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def notebook_bar(label: str) -> Callable[..., None]:
    """A progress callback (done, total, strictly right so far) that draws a bar below a notebook's running cell.

    Without the third number it shows no rate.
    """
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)

    def progress(done: int, total: int, strict: int | None = None) -> None:
        if handle is not None:
            bar = f"<progress value='{done}' max='{total}'></progress>"
            handle.update(HTML(f"{bar} {html.escape(progress_text(label, done, total, strict))}"))

    return progress


class LiveTable(TrainerCallback):
    """Show metrics while training runs: table and curves in a notebook, every tenth step as a line in a terminal."""

    def __init__(self, steps: int, every: int = 10):
        self.steps, self.every, self.history, self.handles = steps, every, [], None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        log = Path(args.output_dir) / "log.jsonl"
        self.history = read_jsonl(log) if log.exists() else []  # what an interrupted run did before it is resumed

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "reward" not in logs:
            return
        self.history.append({"step": state.global_step, **logs})
        due = state.global_step % self.every == 0 or state.global_step in (1, self.steps)
        if in_notebook():
            self._show(due)
        elif due:
            line = self.history[-1]
            print(
                f"step {line['step']:4d}/{self.steps}  " + "  ".join(f"{h} {cell(h, line)}" for h in COLUMNS),
                flush=True,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.handles is not None:  # the table stays; the picture is drawn from log.jsonl whenever it is wanted
            from IPython.display import HTML

            self.handles[1].update(HTML(""))

    def _show(self, redraw: bool) -> None:
        from IPython.display import HTML, Image, display

        table = HTML(html_table(self.history, self.steps))
        if self.handles is None:
            self.handles = display(table, display_id=True), display(HTML(""), display_id=True)
        else:
            self.handles[0].update(table)
        if redraw and len(self.history) > 1:
            self.handles[1].update(Image(png(learning_curves(self.history))))
