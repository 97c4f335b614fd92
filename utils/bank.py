"""A bank of real completions: whole groups sampled from the base and the trained model, to try rewards on.

    python -m utils.bank                 sample it again from the embedded model (about a minute on 2 cores)

Sampling is the slow part of asking what a reward would do. With the completions stored, a reward is a question that
takes a moment: which of them would it push up?
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data import Question, chat_prompt, load_questions
from utils.files import write_bytes, write_json
from utils.profiles import ROOT, get_profile

FOLDER = ROOT / "assets" / "bank"
ADAPTER = ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter"
QUESTIONS = 160  # of the validation split; two policies and groups of 8 make 2,560 completions
SEED = 0
TEMPERATURE = 1.0


@dataclass(frozen=True)
class Group:
    """The completions that one policy gave to one question, with their lengths in tokens."""

    policy: str
    question: str
    gold: str
    completions: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Bank:
    """Groups of one size. Two banks are equal only if they are the same object, so that scores can be cached by bank.

    Raises:
        ValueError: no groups, or groups of different sizes.
    """

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        sizes = {len(group.completions) for group in self.groups}
        if len(sizes) != 1:
            raise ValueError(f"a bank needs groups of one size, got sizes {sorted(sizes)}")

    @property
    def group_size(self) -> int:
        return len(self.groups[0].completions)

    @property
    def completions(self) -> list[str]:
        """All N completions, group after group."""
        return [text for group in self.groups for text in group.completions]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What a reward function receives beside the completions: `prompts`, `gold`, `question`, of length N each."""
        rows = [group for group in self.groups for _ in group.completions]
        return columns([group.question for group in rows], [group.gold for group in rows])


def columns(questions: Sequence[str], golds: Sequence[str]) -> dict[str, list[Any]]:
    """The keywords with which TRL calls a reward function on this project's datasets, besides `completions`."""
    return {"prompts": [chat_prompt(q) for q in questions], "gold": list(golds), "question": list(questions)}


def collect(policy: Any, questions: Sequence[Question], name: str) -> list[Group]:
    """Sample one group for each question, of the profile's size and cap, at temperature 1: all that the model may say.

    Args:
        policy: from `load_policy`.
        name: what to call it in the bank, e.g. "base".
    """
    from utils.evaluation import generate

    profile = policy.profile
    sampled = generate(policy, questions, temperature=TEMPERATURE, n=profile.group_size)
    return [
        Group(name, q.question, q.gold, tuple(s.text for s in group), tuple(s.tokens for s in group))
        for q, group in zip(questions, sampled, strict=True)
    ]


def load_bank(folder: str | Path = FOLDER) -> Bank:
    """Read the bank that `save_bank` wrote, by default the one in assets/.

    Raises:
        FileNotFoundError: no bank there.
    """
    path = Path(folder) / "completions.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"no bank of completions at {path}; make one with `python -m utils.bank`")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return Bank(tuple(Group(**row | {key: tuple(row[key]) for key in ("completions", "tokens")}) for row in rows))


def save_bank(groups: Sequence[Group], folder: str | Path, provenance: dict[str, Any]) -> None:
    """Write the groups, compressed, with their provenance beside them; the same groups give the same bytes."""
    text = "".join(json.dumps(dataclasses.asdict(group), ensure_ascii=False) + "\n" for group in groups)
    path = Path(folder) / "completions.jsonl.gz"
    write_bytes(path, gzip.compress(text.encode("utf-8"), mtime=0))
    write_json(path.with_name("provenance.json"), provenance)


def main() -> None:
    from transformers import set_seed

    from utils.policy import load_policy, with_adapter
    from utils.setup import versions

    profile = get_profile("tiny")
    questions = load_questions(profile.dataset, "validation")[:QUESTIONS]
    policy = load_policy(profile)
    set_seed(SEED)
    groups = collect(policy, questions, "base")
    groups += collect(with_adapter(policy, ADAPTER), questions, "trained")
    provenance = {
        "command": "python -m utils.bank",
        "base": "assets/tiny_model",
        "trained": ADAPTER.relative_to(ROOT).as_posix(),
        "questions": f"the first {QUESTIONS} of the tiny validation split, the same for both",
        "group_size": profile.group_size,
        "temperature": TEMPERATURE,
        "max_completion_tokens": profile.max_completion_tokens,
        "seed": SEED,
        "versions": versions(),
    }
    save_bank(groups, FOLDER, provenance)


if __name__ == "__main__":
    main()
