"""Questions and prompts: from a dataset's rows to what the model reads.

One `Question` looks the same whether it comes from the tiny world, from GSM8K on the Hugging Face hub or from a
JSONL file on disk, so everything after this module is one code path. Nothing is dropped silently: a row that
cannot be used raises with its file and line number.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from utils.answers import gold_answer
from utils.tiny_shifts import SHIFTS, shifted
from utils.tiny_world import SPLIT_SIZES, tiny_split
from utils.transfer import gsm_symbolic_rows, svamp_rows

SYSTEM_PROMPT = (
    "Work through the problem step by step between <reasoning> and </reasoning>. "
    "Then write only the final number between <answer> and </answer>."
)
DATASETS = {  # name: its splits
    "tiny": tuple(SPLIT_SIZES),
    "gsm8k": tuple(SPLIT_SIZES),
    **{f"tiny-{shift}": ("test",) for shift in SHIFTS},
    "svamp": ("test",),
    "gsm-symbolic": ("test",),
}


@dataclass(frozen=True)
class Question:
    """A word problem with its gold answer.

    Attributes:
        question: the text put to the model.
        gold: the number behind `####`, as written, e.g. "1,000".
        row: the row it came from, unchanged; `row["source"]` names the file and line, or the split and index.
    """

    question: str
    gold: str
    row: dict[str, Any]

    @property
    def id(self) -> str:
        """Sixteen digits of a SHA-256 of the text: the same question has the same id in every file."""
        return hashlib.sha256(self.question.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def load_questions(name: str, split: str) -> list[Question]:
    """Load one split of a dataset.

    Args:
        name: "tiny" (embedded) or "gsm8k" (the folder `GSM8K_DIR` where that variable is set, else the hub). With a
            test split alone: "tiny-longer", "tiny-larger" and "tiny-reworded" (see `utils.tiny_shifts`), "svamp" (the
            folder `SVAMP_DIR`, else the hub), "gsm-symbolic" (made by `reasoning-gym`); see `utils.transfer` for both.
        split: "train", "validation" or "test"; GSM8K's validation split is cut from its train split by `hold_out`.
    Raises:
        ValueError: unknown name or split, or a malformed row.
        FileNotFoundError: `GSM8K_DIR` or `SVAMP_DIR` does not hold the file.
        ConnectionError: the hub cannot be reached.
        ImportError: `reasoning-gym` is missing, or is not the pinned version.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r}")
    if split not in DATASETS[name]:
        raise ValueError(f"split of {name} must be one of {', '.join(DATASETS[name])}, got {split!r}")
    if name == "svamp":
        return [to_question(*row) for row in svamp_rows()]
    if name == "gsm-symbolic":
        return [to_question(*row) for row in gsm_symbolic_rows()]
    if name.startswith("tiny"):
        rows = (
            {"question": p.question, "answer": p.answer, "topic": p.topic, "asks": p.asks, "steps": p.steps}
            for p in (tiny_split(split) if name == "tiny" else shifted(name.removeprefix("tiny-")))
        )
        return [to_question(row, f"{name} {split} row {i}") for i, row in enumerate(rows)]
    if split == "test":
        return _gsm8k("test")
    train, validation = hold_out(_gsm8k("train"), SPLIT_SIZES["validation"])
    return train if split == "train" else validation


def read_questions(path: str | Path) -> list[Question]:
    """Read a JSONL file of `{"question": …, "answer": …}` rows; an answer ends in `#### number`, or is the number.

    A row that stands twice is read twice. Windows line ends and a byte-order mark are no matter.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row is not JSON, lacks a field or has no readable gold; names file and line. Not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no question file at {path}; give a JSONL file with one row a line")
    try:
        text = path.read_text(encoding="utf-8-sig")  # with line ends of every system made "\n"
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    questions = []
    for number, line in enumerate(text.split("\n"), start=1):  # str.splitlines() would cut a row at U+2028
        if not line.strip():
            continue
        source = f"{path.name} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{source}: not a JSON row ({error}), got {line[:80]!r}; mend or remove the line"
            ) from error
        questions.append(to_question(row, source))
    if not questions:
        raise ValueError(f"{path} holds no rows; it needs one JSON row a line")
    return questions


def to_question(row: dict[str, Any], source: str) -> Question:
    """Check one row and make a `Question` of it; `source` (file and line) is named in every error."""
    if not isinstance(row, dict):
        raise ValueError(f"{source}: a row needs a non-empty text 'question', got {str(row)[:120]!r}")
    texts = {"question": row.get("question"), "answer": _number_text(row.get("answer"))}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{source}: a row needs a non-empty text {key!r}, got {str(row)[:120]!r}")
    answer = texts["answer"] if "####" in texts["answer"] else f"#### {texts['answer']}"
    try:
        gold = gold_answer(answer)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return Question(row["question"], gold, {**row, "source": source})


def _number_text(value: Any) -> Any:
    """A JSON number in plain digits, 8.0 as "8"; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    number = Decimal(repr(value))
    return str(value) if not number.is_finite() else f"{number.normalize():f}"


def _gsm8k(split: str) -> list[Question]:
    folder = os.environ.get("GSM8K_DIR")
    if folder:
        return read_questions(Path(folder) / f"{split}.jsonl")
    from datasets import load_dataset

    try:
        rows = load_dataset("openai/gsm8k", "main", split=split)
    except Exception as error:
        raise ConnectionError(
            f"GSM8K could not be loaded from the hub ({type(error).__name__}: {error}). Check the network, or download "
            "train.jsonl and test.jsonl from github.com/openai/grade-school-math and set GSM8K_DIR to their folder"
        ) from error
    return [to_question(row, f"openai/gsm8k {split} row {i}") for i, row in enumerate(rows)]


def hold_out(questions: list[Question], count: int, seed: int = 0) -> tuple[list[Question], list[Question]]:
    """Split off `count` questions drawn with `seed`; return (rest, held out), both in their original order.

    Raises:
        ValueError: fewer than `count` + 1 questions.
    """
    if count >= len(questions):
        raise ValueError(f"cannot hold out {count} of {len(questions)} questions; ask for fewer")
    chosen = set(random.Random(seed).sample(range(len(questions)), count))
    return ([q for i, q in enumerate(questions) if i not in chosen], [questions[i] for i in sorted(chosen)])


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, without case and punctuation."""
    return tuple(re.findall(r"\w+", text.casefold()))


def shared_questions(a: Iterable[Question], b: Iterable[Question]) -> list[str]:
    """Questions that stand in both splits, compared by their words and numbers alone: a leak, unless empty.

    `utils.leaks` also finds questions that differ only in their numbers or in a few words.
    """
    seen = {words(q.question) for q in a}
    return [q.question for q in b if words(q.question) in seen]


def chat_prompt(question: str) -> list[dict[str, str]]:
    """The two messages every model in this project is asked with, before and after training."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def within_budget(
    questions: list[Question], tokenizer: Any, max_prompt_tokens: int
) -> tuple[list[Question], list[Question]]:
    """Split questions into (those whose rendered prompt fits `max_prompt_tokens`, those too long).

    The second list is returned, not dropped, so that the caller says how many were left out.
    """
    fits: list[Question] = []
    too_long: list[Question] = []
    for q in questions:
        ids = tokenizer.apply_chat_template(chat_prompt(q.question), add_generation_prompt=True, return_dict=False)
        (fits if len(ids) <= max_prompt_tokens else too_long).append(q)
    return fits, too_long


def strip_annotations(solution: str) -> str:
    """Remove GSM8K's calculator annotations.

    Example:
        >>> strip_annotations("48/2 = <<48/2=24>>24 clips")
        '48/2 = 24 clips'
    """
    return re.sub(r"<<[^<>]*>>", "", solution)
