"""Evaluation: one protocol before and after training, one card of rates, and the paired comparison of two.

Greedy decoding, the same prompt and the same token cap for base and trained model; strict and lenient shown apart.

    >>> base = load_evaluation("runs/measured/base")                                        # doctest: +SKIP
    >>> trained = load_evaluation("runs/measured")                                          # doctest: +SKIP
    >>> compare(base.verdicts, trained.verdicts)["flips"]                                   # doctest: +SKIP
    {'fixed': 413, 'broken': 29, 'both': 746, 'neither': 131}
    >>> print(card_text({"base": base.card, "trained": trained.card}))                      # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data.answers import extract_answer, is_correct
from utils.data.numbers import to_number
from utils.data.questions import Question
from utils.evaluation import protocol
from utils.evaluation.equations import shows_working
from utils.evaluation.protocol import Protocol, require_same
from utils.files import in_use, write_json
from utils.model.policy import Policy, Sample, batches, fitting, generate
from utils.rewards.functions import format_reward
from utils.stats import (
    detectable_difference,
    mcnemar_exact,
    p_value,
    paired_bootstrap,
    percent,
    questions_needed,
    wilson_interval,
)

RATES = ("strict", "lenient", "format", "truncated", "no_answer")
NAMES = {
    "strict": "strict",
    "lenient": "lenient",
    "format": "format",
    "truncated": "truncated",
    "no_answer": "no answer",
}
CHANGES = {  # what the strict gain is made of
    "layout": "the number is right both times, and only the layout is not",
    "working": "one of the two answers shows working, the other is a guess",
    "arithmetic": "both show working, and one comes out right: its sums, or its plan",
}


@dataclass(frozen=True)
class Verdict:
    """One question answered and judged; the rates of an evaluation are the means of its booleans.

    Attributes:
        id: of the question, see `Question.id`.
        tokens, truncated: of the completion; None where stored completions from elsewhere do not say.
        strict: the right number in its tag, in a clean layout.
        lenient: the right number wherever the completion states its answer last.
        format: the layout alone.
        no_answer: not even the lenient reading finds a number.
    """

    id: str
    question: str
    gold: str
    completion: str
    tokens: int | None
    strict: bool
    lenient: bool
    format: bool
    truncated: bool | None
    no_answer: bool


@dataclass(frozen=True)
class Evaluation:
    """A stored evaluation, judged anew when it was loaded.

    Attributes:
        header: the content of its protocol.json; all None for completions from elsewhere.
        seconds: what generating took; None where a line does not say.
    """

    folder: Path
    header: dict[str, Any]
    verdicts: list[Verdict]
    seconds: float | None

    @property
    def protocol(self) -> Protocol | None:
        return self.header["protocol"] and Protocol.from_dict(self.header["protocol"])

    @property
    def card(self) -> dict[str, Any]:
        return card(self.verdicts, self.header)


def judge(question: Question, sample: Sample) -> Verdict:
    """Judge one completion against its gold.

    Raises:
        ValueError: the gold is not a number.
    """
    cut = bool(sample.truncated)
    return Verdict(
        question.id,
        question.question,
        question.gold,
        sample.text,
        sample.tokens,
        strict=is_correct(sample.text, question.gold, mode="strict"),
        lenient=is_correct(sample.text, question.gold, mode="lenient", truncated=cut),
        format=format_reward([sample.text])[0] == 1.0,
        truncated=sample.truncated,
        no_answer=extract_answer(sample.text, mode="lenient", truncated=cut) is None,
    )


def evaluate(
    policy: Policy,
    questions: Sequence[Question],
    progress: Callable[[int, int, int], None] | None = None,
    output: str | Path | None = None,
    too_long: dict[str, Any] | None = None,
) -> list[Verdict]:
    """Greedy answers to all questions, judged.

    A question too long for the context (`utils.model.policy.prompt_budget`) is not asked: the rates are over the
    others, and protocol.json and card.json name it under "too_long". Without `output`, where nothing would, it raises.

    Args:
        progress: called with (questions done, questions in all, strictly right so far) at the start and after each
            batch. Short prompts come first, so the rate so far is not yet that of all.
        output: a folder that takes each finished batch and, at the end, card.json. Called again with it, after whatever
            ended the first call, only what is missing is asked. It is for a policy as `load_policy` or `with_adapter`
            returns it: what was changed in memory does not show in the folder's protocol.json.
        too_long: what `utils.model.policy.fitting` has sorted out already, {} for none.
    Raises:
        InUse: another process works in the folder.
        ValueError: the folder holds answers of another model, adapter, protocol or question file, or is damaged; no
            question fits.
    """
    folder, header, known = Path(output or "."), {}, {}
    if output is not None and too_long is None:
        questions, too_long = fitting(policy, questions)
    with nullcontext() if output is None else in_use(folder):
        if output is not None:
            header = protocol.header_of(policy, questions, too_long=too_long)
            known = protocol.begin(folder, header, questions)
        verdicts = {i: judge(questions[i], answer.sample) for i, [answer] in known.items()}

        def tell() -> None:
            if progress:
                progress(len(verdicts), len(questions), sum(v.strict for v in verdicts.values()))

        tell()
        start = time.perf_counter()
        for batch in batches(policy, questions, 0.0, 1, known=known):
            each = (time.perf_counter() - start) / len(batch)
            new = {i: samples for i, samples in batch.items() if i not in known}
            if output is not None:
                protocol.append(folder, header["protocol_hash"], {i: questions[i] for i in new}, new, each)
            verdicts |= {i: judge(questions[i], sample) for i, [sample] in new.items()}
            tell()
            start = time.perf_counter()
        in_order = [verdicts[i] for i in range(len(questions))]
        if output is not None:
            write_json(folder / protocol.CARD, card(in_order, header))
    return in_order


def load_evaluation(folder: str | Path) -> Evaluation:
    """The stored evaluation in a folder, its completions judged anew; no model is needed.

    The folder may also hold nothing but a completions.jsonl with question, gold and completion in each line.

    Raises:
        FileNotFoundError: no completions.jsonl.
        ValueError: it is not finished, was judged by other rules (see `score`), or is damaged; names file and line.
    """
    folder = Path(folder)
    header, answers = protocol.load(folder)
    seconds = [answer.seconds for answer in answers]
    verdicts = [judge(answer.question, answer.sample) for answer in answers]
    return Evaluation(folder, header, verdicts, None if None in seconds else sum(seconds))


def score(folder: str | Path) -> Evaluation:
    """Judge stored completions by the present rules and write card.json.

    Raises:
        InUse: another process works in the folder.
        FileNotFoundError, ValueError: as `load_evaluation`.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name one that an evaluation (run.py evaluate) left")
    with in_use(folder):
        protocol.restamp(Path(folder))
        evaluation = load_evaluation(folder)
        write_json(evaluation.folder / protocol.CARD, evaluation.card)
    return evaluation


# ---------------------------------------------------------------------------------------------- the card


def rate(count: int, n: int) -> dict[str, Any]:
    """{"rate", "low", "high", "count", "n"} with the 95% Wilson interval; of none, no rate and any is possible."""
    low, high = wilson_interval(count, n) if n else (0.0, 1.0)
    return {"rate": count / n if n else None, "low": low, "high": high, "count": count, "n": n}


def rates(verdicts: Sequence[Verdict]) -> dict[str, dict[str, Any]]:
    """`rate` of each of `RATES`, over the verdicts that know it: `truncated` is not in every file from elsewhere."""
    marks = {name: [mark for v in verdicts if (mark := getattr(v, name)) is not None] for name in RATES}
    return {name: rate(sum(those), len(those)) for name, those in marks.items()}


def card(verdicts: Sequence[Verdict], header: dict[str, Any]) -> dict[str, Any]:
    """The content of card.json: n, the rates, mean tokens, what was not asked, and who answered under which protocol.

    It depends on the answers alone, not on the time they took or on interruptions.
    """
    tokens = [v.tokens for v in verdicts]
    mean = None if None in tokens else sum(tokens) / len(tokens)
    about = {name: header[name] for name in ("too_long", *protocol.UNKNOWN) if name in header and name != "questions"}
    return {"n": len(verdicts), **rates(verdicts), "mean_tokens": mean, **about}


# ----------------------------------------------------------------------------------------- the comparison


def pairs_of(base: Sequence[Verdict], trained: Sequence[Verdict]) -> list[tuple[Verdict, Verdict]]:
    """Both verdicts of each question, in the order of `base`; a question that stands there twice is paired twice.

    Raises:
        ValueError: the two are not answers to the same questions with the same golds.
    """

    def places(verdicts: Sequence[Verdict]) -> dict[tuple[str, int], Verdict]:
        seen: Counter[str] = Counter()
        table = {}
        for v in verdicts:
            table[v.question, seen[v.question]] = v
            seen[v.question] += 1
        return table

    there, here = places(base), places(trained)
    if odd := [key for key in (*there, *here) if not (key in there and key in here)]:
        raise ValueError(
            f"paired comparison needs the same questions, got {len(base)} and {len(trained)} verdicts, and "
            f"{len(odd)} of them stand on one side only, first {odd[0][0][:80]!r}; evaluate both models on one list"
        )
    pairs = [(v, here[key]) for key, v in there.items()]
    for b, t in pairs:
        if to_number(b.gold) != to_number(t.gold):
            raise ValueError(f"the gold of {b.question[:80]!r} is {b.gold!r} in base and {t.gold!r} in trained")
    return pairs


def compare(base: Sequence[Verdict], trained: Sequence[Verdict]) -> dict[str, Any]:
    """The paired view, by strict correctness: what the training fixed and broke, and whether that is more than chance.

    Returns:
        n
        flips: {"fixed", "broken", "both", "neither"}, numbers of questions
        mcnemar_p: of fixed against broken
        difference: {"points", "low", "high"}, trained minus base, as shares, with its paired bootstrap interval
        gain: {"layout", "working", "arithmetic"} -> {"fixed", "broken"}, see `split_gain`
        detectable: {"paired", "unpaired"}: smallest gain n questions show in four cases of five, as shares
        needed: {"paired", "unpaired"}: questions that the difference found would need; None for no difference
    Raises:
        ValueError: the two are not answers to the same questions.
    """
    pairs = pairs_of(base, trained)
    n, outcomes = len(pairs), Counter((b.strict, t.strict) for b, t in pairs)
    fixed, broken = outcomes[False, True], outcomes[True, False]
    low, high = paired_bootstrap([b.strict for b, _ in pairs], [t.strict for _, t in pairs])
    flips, before, difference = (fixed + broken) / n, sum(b.strict for b, _ in pairs) / n, (fixed - broken) / n
    ways = {"paired": {"discordant": flips}, "unpaired": {"base_rate": before}}
    return {
        "n": n,
        "flips": {"fixed": fixed, "broken": broken, "both": outcomes[True, True], "neither": outcomes[False, False]},
        "mcnemar_p": mcnemar_exact(fixed, broken),
        "difference": {"points": difference, "low": low, "high": high},
        "gain": split_gain(pairs),
        "detectable": {way: detectable_difference(n, **given) for way, given in ways.items()},
        "needed": {way: questions_needed(difference, **given) if difference else None for way, given in ways.items()},
    }


def split_gain(pairs: Sequence[tuple[Verdict, Verdict]]) -> dict[str, dict[str, int]]:
    """Each flip counted once, under the first of `CHANGES` that is true of its two answers.

    Args:
        pairs: (base, trained) verdicts of each question.
    Returns:
        {"layout", "working", "arithmetic"} -> {"fixed", "broken"}, numbers of questions. Two guesses with different
        numbers are counted under arithmetic, as nothing else tells them apart.
    """
    gain = {name: {"fixed": 0, "broken": 0} for name in CHANGES}
    for base, trained in pairs:
        if base.strict != trained.strict:
            same_number, same_way = base.lenient and trained.lenient, works(base) == works(trained)
            name = "layout" if same_number else "arithmetic" if same_way else "working"
            gain[name]["fixed" if trained.strict else "broken"] += 1
    return gain


def works(verdict: Verdict) -> bool:
    """Whether an answer shows any working, see `equations.shows_working`; else it is a guess."""
    stated = extract_answer(verdict.completion, "lenient", bool(verdict.truncated))
    return shows_working(verdict.completion, to_number(stated))


def compare_folders(base: str | Path, trained: str | Path) -> tuple[Evaluation, Evaluation, dict[str, Any]]:
    """Two stored evaluations and their comparison; no model is needed.

    Raises:
        FileNotFoundError, ValueError: as `load_evaluation` and `compare`; two protocols, or only one is on record.
    """
    headers = [protocol.read_header(Path(folder)) for folder in (base, trained)]
    known = [Protocol.from_dict(header["protocol"]) for header in headers if header["protocol"]]
    if len(known) == 2:
        require_same(*known, names=(str(base), str(trained)))
    one, other = load_evaluation(base), load_evaluation(trained)
    hashes = [evaluation.header["protocol_hash"] for evaluation in (one, other)]
    if hashes[0] != hashes[1]:
        raise ValueError(
            f"nothing says that the two were measured alike: the protocol is {hashes[0]!r} in {base} and "
            f"{hashes[1]!r} in {trained}; a folder of run.py evaluate holds {protocol.PROTOCOL}, bring it along"
        )
    return one, other, compare(one.verdicts, other.verdicts)


def correct_counts(policy: Policy, questions: Sequence[Question], n: int = 8) -> list[int]:
    """How many of n answers sampled at temperature 1 are strictly correct, per question: what `pass_at_k` needs."""
    groups = generate(policy, questions, temperature=1.0, n=n)
    return [sum(judge(q, s).strict for s in group) for q, group in zip(questions, groups, strict=True)]


# ------------------------------------------------------------------------------------------------------------ in words


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
    if any(unasked := [len(card["too_long"]["questions"]) if "too_long" in card else 0 for card in cards.values()]):
        rows.append(["not asked", *(f"{count:,}, too long" if count else "0" for count in unasked)])
    rows.append(["protocol", *(card["protocol_hash"] or "not recorded" for card in cards.values())])
    return "\n".join(f"{row[0]:13}" + "".join(f"{value:24}" for value in row[1:]).rstrip() for row in rows)


def too_long_text(n: int, too_long: dict[str, Any]) -> str:
    """Which questions were not asked and what n, the number of the others, then is; the first few by name.

    >>> rows = [{"source": "mine.jsonl line 7", "id": "…", "tokens": 20113}]
    >>> print(too_long_text(48, {"budget": 1952, "questions": rows}).replace(": ", ":\\n"))
    1 of 49 questions does not fit 1,952 tokens and is not asked:
    all rates are over the other 48. It is mine.jsonl line 7 with 20,113.
    """
    rows = too_long["questions"]
    do, are, they = ("does", "is", "It is") if len(rows) == 1 else ("do", "are", "They are")
    named = [f"{row['source'] or row['id']} with {row['tokens']:,}" for row in rows[:3]]
    if len(rows) > 3:
        named.append(f"{len(rows) - 3:,} more, named in {protocol.PROTOCOL}")
    return (
        f"{len(rows):,} of {n + len(rows):,} questions {do} not fit {too_long['budget']:,} tokens and {are} not asked: "
        f"all rates are over the other {n:,}. {they} {', '.join(named)}."
    )


def comparison_text(comparison: dict[str, Any]) -> str:
    """What `compare` found, in sentences."""
    n, flips, gain, change = (comparison[name] for name in ("n", "flips", "gain", "difference"))
    least, needed = comparison["detectable"], comparison["needed"]
    lines = [
        f"Flips: {flips['fixed']:,} fixed, {flips['broken']:,} broken; {flips['both']:,} right both times, "
        f"{flips['neither']:,} wrong both times. McNemar {p_value(comparison['mcnemar_p'])}.",
        f"Strict: {100 * change['points']:+.1f} points [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}] "
        f"of {n:,}. {gain_text(gain)}",
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


def gain_text(gain: dict[str, dict[str, int]]) -> str:
    """`split_gain` in one sentence.

    >>> print(gain_text({"layout": {"fixed": 45, "broken": 0}, "working": {"fixed": 357, "broken": 2},
    ...                  "arithmetic": {"fixed": 11, "broken": 27}}))
    By layout 45 fixed and 0 broken, where only one answer shows working 357 and 2, by arithmetic 11 and 27.
    """
    layout, working, arithmetic = gain.values()
    return (
        f"By layout {layout['fixed']:,} fixed and {layout['broken']:,} broken, where only one answer shows working "
        f"{working['fixed']:,} and {working['broken']:,}, by arithmetic {arithmetic['fixed']:,} and "
        f"{arithmetic['broken']:,}."
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
