"""Notebooks 04 and 05 as on a free Colab T4: every code cell, in order, in one process.

What cannot be had here has a stand-in: the answers about a GPU, the installer, Unsloth and vLLM, weights of 4 bits, the
3B model (the embedded one answers in its place, asked as it knows it) and the files of GSM8K and SVAMP (problems of the
tiny world). What a GPU alone computes, the trainer is told to do as on a CPU. The run has 4 steps, larger ones, and
fewer questions are asked. All else is what a learner runs: the cells, the numbers of the profile t4, the preflight, the
ladder of engines, TRL's trainer, checkpoints, mirror, pictures and report.

A stand-in offers no more than the real thing does. Read from unsloth 2026.10.7: the base model has `fast_generate`, and
only a model with an adapter gets `load_lora` as well.
"""

import functools
import io
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import huggingface_hub
import nbformat
import peft
import pytest
import torch
import transformers
import trl.trainer.grpo_trainer  # noqa: F401  before vLLM's stand-in is there, into which it would look
from safetensors.torch import load_file, save_file

from utils import plots, setup
from utils.data import questions
from utils.data.prompts import PROMPTS
from utils.data.tiny_world import SPLIT_SIZES, tiny_split
from utils.files import ROOT, read_json, write_json, write_jsonl
from utils.model.decoding import decode
from utils.model.policy import generate, load_policy, with_adapter
from utils.model.profiles import PROFILES, QWEN_3B
from utils.training import grpo, preflight
from utils.training.memory import GIB

TINY, T4 = PROFILES["tiny"], PROFILES["t4"]
ADAPTER = ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter"
STEPS, QUESTIONS = 4, 16
SHORTER = {
    "04_grpo_training": {"STEPS = None": f"STEPS = {STEPS}"},
    "05_evaluation": {"QUESTIONS = 128": "QUESTIONS = 4", "QUESTIONS = 250": "QUESTIONS = 8"},
}


# ---------------------------------------------------------------------------------------------------- the stand-ins


def code(name):
    """The code cells of a notebook."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


@functools.cache
def rows():
    """GSM8K's train and test split, as few questions as will do, and SVAMP's problems."""
    train, test, others = (
        [{"question": p.question, "answer": p.answer} for p in tiny_split(split)[some]]
        for split, some in (
            ("train", slice(SPLIT_SIZES["validation"] + 60)),
            ("test", slice(QUESTIONS)),
            ("test", slice(QUESTIONS, 2 * QUESTIONS)),
        )
    )
    problems = [
        {"ID": f"chal-{i}", "Body": "", "Question": row["question"], "Answer": row["answer"].split("#### ")[1]}
        for i, row in enumerate(others)
    ]
    return train, test, problems


class Colab:
    """A T4 runtime as it is before the set-up cell.

    Attributes:
        installed: {package: version} that the installer was asked for.
        requests: adapters that vLLM was asked with, in their order.
        loaded: how the 3B model was asked for.
    """

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch = folder, monkeypatch
        self.installed, self.requests, self.loaded = {}, [], []
        for name in ("GRPO_PROFILE", "GRPO_ENGINE", "GRPO_MODEL", "KAGGLE_KERNEL_RUN_TYPE", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        variables = {
            "COLAB_RELEASE_TAG": "release-colab_20260819",
            "GRPO_RUN_DIR": str(folder / "run"),
            "GSM8K_DIR": str(folder),
            "SVAMP_DIR": str(folder),
            "HF_HUB_OFFLINE": "1",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.chdir(ROOT / "notebooks")
        monkeypatch.setattr(sys, "path", sys.path[:])
        self._gpu()
        self._packages()
        self._questions()
        self._model_3b()
        config = grpo.build_config
        monkeypatch.setattr(grpo, "build_config", lambda settings: config(on_a_cpu(settings)))

    def _gpu(self):
        """The project sees a GPU; the libraries that would compute on it do not."""
        found = SimpleNamespace(total_memory=int(14.74 * GIB), major=7, minor=5)
        answers = {
            "get_device_name": lambda: "Tesla T4",
            "get_device_capability": lambda: (7, 5),
            "get_device_properties": lambda index: found,
            "mem_get_info": lambda: (int(14.5 * GIB), found.total_memory),
            "is_available": lambda: sys._getframe(1).f_globals["__name__"].startswith("utils."),
        }
        for name, answer in answers.items():
            self.patch.setattr(torch.cuda, name, answer)
        self.patch.setattr(setup, "gpus", lambda: ["Tesla T4, 15360 MiB"])
        self.patch.setattr(preflight, "ram_bytes", lambda: 12 * GIB)
        self.patch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=70 * GIB))

    def _packages(self):
        here = setup.installed

        def installed(package):
            return self.installed.get(package) or (None if package in ("trl", "peft") else here(package))

        def installer(command):
            self.installed |= dict(word.split("==") for word in command if "==" in word)
            return 0

        self.patch.setattr(setup, "installed", installed)
        self.patch.setattr(preflight, "installed", installed)
        self.patch.setattr(setup, "run_shown", installer)
        self.patch.setattr(setup, "loaded", lambda package: None)

    def _questions(self):
        train, test, problems = rows()
        write_jsonl(self.folder / "train.jsonl", train)
        write_jsonl(self.folder / "test.jsonl", test)
        write_json(self.folder / "SVAMP.json", problems)

    def _model_3b(self):
        model, tokenizer = transformers.AutoModelForCausalLM, transformers.AutoTokenizer
        load_model, load_tokenizer = model.from_pretrained, tokenizer.from_pretrained

        def embedded(name, **how):
            self.loaded.append((name, how))
            found = load_model(TINY.model, dtype=torch.float32, use_safetensors=True)
            found.config._name_or_path = found.name_or_path = str(name)
            return found

        self.embedded = embedded
        self.patch.setattr(model, "from_pretrained", embedded)
        self.patch.setattr(tokenizer, "from_pretrained", lambda name, **how: load_tokenizer(TINY.model, **how))
        self.patch.setattr(transformers, "BitsAndBytesConfig", SimpleNamespace)
        self.patch.setitem(PROMPTS, T4.prompt, PROMPTS[TINY.prompt])  # the embedded model knows one wording

    def with_engine(self, engine):
        """The packages of that engine can be imported, those of the engines before it cannot."""
        names = ("unsloth", "vllm") if "+" in engine else ("unsloth",) if engine == "unsloth" else ()
        for name in ("unsloth", "unsloth_zoo", "vllm"):
            self.patch.setitem(sys.modules, name, None)
        if "unsloth" in names:
            self._module("unsloth", FastLanguageModel=Unsloth(self))
        if "vllm" in names:
            self._module("vllm", SamplingParams=SimpleNamespace)
            self._module("unsloth_zoo", __path__=[])
            self._module("unsloth_zoo.vllm_utils", load_lora=load_lora)
        return self

    def asks_for(self, profile):
        """Name the profile; what only the tiny world has is then out of reach."""
        self.patch.setenv("GRPO_PROFILE", profile)

        def refused(*which):
            raise ValueError(f"the tiny world's {which} was asked for, and the profile is {profile}")

        self.patch.setattr(questions, "tiny_split", refused)
        self.patch.setattr(questions, "shifted", refused)

    def _module(self, name, **content):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        self.patch.setitem(sys.modules, name, module)

    def run(self, name, until="", **replaced):
        """Run the code cells of a notebook, up to the one with `until` in it, and return what they have defined.

        A cell that raises is an AssertionError that names it.
        """
        names = {"__name__": "notebook"}
        for number, source in enumerate(code(name), start=1):
            if "GRPO_PROFILE" in source:
                for old, new in (SHORTER[name] | replaced).items():
                    assert source.count(old) == 1, f"the settings of {name} have no {old}"
                    source = source.replace(old, new)
            try:
                exec(compile(source, f"{name}, code cell {number}", "exec"), names)
            except Exception as error:
                raise AssertionError(f"{name}, code cell {number}: {type(error).__name__}: {error}") from error
            if until and until in source:
                return names
        assert not until, f"{name} has no cell with {until}"
        return names


class Unsloth:
    """`FastLanguageModel`: what it lends to the model, and nothing more."""

    def __init__(self, colab):
        self.colab = colab

    def from_pretrained(self, model_name, fast_inference, **how):
        name = f"unsloth/{model_name.split('/')[1].lower()}-unsloth-bnb-4bit"
        model, tokenizer = self.colab.embedded(name, **how), transformers.AutoTokenizer.from_pretrained(model_name)
        if fast_inference:
            model.vllm_engine = Engine(self.colab, tokenizer)
            model.fast_generate = model.vllm_engine.generate
        return model, tokenizer

    def get_peft_model(self, model, r, target_modules, lora_alpha, random_state, **how):
        transformers.set_seed(random_state)
        config = peft.LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=target_modules, task_type="CAUSAL_LM")
        return self.patch_peft_model(peft.get_peft_model(model, config))

    def patch_peft_model(self, model):
        if hasattr(model.model, "vllm_engine"):
            model.load_lora = functools.partial(load_lora, model)
        return model


def load_lora(model, folder):
    assert model.vllm_engine and os.path.isdir(folder)
    return folder


class Engine:
    """vLLM: base weights of its own, an adapter only by request, and token ids with the one that ended them."""

    def __init__(self, colab, tokenizer):
        self.colab, self.tokenizer = colab, tokenizer
        self.base = colab.embedded("vllm").eval()

    def generate(self, prompts, sampling_params, lora_request, use_tqdm):
        model, how = self.base, sampling_params
        if lora_request:
            self.colab.requests.append(lora_request)
            model = peft.PeftModel.from_pretrained(model, lora_request).eval()
        padded = self.tokenizer.pad({"input_ids": [p["prompt_token_ids"] for p in prompts]}, return_tensors="pt")
        prompt_of = torch.arange(len(prompts)).repeat_interleave(how.n)
        rows = decode(model, **padded, prompt_of=prompt_of, cap=how.max_tokens, temperature=how.temperature,
                      end_token=how.stop_token_ids)  # fmt: skip
        self.base = model.unload() if lora_request else model
        outputs = [SimpleNamespace(token_ids=tuple(row)) for row in rows]
        return [SimpleNamespace(outputs=outputs[i : i + how.n]) for i in range(0, len(outputs), how.n)]


def on_a_cpu(settings):
    """The trainer's settings without what a GPU and its engines compute, and with steps so large that few show."""
    assert settings["fp16"] and not settings["use_cpu"] and settings["optim"] == "adamw_8bit"
    stops = settings["generation_kwargs"]["stop_token_ids" if settings["use_vllm"] else "eos_token_id"]
    ours = {"fp16": False, "use_cpu": True, "optim": "adamw_torch", "use_vllm": False}
    shorter = {"save_steps": STEPS // 2, "warmup_steps": 0, "learning_rate": TINY.learning_rate}
    return settings | ours | shorter | {"generation_kwargs": {"eos_token_id": stops}}


def drawn(figure):
    """A picture in the least time: coarse, and without a palette of its own."""
    figure.savefig(file := io.BytesIO(), dpi=20)
    return file.getvalue()


@pytest.fixture
def colab(tmp_path, monkeypatch):
    return Colab(tmp_path, monkeypatch)


# --------------------------------------------------------------------------------------------------------- the walks


@pytest.mark.parametrize("engine", ["unsloth+vllm", "unsloth", "transformers"])
def test_every_cell_of_04_and_05_runs_on_a_t4(engine, colab, monkeypatch, capsys):
    """With the engine that was installed, with that which is left where vLLM breaks, and where Unsloth does, too.

    The last one goes to 05 as to another machine, with the mirror alone; the second ends 05 where no model is asked.
    The first one draws the pictures.
    """
    colab.with_engine(engine).asks_for("t4")
    monkeypatch.setattr(plots, "png", lambda figure, **how: drawn(figure) if engine == "unsloth+vllm" else b"a picture")
    run, drive = colab.folder / "run" / "training", colab.folder / "drive" / "grpo-math"
    drive.parent.mkdir()
    mirrored = {"MIRROR = None": f"MIRROR = {str(drive)!r}"}
    names = colab.run("04_grpo_training", **mirrored)
    shown = capsys.readouterr().out
    assert set(colab.installed) >= {"vllm", "unsloth", "bitsandbytes"} and "(about 5 GB)" in shown
    assert names["profile"] == T4.replace(steps=STEPS) and names["policy"].engine == engine
    asked, how = colab.loaded[0]
    assert asked == (QWEN_3B if engine == "transformers" else "unsloth/qwen2.5-3b-instruct-unsloth-bnb-4bit")
    assert how["quantization_config"].load_in_4bit if engine == "transformers" else how["load_in_4bit"]
    assert not [check for check in names["checks"] if check.verdict != "ok"] and "Tesla T4" in names["checks"][0].found
    for line in (" 704  tokens, the longest completion", "128 completions will be sampled", "the cap of 704 tokens"):
        assert line in shown
    assert f"finished after {STEPS} steps" in shown and "the same answer: 16 of 16 after reloading" in shown
    assert "the bare model answers the same" not in shown, "then it was no proof that the adapter counts"

    if alone := engine == "transformers":
        shutil.rmtree(run)
    colab.run("05_evaluation", "held-out points" if engine == "unsloth" else "", **(mirrored if alone else {}))
    shown = capsys.readouterr().out
    assert f"profile t4; judged is the training in RUN, after {STEPS} steps" in shown
    assert ("brought checkpoint-4 back from" in shown) == alone
    assert f"each of the two models gives {QUESTIONS + 8} greedy and 32 sampled answers" in shown
    assert f"held-out points besides base and trained model: {1 - alone}" in shown
    asked = {os.path.relpath(folder, run) for folder in colab.requests}
    assert asked == ({"adapter", "checkpoint-2"} if "vllm" in engine else set())
    if engine != "unsloth":
        summary = read_json(colab.folder / "run" / "summary.json", "")
        assert summary["profile"] == "t4" and summary["n_test"] == QUESTIONS and summary["own_training"]


def test_a_gpu_alone_starts_no_run_of_hours(colab, capsys):
    names = colab.with_engine("transformers").run("04_grpo_training", "preflight(")
    shown = capsys.readouterr().out
    assert "vllm" not in colab.installed and "put `%env GRPO_PROFILE=t4` into a cell above the set-up cell" in shown
    assert names["profile"] == TINY.replace(steps=STEPS) and {check.verdict for check in names["checks"]} == {"ok"}
    assert "the profile t4 is made for it" in names["checks"][0].found
    assert colab.run("05_evaluation", "find_training(")["training"].recorded
    assert "profile tiny; judged is the recorded training, after 160 steps" in capsys.readouterr().out


def test_what_unsloth_changes_is_imported_after_it():
    """Unsloth warns of transformers, which is there; the notebooks' own imports load no part of it that is patched."""
    imports = [cell for name in SHORTER for cell in code(name)[1:2]]
    assert all("from utils.model.policy import" in cell for cell in imports)
    late = ("peft", "trl", "transformers.trainer", "transformers.modeling_utils", "transformers.models.qwen2")
    check = f"import sys; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*imports, check])], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


def test_the_profile_without_its_packages_is_told_what_to_do(colab):
    typed = {'PROFILE = os.environ.get("GRPO_PROFILE") or "tiny"': 'PROFILE = "t4"', "STEPS = None": "STEPS = None"}
    checks = colab.with_engine("transformers").run("04_grpo_training", "preflight(", **typed)["checks"]
    found = {check.name: check for check in checks}
    assert found["versions"].verdict == "fail" and "%env GRPO_PROFILE=t4" in found["versions"].mend
    assert found["time"].verdict == "warn" and "STEPS = 20" in found["time"].mend


@pytest.mark.parametrize("engine", ["unsloth", "transformers"])
def test_an_adapter_takes_the_place_of_another(engine, colab):
    some = questions.load_questions("tiny", "test")[:12]

    def adapter(name, factor):
        """A copy of the recorded one for any model, its B times `factor`."""
        folder = shutil.copytree(ADAPTER, colab.folder / name)
        config = read_json(folder / "adapter_config.json", "") | {"base_model_name_or_path": None}
        write_json(folder / "adapter_config.json", config)
        tensors = load_file(file := folder / "adapter_model.safetensors")
        save_file({key: factor * t if "lora_B" in key else t for key, t in tensors.items()}, file, {"format": "pt"})
        return folder

    def answers(policy):
        return [group[0].text for group in generate(policy, some)]

    recorded, nothing = adapter("recorded", 1), adapter("nothing", 0)
    colab.with_engine(engine)
    policy = load_policy(T4)
    before, policy = answers(policy), with_adapter(policy, recorded)
    trained, policy = answers(policy), with_adapter(policy, nothing)
    assert policy.engine == engine and answers(policy) == before != trained
    assert answers(with_adapter(policy, recorded)) == trained
