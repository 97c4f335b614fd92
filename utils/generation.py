"""Answers from a policy: prompts in batches through the engine that loaded it, one `Sample` a completion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from utils.data import Question, chat_prompt
from utils.policy import Policy

VLLM_BATCH = 256  # completions in one call of vLLM, which arranges them itself; what a lost session loses at most


@dataclass(frozen=True)
class Sample:
    """One completion. `truncated` means that the token cap cut it off before it ended by itself.

    Stored completions from elsewhere may not tell the last two; they are None then.
    """

    text: str
    tokens: int | None
    truncated: bool | None


def generate(
    policy: Policy,
    questions: Sequence[Question],
    temperature: float = 0.0,
    n: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Sample]]:
    """Answer every question n times; `temperature` 0 is greedy decoding.

    Args:
        progress: called with (questions done, questions in all) after each batch.
    Returns:
        One list of n samples per question, in the order of `questions`.
    """
    samples: dict[int, list[Sample]] = {}
    for batch in batches(policy, questions, temperature, n):
        samples |= batch
        if progress:
            progress(len(samples), len(questions))
    return [samples[i] for i in range(len(questions))]


def batches(
    policy: Policy, questions: Sequence[Question], temperature: float, n: int, known: Collection[int] = ()
) -> Iterator[dict[int, list[Sample]]]:
    """Answer batch by batch, yielding {index of the question: its n samples}; batches known already are left out.

    Which questions share a batch does not depend on `known`: on a GPU the last bits of an answer depend on its batch.
    """
    prompts = [render_prompt(policy, q.question) for q in questions]
    order = list(range(len(prompts)))
    if policy.engine == "unsloth+vllm":
        size, answer = VLLM_BATCH, _vllm(policy)
    else:
        size, answer = policy.profile.eval_batch, _generate_batch
        order.sort(key=lambda i: len(prompts[i]))  # alike lengths together: little padding
    step = max(1, size // n)
    for batch in (order[start : start + step] for start in range(0, len(order), step)):
        if not all(i in known for i in batch):
            yield dict(zip(batch, answer(policy, [prompts[i] for i in batch], temperature, n), strict=True))


def render_prompt(policy: Policy, question: str) -> str:
    """A question as the model reads it: system prompt and chat template around it."""
    return policy.tokenizer.apply_chat_template(chat_prompt(question), tokenize=False, add_generation_prompt=True)


def _generate_batch(policy: Policy, prompts: list[str], temperature: float, n: int) -> list[list[Sample]]:
    import torch

    from utils.decoding import decode, suits

    tokenizer, cap = policy.tokenizer, policy.profile.max_completion_tokens
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(policy.model.device)
    if suits(policy.model):
        prompt_of = torch.arange(len(prompts)).repeat_interleave(n)
        rows = decode(
            policy.model,
            **inputs,
            prompt_of=prompt_of,
            cap=cap,
            temperature=temperature,
            end_token=tokenizer.eos_token_id,
        )
    else:
        rows = _model_generate(policy, inputs, temperature, n)
    samples = [_sample(tokenizer, row, cap) for row in rows]
    return [samples[i : i + n] for i in range(0, len(samples), n)]


def _model_generate(policy: Policy, inputs: Any, temperature: float, n: int) -> list[list[int]]:
    import torch

    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    )
    with torch.inference_mode():
        output = policy.model.generate(
            **inputs,
            max_new_tokens=policy.profile.max_completion_tokens,
            num_return_sequences=n,
            repetition_penalty=1.0,
            pad_token_id=policy.tokenizer.pad_token_id,
            eos_token_id=policy.tokenizer.eos_token_id,
            **how,
        )
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def _sample(tokenizer: Any, ids: list[int], cap: int) -> Sample:
    ended = tokenizer.eos_token_id in ids
    if ended:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return Sample(tokenizer.decode(ids, skip_special_tokens=True), len(ids), truncated=not ended and len(ids) >= cap)


def _vllm(policy: Policy) -> Callable[[Policy, list[str], float, int], list[list[Sample]]]:
    """`_generate_batch` for vLLM; the adapter is handed over once, for each request gets a place of its own there."""
    from vllm import SamplingParams

    lora = policy.model.load_lora(str(policy.adapter)) if policy.adapter else None
    cap = policy.profile.max_completion_tokens

    def answer(policy: Policy, prompts: list[str], temperature: float, n: int) -> list[list[Sample]]:
        how = SamplingParams(n=n, temperature=temperature, max_tokens=cap)
        outputs = policy.model.fast_generate(prompts, sampling_params=how, lora_request=lora, use_tqdm=False)
        return [[_sample(policy.tokenizer, list(o.token_ids), cap) for o in output.outputs] for output in outputs]

    return answer
