r"""Rewards with TRL's signature: `f(completions, **dataset columns) -> list[float]`.

Being right dominates; the layout asked for is worth a little on top. The order this gives, best first:

    right and well formed (1.2) > right, messy (1.0) > wrong, well formed (0.2) > anything else (0.0)

so that no attempt earns less than silence, and a clean layout can never make up for a wrong number. Nothing is paid
for "a number is there" or for being near: both can be had without solving the problem.

    >>> replies = ["<reasoning>\n3+4=7\n</reasoning>\n<answer>7</answer>", "The answer is 7.", "I do not know."]
    >>> total_reward(replies, gold=["7", "7", "7"])
    [1.2, 1.0, 0.0]
"""

from __future__ import annotations

import ast
import functools
import re
import reprlib
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from utils.data.answers import extract_answer, is_correct, parse_completion
from utils.data.prompts import SYSTEM_PROMPT, chat_prompt
from utils.files import ROOT
from utils.rewards.contract import LARGEST, RewardProblem, distinct, name_of, named, number, pay, time_limit, told

Completion = str | list[dict[str, str]]  # plain text, or the assistant's messages as TRL passes them
RewardFunction = Callable[..., list[float]]
LOAD_LIMIT_S = 30.0  # for a file of rewards with all that it imports


def text_of(completion: Completion) -> str:
    """The text of a completion, whether TRL passed it as text or as a list of messages."""
    return completion if isinstance(completion, str) else "".join(message["content"] or "" for message in completion)


def on_text(function: RewardFunction) -> RewardFunction:
    """Let a reward that reads plain text serve TRL, which passes a chat model's completions as lists of messages.

    >>> @on_text
    ... def digits(completions, **kwargs):
    ...     return [float("42" in text) for text in completions]
    >>> digits(completions=[[{"role": "assistant", "content": "It is 42."}], "forty-two"])
    [1.0, 0.0]
    """

    function = named(function)

    @functools.wraps(function)
    def reward(completions: list[Completion], **columns: Any) -> list[float]:
        return function(completions=[text_of(c) for c in completions], **columns)

    return reward


def _texts(completions: list[Completion], gold: list[str] | None = None) -> list[str]:
    if gold is not None and len(gold) != len(completions):
        raise ValueError(f"{len(completions)} completions but {len(gold)} golds; is the dataset column named `gold`?")
    return [text_of(c) for c in completions]


def correctness_reward(
    completions: list[Completion], gold: list[str], truncated: Sequence[bool] | None = None, **kwargs: Any
) -> list[float]:
    """1.0 where the last answer stated is the gold number, wherever it stands (lenient), else 0.0.

    Args:
        completions: N completions, all groups flattened.
        gold: N gold answers, aligned, e.g. "1,000".
        truncated: N times whether the token cap cut the completion off, as the trainer knows; none unless given.
    Returns:
        N rewards in {0.0, 1.0}.
    Raises:
        ValueError: the lengths differ, or a gold is not a number. No completion raises, whatever it holds.
    """
    texts = _texts(completions, gold)
    cut = truncated or [False] * len(texts)
    return [float(is_correct(text, g, "lenient", t)) for text, g, t in zip(texts, gold, cut, strict=True)]


def format_reward(completions: list[Completion], **kwargs: Any) -> list[float]:
    """1.0 for exactly one `<reasoning>…</reasoning>`, one `<answer>…</answer>` after it and nothing else, else 0.0.

    Both tags must hold something, and the answer a number: an empty shell earns nothing.
    """
    return [float(_is_clean(text)) for text in _texts(completions)]


def _is_clean(text: str) -> bool:
    parsed = parse_completion(text)
    return parsed.well_formed and bool((parsed.reasoning or "").strip()) and extract_answer(text) is not None


def strict_metric(completions: list[Completion], gold: list[str], **kwargs: Any) -> list[float]:
    """1.0 where the answer is right *and* in its place: what the evaluation calls strict. Logged, not optimised."""
    return [float(is_correct(t, g, mode="strict")) for t, g in zip(_texts(completions, gold), gold, strict=True)]


def working_metric(completions: list[Completion], **kwargs: Any) -> list[float]:
    """1.0 where the completion writes out at least one sum (an `=`), else 0.0. Logged, not optimised."""
    return [float("=" in text) for text in _texts(completions)]


REWARDS: dict[RewardFunction, float] = {
    correctness_reward: 1.0,
    format_reward: 0.2,
    strict_metric: 0.0,
    working_metric: 0.0,
}


def load_rewards(path: str | Path) -> dict[RewardFunction, float]:
    """The `REWARDS` of a Python file: `{function: weight}`, in the shape of this module's own.

    The file is your code and runs with your rights; load only what you would run. Partials and objects that can be
    called become functions of a name; what a reward owes besides is told in `contract`.

    Raises:
        ValueError: the file does not run by itself within `LOAD_LIMIT_S`, or defines no such dictionary.
        ImportError: a package is missing, or something of `utils` that the file imports has moved; names the new place.
    """
    module = vars(_executed(Path(path)))
    rewards = module.get("REWARDS")
    if not isinstance(rewards, dict) or not rewards:
        raise ValueError(
            f"{path} must define REWARDS = {{function: weight, …}}, as in REWARDS = {{my_reward: 1.0}}; "
            f"got {reprlib.repr(rewards) if 'REWARDS' in module else 'nothing of that name'}"
        )
    for function, weight in rewards.items():
        if not callable(function):
            raise ValueError(f"{path}: {reprlib.repr(function)} in REWARDS is no function; name one, without quotes")
        if isinstance(weight, bool) or not abs(number(weight)) <= LARGEST:
            raise ValueError(
                f"{path}: the weight of {name_of(function)} is {reprlib.repr(weight)}; give a finite number, as 1.0"
            )
    if not any(map(number, rewards.values())):
        raise ValueError(f"{path}: every weight in REWARDS is 0, so that nothing would be learnt; give one, as 1.0")
    try:
        return {function: number(weight) for function, weight in distinct(rewards).items()}
    except RewardProblem as problem:
        raise RewardProblem(f"{path}: {problem}") from None


def _executed(path: Path) -> ModuleType:
    """The module of a file, known to Python (dataclasses and pickle need that) under a name that no other has."""
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{path} is not a Python file; give one that ends in .py")
    module = ModuleType("rewards_of_" + re.sub(r"\W", "_", str(path)))
    module.__file__, sys.modules[module.__name__] = str(path), module
    try:
        with time_limit(LOAD_LIMIT_S):
            exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except TimeoutError:
        raise ValueError(f"{path} took more than {LOAD_LIMIT_S:g} s to load; look for a loop without end") from None
    except ImportError as error:
        if moved := _moved_imports(path):
            raise ImportError(f"{path} imports what has moved; write there: {'; '.join(moved)}") from error
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ImportError
        raise kind(f"{path}: {told(error)}; install it, or do without it") from error
    except BaseException as error:
        mend = "take the exit out" if isinstance(error, SystemExit) else "a file of rewards must load without an error"
        if "unhashable" in str(error):
            mend = "for REWARDS a dataclass needs @dataclass(frozen=True)"
        raise ValueError(f"{path} does not run by itself: {told(error)}; {mend}") from error
    return module


def _moved_imports(path: Path) -> list[str]:
    """The lines that a file needs in place of its imports from `utils` that no longer hold."""
    homes = {
        file.relative_to(ROOT): file.read_text(encoding="utf-8") for file in sorted((ROOT / "utils").rglob("*.py"))
    }
    lines = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        module = getattr(node, "module", None) or ""
        if not module.startswith("utils.") or (ROOT / f"{module.replace('.', '/')}.py").exists():
            continue
        for alias in node.names:
            if alias.name == "*" or (ROOT / module.replace(".", "/") / f"{alias.name}.py").exists():
                continue
            defined = re.compile(rf"^(def |class )?{re.escape(alias.name)}\b", re.M)
            places = [".".join(home.with_suffix("").parts) for home, text in homes.items() if defined.search(text)]
            renamed = f" as {alias.asname}" if alias.asname else ""
            lines += [" or ".join(f"from {place} import {alias.name}{renamed}" for place in places)] if places else []
    return lines


def total_reward(
    completions: list[Completion], rewards: dict[RewardFunction, float] | None = None, **columns: Any
) -> list[float]:
    """The weighted sum that GRPO sees, one number per completion.

    Args:
        completions: N completions.
        rewards: reward functions and their weights; `REWARDS` unless given.
        columns: the dataset columns the functions ask for, each of length N, e.g. `gold=[…]`.
    """
    rewards = REWARDS if rewards is None else rewards
    return weighted_sum([pay(function, completions, **columns) for function in rewards], rewards.values())


def weighted_sum(parts: Iterable[Sequence[float]], weights: Iterable[float]) -> list[float]:
    """The total of each completion, length N, from what each function pays it; one weight for each function."""
    weighted = [[weight * r for r in part] for part, weight in zip(parts, weights, strict=True)]
    return [sum(column) for column in zip(*weighted, strict=True)]


def group_advantages(rewards: Sequence[float], group_size: int, scale: str = "group") -> list[float]:
    """GRPO's advantages: each reward minus its group's mean, over the group's standard deviation (+ 1e-4).

    DeepSeekMath (arXiv 2402.03300), section 4.1.2; the sample standard deviation and the 1e-4 as in TRL.

    Args:
        rewards: N rewards, group after group.
        group_size: completions per group; divides N.
        scale: whose standard deviation, as TRL's `scale_rewards`: the "group"'s, that of the "batch" of all N rewards,
            or "none": then nothing is divided.
    Raises:
        ValueError: another scale.
    Example:
        >>> [round(a, 2) for a in group_advantages([1.0, 0.0, 0.0, 1.0], group_size=4)]
        [0.87, -0.87, -0.87, 0.87]
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale must be group, batch or none, got {scale!r}")
    advantages = []
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        mean, whose = statistics.fmean(group), {"group": group, "batch": rewards}
        divisor = 1 if scale == "none" else statistics.stdev(whose[scale]) + 1e-4
        advantages += [(r - mean) / divisor for r in group]
    return advantages


def columns(
    questions: Sequence[str],
    golds: Sequence[str],
    systems: Sequence[str] | None = None,
    truncated: Sequence[bool] | None = None,
) -> dict[str, list[Any]]:
    """The keywords with which TRL calls a reward function on this project's datasets, besides `completions`.

    Args:
        systems: the system message above each question; `SYSTEM_PROMPT` above all unless given.
        truncated: for each completion whether the token cap cut it off; none unless given.
    """
    systems = [SYSTEM_PROMPT] * len(questions) if systems is None else systems
    prompts = [chat_prompt(question, system) for question, system in zip(questions, systems, strict=True)]
    cut = [False] * len(questions) if truncated is None else list(truncated)
    return {"prompts": prompts, "gold": list(golds), "question": list(questions), "truncated": cut}


# ---------------------------------------------------------------------- the commonly published reward set
#
# The five parts that most public GRPO notebooks on GSM8K share, rebuilt from their values, defects included,
# so that the bench has something to find. Do not train with them.


def classic_correctness(completions: list[Completion], gold: list[str], **kwargs: object) -> list[float]:
    """2.0 where the text behind the last `<answer>` (all of it, where there is none) is the gold, letter by letter."""
    return [2.0 * (_classic_answer(c) == g) for c, g in zip(completions, gold, strict=True)]


def classic_integer(completions: list[Completion], **kwargs: object) -> list[float]:
    """0.5 where that text consists of digits, whatever they are."""
    return [0.5 * _classic_answer(c).isdigit() for c in completions]


def classic_strict_format(completions: list[Completion], **kwargs: object) -> list[float]:
    """0.5 for the layout on lines of its own; `.` stops at line ends, so the reasoning must fit on one line."""
    pattern = re.compile(r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
    return [0.5 * bool(pattern.match(text_of(c))) for c in completions]


def classic_soft_format(completions: list[Completion], **kwargs: object) -> list[float]:
    """0.5 for the two pairs of tags at the start of the text; `.` stops at line ends here, too."""
    pattern = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>")
    return [0.5 * bool(pattern.match(text_of(c))) for c in completions]


def classic_tag_count(completions: list[Completion], **kwargs: object) -> list[float]:
    """0.125 for each of four tags on a line of its own, less 0.001 for each character after the last one."""
    return [_tags_counted(text_of(c)) for c in completions]


def _classic_answer(completion: Completion) -> str:
    return text_of(completion).split("<answer>")[-1].split("</answer>")[0].strip()


def _tags_counted(text: str) -> float:
    score = 0.125 * (text.count("<reasoning>\n") == 1) + 0.125 * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        score += 0.125 - 0.001 * len(text.split("\n</answer>\n")[-1])
    if text.count("\n</answer>") == 1:
        score += 0.125 - 0.001 * (len(text.split("\n</answer>")[-1]) - 1)
    return score


classic_rewards: dict[RewardFunction, float] = {
    classic_correctness: 1.0,
    classic_integer: 1.0,
    classic_strict_format: 1.0,
    classic_soft_format: 1.0,
    classic_tag_count: 1.0,
}
