"""The protocol of an evaluation: all that an answer and its mark depend on besides the model and the question's text.

Two rates differ by the training only where they were measured alike. So what was fixed is written down, hashed and
kept with the answers, and a comparison across two protocols is refused by the name of what differs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from utils import data
from utils.answers import RULES
from utils.data import Question
from utils.generation import render_prompt
from utils.policy import Policy


@dataclass(frozen=True)
class Protocol:
    """How an evaluation was made; the model and its adapter are not part of it, they are what is compared.

    Attributes:
        template: SHA-256 of the prompt as rendered around an empty question.
        engine: what generated, an entry of `utils.policy.ENGINES`.
        quantisation: "none", or e.g. "4-bit nf4".
        decoding: "greedy", or e.g. "sampled at temperature 1".
        token_cap: most tokens of a completion.
        rules: version of the rules that read an answer (`utils.answers.RULES`).
        dataset: name of the questions, e.g. "tiny test" or "mine.jsonl".
        revision: SHA-256 of the questions and their golds, in order.
        seed: of the sampling; None for greedy decoding, which draws nothing.
    """

    system_prompt: str
    template: str
    engine: str
    dtype: str
    quantisation: str
    decoding: str
    token_cap: int
    rules: str
    dataset: str
    revision: str
    seed: int | None

    @cached_property
    def hash(self) -> str:
        """The first 12 digits of a SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, values: Any) -> Protocol:
        """The protocol that `dataclasses.asdict` wrote.

        Raises:
            ValueError: a field is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or names != values.keys():
            wrong = sorted(names ^ values.keys()) if isinstance(values, dict) else [repr(values)[:80]]
            raise ValueError(f"a protocol has the fields {', '.join(sorted(names))}; missing or unknown: {wrong}")
        return cls(**values)


def protocol_of(
    policy: Policy, questions: Sequence[Question], decoding: str = "greedy", seed: int | None = None
) -> Protocol:
    """The protocol under which `policy` answers these questions now."""
    return Protocol(
        system_prompt=data.SYSTEM_PROMPT,
        template=hashlib.sha256(render_prompt(policy, "").encode()).hexdigest(),
        engine=policy.engine,
        dtype=policy.profile.dtype,
        quantisation=quantisation(policy.model),
        decoding=decoding,
        token_cap=policy.profile.max_completion_tokens,
        rules=RULES,
        dataset=dataset_name(questions),
        revision=revision(questions),
        seed=seed,
    )


def quantisation(model: Any) -> str:
    """How a model's weights are stored, read from its configuration, e.g. "4-bit nf4"; "none" where they are whole."""
    settings = getattr(model.config, "quantization_config", None)
    if settings is None:
        return "none"
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    if settings.get("load_in_4bit"):
        return f"4-bit {settings.get('bnb_4bit_quant_type')}"
    return "8-bit" if settings.get("load_in_8bit") else str(settings.get("quant_method"))


def dataset_name(questions: Sequence[Question]) -> str:
    """Where questions come from, by their rows' `source`: a split, or a file's name without its folder."""
    sources = [re.sub(r" (row|line) \d+$", "", str(q.row.get("source", "questions"))) for q in questions]
    return " + ".join(dict.fromkeys(sources))


def revision(questions: Sequence[Question]) -> str:
    """SHA-256 of questions and golds in their order: another file of the same name has another one."""
    return hashlib.sha256(json.dumps([[q.question, q.gold] for q in questions]).encode()).hexdigest()


def differences(a: Protocol, b: Protocol, names: tuple[str, str]) -> list[str]:
    """The fields in which two protocols differ, with both values.

    Args:
        names: of the two, e.g. ("runs/base", "runs/trained").
    Returns:
        For example ["token_cap is 96 in runs/base and 128 in runs/trained"]; [] for one protocol.
    """
    return [
        f"{name} is {there!r} in {names[0]} and {here!r} in {names[1]}"
        for name, there in asdict(a).items()
        if (here := getattr(b, name)) != there
    ]


def require_same(a: Protocol, b: Protocol, names: tuple[str, str] = ("base", "trained")) -> None:
    """Refuse to compare what was measured differently.

    Raises:
        ValueError: another hash; names every differing field, both values and the mend.
    """
    if a.hash != b.hash:
        differ = differences(a, b, names)
        mend = "evaluate both on the same questions, with one profile and one version of this project (run.py evaluate)"
        if [line.split()[0] for line in differ] == ["rules"]:
            mend = "judge the stored answers of both by the present rules: run.py score DIR"
        raise ValueError(
            f"the two were not measured alike, so their difference would not be the training's: {'; '.join(differ)}. "
            f"Mend: {mend}"
        )
