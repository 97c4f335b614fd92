"""Which system prompt does a model follow? One completion to each of 200 validation questions, for every prompt.

    python -m utils.scripts.prompts --model DEST

At temperature 1, as in training. Completions are kept in `runs/prompts`, so that an interrupted comparison goes on; the
table goes to `assets/runs/prompts` with the completions, and notebook 01 argues from it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.data.answers import is_correct, parse_completion
from utils.data.prompts import PROMPTS
from utils.data.questions import load_questions
from utils.evaluation.protocol import ANSWERS, Answer, pack, read_answers
from utils.evaluation.sampling import collect
from utils.files import ROOT, write_json
from utils.model.policy import load_policy
from utils.model.profiles import get_profile

RUNS = ROOT / "assets" / "runs" / "prompts"
CAP, QUESTIONS = 200, 200  # tokens of a completion; of the validation split
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def rates(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts over the completions to one prompt, and their mean length in tokens."""
    samples = [answer.sample for answer in answers]

    def right(mode: str) -> int:
        return sum(is_correct(a.sample.text, a.question.gold, mode, bool(a.sample.truncated)) for a in answers)

    return {
        "n": len(answers),
        **{tag: sum(tag in s.text for s in samples) for tag in TAGS},
        "format": sum(parse_completion(s.text).well_formed for s in samples),
        "strict": right("strict"),
        "lenient": right("lenient"),
        "box": sum(r"\boxed" in s.text for s in samples),
        "code": sum("```" in s.text for s in samples),
        "truncated": sum(bool(s.truncated) for s in samples),
        "tokens": round(sum(s.tokens for s in samples) / len(samples), 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, .gguf file or hub name")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "prompts", help="where completions are kept")
    args = parser.parse_args(argv)
    policy = load_policy(get_profile("laptop", args.model).replace(max_completion_tokens=CAP))
    questions = load_questions("gsm8k", "validation")[:QUESTIONS]
    table = {}
    for name in PROMPTS:
        asked = dataclasses.replace(policy, profile=policy.profile.replace(prompt=name))
        folder = args.output / name.replace(",", "").replace(" ", "-")
        collect(asked, questions, folder, n=1)
        pack(folder, RUNS / folder.name)
        table[name] = rates(read_answers(folder / ANSWERS))
        print(f"{name:20}" + "  ".join(f"{what} {value}" for what, value in table[name].items()), flush=True)
    write_json(RUNS / "table.json", {"model": Path(policy.profile.model).name, "cap": CAP, "prompts": table})


if __name__ == "__main__":
    main()
