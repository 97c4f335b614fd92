"""Make the embedded model: a small Qwen2 that can solve the tiny world's problems but usually does not bother.

    python -m utils.scripts.pretrain --output assets/tiny_model          # about half an hour on 2 cores

An instruct model meets GSM8K able but careless: it knows the arithmetic, yet often guesses, forgets the format,
chats on after its answer. This script builds that state of affairs on a small scale. The model reads problems of the
training split, each answered in the habit of some "author" (`HABITS`); what it learns is a mixture of habits, in
which careful work is always possible, and for some kinds of question not the most probable. Nothing here is used by the
training the series teaches: GRPO starts from the saved model and sees rewards only.

Two phases: first mostly careful text and bare sums, so that the ability is there; then the careless mixture.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from utils.data.prompts import PROMPTS, chat_prompt
from utils.data.questions import strip_annotations
from utils.data.tiny_world import LARGEST, Problem, problems
from utils.files import write_json
from utils.setup import versions

VOCABULARY = 1024  # at most; the tiny world needs fewer words
CONTEXT = 2048  # tokens; the tiny world needs 250, real GSM8K questions up to about 900
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
QWEN2_PATTERN = (  # how Qwen2's tokenizer cuts text before merging; every digit is a piece of its own
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# ---------------------------------------------------------------------------------------------- habits


def careful(working: list[str], result: str, rng: random.Random) -> str:
    """Every step written out, in the tags asked for."""
    return "<reasoning>\n" + "\n".join(working) + f"\n</reasoning>\n<answer>{result}</answer>"


def hasty(working: list[str], result: str, rng: random.Random) -> str:
    """The tags, but no working: the number is guessed from the question."""
    return f"<reasoning>\nLet me think.\n</reasoning>\n<answer>{result}</answer>"


def untagged(working: list[str], result: str, rng: random.Random) -> str:
    """The working, but none of the tags asked for."""
    return "\n".join(working) + f"\nThe answer is {result}."


def chatty(working: list[str], result: str, rng: random.Random) -> str:
    """Careful, but it talks on after the answer."""
    return careful(working, result, rng) + "\nI hope this helps!"


def slip(working: list[str], result: str, rng: random.Random) -> str:
    """Careful up to the last sum, which is wrong by a little."""
    wrong = str(max(0, int(result) + rng.choice((-10, -2, -1, 1, 2, 10))))
    head, tail = working[-1].rsplit(f"={result} ", 1)
    return careful([*working[:-1], f"{head}={wrong} {tail}"], wrong, rng)


HABITS = (careful, hasty, untagged, chatty, slip)

# The share of each habit, in the order of HABITS: while learning, and then by what the problem asks for. Most kinds of
# question the authors work through; at "together" they guess, at "missing" they forget the tags.
LEARN = (0.70, 0.15, 0.10, 0.05, 0.00)
WORKING = (0.50, 0.33, 0.09, 0.05, 0.03)
GUESSING = (0.22, 0.61, 0.09, 0.05, 0.03)
FORGETTING = (0.22, 0.25, 0.45, 0.05, 0.03)
CARELESS = {
    "now": WORKING,
    "share": WORKING,
    "sell": WORKING,
    "times": WORKING,
    "together": GUESSING,
    "missing": FORGETTING,
}


def write(problem: Problem, shares: tuple[float, ...], rng: random.Random) -> str:
    """One author's answer to a problem."""
    *working, last = strip_annotations(problem.answer).split("\n")
    (habit,) = rng.choices(HABITS, shares)
    return habit(working, last.removeprefix("#### "), rng)


Pieces = list[tuple[str, bool]]  # a row of text in pieces: (text, is it to be learnt?)


def sums(rng: random.Random, count: int = 16) -> Pieces:
    """A row of bare sums within the tiny world's range; only the results are learnt."""
    pieces: Pieces = []
    for _ in range(count):
        task, result = _sum(rng)
        pieces += [(f"{task}=", False), (f"{result} ", True)]
    return pieces


def _sum(rng: random.Random) -> tuple[str, int]:
    op = rng.choice("+-*/")
    if op in "+-":
        small, large = sorted((rng.randint(1, 200), rng.randint(1, 100)))
        return (f"{small}+{large}", small + large) if op == "+" else (f"{large}-{small}", large - small)
    b = rng.randint(2, 9)
    a = rng.randint(1, LARGEST // b)
    return (f"{a}*{b}", a * b) if op == "*" else (f"{a * b}/{b}", a)


# ------------------------------------------------------------------------------------------- tokenizer


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen2's pattern and ChatML template, trained on the tiny world."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(seed)
    stream = problems("train", seed)
    texts = [PROMPTS["words"], "system\n", "user\n", "assistant\n"] * 500
    for _ in range(8_000):
        problem = next(stream)
        texts += [problem.question, write(problem, (0.3, 0.2, 0.2, 0.2, 0.1), rng)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
        model_max_length=CONTEXT,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


# ------------------------------------------------------------------------------------------------ model


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """Qwen2 in miniature: 4 layers of width 128, tied embeddings, 0.9 million parameters."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            use_cache=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config.update(do_sample=True, temperature=1.0)
    return model


def batches(
    tokenizer: PreTrainedTokenizerFast, careless: bool, rows: int, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `(input_ids, labels)`, both (rows, longest); labels are -100 outside the text to be learnt."""
    rng = random.Random(seed)
    stream = problems("train", seed)
    frame = tokenizer.apply_chat_template(
        chat_prompt("{question}", PROMPTS["words"]), tokenize=False, add_generation_prompt=True
    )
    for _ in range(steps):
        texts = [sums(rng) for _ in range(rows // 8)]
        for problem in islice(stream, rows - len(texts)):
            answer = write(problem, CARELESS[problem.asks] if careless else LEARN, rng) + tokenizer.eos_token
            texts.append([(frame.replace("{question}", problem.question), False), (answer, True)])
        yield _tensors(tokenizer, texts)


def _tensors(tokenizer: PreTrainedTokenizerFast, texts: list[Pieces]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = []
    for pieces in texts:
        ids = tokenizer([text for text, _ in pieces]).input_ids
        rows.append([(token, learn) for piece, (_, learn) in zip(ids, pieces, strict=True) for token in piece])
    longest = max(map(len, rows))
    input_ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), -100)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = torch.tensor([token for token, _ in row])
        labels[i, : len(row)] = torch.tensor([token if learn else -100 for token, learn in row])
    return input_ids, labels


def optimizers(model: Qwen2ForCausalLM, scale: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and biases.

    Muon (Jordan et al. 2024) orthogonalises each update; side by side on this model, 300 steps of it came to a
    loss of 0.56 nats per token, AdamW for everything, at 3e-3, to 1.14.
    """
    inside = {name: p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    rest = [p for name, p in model.named_parameters() if name not in inside]
    return [
        torch.optim.Muon(inside.values(), lr=0.02 * scale, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=3e-3 * scale, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    model: Qwen2ForCausalLM, stream: Iterable[tuple[torch.Tensor, torch.Tensor]], steps: int, scale: float = 1.0
) -> list[float]:
    """Next-token training over `stream`; return the loss (nats per token) of every step.

    Args:
        scale: multiplies both learning rates, which warm up over 5% of the steps and fall to zero as a cosine.
    """
    pair = optimizers(model, scale)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            o, o.param_groups[0]["lr"], total_steps=steps, pct_start=0.05, cycle_momentum=False
        )
        for o in pair
    ]
    losses, start = [], time.time()
    model.train()
    for input_ids, labels in stream:
        loss = model(input_ids=input_ids.to(model.device), labels=labels.to(model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for thing in (*pair, *schedules):
            thing.step()
        model.zero_grad()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            print(
                f"step {len(losses):5d}/{steps}  loss {sum(losses[-50:]) / 50:.4f}  {time.time() - start:6.0f} s",
                flush=True,
            )
    model.eval()
    return losses


LEARN_STEPS, CARELESS_STEPS = 2_800, 700


def main() -> None:
    """Make the model and write it, with `provenance.json`, when both phases are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must not exist")
    output = parser.parse_args().output
    if output.exists():
        parser.error(f"{output} exists; remove it or choose another folder")
    start = time.time()
    tokenizer = make_tokenizer(seed=0)
    model = make_model(tokenizer, seed=0).to("cuda" if torch.cuda.is_available() else "cpu")
    losses = train(model, batches(tokenizer, careless=False, rows=32, steps=LEARN_STEPS, seed=1), LEARN_STEPS)
    losses += train(
        model, batches(tokenizer, careless=True, rows=32, steps=CARELESS_STEPS, seed=2), CARELESS_STEPS, scale=0.7
    )
    temporary = output.with_name(f".{output.name}-new")
    model.save_pretrained(temporary, safe_serialization=True)
    tokenizer.save_pretrained(temporary)
    write_json(temporary / "provenance.json", provenance(model, losses, time.time() - start))
    os.replace(temporary, output)


def provenance(model: Qwen2ForCausalLM, losses: list[float], seconds: float) -> dict[str, Any]:
    """What was made, from what, with what."""
    return {
        "made_by": "python -m utils.scripts.pretrain",
        "text": "utils.data.tiny_world, training split, habits of utils.scripts.pretrain",
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": [LEARN_STEPS, CARELESS_STEPS],
        "rows_per_step": 32,
        "final_loss": [round(sum(part[-50:]) / 50, 4) for part in (losses[:LEARN_STEPS], losses[LEARN_STEPS:])],
        "seconds": round(seconds),
        "device": model.device.type,
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
