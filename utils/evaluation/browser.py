"""Look at the examples behind the rates: each question with both completions, and what is wrong with them.

    examples = pair_up(base.verdicts, trained.verdicts, solutions_of(questions))
    ExampleBrowser(examples)                                         # the last line of a cell shows it
    HTML(example_table(select(examples, flip="broken")[:3]))         # the same without widgets, as on GitHub

`select` is the filter, `example_table` the picture; the browser puts lists, a slider and two buttons above them.
Everything a model wrote is escaped.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.evaluation.errors import ERROR_TYPES, RIGHT, Finding, diagnose
from utils.evaluation.evaluate import Verdict, pairs_of
from utils.plots import GREEN, RED

ALL = "all"
FLIPS = ("fixed", "broken", "both", "neither")
MEANINGS = {RIGHT: "the right number in its tag, in a clean layout"} | dict(ERROR_TYPES)
PRE = "white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;margin:0"
STYLE = (
    "<style>.example-browser .widget-html-content {line-height: 1.4}"
    " .example-browser td, .example-browser th {vertical-align: top; padding: 2px 8px}"
    " .example-browser table {table-layout: fixed; width: 100%}</style>"
)


@dataclass(frozen=True)
class Example:
    """One question answered before and after, with what is wrong with each answer; `None` where it is right."""

    before: Verdict
    after: Verdict
    wrong_before: Finding | None
    wrong_after: Finding | None

    @property
    def flip(self) -> str:
        """One of `FLIPS`, by strict correctness: "both" is right before and after, "neither" wrong."""
        if self.before.strict:
            return "both" if self.after.strict else "broken"
        return "fixed" if self.after.strict else "neither"

    @property
    def categories(self) -> tuple[str, str]:
        """ "right" or an error's name, before and after."""
        return tuple(finding.name if finding else RIGHT for finding in (self.wrong_before, self.wrong_after))

    @property
    def length(self) -> int:
        """Of the longer completion, in characters: tokens are not known of every stored completion."""
        return max(len(self.before.completion), len(self.after.completion))


def pair_up(
    base: Sequence[Verdict], trained: Sequence[Verdict], solutions: Mapping[str, str] | None = None
) -> list[Example]:
    """The examples of two evaluations of the same questions.

    Args:
        solutions: worked solution by question text, see `utils.evaluation.errors.solutions_of`.
    Raises:
        ValueError: the two are not answers to the same questions.
    """
    solutions = solutions or {}
    return [
        Example(*pair, *(diagnose(verdict, solutions.get(verdict.question)) for verdict in pair))
        for pair in pairs_of(base, trained)
    ]


def select(
    examples: Sequence[Example],
    flip: str = ALL,
    before: str = ALL,
    after: str = ALL,
    length: tuple[int, int] | None = None,
) -> list[Example]:
    """The examples that pass every filter, in their order.

    Args:
        flip: "fixed", "broken", "both", "neither" or "all".
        before, after: a category, "right" or the name of an error, or "all".
        length: least and greatest length of the longer completion, in characters, both included.
    Raises:
        ValueError: an unknown flip or category.
    """
    for what, value, known in (("flip", flip, FLIPS), ("before", before, MEANINGS), ("after", after, MEANINGS)):
        if value != ALL and value not in known:
            raise ValueError(f"{what} is {value!r}; use {ALL!r} or one of {', '.join(map(repr, known))}")
    low, high = length or (0, float("inf"))
    return [
        example
        for example in examples
        if flip in (ALL, example.flip)
        and before in (ALL, example.categories[0])
        and after in (ALL, example.categories[1])
        and low <= example.length <= high
    ]


def example_table(examples: Sequence[Example]) -> str:
    """Questions with both completions side by side, as HTML that reads the same where styles are stripped."""
    rows = "".join(
        f"<tr><td style='width:26%;text-align:left'>{html.escape(e.before.question)}<br>"
        f"gold <b>{html.escape(e.before.gold)}</b><br>{e.flip}</td>"
        f"{_cell(e.before, e.wrong_before)}{_cell(e.after, e.wrong_after)}</tr>"
        for e in examples
    )
    return f"<table><tr><th>question</th><th>before</th><th>after</th></tr>{rows}</table>"


def _cell(verdict: Verdict, finding: Finding | None) -> str:
    name, note = (finding.name, finding.note) if finding else (RIGHT, "")
    colour = RED if finding else GREEN
    head = f"<b style='color:{colour}'>{html.escape(name)}</b>{': ' if note else ''}{html.escape(note)}"
    size = f"{verdict.tokens:,} tokens" if verdict.tokens is not None else f"{len(verdict.completion):,} characters"
    return (
        f"<td style='text-align:left'><span title='{html.escape(MEANINGS[name])}'>{head}</span> <small>{size}</small>"
        f"<pre style='{PRE}'>{_marked(verdict.completion, finding)}</pre></td>"
    )


def _marked(text: str, finding: Finding | None) -> str:
    """The text escaped, with the place that the finding speaks of in bold."""
    start, end = (finding.start, finding.end) if finding else (0, 0)
    place = f"<mark><b>{html.escape(text[start:end])}</b></mark>" if end > start else ""
    return html.escape(text[:start]) + place + html.escape(text[end:])


class ExampleBrowser:
    """Filters, a position and the example there.

    Args:
        examples: from `pair_up`.
    """

    def __init__(self, examples: Sequence[Example]):
        self.examples = list(examples)
        self.chosen = self.examples
        self._build()
        self._filter()

    def _build(self) -> None:
        import ipywidgets as widgets

        flips = Counter(e.flip for e in self.examples)
        counts = [Counter(e.categories[i] for e in self.examples) for i in (0, 1)]
        longest = max((e.length for e in self.examples), default=0)
        self.flip = widgets.Dropdown(options=_options(FLIPS, flips), description="flip")
        self.before = widgets.Dropdown(options=_options(MEANINGS, counts[0]), description="before")
        self.after = widgets.Dropdown(options=_options(MEANINGS, counts[1]), description="after")
        self.length = widgets.IntRangeSlider(
            value=(0, longest), min=0, max=longest, description="characters", continuous_update=False
        )
        self.position = widgets.IntSlider(1, min=1, max=1, description="example", continuous_update=False)
        self.previous = widgets.Button(description="Previous", icon="backward")
        self.next = widgets.Button(description="Next", icon="forward")
        self.found, self.view = widgets.HTML(), widgets.HTML()
        for name in ("flip", "before", "after", "length", "position", "previous", "next", "found", "view"):
            getattr(self, name).add_class(f"examples-{name}")
        for chooser in (self.flip, self.before, self.after, self.length):
            chooser.observe(self._filter, names="value")
        self.position.observe(self._show, names="value")
        self.previous.on_click(lambda button: self._step(-1))
        self.next.on_click(lambda button: self._step(1))
        wrap = widgets.Layout(flex_flow="row wrap")
        self.box = widgets.VBox(
            [
                widgets.HTML(STYLE),
                widgets.HBox([self.flip, self.before, self.after, self.length], layout=wrap),
                widgets.HBox([self.previous, self.next, self.position, self.found], layout=wrap),
                self.view,
            ],
            layout=widgets.Layout(max_width="1200px"),
        )
        self.box.add_class("example-browser")

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)

    def _filter(self, change: Any = None) -> None:
        """Choose again, and begin with the first example."""
        self.chosen = select(self.examples, self.flip.value, self.before.value, self.after.value, self.length.value)
        self.found.value = f"{len(self.chosen):,} of {len(self.examples):,}"
        self.position.value = 1
        self.position.max = max(1, len(self.chosen))
        self._show()

    def _step(self, by: int) -> None:
        self.position.value = min(max(self.position.value + by, 1), self.position.max)

    def _show(self, change: Any = None) -> None:
        at = self.position.value
        self.previous.disabled, self.next.disabled = at <= 1, at >= len(self.chosen)
        empty = "<p>No example passes these filters; set one of them back to “all”.</p>"
        self.view.value = example_table(self.chosen[at - 1 : at]) if self.chosen else empty


def _options(names: Any, counts: Counter[str]) -> list[tuple[str, str]]:
    """Labels with counts, and values; what does not occur is left out."""
    return [(f"{ALL} ({sum(counts.values()):,})", ALL)] + [(f"{n} ({counts[n]:,})", n) for n in names if counts[n]]
