"""Watch a run: a live table, alarms while it trains, and "why is my loss 0" answered with the run's own numbers.

What judges a run reads records of log.jsonl and nothing else, so it works on a finished run as on a running one. TRL's
own table has the step and a loss that is zero by construction; `LiveTable` tells whether anything is learnt.
"""

from __future__ import annotations

import html
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from transformers import TrainerCallback

from utils.files import json_object
from utils.plots import learning_curves, png
from utils.rewards.contract import name_of
from utils.rewards.functions import REWARDS, RewardFunction
from utils.stats import progress_text

# The three recorded runs of assets/runs/tiny are healthy; the nearest that they came is given with each threshold.
WINDOW = 20  # steps looked at together: single steps of a healthy run scatter too much to judge by
COLLAPSE = 0.5  # of the best window's reward lost, and by 3 standard deviations of its steps (healthy: 0.19)
SHRUNK, GROWN = 0.4, 2.5  # times the length of the first window (healthy: 1.0 to 1.3)
CUT_OFF = 0.25  # share cut off at the cap; a cut answer earns nothing, however right (healthy: 0)
DEAD = 0.9  # share of dead groups: then nearly all of the sampling teaches nothing (healthy: up to 0.75)
SHARES = (
    ("cut off at the cap", "completions/clipped_ratio", CUT_OFF, "Raise max_completion_tokens; `probe` tells to what."),
    (
        "dead groups",
        "frac_reward_zero_std",
        DEAD,
        "All right: harder questions, or an end. All wrong: larger groups, or a reward that sees the answer.",
    ),
)
SETTLING = 10  # first steps, in which the loss scaler of float16 tries its scale and skips what overflows ...
OVERFLOWS = 3  # ... so that only this many steps in a row without a finite gradient are an alarm; later one is
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
IN_PERCENT = ("correct", "format", "strict", "dead groups", "cut off")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run's log.jsonl or rollouts.jsonl, less a last line that a kill cut short; [] without a file.

    Raises:
        ValueError: a line is damaged; names file, line and mend.
    """
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines() if path.exists() else []
    return [_record(line, f"{path}, line {number},") for number, line in enumerate(whole, 1)]


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json_object(line)
        for name, value in ({"step": None} | record).items():
            if name != "groups" and not isinstance(value, int if name == "step" else int | float | None):
                raise ValueError(f"{name} is {value!r:.40}, not a number")
    except ValueError as error:
        mend = "move the file away: the run goes on, without the record of its earlier steps"
        raise ValueError(f"{where} is damaged ({error}); {mend}") from error
    return record


@dataclass(frozen=True)
class Alarm:
    """Something that goes wrong, with the values seen at `step` and the mend."""

    name: str
    step: int
    seen: str
    mend: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}: {self.seen}. {self.mend}"


class Watch:
    """Feed it the records of a run in their order; it raises each alarm once. Work per step: O(`WINDOW`)."""

    def __init__(self, rewards: dict[RewardFunction, float] | None = None):
        weights = REWARDS if rewards is None else rewards
        self.parts = [name_of(f) for f, weight in weights.items() if weight > 0]
        self.window: deque[dict[str, Any]] = deque(maxlen=WINDOW)
        self.best: tuple[float, float] | None = None  # reward of the best window, standard deviation of its steps
        self.first_length: float | None = None
        self.raised: set[str] = set()

    def step(self, record: dict[str, Any]) -> list[Alarm]:
        """The alarms that become true with this record."""
        self.window.append(record)
        seen = self._not_finite() + (self._over_a_window() if len(self.window) == WINDOW else [])
        new = [Alarm(name, record["step"], *what) for name, *what in seen if name not in self.raised]
        self.raised |= {alarm.name for alarm in new}
        return new

    def _not_finite(self) -> list[tuple[str, str, str]]:
        found, loss = [], self.window[-1].get("loss", 0.0)
        settling = self.window[-1]["step"] <= SETTLING
        norms = [record.get("grad_norm", 0.0) for record in self.window][-OVERFLOWS if settling else -1 :]
        mend = "Stop; go on from a checkpoint before it with half the learning rate, or in bfloat16 or float32."
        if not math.isfinite(loss):
            found.append(("loss is not finite", f"loss {loss}", mend))
        if len(norms) == (OVERFLOWS if settling else 1) and not any(map(math.isfinite, norms)):
            found.append(("gradient is not finite", f"norm {norms[-1]} in step {self.window[-1]['step']}", mend))
        return found

    def _over_a_window(self) -> list[tuple[str, str, str]]:
        found, reward, length = [], self._values("reward"), self._values("completions/mean_length")
        for part in self.parts:
            means, spreads = self._values(f"rewards/{part}/mean"), self._values(f"rewards/{part}/std")
            if means and not any(means + spreads):
                mend = "Read some completions and score them by hand: does it look for what the model writes?"
                found.append((f"{part} does not fire", f"0 for every completion of {len(means)} steps", mend))
        if len(reward) > 1:
            now, scatter = fmean(reward), stdev(reward)
            best, usual = self.best = self.best or (now, scatter)
            if best - now > max(COLLAPSE * abs(best), 3 * usual):
                mend = "Go on from the best checkpoint with half the learning rate, or with beta 0.04 to stay close."
                found.append(("reward collapsed", f"{now:.2f} on average, it was {best:.2f}", mend))
            self.best = max(self.best, (now, scatter))
        if length:
            now, first = fmean(length), self.first_length or fmean(length)
            self.first_length, seen = first, f"{now:.0f} tokens on average, {first:.0f} in the beginning"
            if now < SHRUNK * first:
                mend = "Read them: is there a reward that is had without working? Let it depend on the answer."
                found.append(("completions shrank", seen, mend))
            if now > GROWN * first:
                mend = "Read how they end: repetition, or text after the answer? Reward only what stops there."
                found.append(("completions explode", seen, mend))
        for name, key, limit, mend in SHARES:
            if (values := self._values(key)) and fmean(values) > limit:
                found.append((name, f"{fmean(values):.0%} over {len(values)} steps, {limit:.0%} is the limit", mend))
        return found

    def _values(self, key: str) -> list[float]:
        return _values(self.window, key)


def _values(records: Iterable[dict[str, Any]], key: str) -> list[float]:
    return [v for record in records if (v := record.get(key)) is not None and math.isfinite(v)]


def alarms(history: Sequence[dict[str, Any]], rewards: dict[RewardFunction, float] | None = None) -> list[Alarm]:
    """Every alarm of a run, each at the step where it first was true.

    Args:
        history: records of log.jsonl.
        rewards: the functions and weights it was trained with; `REWARDS` unless given.
    """
    watch = Watch(rewards)
    return [alarm for record in history for alarm in watch.step(record)]


def why_loss_is_zero(history: Sequence[dict[str, Any]]) -> list[str]:
    """What a run's loss does and does not tell, in sentences with its own numbers; first and last mean `WINDOW` steps.

    Args:
        history: records of log.jsonl, trained with one update per batch (num_iterations 1), as everywhere here.
    Raises:
        ValueError: no records.
    """
    if not history:
        raise ValueError("the history is empty: give the records of log.jsonl, from the first step on")

    def shift(key: str, unit: str = "") -> str:
        first, last = (fmean(_values(part, key) or [math.nan]) for part in (history[:WINDOW], history[-WINDOW:]))
        return f"{first:{unit or '.2f'}} at first and {last:{unit or '.2f'}} at last"

    loss = [abs(v) for v in _values(history, "loss")] or [math.nan]
    kl, norms = _values(history, "kl"), _values(history, "grad_norm") or [math.nan]
    hidden = [r["step"] for r in history if r.get("loss") == 0 and not math.isfinite(r.get("grad_norm", 0.0))]
    size = f"The loss of these {len(history)} steps is {fmean(loss):.3f} in size, {shift('loss', '+.3f')}"
    zero = (
        "Each batch serves one update, so every ratio of new to old probability is 1, and the loss is minus the mean "
        "advantage; within a group advantages sum to 0. What is left comes from lengths: a longer completion has more "
        "tokens in the mean"
    )
    said = [f"{size}. {zero}.", f"Learning is in the slope: the gradient norm is {fmean(norms):.3f} on average."]
    if hidden:  # transformers' logging_nan_inf_filter writes 0 for a loss that is not a number
        said.append(
            f"But in step {hidden[0]} the gradient is not finite: there a loss of 0 hides one that is not a number."
        )
    if any(kl):
        said.append(f"beta is not 0, so the KL term adds to the loss: KL {shift('kl', '.4f')}.")
    else:
        said.append("There is no KL term (beta 0) that could add to it.")
    clipped = _values(history, "clip_ratio/region_mean")
    if clipped:
        said.append(
            f"The clip of the ratio touched {fmean(clipped):.1%} of the tokens: with one update per batch, none."
        )
    parts = [key for key in history[-1] if key.startswith("rewards/") and key.endswith("/mean")]
    said.append(f"Watch the reward instead: {shift('reward')}.")
    said += [f"Part {key.split('/')[1]}: {shift(key)}." for key in parts]
    said.append(f"Dead groups, all rewards equal, give no slope: {shift('frac_reward_zero_std', '.0%')}.")
    said.append(f"Cut off at the cap: {shift('completions/clipped_ratio', '.0%')}.")
    return said


def panel(history: Sequence[dict[str, Any]], rewards: dict[RewardFunction, float] | None = None) -> str:
    """`why_loss_is_zero` and `alarms` as HTML for a notebook."""
    raised = [f"<b>{html.escape(str(alarm))}</b>" for alarm in alarms(history, rewards)] or ["No alarm."]
    items = [html.escape(sentence) for sentence in why_loss_is_zero(history)] + raised
    return f"<p><b>Why is my loss 0?</b></p><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


class Alarms(TrainerCallback):
    """Show each alarm once, when it first becomes true: a paragraph in a notebook, a line in a terminal."""

    def __init__(self, rewards: dict[RewardFunction, float] | None = None):
        self.watch = Watch(rewards)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for record in read_log(Path(args.output_dir) / "log.jsonl"):  # what an interrupted run did before it is resumed
            self._show(self.watch.step(record))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "reward" in logs:
            self._show(self.watch.step({"step": state.global_step, **logs}))

    def _show(self, raised: list[Alarm]) -> None:
        for alarm in raised:
            if in_notebook():
                from IPython.display import HTML, display

                display(HTML(f"<p><b>Alarm</b> {html.escape(str(alarm))}</p>"))
            else:
                print(f"ALARM {alarm}", flush=True)


# ------------------------------------------------------------------------------------------------------------ progress


def shares(rewards: dict[RewardFunction, float] | None = None) -> tuple[str, ...]:
    """The headings of shares, shown in percent; a learner's own reward under one of our names may have any scale."""
    own = [f"rewards/{name_of(f)}/mean" for f in rewards or () if f not in REWARDS]
    return tuple(heading for heading in IN_PERCENT if COLUMNS[heading] not in own)


def log_cell(heading: str, line: dict[str, Any], in_percent: Sequence[str] = IN_PERCENT) -> str:
    """One metric of a log line as the table shows it; "-" where it was not logged."""
    value = line.get(COLUMNS[heading])
    if value is None:
        return "-"
    if heading in in_percent:
        return f"{100 * value:.0f}%"
    return f"{value:.0f}" if heading == "tokens" else f"{value:.2f}"


def log_table(history: list[dict[str, Any]], steps: int, last: int = 8, in_percent: Sequence[str] = IN_PERCENT) -> str:
    """The last few log lines as an HTML table under a progress bar."""
    done = history[-1]["step"] if history else 0
    head = "".join(f"<th>{html.escape(h)}</th>" for h in ("step", *COLUMNS))
    rows = "".join(
        f"<tr><td>{line['step']}</td>" + "".join(f"<td>{log_cell(h, line, in_percent)}</td>" for h in COLUMNS) + "</tr>"
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

    def __init__(self, steps: int, every: int = 10, rewards: dict[RewardFunction, float] | None = None):
        self.steps, self.every, self.history, self.handles = steps, every, [], None
        self.in_percent = shares(rewards)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.history = read_log(Path(args.output_dir) / "log.jsonl")  # what an interrupted run did before it is resumed

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "reward" not in logs:
            return
        self.history.append({"step": state.global_step, **logs})
        due = state.global_step % self.every == 0 or state.global_step in (1, self.steps)
        if in_notebook():
            self._show(due)
        elif due:
            line = self.history[-1]
            cells = "  ".join(f"{heading} {log_cell(heading, line, self.in_percent)}" for heading in COLUMNS)
            print(f"step {line['step']:4d}/{self.steps}  {cells}", flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.handles is not None:  # the table stays; the picture is drawn from log.jsonl whenever it is wanted
            from IPython.display import HTML

            self.handles[1].update(HTML(""))

    def _show(self, redraw: bool) -> None:
        from IPython.display import HTML, Image, display

        table = HTML(log_table(self.history, self.steps, in_percent=self.in_percent))
        if self.handles is None:
            self.handles = display(table, display_id=True), display(HTML(""), display_id=True)
        else:
            self.handles[0].update(table)
        if redraw and len(self.history) > 1:
            self.handles[1].update(Image(png(learning_curves(self.history))))
