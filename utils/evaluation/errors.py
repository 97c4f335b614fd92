r"""Why an answer is wrong: one category for each completion, computed from its text.

The first of these that is true names the error (`ERROR_TYPES` lists all names with their meaning):

1. The number is right, so only the layout costs the point: "no tag". A wrong number outside the tags is not "no tag":
   tags would not have saved it. One that is right afterwards was fixed by layout (`evaluate.split_gain`).
2. There is no number to judge: "truncated" if the token cap cut the text off before its answer, "unparsable" if an
   answer is stated that is not one number, else "no answer".
3. There is a number, and no working that could be read: "guess" where the working holds no number at all, else "other".
4. What the working itself shows, without knowing how to solve the problem: "answer not copied" if its last result is
   the gold answer; "arithmetic slip" if one of its equations is false; "answer not copied" if the number stated is the
   result of none.
5. Every equation holds and the answer follows from them, so the plan was wrong. With the gold solution beside it:
   "wrong operation" if a step does something else with the same two numbers, or an operator is used more often than
   there. Else the first step whose result the solution does not know decides: "wrong numbers" if none of its numbers
   occurs there, or as many operators are used as there; "wrong operation" if they occur only with other operators;
   else "dropped step". Without a solution, all these are "wrong plan".

Facts come before inferences: 1 to 4 can be checked by pointing at the text, 5 compares with one solution out of several
that may exist. A completion with two errors counts under the first of them.

    >>> why("<reasoning>\n6*7=<<6*7=42>>42\n42+8=60\n</reasoning>\n<answer>60</answer>", gold="50").note
    '42+8 is 50, not 60'
    >>> why("She has 9-4=5 eggs. The answer is 5.", gold="13").name
    'wrong plan'
    >>> why("She has 9-4=5 eggs. The answer is 5.", gold="13", solution="She has 9+4=<<9+4=13>>13 eggs.\n#### 13").name
    'wrong operation'
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from utils.data.answers import extract_answer, is_correct, parse_completion
from utils.data.numbers import to_number
from utils.data.questions import Question
from utils.evaluation.equations import Equation, equations, shows_working
from utils.evaluation.evaluate import Verdict, pairs_of

RIGHT = "right"
ERROR_TYPES = (
    ("no tag", "the number is right, the layout is not: tags are missing, or there is text outside them"),
    ("truncated", "cut off by the token cap before an answer was stated"),
    ("no answer", "no number anywhere"),
    ("unparsable", "an answer is stated, but not as one number"),
    ("guess", "a wrong number without any working"),
    ("answer not copied", "the answer is not what the working ended in"),
    ("arithmetic slip", "an equation of the working is false"),
    (
        "wrong operation",
        "all equations hold, but one uses another operator than the solution, or there is one too many",
    ),
    ("dropped step", "all equations hold and no operator is new, but some of the solution's are missing"),
    ("wrong numbers", "all equations hold and no operator is new, but they take other numbers than the solution's"),
    ("wrong plan", "all equations hold; no solution to tell a wrong operation, a dropped step or wrong numbers apart"),
    ("other", "a wrong number, and a working without an equation that could be read: with unknowns, or in words"),
)


@dataclass(frozen=True)
class Finding:
    """Why a completion does not count: the category, a remark, and the place it speaks of, `completion[start:end]`."""

    name: str
    note: str = ""
    start: int = 0
    end: int = 0


def error_type(verdict: Verdict, solution: str | None = None) -> str | None:
    """The category of one wrong answer; `None` where it is strictly right.

    Args:
        solution: a worked solution as GSM8K writes it, e.g. `Question.row["answer"]`; one without equations, such as
            the bare gold, counts as none.
    """
    finding = diagnose(verdict, solution)
    return finding and finding.name


def diagnose(verdict: Verdict, solution: str | None = None) -> Finding | None:
    """`error_type` with its evidence: what is wrong, and where in the completion."""
    return None if verdict.strict else why(verdict.completion, verdict.gold, solution, bool(verdict.truncated))


def why(completion: str, gold: str, solution: str | None = None, truncated: bool = False) -> Finding:
    """Why a completion is not strictly right; see the head of this module for the order of the questions asked.

    Raises:
        ValueError: the gold is not a number. No completion raises.
    """
    if is_correct(completion, gold, "lenient", truncated):
        return Finding("no tag")
    in_tag = parse_completion(completion).answer
    if truncated and in_tag is None:
        return Finding("truncated")
    stated = to_number(extract_answer(completion, "lenient", truncated))
    if stated is None:
        return Finding("unparsable" if in_tag or re.search(r"\d", completion) else "no answer")
    steps = equations(completion)
    if not steps:
        return Finding("other" if shows_working(completion, stated) else "guess")
    goes_on = "=" in completion[steps[-1].end :]  # an equation that could not be read, with an unknown perhaps
    return _by_working(steps, stated, to_number(gold), goes_on) or _by_solution(steps, _solution_steps(solution or ""))


def transitions(
    base: Sequence[Verdict], trained: Sequence[Verdict], solutions: Mapping[str, str] | None = None
) -> dict[tuple[str, str], int]:
    """How many questions went from which category to which, "right" being one of them.

    Args:
        solutions: worked solution by question text, as `solutions_of` gives it.
    Returns:
        {(before, after): count}, categories in the order "right", then ERROR_TYPES; pairs that do not occur are absent.
    Raises:
        ValueError: the two lists are not answers to the same questions.
    """
    solutions = solutions or {}
    names = [tuple(error_type(v, solutions.get(v.question)) or RIGHT for v in pair) for pair in pairs_of(base, trained)]
    order = {name: i for i, name in enumerate([RIGHT, *(name for name, _ in ERROR_TYPES)])}
    counts = Counter(names)
    return {pair: counts[pair] for pair in sorted(counts, key=lambda pair: (order[pair[0]], order[pair[1]]))}


def solutions_of(questions: Sequence[Question]) -> dict[str, str]:
    """Worked solutions by question text, for the questions whose rows hold one."""
    return {q.question: q.row["answer"] for q in questions if _solution_steps(str(q.row.get("answer", "")))}


# ------------------------------------------------------------------------------------------------ the questions


@lru_cache(maxsize=4096)  # asked for before and after
def _solution_steps(solution: str) -> tuple[Equation, ...]:
    return tuple(equations(solution))


def _by_working(steps: Sequence[Equation], stated: Fraction, gold: Fraction, goes_on: bool) -> Finding | None:
    last = steps[-1]
    if last.result == gold:
        return Finding("answer not copied", f"{_short(last.result)} became {_short(stated)}", last.start, last.end)
    for step in steps:
        if not step.holds:
            left = step.text.rpartition("=")[0].strip() or step.text
            note = f"{left} is {_short(step.value)}, not {_short(step.result)}"
            return Finding("arithmetic slip", note, step.start, step.end)
    if not goes_on and not any(_restates(stated, step) for step in steps):
        return Finding("answer not copied", f"{_short(last.result)} became {_short(stated)}", last.start, last.end)
    return None


def _restates(stated: Fraction, step: Equation) -> bool:
    """Whether a number is the result of a step: as it is, rounded, without its sign, or in another unit of 100."""
    return any(abs(abs(stated) - abs(step.result * unit)) < 1 for unit in (1, 100, Fraction(1, 100)))


def _by_solution(steps: Sequence[Equation], solution: Sequence[Equation]) -> Finding:
    used, needed = (Counter("".join(e.operators for e in of)) for of in (steps, solution))
    if not needed:
        return Finding("wrong plan")
    expected = {_operands(e): e.operators for e in solution if len(e.operators) == 1}
    for e in steps:
        operator = expected.get(_operands(e), e.operators)
        if len(e.operators) == 1 and operator != e.operators:
            return Finding("wrong operation", f"the solution has “{operator}” between these numbers", e.start, e.end)
    if more := used - needed:
        return Finding("wrong operation", f"{_listed(more)} more than the solution")
    results = {e.result for e in solution}
    odd = next((e for e in steps if e.result not in results), None)
    where = (odd.start, odd.end) if odd else ()
    kin = [e for e in solution if odd and {*e.operands} & {*odd.operands}]
    if not (fewer := needed - used) or (odd and not kin):
        return Finding("wrong numbers", "the solution has no such step" if odd else "", *where)
    if odd and not any({*e.operators} & {*odd.operators} for e in kin):
        return Finding("wrong operation", "the solution does something else with these numbers", *where)
    return Finding("dropped step", f"{_listed(fewer)} fewer than the solution", *where)


def _operands(step: Equation) -> tuple[Fraction, ...]:
    return tuple(sorted(step.operands))


def _listed(operators: Counter[str]) -> str:
    return ", ".join(f"{count} × “{operator}”" for operator, count in sorted(operators.items()))


def _short(value: Fraction) -> str:
    return f"{value.numerator:,}" if value.denominator == 1 and abs(value) < 10**15 else f"{_float(value):.6g}"


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
