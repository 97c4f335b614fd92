"""The proof for a GPU, on a CPU at a small shape: everything but the CUDA calls, whose answers are acted."""

import json
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tests.gpu import measure, prove, report, stand_in, wheels
from tests.gpu.meter import PHASES, Meter
from utils.data.prompts import SYSTEM_PROMPT, chat_prompt
from utils.data.questions import load_questions
from utils.files import ROOT
from utils.model.profiles import PROFILES, Profile
from utils.setup import read_pins
from utils.training.memory import GIB, memory_model, parameters, peak

QUESTIONS = load_questions("tiny", "train")[:8]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: tests/gpu/test_gpu.py runs instead")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    stand_in.random_model("small", folder, "cpu")
    return folder


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """`python -m tests.gpu.prove` at the small shape: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("proof")
    command = [sys.executable, "-m", "tests.gpu.prove", "--output", str(folder), "--shape", "small", "--steps", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture
def part(proof):
    return json.loads((proof[0] / "parts" / "small-transformers.json").read_text())


# ------------------------------------------------------------------------------------------ stand-ins


@pytest.mark.parametrize(
    ("shape", "count"), [("qwen2.5-3b", 3_085_938_688), ("qwen2.5-0.5b", 494_032_768), ("small", 1_706_240)]
)
def test_the_shapes_are_qwens(shape, count):
    """The counts are those on the models' pages (3.09B, 0.49B); the memory model's own count agrees."""
    config = Qwen2Config.from_dict(stand_in.QWEN | stand_in.CONFIGS[shape])
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == count == sum(parameters(stand_in.CONFIGS[shape]))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert config.max_position_embeddings == 32768 and config.rms_norm_eps == 1e-6
    assert (getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]) == 1e6


def test_a_random_model_is_written_in_shards_and_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "SHARD", "1MB")
    assert stand_in.random_model("small", tmp_path, "cpu") == 1_706_240
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert not [f for f in tmp_path.iterdir() if f.suffix in (".bin", ".pt")]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype in (torch.bfloat16, torch.float32)  # transformers 5 keeps the files' type, 4 makes it float32
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert model.get_input_embeddings().weight.float().std().item() == pytest.approx(0.02, rel=0.05)
    assert len(tokenizer) < 2048 and tokenizer.chat_template and tokenizer.eos_token_id == model.config.eos_token_id
    assert torch.get_default_dtype() == torch.float32


def test_the_profile_is_t4_with_another_model(tmp_path):
    t4 = PROFILES["t4"]
    assert stand_in.proof_profile("qwen2.5-3b", tmp_path, 10, True) == t4.replace(
        model=str(tmp_path), steps=10, save_every=10
    )
    small = stand_in.proof_profile("small", tmp_path, 10, False)
    assert not small.unsloth and small.dtype == "float32" and small.lora_rank == t4.lora_rank


def test_prompts_are_filled_to_the_cap_and_no_further(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    filled = stand_in.full_prompts(QUESTIONS, tokenizer, 320, SYSTEM_PROMPT)
    conversations = [chat_prompt(q.question, SYSTEM_PROMPT) for q in filled]
    rendered = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    assert all(310 <= len(ids) <= 320 for ids in tokenizer(rendered, add_special_tokens=False)["input_ids"])
    assert [q.gold for q in filled] == [q.gold for q in QUESTIONS]
    assert all(f.question.startswith(q.question) for f, q in zip(filled, QUESTIONS, strict=True))
    assert rendered[0].count(QUESTIONS[0].question) > 1
    with pytest.raises(ValueError, match="more than 20: 'Z?"):
        stand_in.full_prompts(QUESTIONS, tokenizer, 20, SYSTEM_PROMPT)


def test_the_proof_reward_tells_completions_apart():
    ids = [[5, 6], [5, 7], [5, 6], [56]]
    a, b, c, d = stand_in.hash_reward(["", "", "", ""], completion_ids=ids, gold=["1"] * 4)
    assert a == c and len({a, b, d}) == 3 and all(0 <= r < 1 for r in (a, b, d))


# -------------------------------------------------------------------------------------------- meter


class Allocator:
    """The functions of torch.cuda that the meter asks."""

    def __init__(self):
        self.now = self.highest = 0

    def hold(self, n):
        self.now += n
        self.highest = max(self.highest, self.now)

    def is_initialized(self):
        return self.now > 0  # torch sets CUDA up when the first tensor goes there

    def synchronize(self):
        assert self.is_initialized(), "asking now would set the allocator up before Unsloth could choose its settings"

    def memory_allocated(self):
        return self.now

    def max_memory_allocated(self):
        return self.highest

    def max_memory_reserved(self):
        return self.highest + 7

    def reset_peak_memory_stats(self):
        self.highest = self.now


class Trainer:
    """Goes through the phases as TRL's trainer does: once sampled, two micro-batches, one optimizer step."""

    def __init__(self, cuda):
        self.cuda, self.callbacks = cuda, []

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def tell(self, event):
        for callback in self.callbacks:
            getattr(callback, event)(None, None, None)

    def _generate_single_turn(self, prompts):
        self.cuda.hold(100)
        self.cuda.hold(-100)
        return prompts

    def _generate_and_score_completions(self, inputs):
        return self._generate_single_turn(inputs)

    def compute_loss(self, model, inputs):
        self.cuda.hold(300)
        return "loss"

    def step(self):
        self.tell("on_step_begin")
        assert self._generate_and_score_completions("prompts") == "prompts"
        for _ in range(2):
            assert self.compute_loss(None, inputs=None) == "loss"
            self.cuda.hold(50)  # backward: gradients of all, then the activations go
            self.cuda.hold(-345)
        self.tell("on_pre_optimizer_step")
        self.cuda.hold(20)
        self.tell("on_optimizer_step")


def test_the_meter_gives_each_phase_its_own_peak():
    meter, cuda = Meter(), Allocator()
    meter.cuda = cuda
    meter.enter("load")
    cuda.hold(1000)
    meter.enter("adapters")
    cuda.hold(40)
    trainer = Trainer(cuda)
    meter.watch(trainer)
    meter.enter(None)
    trainer.step()
    trainer.step()
    meter.enter(None)
    assert [(p["start"], p["end"]) for p in meter.setup.values()] == [(0, 1000), (1000, 1040)]
    assert len(meter.steps) == 2 and set(meter.steps[0]) == set(PHASES)
    first = {name: (p["start"], p["peak"], p["end"], p["reserved"]) for name, p in meter.steps[0].items()}
    assert first["generation"] == (1040, 1140, 1040, 1147)
    assert first["scoring"] == (1040, 1040, 1040, 1047)
    assert first["forward"] == (1040, 1345, 1345, 1352), "the second micro-batch starts on 5 bytes of gradients"
    assert first["backward"] == (1340, 1395, 1050, 1402)
    assert first["optimizer"] == (1050, 1070, 1070, 1077)
    assert meter.steps[1]["generation"]["start"] == 1070


def test_without_a_gpu_the_meter_measures_time_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    meter = Meter()
    meter.enter("load")
    meter.enter(None)
    assert meter.setup["load"]["seconds"] >= 0
    assert all(meter.setup["load"][name] is None for name in ("start", "end", "peak", "reserved"))


# --------------------------------------------------------------------------------- a proof on a CPU


@pytest.mark.slow
@no_gpu
def test_the_small_proof_measures_every_phase(proof, part):
    assert part["finished"] and part["device"] == "cpu" and part["room"] is None
    assert part["changed"] == part["trainable"]["tensors"] == 28 and part["adapter_dtypes"] == ["torch.float32"]
    assert len(part["log"]) == len(part["phases"]["steps"]) == 3
    assert set(part["phases"]["setup"]) == {"load", "adapters"}
    for step, line in zip(part["phases"]["steps"], part["log"], strict=True):
        assert set(step) == set(PHASES) and all(phase["seconds"] > 0 for phase in step.values())
        assert line["frac_reward_zero_std"] == 0 and line["completions/mean_length"] > 20
    assert report.learning(part)["sound"]
    assert 120 <= part["prompt_tokens"][0] <= part["prompt_tokens"][1] <= 128
    assert not list(proof[0].rglob("*.safetensors")), "the random weights should be gone"


@pytest.mark.slow
@no_gpu
def test_the_record_says_what_was_and_was_not_measured(proof):
    folder, printed = proof
    record = json.loads((folder / "gpu.json").read_text())
    page = (folder / "gpu.md").read_text()
    assert page in printed and not record["failures"] and record["tiny"] is None
    assert record["commands"] == ["python -m tests.gpu.prove --output DIR --shape small --steps 3"]
    assert record["versions"]["trl"] and record["date"] and record["gpu"]["name"] == "no GPU"
    assert "A T4 was not used." in page and "Goal, at most 14.0 GiB at the peak: **not measured**." in page
    engine = record["engines"][0]
    assert engine["memory"]["goal_met"] is None and engine["memory"]["parts"]["weights"][1] > 0
    assert len(engine["speed"]["tokens_per_second"]) == 3
    report.collect(folder)
    assert (folder / "gpu.md").read_text() == page, "collecting again should change nothing"


@no_gpu
def test_the_real_shapes_are_refused_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prove", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="skipped: no NVIDIA GPU was found.*on a CPU choose --shape small"):
        prove.main()
    assert not list(tmp_path.iterdir())


@no_gpu
def test_another_engine_than_the_one_asked_for_is_no_proof(model, tmp_path, monkeypatch):
    for name in ("vllm", "unsloth"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("UNSLOTH_GRPO_PREFIX_GROUPER", "0")
    job = {"shape": "small", "engine": "unsloth", "steps": 2, "room": None, "used_before": 0}
    (tmp_path / "job.json").write_text(json.dumps(job))
    with pytest.raises(RuntimeError, match="asked for unsloth, got transformers"):
        measure.measure(tmp_path / "job.json", model)


def test_a_misspelt_engine_or_shape_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prove", "--output", "x", "--engines", "unsloth,vllm"])
    with pytest.raises(SystemExit):
        prove.main()
    assert "vllm is none of unsloth, transformers" in capsys.readouterr().err


def act_as_child(monkeypatch, *outcomes):
    """Replace the child process: each call takes the next (status, tail); returns the jobs that it was given."""
    jobs, left = [], list(outcomes)

    def run_shown(command, env):
        job = Path(command[-2])
        jobs.append(json.loads(job.read_text()))
        status, tail = left.pop(0)
        if not status:
            job.write_text(json.dumps({k: v for k, v in jobs[-1].items() if k != "error"}))
        return status, tail

    monkeypatch.setattr(prove, "run_shown", run_shown)
    return jobs


def test_an_engine_that_fails_leaves_its_last_words(tmp_path, monkeypatch):
    jobs = act_as_child(monkeypatch, (1, "Traceback\nImportError: no such kernel\n"))
    prove.prove_engine("small", "unsloth", tmp_path, 3, tmp_path / "parts" / "small-unsloth.json", room=None)
    assert jobs[0]["error"] == "stopped before its first step" and jobs[0]["steps"] == 3
    record = report.collect(tmp_path)
    assert [part["engine"] for part in record["failures"]] == ["unsloth"]
    page = (tmp_path / "gpu.md").read_text()
    assert "## small, unsloth: failed" in page and "ImportError: no such kernel" in page


def test_out_of_memory_in_a_t4s_room_is_recorded_and_measured_again_without_it(tmp_path, monkeypatch):
    jobs = act_as_child(monkeypatch, (1, "torch.OutOfMemoryError: CUDA out of memory."), (0, ""))
    prove.prove_engine("small", "unsloth", tmp_path, 3, tmp_path / "parts" / "small-unsloth.json", room=GIB)
    assert [job["room"] for job in jobs] == [GIB, None]
    first, second = (json.loads((tmp_path / "parts" / f"small-unsloth{s}.json").read_text()) for s in ("-room", ""))
    assert first["room"] == GIB and "out of memory" in first["error"]
    assert second["room"] is None and "error" not in second


def test_what_a_child_prints_is_shown_and_its_end_kept(capfd):
    code = "import sys\nfor i in range(50): print(i)\nprint('last', file=sys.stderr)\nsys.exit(3)"
    status, tail = prove.run_shown([sys.executable, "-c", code], {})
    assert status == 3 and tail.splitlines()[0] == "11" and tail.splitlines()[-1] == "last"
    assert capfd.readouterr().out.splitlines()[0] == "0"


@pytest.mark.slow
@no_gpu
def test_the_embedded_model_is_compared_with_the_recorded_runs(tmp_path):
    changes = dict(steps=1, prompts_per_step=2, group_size=4, micro_batch=8, max_completion_tokens=48)
    summary = prove.prove_tiny(tmp_path / "parts" / "tiny.json", limit=8, **changes)
    assert summary["n_test"] == 8 and summary["train_steps"] == 1 and summary["device"] == "cpu"
    assert [run["seed"] for run in summary["recorded"]] == [0, 1, 2]
    record = report.collect(tmp_path)
    assert record["tiny"]["trained"]["strict"] == summary["trained"]["strict"]
    page = (tmp_path / "gpu.md").read_text()
    after = summary["recorded"][0]["trained"]["strict"]["rate"]
    assert page.count(f"| 0 | 58.8% | {100 * after:.1f}% |") == 1 and "Within three standard deviations" in page


@pytest.mark.slow
@no_gpu
def test_a_real_model_is_trained_in_as_many_calls_as_it_takes(tmp_path):
    """The embedded weights stand for real ones; its dataset for GSM8K."""
    changes = dict(dataset="tiny", dtype="float32", prompt="words", solution_steps=None, max_prompt_tokens=128)
    changes |= dict(steps=2, prompts_per_step=2, group_size=4, micro_batch=8, max_completion_tokens=48, save_every=1)
    folder, path = tmp_path / "real", tmp_path / "parts" / "real.json"
    model = PROFILES["tiny"].model
    summary = prove.prove_real(model, folder, path, limit=8, **changes | dict(steps=1))
    assert summary["n_test"] == 8 and summary["train_steps"] == 1
    asked = (folder / "base" / "completions.jsonl").read_bytes()
    shutil.rmtree(folder / "trained")
    again = prove.prove_real(model, folder, path, limit=8, **changes)
    assert again["train_steps"] == 2 and again["base"] == summary["base"] and again["model"].endswith("tiny_model")
    assert (folder / "base" / "completions.jsonl").read_bytes() == asked, "answered questions are not asked again"
    record = report.collect(tmp_path)
    assert record["real"]["trained"] == again["trained"] and not record["engines"]
    page = (tmp_path / "gpu.md").read_text()
    assert "tiny_model, trained here" in page and "8 test questions, greedy:" in page and "2 steps in" in page


def test_a_real_model_is_asked_for_by_shape_and_folder(monkeypatch, capsys):
    for arguments in (["--shape", "real"], ["--model", "somewhere"]):
        monkeypatch.setattr(sys, "argv", ["prove", "--output", "x", *arguments])
        with pytest.raises(SystemExit):
            prove.main()
        assert "--shape real and --model FOLDER go together" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- report


def on_gpu(part, steps=2):
    """The part as a GPU would have left it, with memory that fits on one's fingers [MiB]."""

    def phase(start, top, end):
        start, top, end = (n * 2**20 for n in (start, top, end))
        return {"seconds": 0.5, "start": start, "peak": top, "end": end, "reserved": top + 2**20}

    step = {
        "generation": phase(110, 150, 110),
        "scoring": phase(110, 112, 110),
        "forward": phase(110, 300, 290),
        "backward": phase(290, 400, 115),
        "optimizer": phase(114, 130, 117),
        "other": phase(110, 117, 110),
    }
    setup = {"load": phase(0, 101, 100), "adapters": phase(100, 112, 108)}
    return part | {
        "phases": {"setup": setup, "steps": [step] * steps},
        "log": part["log"][:steps],
        "outside_torch": 500 * 2**20,
        "room": 15 * GIB,
    }


@pytest.mark.slow
def test_memory_is_compared_part_by_part(part):
    part = on_gpu(part)
    found = report.fit(part)
    measured = {name: pair[0] / 2**20 for name, pair in found["parts"].items()}
    assert measured == {
        "weights": 100,
        "adapters": 8,
        "gradients": 4,
        "optimizer state": 3,
        "sampling (KV cache)": 40,
        "forward": 190,
        "backward": 290,
        "activations and logits": 290,
        "reserve": 501,
    }
    model = memory_model(part["config"], Profile(**part["profile"]), "transformers", 15 * GIB)
    assert found["peak"] == [901 * 2**20, peak(model)] and found["goal_met"] is True
    assert found["parts"]["weights"][1] == model["weights"]
    lines = report.memory_lines(part)
    assert (
        f"| weights | 100.0 MiB | {model['weights'] / 2**20:.1f} MiB | {100 * 2**20 / model['weights']:.2f} |" in lines
    )
    assert lines[-1].endswith("**passed**.")
    assert "| backward | 115.0 MiB | 0.4 GiB | 0.4 GiB |" in report.phase_lines(part)
    assert report.memory_lines(part | {"outside_torch": 14 * GIB})[-1].endswith("**failed**.")


@pytest.mark.slow
def test_the_first_step_stands_apart(part):
    steps = part["phases"]["steps"]
    for i, step in enumerate(steps):
        for phase in step.values():
            phase["seconds"] = (9.0, 1.0, 2.0)[i]
        part["log"][i]["completions/mean_length"] = 32.0
    found = report.speed(part)
    assert found["first_step"] == 9.0 * len(PHASES)
    assert found["step"] == [1.5 * len(PHASES), 1.0 * len(PHASES), 2.0 * len(PHASES)]
    assert found["tokens_per_second"] == [pytest.approx(x * 32 * 8) for x in (0.75, 0.5, 1.0)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norms", "loss", "changed", "sound", "why"),
    [
        ([1.0, 2.0, 3.0], 0.0, 28, True, "a plain run"),
        (["inf", "nan", 3.0], 0.0, 28, True, "the scaler's first tries"),
        ([1.0, "inf", 3.0], 0.0, 28, False, "an overflow after a finite step"),
        (["inf", "inf", "inf"], 0.0, 28, False, "no step was ever taken"),
        ([1.0, 0.0, 3.0], 0.0, 28, False, "a step without a gradient"),
        ([1.0, 2.0, 3.0], "nan", 28, False, "no loss"),
        ([1.0, 2.0, 3.0], 0.0, 27, False, "an adapter that never moved"),
    ],
)
def test_a_run_is_sound_only_if_it_learnt(part, norms, loss, changed, sound, why):
    part["log"] = [{"loss": loss, "grad_norm": norm} for norm in norms]
    assert report.learning(part | {"changed": changed})["sound"] is sound, why
    assert not report.learning(part | {"finished": False, "changed": changed})["sound"], "it was cut off"


@pytest.mark.slow
def test_a_part_that_was_cut_off_is_still_reported(part, tmp_path):
    (tmp_path / "parts").mkdir()
    cut = on_gpu(part, steps=1) | {"finished": False, "error": "exit status -9\n"}
    (tmp_path / "parts" / "a.json").write_text(json.dumps(cut))
    record = report.collect(tmp_path)
    assert record["engines"][0]["speed"]["step"] is None and not record["engines"][0]["learning"]["sound"]
    assert "**not sound**" in (tmp_path / "gpu.md").read_text()


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no part; run python -m tests.gpu.prove"):
        report.collect(tmp_path)


# ------------------------------------------------------------------------------------------- wheels


def test_both_sets_follow_the_pins():
    pins = read_pins(ROOT / "requirements.txt")
    shared, pinned, newer = (wheels.versions_of(which) for which in ("shared", "pinned", "newer"))
    assert pinned["trl"] == pins["trl"] and newer["trl"] == "1.14.2" and "transformers" not in newer
    assert not shared.keys() & (pinned.keys() | newer.keys()), "one version of each on the path"
    ours = pins.keys() - {"vllm", "matplotlib", "ipywidgets"}
    assert ours <= shared.keys() | pinned.keys()
    assert all((shared | pinned)[name] == pins[name] for name in ours)


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as content:
        for file, data in files.items():
            content.writestr(file, data)
    return path


def test_a_wheel_loses_what_is_not_needed_alone(tmp_path):
    files = {
        "bitsandbytes/__init__.py": b"x = 1",
        "bitsandbytes/libbitsandbytes_cuda130.so": b"13",
        "bitsandbytes/libbitsandbytes_cuda124.so": b"12" * 10_000,
        "bitsandbytes-1.0.dist-info/METADATA": b"Name: bitsandbytes",
    }
    stripped = wheels.strip(wheel(tmp_path, "bitsandbytes", files), tmp_path / "out")
    with zipfile.ZipFile(stripped) as content:
        assert set(content.namelist()) == files.keys() - {"bitsandbytes/libbitsandbytes_cuda124.so"}
        assert content.read("bitsandbytes/libbitsandbytes_cuda130.so") == b"13"
    other = wheels.strip(wheel(tmp_path, "trl", {"trl/a.py": b"", "studio/b.py": b""}), tmp_path / "out")
    with zipfile.ZipFile(other) as content:
        assert content.namelist() == ["trl/a.py", "studio/b.py"]


def test_packing_and_unpacking_one_set(tmp_path, monkeypatch):
    def download(packages, folder):
        for name, version in packages.items():
            wheel(folder, name, {f"{name}/version.py": version.encode()})

    monkeypatch.setattr(wheels, "download", download)
    total = wheels.pack(tmp_path / "packed")
    assert 0 < total == sum(f.stat().st_size for f in (tmp_path / "packed").rglob("*.whl"))
    for which, trl in (("pinned", read_pins(ROOT / "requirements.txt")["trl"]), ("newer", "1.14.2")):
        wheels.unpack(tmp_path / "packed", tmp_path / which, which)
        assert (tmp_path / which / "trl" / "version.py").read_text() == trl
        assert (tmp_path / which / "transformers").exists() is (which == "pinned")
        assert (tmp_path / which / "unsloth").exists()
    with pytest.raises(ValueError, match="is not empty"):
        wheels.pack(tmp_path / "packed")
    monkeypatch.setattr(wheels, "LIMIT", 100)
    with pytest.raises(ValueError, match="are allowed; strip more"):
        wheels.pack(tmp_path / "again")


def test_what_pip_said_is_passed_on(tmp_path, monkeypatch):
    failed = types.SimpleNamespace(returncode=1, stderr="ERROR: No matching distribution found for trl==0.0.1\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(RuntimeError, match=r"could not fetch trl==0\.0\.1:\nERROR: No matching distribution"):
        wheels.download({"trl": "0.0.1"}, tmp_path)


@pytest.mark.network
def test_the_real_wheels_fit(tmp_path):
    try:
        total = wheels.pack(tmp_path)
    except RuntimeError as error:
        if "NewConnectionError" in str(error) or "ConnectTimeout" in str(error):
            pytest.skip("the package index does not answer")
        raise
    assert 20 * 2**20 < total < wheels.LIMIT
    wheels.unpack(tmp_path, tmp_path / "site", "newer")
    assert [f.name for f in (tmp_path / "site" / "bitsandbytes").glob("lib*cuda*.so")] == ["libbitsandbytes_cuda130.so"]
    assert (tmp_path / "site" / "unsloth_zoo" / "rl_replacements.py").exists()
