"""Every keyword that utils/ passes to Unsloth, vLLM, TRL, PEFT and transformers exists in the release we pin.

Nothing of those libraries is imported. Their source is parsed where it is installed; else the pinned wheel is fetched
once with pip (marker `network`) and the few files named below are kept in $GRPO_SOURCES or pytest's cache. A function
with `**kwargs` takes a misspelt keyword and forgets it, so a keyword counts as known only if it is a named parameter,
a field of the class, or a name that the function itself takes out of its `**kwargs`.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from utils.files import ROOT, write_bytes
from utils.setup import read_pins

PINS = read_pins(ROOT / "requirements.txt")
LIBRARIES = ("unsloth", "unsloth_zoo", "vllm", "trl", "peft", "transformers", "bitsandbytes", "accelerate")
LINUX = [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_24", "_2_17", "2014", "1")]
WHEEL_FOR = [*LINUX, "--python-version=3.12", "--implementation=cp", "--abi=cp312", "--abi=abi3", "--abi=none"]

# What we call, and where its names are defined: every place listed adds the names that it knows.
# A leading dot is a method of an object, which the source does not tell us the class of.
SAVE, TRANSFORMERS_MODEL = "unsloth/save.py", "transformers/modeling_utils.py PreTrainedModel"
NAMES_OF = {
    "unsloth.FastLanguageModel.from_pretrained": ["unsloth/models/loader.py FastLanguageModel.from_pretrained"],
    "unsloth.FastLanguageModel.get_peft_model": ["unsloth/models/llama.py FastLlamaModel.get_peft_model"],
    ".save_pretrained_merged": [f"{SAVE} unsloth_generic_save_pretrained_merged"],
    ".save_pretrained_gguf": [f"{SAVE} unsloth_save_pretrained_gguf"],
    ".push_to_hub_merged": [f"{SAVE} unsloth_generic_push_to_hub_merged"],
    ".push_to_hub_gguf": [f"{SAVE} unsloth_push_to_hub_gguf"],
    ".load_lora": ["unsloth_zoo/vllm_utils.py load_lora"],
    ".fast_generate": ["vllm/entrypoints/llm.py LLM.generate"],
    "vllm.LLM": ["vllm/entrypoints/llm.py LLM", "vllm/engine/arg_utils.py EngineArgs"],
    "vllm.SamplingParams": ["vllm/sampling_params.py SamplingParams"],
    "trl.GRPOConfig": [
        "trl/trainer/grpo_config.py GRPOConfig",
        "trl/trainer/base_config.py _BaseConfig",
        "transformers/training_args.py TrainingArguments",
    ],
    "trl.GRPOTrainer": ["trl/trainer/grpo_trainer.py GRPOTrainer.__init__"],
    ".train": ["transformers/trainer.py Trainer.train"],
    "peft.LoraConfig": ["peft/tuners/lora/config.py LoraConfig", "peft/config.py PeftConfig"],
    "peft.PeftModel.from_pretrained": ["peft/peft_model.py PeftModel.from_pretrained"],
    ".load_adapter": ["peft/peft_model.py PeftModel.load_adapter"],
    ".save_pretrained": ["peft/peft_model.py PeftModel.save_pretrained", f"{TRANSFORMERS_MODEL}.save_pretrained"],
    "transformers.BitsAndBytesConfig": ["transformers/utils/quantization_config.py BitsAndBytesConfig.__init__"],
    "transformers.AutoModelForCausalLM.from_pretrained": [
        "transformers/models/auto/auto_factory.py _BaseAutoModelClass.from_pretrained",
        f"{TRANSFORMERS_MODEL}.from_pretrained",
    ],
    "transformers.AutoModelForCausalLM.from_config": [
        "transformers/models/auto/auto_factory.py _BaseAutoModelClass.from_config"
    ],
    "transformers.AutoConfig.from_pretrained": [
        "transformers/models/auto/configuration_auto.py AutoConfig.from_pretrained"
    ],
    "transformers.AutoTokenizer.from_pretrained": [
        "transformers/models/auto/tokenization_auto.py AutoTokenizer.from_pretrained",
        "transformers/tokenization_utils_base.py PreTrainedTokenizerBase._patch_mistral_regex",
    ],
    ".generate": [
        "transformers/generation/utils.py GenerationMixin.generate",
        "transformers/generation/configuration_utils.py GenerationConfig.__init__",
    ],
    ".apply_chat_template": ["transformers/tokenization_utils_base.py PreTrainedTokenizerBase.apply_chat_template"],
}
# These keep whatever they are given, by design: a tokenizer's special tokens, an architecture's numbers.
TAKE_ANYTHING = {"transformers.PreTrainedTokenizerFast", "transformers.Qwen2Config"}
# `**name` arguments whose keys are not written in the calling function, and where they are.
STARS = {
    ("build_config", "settings"): "grpo_settings",
    ("put_beside", "computing(profile)"): "computing",
    ("_model_generate", "inputs"): None,  # what the tokenizer returns
    ("gguf_tokenizer", "options"): None,  # what transformers' own converter returns
}


# ------------------------------------------------------------------------------------------- our calls


@dataclass(frozen=True)
class Call:
    """One call of ours: its place ("policy.add_lora"), what is called, and the keywords it passes."""

    place: str
    target: str
    keywords: frozenset[str]


def dotted(node: ast.expr) -> str:
    """ "policy.model.generate" for that attribute chain; a chain on anything but a name starts with a dot."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(parts)])


def imported(tree: ast.Module) -> dict[str, str]:
    """{"Fast": "unsloth.FastLanguageModel", …} for the imports from `LIBRARIES` anywhere in a module."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES:
            names |= {a.asname or a.name: f"{node.module.split('.')[0]}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname or a.name: a.name for a in node.names if a.name.split(".")[0] in LIBRARIES}
    return names


def dict_keys(function: ast.AST, name: str | None = None) -> set[str]:
    """The keys given in `function` to the dict `name`, or to any dict: displays, dict(…) and `name["key"] = …`."""
    keys: set[str] = set()
    for node in ast.walk(function):
        if name is None and isinstance(node, ast.Return):
            keys |= written_keys(node.value)
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            continue
        owner = target.value if isinstance(target, ast.Subscript) else target
        if name is not None and not (isinstance(owner, ast.Name) and owner.id == name):
            continue
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            keys.add(target.slice.value)
        else:
            keys |= written_keys(node.value)
    return keys


def written_keys(value: ast.expr | None) -> set[str]:
    """The keys of a dict that is written out: {"a": 1}, dict(a=1), one `if` … `else` the other, one | the other."""
    match value:
        case ast.Dict(keys=keys):
            return {key.value for key in keys if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), keywords=keywords):
            return {keyword.arg for keyword in keywords if keyword.arg}
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
            return written_keys(one) | written_keys(other)
    return set()


def calls(source: str, module: str) -> list[Call]:
    """The calls in a module's source that reach a library with keywords."""
    tree = ast.parse(source)
    names, functions = imported(tree), {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    found = []
    for function in functions.values():
        for node in ast.walk(function):
            if not (isinstance(node, ast.Call) and node.keywords):
                continue
            chain = dotted(node.func)
            first, _, rest = chain.partition(".")
            method = f".{chain.rpartition('.')[2]}"
            if first in names:
                target = names[first] + (f".{rest}" if rest else "")
            elif rest and method in NAMES_OF:
                target = method
            else:
                continue
            keywords = {k.arg for k in node.keywords if k.arg}
            for star in (k.value for k in node.keywords if k.arg is None):
                keywords |= star_keys(star, function, functions)
            found.append(Call(f"{module}.{function.name}", target, frozenset(keywords)))
    return found


def star_keys(star: ast.expr, function: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> set[str]:
    """The keys behind `**star` in a call inside `function`; unknown ones must be explained in `STARS`."""
    name = ast.unparse(star)
    if (function.name, name) in STARS:
        elsewhere = STARS[function.name, name]
        return dict_keys(functions[elsewhere]) if elsewhere else set()
    keys = written_keys(star) | dict_keys(function, name)
    assert keys, f"{function.name} passes **{name}: write its keys in that function, or name their source in STARS"
    return keys


OURS = [call for path in sorted((ROOT / "utils").rglob("*.py")) for call in calls(path.read_text("utf-8"), path.stem)]


# ------------------------------------------------------------------------------------------ their names


def library(place: str) -> str:
    return place.partition("/")[0]


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture(scope="session")
def sources(request, tmp_path_factory):
    """`sources("trl")` is the folder that holds the package's folder: where it is installed, or the fetched files."""
    cache = getattr(request.config, "cache", None)
    kept = os.environ.get("GRPO_SOURCES") or (cache.mkdir("sources") if cache else tmp_path_factory.mktemp("sources"))

    def folder(name: str) -> Path:
        if is_installed(name):
            return Path(importlib.util.find_spec(name).submodule_search_locations[0]).parent
        place = Path(kept) / f"{name}-{PINS[name]}"
        files = {p.split()[0] for places in NAMES_OF.values() for p in places if library(p) == name}
        files |= {f for f in ("unsloth/models/_utils.py",) if library(f) == name}
        if not all((place / file).exists() for file in files):
            fetch(name, files, place)
        return place

    return folder


def fetch(name: str, files: set[str], place: Path) -> None:
    """Download the pinned wheel with pip and keep `files` of it under `place`; skip where no index answers."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--only-binary=:all:"]
        command = [*pip, "--retries=1", "--timeout=20", *WHEEL_FOR, "--dest", folder, f"{name}=={PINS[name]}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if "Retrying" in done.stderr or "No module named pip" in done.stderr:
            pytest.skip(f"pip could not fetch {name} {PINS[name]}: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for file in files:
                write_bytes(place / file, wheel.read(file))


def definition(source: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    """The class, function or method ("Class.method") of that name; of several, the last that is not an overload."""
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        inside = [
            n
            for n in (ast.walk(node) if isinstance(node, ast.Module) else node.body)
            if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and n.name == part
            and "overload" not in {dotted(d).rpartition(".")[2] for d in n.decorator_list}
        ]
        assert inside, f"{name} is not defined there any more; look where it went and correct NAMES_OF"
        node = inside[-1]
    return node


def known_names(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    """A class's fields and those of its `__init__`; a function's parameters and what it reads from `**kwargs`."""
    if isinstance(node, ast.ClassDef):
        fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        starts = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return fields.union(*(known_names(start) for start in starts))
    names = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    rest = node.args.kwarg.arg if node.args.kwarg else None
    for n in ast.walk(node):
        match n:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=owner), attr="pop" | "get" | "setdefault"),
                args=[ast.Constant(value=str(key)), *_],
            ) if owner == rest:
                names.add(key)
            case ast.Subscript(value=ast.Name(id=owner), slice=ast.Constant(value=str(key))) if owner == rest:
                names.add(key)
    return names


def unknown(call: Call, sources) -> set[str]:
    """The keywords of a call that none of the places in `NAMES_OF` knows."""
    known: set[str] = set()
    for place in NAMES_OF[call.target]:
        file, name = place.split()
        known |= known_names(definition((sources(library(place)) / file).read_text(encoding="utf-8"), name))
    return set(call.keywords) - known


def needs_network(target: str) -> bool:
    return not all(is_installed(library(place)) for place in NAMES_OF.get(target, []))


# -------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(c, id=f"{c.place}: {c.target}", marks=[pytest.mark.network] if needs_network(c.target) else [])
        for c in OURS
        if c.target in NAMES_OF
    ],
)
def test_the_pinned_release_knows_every_keyword(call, sources):
    odd = unknown(call, sources)
    assert call.keywords and not odd, f"{call.place} passes {sorted(odd)} to {call.target}, which does not know it"


def test_no_call_goes_unchecked():
    missing = sorted({f"{c.place}: {c.target}" for c in OURS if c.target not in NAMES_OF.keys() | TAKE_ANYTHING})
    assert not missing, "say in NAMES_OF where these are defined"


@pytest.mark.parametrize(
    "target", ["unsloth.FastLanguageModel.from_pretrained", "vllm.SamplingParams", "trl.GRPOConfig"]
)
def test_the_calls_that_matter_were_seen(target):
    assert [c for c in OURS if c.target == target]


def test_the_settings_of_the_trainer_were_seen():
    config = next(c for c in OURS if c.target == "trl.GRPOConfig")
    assert {"loss_type", "max_completion_length", "use_vllm", "vllm_mode"} <= config.keywords


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from peft import LoraConfig\ndef f(): LoraConfig(r=1, rank=2)", {"rank"}),
        ("import peft\ndef f(): peft.LoraConfig(task_type='x', alpha=2)", {"alpha"}),
        ("from transformers import BitsAndBytesConfig as B\ndef f():\n B(load_in_4bits=True)", {"load_in_4bits"}),
        ("def f(policy): policy.model.generate(1, max_new_tokens=2, max_new_token=2)", {"max_new_token"}),
        ("from trl import GRPOConfig\ndef f():\n d = dict(beta=0)\n d['gamma'] = 1\n GRPOConfig(**d)", {"gamma"}),
        ("from trl import GRPOConfig\ndef f(): GRPOConfig(seed=1, max_prompt_length=2)", {"max_prompt_length"}),
    ],
)
def test_a_wrong_keyword_is_found(source, wrong, sources):
    (call,) = calls(source, "example")
    assert unknown(call, sources) == wrong


@pytest.mark.network
@pytest.mark.parametrize("name", ["unsloth.FastLanguageModel.from_pretrained", ".fast_generate", "vllm.SamplingParams"])
def test_a_wrong_keyword_for_the_gpu_packages_is_found(name, sources):
    assert unknown(Call("example", name, frozenset({"max_token"})), sources) == {"max_token"}


@pytest.mark.network
def test_unsloth_still_lends_these_methods_to_the_model(sources):
    """`fast_generate` is vLLM's generate, `load_lora` unsloth_zoo's, and the savers are those in NAMES_OF."""
    llama, helpers, save = (
        (sources("unsloth") / file).read_text(encoding="utf-8")
        for file in ("unsloth/models/llama.py", "unsloth/models/_utils.py", "unsloth/save.py")
    )
    assert "model.fast_generate = model.vllm_engine.generate" in llama and "def patch_peft_model(" in llama
    assert "model.load_lora = functools.partial(load_lora, model)" in helpers
    bound = {
        ast.unparse(n.args[0])
        for n in ast.walk(ast.parse(save))
        if isinstance(n, ast.Call) and "_bind_saving_method" in ast.unparse(n.func)
    }
    assert {p.split()[1] for places in NAMES_OF.values() for p in places if p.startswith(SAVE)} <= bound


@pytest.mark.network
def test_the_environment_variables_are_read_by_unsloth(sources):
    ours = {
        node.value
        for path in (ROOT / "utils").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("UNSLOTH_")
    }
    files = ["unsloth/models/_utils.py", "unsloth/models/loader.py", "unsloth_zoo/vllm_utils.py"]
    theirs = "".join((sources(library(file)) / file).read_text(encoding="utf-8") for file in files)
    assert ours and not [name for name in ours if f'"{name}"' not in theirs]
