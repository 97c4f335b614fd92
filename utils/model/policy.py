"""The policy: the language model that is trained, with its tokenizer, loaded by a profile, and the answers it gives.

Four engines, tried in this order on a GPU profile, so that a session goes on with less rather than stops:

    unsloth+vllm         Unsloth's 4-bit model sharing its weights with vLLM, which generates
    unsloth              the same model, generating by itself
    vllm+transformers    plain transformers + PEFT, with vLLM beside it, which generates; no 4-bit weights
    transformers         plain transformers + PEFT, 4-bit through bitsandbytes on a GPU

CPU profiles use `transformers` with the short decoding loop, and vLLM's build for processors only when asked: the
variable `GRPO_ENGINE` names the engine to begin with. Every engine trains the same algorithm with the same numbers.
`generate` asks the engine that loaded the policy, in batches, and gives one `Sample` a completion.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data.prompts import SYSTEM_PROMPT, chat_prompt, prompt_tokens, within_budget
from utils.data.questions import Question
from utils.model.gguf_file import gguf_tokenizer, load_gguf
from utils.model.profiles import Profile, is_gguf
from utils.model.vllm_engine import check_vllm, put_beside
from utils.model.weights import check_adapter_fits, check_model_folder, read_adapter

ENGINES = ("unsloth+vllm", "unsloth", "vllm+transformers", "transformers")
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VLLM_BATCH = 256  # completions in one call of vLLM, which arranges them itself; what a lost session loses at most


@dataclass
class Policy:
    """A loaded model with its tokenizer.

    Attributes:
        engine: the entry of `ENGINES` that loaded it.
        adapter: the folder of the LoRA adapter in use, None for the base model.
    """

    model: Any
    tokenizer: Any
    profile: Profile
    engine: str
    adapter: Path | None = None


def load_policy(profile: Profile, adapter: str | Path | None = None, notify: Callable[[str], None] = print) -> Policy:
    """Load base model and tokenizer, with a trained adapter on top where one is given.

    Args:
        profile: which model, in which precision.
        adapter: a folder that `run.py train` or `save_adapter` wrote.
        notify: receives one sentence whenever an engine had to be given up for the next one.
    Raises:
        FileNotFoundError, ValueError: the adapter is missing, unreadable or made for another model; a model's folder
            does not hold the weights that its configuration asks for, or its tokenizer does not suit; `GRPO_ENGINE`
            is none of the profile's.
        RuntimeError: the machine cannot run the profile, or no engine could load it.
    """
    profile.check_machine()
    if adapter is not None:
        check_adapter(adapter)
    if Path(profile.model).is_dir():  # what comes from the hub is checked by its hashes
        check_model_folder(Path(profile.model))
    for engine in (engines := ladder(profile)):
        try:
            model, tokenizer = LOADERS[engine](profile)
        except Exception as error:  # whatever the engine's import or CUDA raised, the next engine is the mend
            if is_gguf(profile.model) and isinstance(error, ImportError | ValueError):  # it names file and mend
                raise
            if engine == engines[-1]:
                raise RuntimeError(
                    f"profile {profile.name}: {profile.model} could not be loaded with {engine} "
                    f"({type(error).__name__}: {error})"
                ) from error
            notify(
                f"{engine} is not available ({type(error).__name__}: {error}); "
                "going on with less: slower, same algorithm"
            )
        else:
            check_tokenizer(tokenizer, profile.model, model.config.vocab_size)
            tokenizer.padding_side = "left"
            policy = Policy(model, tokenizer, profile, engine)
            return policy if adapter is None else with_adapter(policy, adapter)
    raise AssertionError("no engine to try")


def ladder(profile: Profile) -> tuple[str, ...]:
    """The engines that are tried for a profile, in this order: from the one in `GRPO_ENGINE` on, where it is set.

    Raises:
        ValueError: that is no engine, or none for a profile without a GPU or for a .gguf file.
    """
    on_gpu = profile.unsloth and not is_gguf(profile.model)
    usable = ENGINES if on_gpu else ENGINES[2:]
    first = os.environ.get("GRPO_ENGINE") or (ENGINES[0] if on_gpu else ENGINES[-1])
    if first not in usable:
        raise ValueError(
            f"GRPO_ENGINE must be one of {', '.join(usable)} for {profile.model} on profile {profile.name}, got "
            f"{first!r}; or unset it"
        )
    return usable[usable.index(first) :]


PROBE = (
    100 * 'Is 3 < 5 & "7" > 6?\n\n  Ça coûte {{ 1 }} € \\boxed{x}\t\N{GRINNING FACE}'
)  # what a template may not alter


def check_tokenizer(tokenizer: Any, model: str, vocabulary: int) -> None:
    """Refuse a tokenizer that cannot put system message and question to the model, each as it is.

    Args:
        vocabulary: tokens that the model knows.
    Raises:
        ValueError: it has no chat template, or one that refuses, drops or alters either of them or does not begin the
            answer; no pad or no end token, or one that the model does not know. Names the model and the mend.
    """
    if fault := _template_fault(tokenizer):
        raise ValueError(
            f"{model}: {fault}. Mend: choose an instruct model whose template takes a system message, as "
            "Qwen/Qwen2.5-0.5B-Instruct does"
        )
    for name in ("pad_token", "eos_token"):
        token = getattr(tokenizer, name)
        if token is None or getattr(tokenizer, f"{name}_id") >= vocabulary:
            known = "no" if token is None else f"{token!r}, which the model does not know, as"
            raise ValueError(
                f"{model}: its tokenizer has {known} {name}, without which no batch can be "
                f"{'filled up' if name == 'pad_token' else 'ended'}. Mend: name one in the tokenizer_config.json of a "
                "copy, and give the copy's folder as the model"
            )


def _template_fault(tokenizer: Any) -> str | None:
    if not tokenizer.chat_template:
        return "it has no chat template, so it was not made to answer questions (a base model?)"
    messages = chat_prompt(PROBE, SYSTEM_PROMPT)

    def render(messages: list[dict[str, str]], begin: bool) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin)

    try:
        prompt, closed = render(messages, True), render(messages, False)
        answered = render([*messages, {"role": "assistant", "content": "Yes."}], False)
    except Exception as error:  # what a template raises is its own
        return f"its chat template refuses a system message with a question ({type(error).__name__}: {error})"
    places = [prompt.find(message["content"]) for message in messages]
    for message, place in zip(messages, places, strict=True):
        if place < 0 or prompt.count(message["content"]) > 1:
            fault = "drops or alters" if place < 0 else "repeats"
            return f"its chat template {fault} the {message['role']} message"
    if places != sorted(places):
        return "its chat template turns the order of system message and question round"
    header, found, _ = answered.removeprefix(closed).partition("Yes.")
    begun = prompt.removeprefix(closed)
    if not found or not begun.startswith(header.rstrip()) or (tokenizer.eos_token or "\n\n\n") in begun[len(header) :]:
        return "its chat template does not begin the answer (add_generation_prompt), so the question would be continued"
    return None


def with_adapter(policy: Policy, folder: str | Path) -> Policy:
    """Put a trained adapter on a base model that is loaded already, in the place of one that is on it.

    The weights lie in memory once. Go on with what is returned: the model inside `policy` is changed (only vLLM takes
    the adapter with each request).

    Raises:
        FileNotFoundError, ValueError: the adapter is missing, unreadable or made for another model.
    """
    folder, model = check_adapter(folder, policy), policy.model
    if "vllm" not in policy.engine:
        try:
            model = _put_on(model, folder, policy.engine)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the adapter in {folder} does not fit {policy.profile.model} ({str(error)[:200]} …); "
                "use the profile it was trained with"
            ) from error
    return Policy(model, policy.tokenizer, policy.profile, policy.engine, folder)


def _put_on(model: Any, folder: Path, engine: str) -> Any:
    """PEFT's model with the adapter on it. Layers are made anew: Unsloth keeps copies of those that have answered."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(model.unload() if isinstance(model, PeftModel) else model, folder)
    if engine == "unsloth":  # as its loader does with a saved adapter
        from unsloth import FastLanguageModel

        model = FastLanguageModel.patch_peft_model(model)
    return model.eval()


def check_adapter(folder: str | Path, policy: Policy | None = None) -> Path:
    """Return `folder` as a path if it holds a plain LoRA adapter that is whole and, with a policy, lands in its model.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is damaged, a value is not finite, or it is not an adapter of the policy's model.
    """
    folder = Path(folder)
    if policy is None:
        read_adapter(folder)
    else:
        check_adapter_fits(folder, policy.profile.model, policy.model.config)
    return folder


def _load_transformers(profile: Profile, four_bit: bool) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    if is_gguf(profile.model):
        model, tokenizer = load_gguf(Path(profile.model), getattr(torch, profile.dtype))
        return model.to(_device()), tokenizer
    options: dict[str, Any] = {
        "dtype": getattr(torch, profile.dtype),
        "trust_remote_code": False,
        "use_safetensors": True,
    }
    if (device := _device()) != "cpu":
        options["device_map"] = {"": device}
    if four_bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, profile.dtype),
        )
    model = AutoModelForCausalLM.from_pretrained(profile.model, **options)
    return model.eval(), load_tokenizer(profile.model)


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model, from its folder, its .gguf file or the hub. Raises as `load_policy`."""
    from transformers import AutoTokenizer

    if is_gguf(model):
        return gguf_tokenizer(Path(model))
    # transformers 4.57.6 takes every large vocabulary that it saved itself for Mistral's, and advises to cut it wrongly
    return AutoTokenizer.from_pretrained(model, trust_remote_code=False, fix_mistral_regex=False)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load_unsloth(profile: Profile, vllm: bool) -> tuple[Any, Any]:
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    if vllm:
        import vllm  # noqa: F401  fails here, before any download, where vLLM is missing

        os.environ.setdefault("UNSLOTH_VLLM_STANDBY", "1")
        os.environ.setdefault("UNSLOTH_VLLM_NO_FLASHINFER", "1")
    import torch
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=profile.model,
        max_seq_length=profile.context_tokens,
        dtype=getattr(torch, profile.dtype),
        load_in_4bit=True,
        fast_inference=vllm,
        max_lora_rank=profile.lora_rank,
        gpu_memory_utilization=0.5,
    )
    if vllm:  # Unsloth gives it only to a model with an adapter on it (`patch_peft_fast_inference`, 2026.10.7)
        from unsloth_zoo.vllm_utils import load_lora

        model.load_lora = functools.partial(load_lora, model)
    return model, tokenizer


def _load_plain(profile: Profile) -> tuple[Any, Any]:
    import torch

    return _load_transformers(profile, four_bit=profile.unsloth and torch.cuda.is_available())


def _load_with_vllm(profile: Profile) -> tuple[Any, Any]:
    check_vllm(profile)
    model, tokenizer = _load_transformers(profile, four_bit=False)
    put_beside(model, profile, _context(profile, model))
    return model, tokenizer


LOADERS: dict[str, Callable[[Profile], tuple[Any, Any]]] = {
    "unsloth+vllm": lambda profile: _load_unsloth(profile, vllm=True),
    "unsloth": lambda profile: _load_unsloth(profile, vllm=False),
    "vllm+transformers": _load_with_vllm,
    "transformers": _load_plain,
}


def add_lora(policy: Policy, seed: int) -> Any:
    """Put a fresh LoRA adapter on all linear layers of `policy.model` and return the model to train.

    Raises:
        ValueError: the model has no layers of those names.
    """
    p = policy.profile
    layers = {name.rpartition(".")[2] for name, _ in policy.model.named_modules()}
    if missing := [name for name in LORA_TARGETS if name not in layers]:
        raise ValueError(
            f"{p.model} is a {policy.model.config.model_type} without the layers {', '.join(missing)}, which LoRA "
            "trains here; train a model that is built like Qwen2 or Llama (evaluating this one works)"
        )
    if policy.engine.startswith("unsloth"):
        from unsloth import FastLanguageModel

        return FastLanguageModel.get_peft_model(
            policy.model,
            r=p.lora_rank,
            target_modules=LORA_TARGETS,
            lora_alpha=p.lora_alpha,
            lora_dropout=0.0,
            bias="none",
            use_gradient_checkpointing="unsloth",
            random_state=seed,
        )
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(seed)
    return get_peft_model(
        policy.model,
        LoraConfig(
            r=p.lora_rank,
            lora_alpha=p.lora_alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
        ),
    )


# ------------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Sample:
    """One completion. `truncated` means that the token cap cut it off before it ended by itself.

    Stored completions from elsewhere may not tell the last two; they are None then.
    """

    text: str
    tokens: int | None
    truncated: bool | None


def prompt_budget(policy: Policy) -> int:
    """Most tokens of a prompt beside which the context holds a whole answer: what is longer cannot be measured.

    The context is the profile's `context_tokens`, or the model's `max_position_embeddings` where those are fewer.
    Training leaves out more: what exceeds `max_prompt_tokens`, which is a matter of memory.
    """
    return _context(policy.profile, policy.model) - policy.profile.max_completion_tokens


def _context(profile: Profile, model: Any) -> int:
    positions = getattr(model.config, "max_position_embeddings", None) or profile.context_tokens
    return min(profile.context_tokens, positions)


def fitting(policy: Policy, questions: Sequence[Question]) -> tuple[list[Question], dict[str, Any]]:
    """The questions whose prompts are within the `prompt_budget`, and a record of the others, {} where there are none.

    Returns:
        The former, and {"budget": [tokens], "questions": [{"source", "id", "tokens"} of each that is too long]}.
    Raises:
        ValueError: none fits.
    """
    budget = prompt_budget(policy)
    fits, too_long = within_budget(questions, policy.tokenizer, budget, policy.profile.system_prompt)
    if too_long and not fits:
        raise ValueError(f"none of {len(too_long):,} questions fits: {_too_long(policy, too_long[0])}")
    rows = [{"source": q.row.get("source"), "id": q.id, "tokens": _prompt_tokens(policy, q)} for q in too_long]
    return fits, {"budget": budget, "questions": rows} if rows else {}


def _prompt_tokens(policy: Policy, question: Question) -> int:
    return prompt_tokens(policy.tokenizer, question.question, policy.profile.system_prompt)


def _too_long(policy: Policy, question: Question) -> str:
    cap, budget = policy.profile.max_completion_tokens, prompt_budget(policy)
    where = question.row.get("source", repr(question.question[:80]))
    return (
        f"the prompt of {where} has {_prompt_tokens(policy, question):,} tokens, and a context of "
        f"{budget + cap:,} has room for {budget:,} beside an answer of {cap:,}; shorten the question, or use a profile "
        "with a longer context"
    )


def generate(policy: Policy, questions: Sequence[Question], temperature: float = 0.0, n: int = 1) -> list[list[Sample]]:
    """Answer every question n times; `temperature` 0 is greedy decoding.

    Returns:
        One list of n samples per question, in the order of `questions`.
    """
    samples: dict[int, list[Sample]] = {}
    for batch in batches(policy, questions, temperature, n):
        samples |= batch
    return [samples[i] for i in range(len(questions))]


def batches(
    policy: Policy, questions: Sequence[Question], temperature: float, n: int, known: Collection[int] = ()
) -> Iterator[dict[int, list[Sample]]]:
    """Answer batch by batch, yielding {index of the question: its n samples}; batches known already are left out.

    Which questions share a batch does not depend on `known`: on a GPU the last bits of an answer depend on its batch.

    Raises:
        ValueError: a prompt is over the `prompt_budget`; `fitting` sorts such questions out.
    """
    if too_long := within_budget(questions, policy.tokenizer, prompt_budget(policy), policy.profile.system_prompt)[1]:
        raise ValueError(_too_long(policy, too_long[0]))
    order = list(range(len(questions)))
    if "vllm" in policy.engine:
        size, answer = VLLM_BATCH, _vllm(policy)
    else:
        size, answer = policy.profile.eval_batch, _generate_batch
        order.sort(key=lambda i: len(questions[i].question))  # alike lengths together: little padding
    step = max(1, size // n)
    for batch in (order[start : start + step] for start in range(0, len(order), step)):
        if not all(i in known for i in batch):
            prompts = [render_prompt(policy, questions[i].question) for i in batch]
            yield dict(zip(batch, answer(policy, prompts, temperature, n), strict=True))


def render_prompt(policy: Policy, question: str) -> str:
    """A question as the model reads it: system prompt and chat template around it."""
    messages = chat_prompt(question, policy.profile.system_prompt)
    return policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _generate_batch(policy: Policy, prompts: list[str], temperature: float, n: int) -> list[list[Sample]]:
    import torch

    from utils.model.decoding import decode
    from utils.model.network import suits

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
            end_token=end_tokens(policy.model, tokenizer),
        )
    else:
        rows = _model_generate(policy, inputs, temperature, n)
    samples = [_sample(policy, row) for row in rows]
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
            eos_token_id=end_tokens(policy.model, policy.tokenizer),
            **how,
        )
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: the tokenizer's own, then what the model declares; Qwen declares two."""
    configs = (getattr(model, name, None) for name in ("generation_config", "config"))
    declared = [getattr(config, "eos_token_id", None) for config in configs]
    each = [tokenizer.eos_token_id, *(i for ids in declared for i in (ids if isinstance(ids, list | tuple) else [ids]))]
    return list(dict.fromkeys(i for i in each if i is not None))


def until_end(ids: Sequence[int], ends: Collection[int]) -> int:
    """How many tokens stand before the first that ends a completion; all, where none does."""
    return next((i for i, token in enumerate(ids) if token in ends), len(ids))


def _sample(policy: Policy, ids: Sequence[int]) -> Sample:
    length = until_end(ids, end_tokens(policy.model, policy.tokenizer))
    text = policy.tokenizer.decode(ids[:length], skip_special_tokens=True)
    return Sample(text, length, truncated=length == len(ids) >= policy.profile.max_completion_tokens)


def _vllm(policy: Policy) -> Callable[[Policy, list[str], float, int], list[list[Sample]]]:
    """`_generate_batch` for vLLM; the adapter is handed over once, for each request gets a place of its own there.

    Raises:
        ValueError: the adapter is in memory alone, where vLLM does not see it.
    """
    from vllm import SamplingParams

    if policy.engine == "vllm+transformers":
        if policy.adapter is None and hasattr(policy.model, "peft_config"):
            raise ValueError(
                "vLLM reads an adapter from its folder, and that of this policy is in memory alone; name the folder: "
                "dataclasses.replace(policy, adapter=result.adapter)"
            )
        put_beside(policy.model, policy.profile, _context(policy.profile, policy.model))  # training takes its place
    lora = policy.model.load_lora(str(policy.adapter)) if policy.adapter else None
    cap, ends = policy.profile.max_completion_tokens, end_tokens(policy.model, policy.tokenizer)

    def answer(policy: Policy, prompts: list[str], temperature: float, n: int) -> list[list[Sample]]:
        how = SamplingParams(n=n, temperature=temperature, max_tokens=cap, stop_token_ids=ends)
        ids = policy.tokenizer(prompts, add_special_tokens=False)["input_ids"]  # of a text, vLLM makes other tokens
        asked = [{"prompt_token_ids": each} for each in ids]
        outputs = policy.model.fast_generate(asked, sampling_params=how, lora_request=lora, use_tqdm=False)
        return [[_sample(policy, o.token_ids) for o in output.outputs] for output in outputs]

    return answer
