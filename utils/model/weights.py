"""Do the weights in a folder land in the model? Names, shapes and values are compared before anything is measured.

A loader leaves what it does not find as it was, with a warning at most: an adapter whose tensors have other names
changes nothing, and its base is then measured as "the trained model". What should be there is read from an outline of
the model, made from its configuration without memory for its weights, so that it is the same for every engine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from utils.files import ROOT, json_object, portable, sha256

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
BEYOND_PLAIN = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
LARGEST_SCALE = 1e6  # of rank and alpha; beyond that no product of them is a weight any more
SHOWN = 3  # names in a message
Shapes = dict[str, tuple[int, ...]]


def outline(config: Any) -> Any:
    """A model of this configuration without memory for its weights."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def tied_names(model: Any) -> Collection[str]:
    """The tensors that a model shares with others, so that its files need not hold them."""
    return (model._tied_weights_keys or ()) if model.config.tie_word_embeddings else ()


def read_adapter(folder: Path) -> tuple[dict[str, Any], Shapes]:
    """Configuration and tensors of a plain LoRA adapter.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is damaged, a value is not finite, or the adapter is more than a plain LoRA.
    """
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no adapter in {folder}: {name} is missing; give the folder that training wrote, "
                "e.g. runs/latest/adapter"
            )
    mend = "train again or use an earlier checkpoint"
    try:
        config = json_object((folder / ADAPTER_FILES[0]).read_bytes())
        _check_lora(config)
        shapes = read_shapes(folder / ADAPTER_FILES[1])
    except ValueError as error:
        raise ValueError(f"the adapter in {folder} is damaged ({error}); {mend}") from error
    for name in BEYOND_PLAIN:
        if config.get(name):
            raise ValueError(
                f"the adapter in {folder} is no plain LoRA: its {name} is {config[name]!r}; train one without"
            )
    return config, shapes


def _check_lora(config: Mapping[str, Any]) -> None:
    targets, base = config.get("target_modules"), config.get("base_model_name_or_path")
    several = isinstance(targets, list) and all(isinstance(each, str) for each in targets)
    if config.get("peft_type") != "LORA" or not targets or not (several or isinstance(targets, str)):
        raise ValueError(f"{ADAPTER_FILES[0]} describes no LoRA adapter, got {str(config)[:80]}")
    if not isinstance(base, str | None):
        raise ValueError(f"base_model_name_or_path is {str(base)[:80]!r}, not a name")
    for name in ("r", "lora_alpha"):
        value = config.get(name)
        if type(value) not in (int, float) or not 0 < value < LARGEST_SCALE:
            raise ValueError(f"{name} is {str(value)[:80]!r}, not a number above 0")


def read_shapes(file: Path) -> Shapes:
    """{name: shape} of the tensors in a safetensors file.

    Raises:
        ValueError: the file is damaged, or a tensor holds what is not a finite real number.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    shapes = {}
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                tensor = tensors.get_tensor(name)
                if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
                    raise ValueError(f"{file.name}: {name} holds {tensor.dtype}, not weights")
                if not bool(tensor.float().isfinite().all()):
                    raise ValueError(f"{file.name}: {name} holds values that are not finite")
                shapes[name] = tuple(tensor.shape)
    except SafetensorError as error:
        raise ValueError(f"{file.name}: {error}") from error
    return shapes


def misfit(found: Shapes, expected: Shapes, optional: Collection[str] = ()) -> str | None:
    """In words, what `found` lacks, has besides or has in another shape; None where it fits."""
    other_shape = [
        f"{name} is {found[name]} and should be {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found and name not in optional],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": other_shape,
    }
    said = [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', …' * (len(names) > SHOWN)}"
        for kind, names in kinds.items()
        if names
    ]
    return f"of {len(expected)} tensors {'; '.join(said)}" if said else None


def adapter_shapes(model_config: Any, adapter_config: Mapping[str, Any]) -> Shapes:
    """The tensors that an adapter of this configuration has on a model of that one."""
    from accelerate import init_empty_weights
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    known = {name: value for name, value in adapter_config.items() if name in LoraConfig.__dataclass_fields__}
    known |= {"inference_mode": False, "base_model_name_or_path": None, "init_lora_weights": False}
    with init_empty_weights():
        model = get_peft_model(outline(model_config), LoraConfig(**known))
    return {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}


def check_adapter_fits(folder: Path, model: str, model_config: Any) -> None:
    """Refuse an adapter that would not land in a model.

    Args:
        model: folder or hub name of the base model.
        model_config: its configuration, as transformers reads it.
    Raises:
        FileNotFoundError, ValueError: as `read_adapter`; it has other tensors, or was made for another base model.
    """
    config, found = read_adapter(folder)
    theirs = config.get("base_model_name_or_path") or model
    mend = "use the profile it was trained with, and the same --model"
    if other_base(theirs, model):
        raise ValueError(f"the adapter in {folder} was trained on {theirs[:80]}, and this is {portable(model)}; {mend}")
    try:
        wrong = misfit(found, adapter_shapes(model_config, config))
    except Exception as error:  # whatever PEFT says of a configuration that is not its own
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    if wrong:
        raise ValueError(f"the adapter in {folder} does not fit {portable(model)}: {wrong}; {mend}")


def other_base(one: str, other: str) -> bool:
    """Whether two names are known to be of different models: two of the hub, two folders or files, or one of each."""
    names = (one, other)
    places = [next((p for p in (Path(name), ROOT / name) if os.path.exists(p)), None) for name in names]
    if all(places):
        return not places[0].samefile(places[1]) and _hashes(places[0]) != _hashes(places[1])
    if any(
        Path(name).is_absolute() or name.startswith(".") for name, place in zip(names, places, strict=True) if not place
    ):
        return False  # a folder of another machine: who knows
    if any(places):  # a folder may be a copy of what the hub has, but not this project's own
        return any(place and place.resolve().is_relative_to(ROOT / "assets") for place in places)
    return _plain_name(one) != _plain_name(other)


def _hashes(model: Path) -> list[str]:
    return [sha256(file) for file in ([model] if model.is_file() else sorted(model.glob("*.safetensors")))]


def _plain_name(name: str) -> str:
    """Of a hub name what its quantised copies share, e.g. "qwen2.5-3b-instruct"."""
    return re.sub(r"(-unsloth)?-bnb-4bit$", "", name.rpartition("/")[2].lower())


def check_model_folder(folder: Path) -> None:
    """Refuse a model whose files do not hold just the weights that its configuration asks for.

    Weights that are stored quantised have tensors of their own, and are left to the library that made them.

    Raises:
        FileNotFoundError: no weights in safetensors.
        ValueError: the configuration or a file is damaged; tensors are missing, unexpected, misshapen or not finite.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers says of a configuration that is not its own
        raise ValueError(
            f"the model in {folder} has no configuration that can be read ({str(error)[:200]}); copy it again"
        ) from error
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise FileNotFoundError(f"no tokenizer in {folder}: {TOKENIZERS[0]} is missing; copy it from the base model")
    files = _weight_files(folder)
    if getattr(config, "quantization_config", None) is not None:
        return
    try:
        found = {
            name: shape
            for file, listed in files.items()
            for name, shape in read_shapes(file).items()
            if listed is None or name in listed
        }
        model = outline(config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        wrong = misfit(
            {name: s for name, s in found.items() if not name.endswith("rotary_emb.inv_freq")},
            expected,
            tied_names(model),
        )
    except Exception as error:  # its own words, or those of the architecture about the configuration
        wrong = f"{error}"[:300]
    if wrong:
        raise ValueError(f"the model in {folder} is damaged: {wrong}; copy or merge it again")


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The files that a loader opens in a model's folder, with the tensors it takes from each; None for all."""
    single, index = (folder / name for name in ("model.safetensors", "model.safetensors.index.json"))
    if single.is_file():
        return {single: None}
    if not index.is_file():
        raise FileNotFoundError(
            f"no weights in {folder}: model.safetensors is missing; give a folder that save_merged wrote"
        )
    try:
        places = dict(json_object(index.read_bytes())["weight_map"])
        files = {folder / file: {name for name in places if places[name] == file} for file in set(places.values())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is damaged ({error}); copy the model again") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"no weights in {folder}: {', '.join(sorted(missing)[:SHOWN])} missing; copy it again")
    return files
