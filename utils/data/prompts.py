"""The prompt: the system message that asks for a layout, the question behind it, and how many tokens that takes.

A reward can pay only for what is sometimes written, so the prompt decides whether training can begin. `PROMPTS` holds
the wordings that were compared on a real model (notebook 01, assets/runs/prompts); a profile names one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.data.questions import Question

_LAYOUT = "<reasoning>\nyour steps\n</reasoning>\n<answer>the final number</answer>"
_PROBLEM = "Tom has 3 boxes with 12 pencils each and gives 7 pencils away. How many pencils are left?"
_REPLY = (
    "<reasoning>\n3 boxes hold 3 * 12 = 36 pencils.\n36 - 7 = 29 pencils are left.\n</reasoning>\n<answer>29</answer>"
)
_SECOND_PROBLEM = "A ticket costs $8 for adults and half as much for children. What do 2 adults and 3 children pay?"
_SECOND_REPLY = (
    "<reasoning>\nA child pays 8 / 2 = 4 dollars.\n2 adults pay 2 * 8 = 16 dollars and 3 children pay "
    "3 * 4 = 12 dollars.\n16 + 12 = 28\n</reasoning>\n<answer>28</answer>"
)
PROMPTS = {  # name: system message
    "words": (
        "Work through the problem step by step between <reasoning> and </reasoning>. "
        "Then write only the final number between <answer> and </answer>."
    ),
    "one line": "Write <reasoning>your steps</reasoning><answer>number</answer> and nothing else.",
    "layout": f"Reply in this layout:\n{_LAYOUT}",
    "layout, urged": (
        "Solve the problem. Reply in exactly this layout, with both tags closed and nothing outside of them:\n"
        "<reasoning>\nshort steps, one line each\n</reasoning>\n<answer>\nthe final number alone\n</answer>"
    ),
    "example": (
        "Solve the problem step by step. Reply in exactly the layout of this example.\n\n"
        f"Problem: {_PROBLEM}\n\n{_REPLY}"
    ),
    "layout and example": (
        f'Reply in this layout:\n{_LAYOUT}\n\nFor example, to the question "{_PROBLEM}" the reply is:\n{_REPLY}'
    ),
    "two examples": (
        "You solve word problems. Every reply has this layout.\n\n"
        f"Question: {_PROBLEM}\nReply:\n{_REPLY}\n\nQuestion: {_SECOND_PROBLEM}\nReply:\n{_SECOND_REPLY}"
    ),
}
SYSTEM_PROMPT = PROMPTS["layout and example"]  # of every pretrained model; the embedded one knows "words" only


def chat_prompt(question: str, system: str) -> list[dict[str, str]]:
    """The two messages that a model is asked with, before and after training."""
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def prompt_tokens(tokenizer: Any, question: str, system: str) -> int:
    """Tokens of a question's prompt, rendered; of one beyond 50,000 characters a close count, in little memory."""
    text = tokenizer.apply_chat_template(chat_prompt(question, system), tokenize=False, add_generation_prompt=True)
    pieces = (text[start : start + 50_000] for start in range(0, len(text), 50_000))
    return sum(len(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]) for piece in pieces)


def within_budget(
    questions: Sequence[Question], tokenizer: Any, max_prompt_tokens: int, system: str
) -> tuple[list[Question], list[Question]]:
    """Split questions into (those whose rendered prompt fits `max_prompt_tokens`, those too long).

    The second list is returned, not dropped, so that the caller says how many were left out.
    """
    room = max_prompt_tokens - prompt_tokens(tokenizer, "x", system)
    fits: list[Question] = []
    too_long: list[Question] = []
    for q in questions:
        surely = _most_tokens(q.question) <= room  # most are: counting takes the longer of the two by far
        fit = surely or prompt_tokens(tokenizer, q.question, system) <= max_prompt_tokens
        (fits if fit else too_long).append(q)
    return fits, too_long


def _most_tokens(text: str) -> int:
    """No token is less than a byte, and Unicode normalisation (NFC) makes at most three bytes of one."""
    return len(text) if text.isascii() else 3 * len(text.encode("utf-8", "surrogatepass"))
