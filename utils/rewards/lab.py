"""The Reward Lab: change what is paid for, and see at once what that would teach.

    lab = RewardLab(short_run=short_run)
    lab                                   # the last line of a cell shows it

    @lab.reward                           # in another cell: a reward of your own joins the table
    def brief(completions, **kwargs):
        return [-len(text) / 200 for text in completions]

Sliders weigh the rewards; every move scores the whole bank again. Another bank may be chosen: what holds on the tiny
model's completions need not hold on a real model's. A text of your own is scored as you type. "What if" trains the tiny
model for less than a minute under your rewards, beside the default ones; "Export" writes them to a file for
`run.py train --reward FILE`. This module is the view; what it shows is computed by the rest of its wing, and the short
run is handed in, for training stands above rewards.
"""

from __future__ import annotations

import html
import shlex
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from utils.data.prompts import PROMPTS
from utils.files import ROOT
from utils.plots import GREEN, RED, png, runs_beside
from utils.rewards.bank import TINY, Bank, Scores, banks, changed_rank, changed_sign, lights, load_bank, rescore
from utils.rewards.bench import bench, check_reward, with_rows
from utils.rewards.contract import RewardProblem, name_of
from utils.rewards.export import CannotExport, export_rewards
from utils.rewards.functions import REWARDS, RewardFunction, columns, group_advantages, on_text, total_reward
from utils.rewards.groups import completions_table
from utils.stats import percent

WHAT_IF = "What if: train a minute"
WHOSE = "“What if” trains the embedded tiny model on questions of its own, whichever bank is shown."
NEW_WEIGHT = 0.5  # of a reward just registered
FOR_TESTS = "source about reset next message effect table text live train curves verdict export bench"  # class lab-…
WIDE = {"width": "200px"}
STYLE = (
    "<style>.reward-lab .widget-html-content {line-height: 1.4}"
    " .reward-lab td, .reward-lab th {padding: 2px 6px; vertical-align: top}</style>"
)
FAILED_ROWS = 5  # of the bench, shown in full


class RewardLab:
    """Sliders, a bank of completions and a text of your own, in one view.

    Args:
        bank: completions to try rewards on; those of `BANKS` to choose from, the tiny model's first, unless given.
        default: the rewards to compare with, and to start from.
        short_run: what "What if" calls, `utils.experiments.short_run.short_run`; without it the button is not there.
    """

    def __init__(
        self,
        bank: Bank | None = None,
        default: dict[RewardFunction, float] = REWARDS,
        short_run: Callable[..., Any] | None = None,
    ):
        self.default, self.short_run = default, short_run
        self.bank = load_bank() if bank is None else bank
        self.before = self._by_default(self.bank)
        self._banks = {} if bank else dict.fromkeys(banks()) | {TINY: self.bank}  # each is loaded when first chosen
        self.functions: dict[str, RewardFunction] = {}
        self.refused: set[str] = set()  # names of functions that the bank shown cannot be scored with
        self.sliders: dict[str, widgets.FloatSlider] = {}
        self.training: threading.Thread | None = None
        self._stop = threading.Event()
        self._default_run: Any = None
        self._inserted = ""  # what stands in the text field until somebody types there
        self._build()
        for function, weight in default.items():
            self._add(function, weight)
        self._choose_group()

    # ----------------------------------------------------------------------------------- what is asked

    @property
    def rewards(self) -> dict[RewardFunction, float]:
        """The functions with the weights that the sliders show, without those that this bank refused."""
        usable = ((name, f) for name, f in self.functions.items() if name not in self.refused)
        return {function: self.sliders[name].value for name, function in usable}

    def reward(self, function: RewardFunction) -> RewardFunction:
        """Decorator: check a reward on bank and bench and give it a slider; one that fails is refused, with the reason.

        The function receives `completions` (texts) and, by name, `prompts`, `gold`, `question` and `truncated`.
        """
        checked, name = function, name_of(function)
        try:
            checked = on_text(function)
            if name in {f.__name__ for f in self.default}:
                raise RewardProblem(f"{name} is the name of a default reward; choose another")
            check_reward(function, *with_rows(self.bank))
        except RewardProblem as problem:
            self._say(f"refused: {problem}", bad=True)
            print(f"refused: {problem}")
            return checked
        self._add(checked, NEW_WEIGHT)
        self._say(f"{name} is in the table, with weight {NEW_WEIGHT:g}")
        return checked

    def scores(self) -> Scores:
        """The bank under the present weights."""
        return rescore(self.bank, list(self.rewards), list(self.rewards.values()))

    # ---------------------------------------------------------------------------------------- the view

    def _build(self) -> None:
        self.source = widgets.Dropdown(options=list(self._banks), description="bank", layout={"width": "360px"})
        self.policy = widgets.Dropdown(options=_policies(self.bank), description="policy")
        self.group = widgets.IntSlider(min=0, max=0, description="group")
        self.next = widgets.Button(description="Next changed group", icon="forward", layout=WIDE)
        self.text = widgets.Textarea(layout=widgets.Layout(width="98%", height="8em"))
        self.reset = widgets.Button(description="Default weights", icon="undo")
        self.train = widgets.Button(description=WHAT_IF, icon="play", layout=WIDE)
        self.path = widgets.Text(value="runs/my_rewards.py", layout=WIDE)
        self.export = widgets.Button(description="Export", icon="download")
        self.weights, self.message, self.effect = widgets.VBox(), widgets.HTML(), widgets.HTML()
        self.about = widgets.HTML(about(self.bank))
        self.table, self.live, self.verdict, self.bench = (widgets.HTML() for _ in range(4))
        self.curves = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", display="none"))
        for name in FOR_TESTS.split():
            getattr(self, name).add_class(f"lab-{name}")
        self.source.observe(self._choose_bank, names="value")
        self.policy.observe(self._choose_group, names="value")
        self.group.observe(self._choose_group, names="value")
        self.text.observe(self._score_text, names="value")
        self.next.on_click(self._next_changed)
        self.reset.on_click(self._reset)
        self.train.on_click(self._what_if)
        self.export.on_click(self._export)
        whose = [widgets.HTML(f"<small>{WHOSE}</small>")] if self.short_run else []
        self.box = widgets.VBox(
            [
                widgets.HTML(STYLE),
                _row(*([self.source] if len(self._banks) > 1 else []), self.about),
                _row(_panel("What is paid for", self.weights, self.reset), _panel("What that would do", self.effect)),
                _panel("A group from the bank", _row(self.policy, self.group, self.next), self.table),
                _row(
                    _panel("Try a completion of your own, for this question", self.text),
                    _panel("What it would earn", self.live),
                ),
                _panel("The reward bench", self.bench),
                _panel("Try it out", _row(*([self.train] if self.short_run else []), self.path, self.export), *whose),
                self.message,
                self.curves,
                self.verdict,
            ],
            layout=widgets.Layout(max_width="1200px"),
        )
        self.box.add_class("reward-lab")

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)

    def _add(self, function: RewardFunction, weight: float) -> None:
        name = function.__name__
        self.functions[name] = function
        self.refused.discard(name)
        if name not in self.sliders:
            self.sliders[name] = slider = widgets.FloatSlider(
                weight,
                min=min(-1, weight),
                max=max(2, weight),
                step=0.1,
                description=name,
                style={"description_width": "11em"},
                layout=widgets.Layout(width="98%", max_width="420px"),
            )
            slider.add_class(f"lab-weight-{name}")
            slider.observe(self._weigh, names="value")
            self.weights.children = tuple(self.sliders.values())
        self.sliders[name].disabled = False
        self._weigh()

    def _say(self, sentence: str, bad: bool = False) -> None:
        self.message.value = f"<p style='color:{RED if bad else 'inherit'}'>{html.escape(sentence)}</p>"

    # ---------------------------------------------------------------------------------- what it answers

    def _by_default(self, bank: Bank) -> Scores:
        return rescore(bank, list(self.default), list(self.default.values()))

    def _choose_bank(self, change: dict[str, Any]) -> None:
        """Show another bank; a reward of one's own that fails on it waits, unused, for a bank that it suits."""
        name = change["new"]
        try:
            bank = self._banks[name] = self._banks[name] or load_bank(name)
            before = self._by_default(bank)
        except (OSError, ValueError) as error:
            self.source.value = change["old"]
            self._say(f"{name} is not shown: {error}", bad=True)
            return
        self.bank, self.before, problems = bank, before, []
        for own, function in self.functions.items():
            if function in self.default:
                continue
            try:
                check_reward(function, *with_rows(bank))
                self.refused.discard(own)
            except RewardProblem as problem:
                self.refused.add(own)
                problems.append(f"refused on this bank: {problem}")
            self.sliders[own].disabled = own in self.refused
        self.about.value = about(self.bank)
        self.policy.options = _policies(self.bank)
        self.group.value = 0
        self._weigh()
        self._choose_group()
        self._say("; ".join(problems), bad=True)

    def _weigh(self, change: Any = None) -> None:
        scores = self.scores()
        self.effect.value = effect_table(self.bank, self.before, scores)
        self.bench.value = bench_summary(self.rewards)
        self._show_group(scores)

    def _reset(self, button: Any = None) -> None:
        weights = {function.__name__: weight for function, weight in self.default.items()}
        for name, slider in self.sliders.items():
            slider.value = weights.get(name, 0.0)

    def _chosen(self) -> int:
        """Index in the bank of the group that policy and slider point at."""
        own = self._own_groups()
        self.group.max = len(own) - 1
        return own[self.group.value]

    def _own_groups(self) -> list[int]:
        return [i for i, group in enumerate(self.bank.groups) if group.policy == self.policy.value]

    def _next_changed(self, button: Any = None) -> None:
        """Go on to the next group, of either policy, in which an advantage has another sign than by default."""
        turned, size, now = changed_sign(self.before, self.scores()), self.bank.group_size, self._chosen()
        order = [*range(now + 1, len(self.bank.groups)), *range(now + 1)]
        found = next((i for i in order if any(turned[i * size : (i + 1) * size])), None)
        if found is None:
            self._say("no advantage has changed its sign in any group")
            return
        self.policy.value = self.bank.groups[found].policy
        self._chosen()  # the slider may have to reach further first
        self.group.value = self._own_groups().index(found)

    def _choose_group(self, change: Any = None) -> None:
        group = self.bank.groups[self._chosen()]
        scores = self.scores()
        best = max(range(len(group.completions)), key=lambda i: self._slice(scores.totals)[i])
        if self.text.value == self._inserted:
            self.text.value = self._inserted = group.completions[best]
        self._show_group(scores)

    def _slice(self, values: list[Any]) -> list[Any]:
        start = self._chosen() * self.bank.group_size
        return values[start : start + self.bank.group_size]

    def _show_group(self, scores: Scores) -> None:
        group = self.bank.groups[self._chosen()]
        record = {
            "completions": group.completions,
            "truncated": group.truncated,
            "parts": {name: self._slice(values) for name, values in scores.parts.items() if scores.weights[name]},
            "rewards": self._slice(scores.totals),
            "advantages": self._slice(scores.advantages),
        }
        self.table.value = (
            f"<p><b>{html.escape(group.question)}</b> Gold answer: <b>{html.escape(group.gold)}</b> "
            f"<small>Asked with the prompt “{group.prompt}”.</small></p>"
            + completions_table(record, before=self._slice(self.before.advantages))
        )
        self._score_text()

    def _score_text(self, change: Any = None) -> None:
        group = self.bank.groups[self._chosen()]
        cut = dict(zip(group.completions, group.truncated or (), strict=False)).get(self.text.value, False)
        given = columns([group.question], [group.gold], [PROMPTS[group.prompt]], [cut])
        try:
            parts = {f.__name__: check_reward(f, [self.text.value], given)[0] for f in self.rewards}
        except RewardProblem as problem:
            self.live.value = f"<p style='color:{RED}'>{html.escape(str(problem))}</p>"
            return
        scores = self.scores()
        self.live.value = live_table(parts, scores.weights, self._slice(scores.totals))

    def _export(self, button: Any = None) -> None:
        try:
            path = export_rewards(ROOT / Path(self.path.value).expanduser(), self.rewards, self.bank)
        except (CannotExport, OSError) as error:
            self._say(str(error), bad=True)
            return
        shown = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        command = f"python3 run.py train --profile tiny --output runs/mine --reward {shlex.quote(shown)}"
        self._say(f"written and tested{self._without()}: {command}")

    def _without(self) -> str:
        return f", without {', '.join(sorted(self.refused))}, refused on this bank" if self.refused else ""

    def _what_if(self, button: Any = None) -> None:
        if self.training is not None and self.training.is_alive():
            self._stop.set()
            self._say("stopping after this step")
            return
        self._stop.clear()
        self.verdict.value, self.train.description, self.train.icon = "", "Stop", "stop"
        self.training = threading.Thread(target=self._train, args=(self.rewards,), daemon=True)
        self.training.start()

    def _train(self, rewards: dict[RewardFunction, float]) -> None:
        """Both short runs, in a thread of their own, so that the lab stays usable meanwhile."""
        try:
            self._say("loading the model")
            curves: dict[str, list[dict[str, Any]]] = {}
            runs = {"default": self._default_run or self._run(self.default, curves, "default")}
            self._default_run = runs["default"]
            if self._default_run:
                curves["default"] = self._default_run.history
                runs["yours"] = self._run(rewards, curves, "yours")
            if not all(runs.values()):
                self._say("stopped")
                return
            rates = {"before": runs["default"].before} | {name: run.after for name, run in runs.items()}
            self.verdict.value = verdict_table(rates)
            self._say(f"done{self._without()}")
        except Exception as error:  # nobody sees a thread's traceback in a notebook
            self._say(f"the training ended with {type(error).__name__}: {error}", bad=True)
        finally:
            self.train.description, self.train.icon = WHAT_IF, "play"

    def _run(self, rewards: dict[RewardFunction, float], curves: dict[str, Any], name: str) -> Any:
        def draw(history: list[dict[str, Any]], steps: int) -> None:
            curves[name] = history
            self._say(f"training with {name} rewards: step {len(history)} of {steps}")
            self.curves.value = png(runs_beside(curves, steps), dpi=100)
            self.curves.layout.display = ""

        return self.short_run(rewards, draw, stopped=self._stop.is_set)


# ------------------------------------------------------------------------------ what it shows, as pure functions


def about(bank: Bank) -> str:
    """Whose completions a bank holds, how many, and with which prompts they were asked for, as HTML."""
    asked: dict[str, Counter[str]] = {}
    for group in bank.groups:
        asked.setdefault(group.policy, Counter())[group.prompt] += bank.group_size
    mixes = (
        f"{policy} {' and '.join(f'{n:,} with “{prompt}”' for prompt, n in prompts.items())}"
        for policy, prompts in asked.items()
    )
    of = f" of {bank.model}" if bank.model else ""
    found = f"{len(bank.completions):,} completions{of} in groups of {bank.group_size}, by prompt: {'; '.join(mixes)}"
    return f"<p>{html.escape(found)}</p>"


def effect_table(bank: Bank, before: Scores, scores: Scores) -> str:
    """Dead groups, changed signs and ranks, and the warning lights, as HTML."""
    n, groups = len(scores.totals), len(scores.dead)
    rows = [
        ("dead groups", f"{sum(before.dead)} → <b>{sum(scores.dead)}</b> of {groups}"),
        ("advantages that changed sign", f"<b>{sum(changed_sign(before, scores)):,}</b> of {n:,}"),
        ("completions that changed rank in their group", f"<b>{sum(changed_rank(before, scores)):,}</b> of {n:,}"),
    ]
    numbers = "".join(f"<tr><td style='text-align:left'>{what}</td><td>{value}</td></tr>" for what, value in rows)
    lamps = "".join(
        f"<li><b style='color:{RED if light.lit else GREEN}'>{'● ' if light.lit else '○ '}{light.name}</b>"
        f"{'' if light.lit else ': no'}<br><small>{html.escape(light.found)}</small></li>"
        for light in lights(bank, scores)
    )
    return f"<table>{numbers}</table><ul style='list-style:none;padding-left:0'>{lamps}</ul>"


def bench_summary(rewards: dict[RewardFunction, float]) -> str:
    """How many rows of the reward bench are in order, and the first few that are not, as HTML."""
    results = bench(partial(total_reward, rewards=rewards))
    failed = [result for result in results if not result.passed]
    colour = RED if failed else GREEN
    head = f"<p><b style='color:{colour}'>{len(results) - len(failed)} of {len(results)} rows in order</b></p>"
    if not failed:
        return head
    left, code = "style='text-align:left'", "style='white-space:pre-wrap;overflow-wrap:anywhere'"
    rows = "".join(
        f"<tr><td>{r.row.place}</td><td {left}><code {code}>{html.escape(repr(r.row.completion)[:160])}</code></td>"
        f"<td {left}>{html.escape(r.row.reason)}</td><td {left}>{html.escape(r.why)}</td></tr>"
        for r in failed[:FAILED_ROWS]
    )
    more = f"<p>and {len(failed) - FAILED_ROWS} more</p>" if len(failed) > FAILED_ROWS else ""
    heads = "".join(f"<th>{h}</th>" for h in ("belongs to", "completion", "why it is here", "what is wrong"))
    return f"{head}<table><tr>{heads}</tr>{rows}</table>{more}"


def live_table(parts: dict[str, float], weights: dict[str, float], group: list[float]) -> str:
    """What one completion earns by part, and how it would stand if it joined a group, as HTML.

    Args:
        parts: unweighted rewards by name.
        weights: weights by name.
        group: the total rewards of the group's completions.
    """
    rows = "".join(
        f"<tr><td style='text-align:left'>{html.escape(name)}</td><td>{weights[name]:g} × {value:.3g}</td>"
        f"<td><b>{weights[name] * value + 0.0:.3g}</b></td></tr>"
        for name, value in parts.items()
    )
    total = round(sum(weights[name] * value for name, value in parts.items()), 9)
    everyone = [*group, total]
    place, advantage = 1 + sum(other > total for other in group), group_advantages(everyone, len(everyone))[-1]
    return (
        f"<table>{rows}<tr><td style='text-align:left'>reward</td><td></td><td><b>{total:.3g}</b></td></tr></table>"
        f"<p>As one more member of this group: place {place} of {len(everyone)}, advantage <b>{advantage:+.2f}</b></p>"
    )


def verdict_table(rates: dict[str, dict[str, dict[str, float]]]) -> str:
    """Strict, lenient and format rates on the held-out questions with their 95% intervals, one row a model, as HTML."""
    names = ("strict", "lenient", "format")
    rows = "".join(
        f"<tr><td>{who}</td>" + "".join(f"<td>{percent(found[name])}</td>" for name in names) + "</tr>"
        for who, found in rates.items()
    )
    heads = "".join(f"<th>{h}</th>" for h in (f"{rates['before']['strict']['n']} held-out questions", *names))
    default = rates["default"]["strict"]
    verdicts = ""
    for who, other in ((who, found["strict"]) for who, found in rates.items() if who not in ("before", "default")):
        apart = default["low"] > other["high"] or other["low"] > default["high"]
        verdict = "do not overlap" if apart else "overlap: one short run cannot tell them apart"
        verdicts += f"<p>The strict intervals of default and {html.escape(who)} {verdict}.</p>"
    return f"<table><tr>{heads}</tr>{rows}</table>{verdicts}"


def _policies(bank: Bank) -> list[str]:
    return list(dict.fromkeys(group.policy for group in bank.groups))


def _panel(title: str, *children: widgets.Widget) -> widgets.VBox:
    return widgets.VBox([widgets.HTML(f"<b>{title}</b>"), *children], layout=widgets.Layout(flex="0 0 auto"))


def _row(*children: widgets.Widget) -> widgets.HBox:
    """Side by side where there is room, else one below the other."""
    for child in children:
        if isinstance(child, widgets.VBox):
            child.layout.flex, child.layout.min_width = "1 1 340px", "0"
    layout = widgets.Layout(flex="0 0 auto", flex_flow="row wrap", grid_gap="4px 24px")
    return widgets.HBox(list(children), layout=layout)
