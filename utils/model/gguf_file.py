"""A model in one GGUF file, the format of llama.cpp: dequantised and loaded whole, with the tokenizer that it holds.

transformers translates the names and the vocabulary. What would pass it in silence is put right or refused here:

- A tied matrix may be stored twice, once as embedding and once as output, rounded differently: the finer one is kept.
- The end token is the one that the chat template ends a turn with, whatever the converter or the file say.
- A tensor that is missing, or that the model has no place for, is named; so is a file that was cut short.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from utils.model.weights import misfit, outline, tied_names
from utils.setup import require

GGUF_PIN = "gguf==0.19.0"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
SAME = 0.35  # relative distance of two roundings of one matrix, 2 bits included; unrelated matrices are above 1 apart
CONTROL, MARKUP = 3, 4  # types of tokens that are never cut up: no text, and text such as <tool_call>


def gguf_config(file: Path) -> Any:
    """The configuration of the model in a file, as transformers has it.

    Raises:
        ImportError: the package `gguf` is missing, or is not the pinned version.
        ValueError: the file is damaged, or its model of an architecture that transformers does not read from GGUF.
    """
    from transformers import CONFIG_MAPPING

    head = parsed(file)["config"]
    config = CONFIG_MAPPING[head["model_type"]].from_dict(head)
    config._name_or_path = str(file)
    return config


@lru_cache(maxsize=1)
def parsed(file: Path) -> dict[str, Any]:
    """What transformers reads from the head of a file: "config", "tokenizer", "tokenizer_config". Raises as above."""
    require(GGUF_PIN, "a model in a .gguf file")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        found = load_gguf_checkpoint(str(file))
    except ValueError as error:
        if "not supported" in str(error):
            raise ValueError(
                f"the model in {file} cannot be loaded: {error} Mend: give its folder of safetensors, or another model"
            ) from error
        raise _damaged(file, error) from error
    except Exception as error:  # a reader of bytes trips over damage in any way
        raise _damaged(file, error) from error
    found["config"].pop("_model_name_or_path", None)
    return found


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} is cut short or damaged ({type(error).__name__}: {str(error)[:200]}); copy it again")


def load_gguf(file: Path, dtype: Any) -> tuple[Any, Any]:
    """Model, on the CPU, and tokenizer of a file.

    Raises:
        ImportError, ValueError: as `gguf_config`; a tensor is missing, unexpected, misshapen or not finite.
    """
    from transformers import GenerationConfig

    warnings.filterwarnings("ignore", message="Could not find a config file")  # PEFT looks for one in the file
    config = gguf_config(file)
    tokenizer = gguf_tokenizer(file)
    tensors, config.tie_word_embeddings = _tensors(file, config, dtype)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    config.dtype = dtype
    model = outline(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if wrong := misfit({name: tuple(t.shape) for name, t in tensors.items()}, expected, tied_names(model)):
        raise ValueError(f"the model in {file} is damaged, or not what it says: {wrong}; give another file")
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(config)
    return model.eval(), tokenizer


def _tensors(file: Path, config: Any, dtype: Any) -> tuple[dict[str, Any], bool]:
    """The weights by the names of transformers, and whether embedding and output are one matrix."""
    import numpy as np
    import torch
    from gguf import GGUFReader, dequantize
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    head, names = parsed(file), get_gguf_hf_weights_map(outline(config))
    reader = GGUFReader(str(file))
    if (parts := reader.fields.get("split.count")) and parts.contents() > 1:
        raise ValueError(
            f"{file} is one of {parts.contents()} parts of a model; join them: "
            "llama-gguf-split --merge FIRST_PART WHOLE"
        )
    architecture = reader.fields["general.architecture"].contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=head["config"])
    stored = {tensor.name: tensor for tensor in reader.tensors}

    def values(tensor: Any) -> Any:
        return dequantize(tensor.data, tensor.tensor_type)

    tied, pair = config.tie_word_embeddings, [stored.get(name) for name in (EMBEDDING, OUTPUT)]
    if all(pair):
        coarse, fine = sorted(pair, key=lambda tensor: tensor.n_bytes)
        if tied := tuple(coarse.shape) == tuple(fine.shape) and _distance(values(coarse), values(fine)) < SAME:
            stored = {name: t for name, t in stored.items() if name != OUTPUT} | {EMBEDDING: fine}
    found = {}
    for name, tensor in stored.items():
        done = processor.process(
            weights=values(tensor), name=name, tensor_key_mapping=names, parsed_parameters=head | {"tensors": found}
        )
        if done.name is None:  # the processor has put it in its place
            continue
        if not np.isfinite(done.weights).all():
            raise ValueError(f"{file} is damaged: {name} holds values that are not finite; copy it again")
        found[names.get(done.name, done.name)] = torch.from_numpy(np.array(done.weights)).to(dtype)
    return {name: tensor.to(dtype) for name, tensor in found.items()}, tied


def _distance(a: Any, b: Any) -> float:
    import numpy as np

    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def gguf_tokenizer(file: Path) -> Any:
    """The tokenizer in a file, with the end token that its chat template ends a turn with. Raises as `gguf_config`."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.ggml import convert_gguf_tokenizer

    head = parsed(file)
    vocabulary, says = head["tokenizer"], head["tokenizer_config"]
    try:
        backend, options = convert_gguf_tokenizer(head["config"]["model_type"], vocabulary)
    except (KeyError, AttributeError) as error:
        raise ValueError(
            f"the tokenizer in {file} cannot be read ({type(error).__name__}: {error}); give the model's folder of "
            "safetensors"
        ) from error
    tokens, types = vocabulary["tokens"], vocabulary.get("token_type", [])
    control, markup = (
        [t for t, kind in zip(tokens, types, strict=False) if kind == each] for each in (CONTROL, MARKUP)
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    backend.add_tokens([AddedToken(token, normalized=False) for token in markup])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=says.get("chat_template"),
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if 0 <= int(says.get(f"{name}_id", -1)) < len(tokens):
            setattr(tokenizer, name, tokens[int(says[f"{name}_id"])])
    if tokenizer.chat_template and (end := _turn_end(tokenizer, control)):
        tokenizer.eos_token = end
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _turn_end(tokenizer: Any, control: list[str]) -> str | None:
    """The control token that the chat template writes behind an answer."""
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."}]
    try:
        behind = tokenizer.apply_chat_template(turn, tokenize=False).rpartition("Yes.")[2].lstrip()
    except Exception:  # what a template raises is its own; `check_tokenizer` names it
        return None
    return max((token for token in control if behind.startswith(token)), key=len, default=None)
