"""Questions from elsewhere: SVAMP, and variants of GSM8K problems in the manner of GSM-Symbolic.

A model that was trained on GSM8K may have learnt GSM8K. Both sets here are for testing only. Each function returns
rows in GSM8K's shape (`question`, `answer`), each with its source in words; `utils.data` makes questions of them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from utils.setup import require

Row = tuple[dict[str, Any], str]  # the row, and its source

GSM_SYMBOLIC_PIN = "reasoning-gym==0.1.25"  # other versions make other problems of the same seed
GSM_SYMBOLIC_SIZE = 500
GSM_SYMBOLIC_SEED = 0
_EXTRA_INSTRUCTION = " Give the result as your final answer. Do not include units."


def svamp_rows() -> list[Row]:
    """All 1,000 problems of SVAMP (Patel et al. 2021, arXiv:2103.07191) in their original order.

    They come from SVAMP.json in the folder `SVAMP_DIR` where that variable is set, else from ChilleD/SVAMP on the hub,
    whose split into 700 and 300 rows is undone: no row is trained on here, so that all are test rows on either way.
    A figure over the hub's 300 test rows alone is another figure. The label of one row contradicts its own equation
    (chal-680: 4 - 2 + 3, labelled 1); like every other row it is kept as published.

    Raises:
        FileNotFoundError: `SVAMP_DIR` does not hold the file.
        ValueError: the file is not SVAMP.json.
        ConnectionError: the hub cannot be reached.
    """
    folder = os.environ.get("SVAMP_DIR")
    problems, place = (_svamp_file(Path(folder)), "SVAMP.json") if folder else (_svamp_hub(), "ChilleD/SVAMP")
    rows = []
    for i, problem in enumerate(problems):
        source = f"{place} row {i}"
        if not isinstance(problem, dict) or not all(isinstance(problem.get(key), str) for key in ("Body", "Question")):
            raise ValueError(f"{source} needs the texts Body and Question, got {str(problem)[:120]!r}")
        question = join_sentences(problem["Body"], problem["Question"])
        rows.append(({**problem, "question": question, "answer": problem.get("Answer")}, source))
    return rows


def _svamp_file(folder: Path) -> list[Any]:
    path = folder / "SVAMP.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no SVAMP.json in SVAMP_DIR={folder}; download it from github.com/arkilpatel/SVAMP, or unset SVAMP_DIR "
            "to load it from the hub"
        )
    try:
        problems = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(problems, list) or not problems:
        raise ValueError(f"{path} must be a list of problems, got {str(problems)[:80]!r}; download it again")
    return problems


def _svamp_hub() -> list[Any]:
    from datasets import load_dataset

    try:
        problems = [row for split in ("train", "test") for row in load_dataset("ChilleD/SVAMP", split=split)]
    except Exception as error:
        raise ConnectionError(
            f"SVAMP could not be loaded from the hub ({type(error).__name__}: {error}). Check the network, or download "
            "SVAMP.json from github.com/arkilpatel/SVAMP and set SVAMP_DIR to its folder"
        ) from error
    return sorted(problems, key=lambda row: int(row["ID"].removeprefix("chal-")))


def join_sentences(body: str, question: str) -> str:
    """One text of a story and its question; a third of SVAMP's stories lack their last stop.

    >>> join_sentences("Dan has $ 4. He bought a candy bar for $ 3", "How much money is left?")
    'Dan has $ 4. He bought a candy bar for $ 3. How much money is left?'
    >>> join_sentences("If each pack costs 76 dollars", "How much are 2 packs?")
    'If each pack costs 76 dollars, how much are 2 packs?'
    """
    body, question = body.strip(), question.strip()
    if not body or body.endswith((".", "?", "!")):
        return f"{body} {question}".strip()
    last_sentence = re.split(r"(?<=[.?!])\s+", body)[-1]
    if last_sentence.startswith("If "):
        return f"{body}, {question[:1].lower()}{question[1:]}"
    return f"{body}. {question}"


def gsm_symbolic_rows() -> list[Row]:
    """500 variants of GSM8K test problems with other names and numbers, made offline by `reasoning-gym`.

    The templates follow GSM-Symbolic (Mirzadeh et al. 2024, arXiv:2410.05229); the package uses 85 of them. The
    sentences that it adds to each question ("Do not include units.") are taken off: GSM8K's questions have none such.
    Nothing else is changed or left out. The set has its flaws: some numbers are printed as floats ("0.666… water"), one
    gold is no integer, and "times" is missing in some sentences ("slew 3 as many giants").

    Raises:
        ImportError: `reasoning-gym` is missing, or is not the pinned version.
    """
    require(GSM_SYMBOLIC_PIN, "gsm-symbolic")
    import reasoning_gym

    problems = reasoning_gym.create_dataset("gsm_symbolic", size=GSM_SYMBOLIC_SIZE, seed=GSM_SYMBOLIC_SEED)
    return [
        (
            {
                "question": problem["question"].removesuffix(_EXTRA_INSTRUCTION),
                "answer": problem["answer"],
                "solution": problem["metadata"]["answer_cot"],
                "template": problems.task_indices[i],
            },
            f"{GSM_SYMBOLIC_PIN} gsm_symbolic seed {GSM_SYMBOLIC_SEED} row {i}",
        )
        for i, problem in enumerate(problems)
    ]
