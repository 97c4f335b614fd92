"""The benchmarks' own arithmetic: what stock means, when a clock stands still, floors, and the README's numbers."""

import csv
import dataclasses
import json
import re
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trl import GRPOConfig

from tests.benchmarks import decoding, profile_step, speed, stock
from tests.gpu import stand_in
from utils.files import ROOT
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.rewards.functions import REWARDS
from utils.scripts.record import README

RUNS = ROOT / "assets" / "runs"
ADVANTAGE_OR_SILENCE = {"use_cpu", "bf16", "save_strategy", "report_to", "disable_tqdm"}
SET_BY_THE_TRAINER = {"gradient_checkpointing_kwargs"}
THE_SAME_AS_OURS = {"num_generations", "max_completion_length", "reward_weights"}


def rows_of(name):
    with (RUNS / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_pictures_are_drawn_from_what_is_stored_and_say_its_numbers():
    profile = profile_step.figure_of(rows_of("step_profile.csv")).axes[0]
    said = {text.get_text() for text in profile.texts}
    assert {"0.920", "0.199", "0.018", "0.024"} <= said and {"whole step", *profile_step.PARTS} <= {
        label.get_text() for label in profile.get_yticklabels()
    }
    cost = speed.step_cost_figure([row for row in rows_of("speed.csv") if row["part"] == "step_cost"])
    assert [axes.get_title().split(":")[0] for axes in cost.axes] == [f"{n} times as much" for n in (16, 16, 8)]


# ------------------------------------------------------------------------------------------------ stock


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LoRA", "full"])
def test_stock_has_our_task_and_the_defaults_of_trl(kind, tmp_path):
    trainer, profile = stock.stock_trainer(kind, 1.25e-3, 3, str(tmp_path)), get_profile("tiny")
    plain = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[])
    given, default = (dataclasses.asdict(config) for config in (trainer.args, plain))
    moved = {name for name, value in default.items() if given[name] != value and "logging_dir" not in name}
    assert moved - ADVANTAGE_OR_SILENCE - SET_BY_THE_TRAINER <= THE_SAME_AS_OURS | {"learning_rate", "seed"}
    assert (given["learning_rate"], given["seed"]) == (1.25e-3, 3)
    assert given["num_generations"] == profile.group_size
    assert given["max_completion_length"] == profile.max_completion_tokens
    assert trainer.reward_funcs == list(REWARDS) and given["reward_weights"] == list(REWARDS.values())
    assert hasattr(trainer.model, "peft_config") == (kind == "LoRA")
    assert "generate" not in vars(trainer.model) and "forward" not in vars(trainer.model), "stock has no shared prompts"


@pytest.mark.parametrize("kind", stock.RATES)
def test_the_best_rate_is_that_of_the_search(kind):
    """By another route: sorted lists of steps to the target, compared by their middle."""
    runs = {}
    for row in rows_of("stock_search.csv"):
        if row["weights"] == kind:
            steps = runs.setdefault(float(row["learning_rate"]), {})
            steps[row["seed"]] = int(row["step"]) if row["reached"] == "True" else 2 * stock.STEPS
    assert runs.keys() == set(stock.RATES[kind]) and all(len(steps) == len(stock.SEEDS) for steps in runs.values())
    middle = {rate: sorted(steps.values())[len(steps) // 2] for rate, steps in runs.items()}
    assert middle[stock.best(kind)] == min(middle.values())


# ------------------------------------------------------------------------------------------------ clocks


def test_a_pause_comes_whenever_the_clock_has_gone_on_by_a_fifth():
    due = speed.Pauses()
    assert [t for t in (0.5, 0.9, 1.0, 1.1, 1.21, 1.3, 1.46, 4.0, 4.7, 4.9) if due(0, t)] == [1.0, 1.21, 1.46, 4.0, 4.9]


@pytest.mark.slow
def test_the_clock_stands_still_while_it_evaluates(monkeypatch):
    now = iter([0.0, 2.0, 102.0, 105.0, 305.0])  # begin; step 1 ends, goes on; step 2 ends, goes on
    monkeypatch.setattr(stock.time, "perf_counter", lambda: next(now))
    watch = stock.Watch(lambda step, seconds: True, lambda step, seconds, strict: False)
    found = iter([0.7, 0.81])
    monkeypatch.setattr(watch, "strict", lambda model: next(found))
    control = SimpleNamespace(should_training_stop=False)
    watch.on_train_begin(None, None, control)
    for step in (1, 2):
        assert not control.should_training_stop
        watch.on_step_end(None, SimpleNamespace(global_step=step), control, model=None)
    assert watch.seen == [(1, 2.0, 0.7), (2, 5.0, 0.81)] and watch.reached and control.should_training_stop


def test_the_target_is_asked_of_the_whole_split(monkeypatch):
    """The first questions decide only that it is missed."""
    asked = []

    def evaluate(policy, questions):
        asked.append(len(questions))
        return [SimpleNamespace(strict=first) for first in [True] * (len(questions) if len(questions) == 500 else 600)]

    monkeypatch.setattr(stock, "evaluate", evaluate)
    watch = stock.Watch(lambda *_: True, lambda *_: False)
    watch.strict(None)
    assert asked == [stock.FIRST, len(watch.questions) - stock.FIRST]


# ------------------------------------------------------------------------------------------------ floors


def test_the_arithmetic_of_a_forward_is_what_torch_counts():
    """One prompt and one completion, forward only: a third of a step. Torch counts what causal attention leaves out."""
    model = load_policy(get_profile("tiny")).model
    prompt, completion = 40, 24
    ids = torch.randint(3, 600, (1, prompt + completion))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(ids, logits_to_keep=completion + 1)
    n, config = prompt + completion, model.config
    upper_half = 2 * config.num_hidden_layers * config.hidden_size * n**2
    expected = counter.get_total_flops() - upper_half
    assert profile_step.step_flops(model, [prompt], [[completion]]) / 3 == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_the_parts_of_a_step_are_all_seen(tmp_path):
    profile = get_profile("tiny").replace(prompts_per_step=2, micro_batch=16, max_completion_tokens=24)
    for shared in (True, False):
        policy = load_policy(profile)
        clock, trainer = profile_step.profiled(policy, shared, 2, str(tmp_path / str(shared)))
        assert len(clock.steps) == 2 and set(clock.steps[1]) == set(profile_step.PARTS)
        assert all(seconds > 0 for seconds in clock.steps[1].values())
        assert ("forward" in vars(trainer.model)) == shared


@pytest.mark.slow
def test_a_real_model_is_timed_at_completions_that_never_end(tmp_path, monkeypatch, capsys):
    """A random one in its place."""
    rows = (json.dumps({"question": q.question, "answer": f"#### {q.gold}"}) for q in speed.QUESTIONS)
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    monkeypatch.setenv("GSM8K_DIR", str(tmp_path))
    monkeypatch.setattr(decoding, "ROUNDS", 1)
    monkeypatch.setattr(decoding, "matmul_rate", lambda dtype: 2e9)
    monkeypatch.setattr(decoding, "read_rate", lambda: 1e9)
    asked, timed = [], decoding.timed

    def watch(policy, *rest):
        seconds, tokens, texts = timed(policy, *rest)
        asked.append((policy.profile.max_completion_tokens, tokens, len(texts)))
        return seconds, tokens, texts

    monkeypatch.setattr(decoding, "timed", watch)
    stand_in.random_model("small", tmp_path / "model", "cpu")
    decoding.main(["--model", str(tmp_path / "model")])
    assert asked == [(1, 32, 32), (1, 32, 32), (200, 6_400, 32), (200, 6_400, 32)]
    said = capsys.readouterr().out
    shown = [float(number.replace(",", "")) for number in re.findall(r"([\d,.]+) tokens/s \[", said)]
    shares = [float(number) for number in re.findall(r"([\d.]+)%", said)]
    assert "1,706,240 parameters in torch.bfloat16" in said or "in torch.float32" in said
    assert "4 prompts x 8 completions of 200 tokens, 1 times in turn" in said
    floors = 2e9 / (2 * 1_706_240), 32 * 1e9 / (1_706_240 * (2 if "bfloat16" in said else 4))
    assert "2 GFLOP/s, which would be 586 tokens/s" in said
    assert f"1.0 GB/s, which would be {floors[1]:,.0f} tokens/s" in said
    assert shares == [pytest.approx(100 * rate / floor, abs=0.1) for floor in floors for rate in shown]


# ------------------------------------------------------------------------------------------------ numbers


def test_the_readme_shows_the_measured_speed_and_nothing_else():
    shown = README.read_text(encoding="utf-8").split(speed.MARKERS[0])[1].split(speed.MARKERS[1])[0].strip()
    assert shown == speed.speed_table(rows_of("speed.csv"))


def test_the_ratio_is_to_the_faster_of_the_two():
    seconds = {"ours": (2.0, 4.0, 3.0), "stock LoRA": (12.0, 9.0, 10.0), "stock full weights": (60.0, 6.0, 9.0)}
    tokens = {"ours": (700, 800, 600), "stock": (100, 90, 110)}
    rows = [
        {"part": part, "who": who, "value": value, "case": "", "note": ""}
        for part, found in (("time_to_80", seconds), ("rollout", tokens))
        for who, values in found.items()
        for value in values
    ]
    assert speed.ratios(rows) == (pytest.approx(3.0), pytest.approx(7.0))


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_the_exponent_of_a_power_law_is_its_power(power):
    values = [8, 16, 32, 64, 128]
    seconds = [9.0, 9.0] + [0.01 * v**power for v in values[2:]]
    assert speed.exponent(values, seconds) == pytest.approx(power, abs=1e-9)


def test_the_readme_says_what_a_step_costs_without_bfloat16():
    with_it, without = (
        next(float(row["seconds"]) for row in rows_of(f"step_profile_qwen_{dtype}.csv") if row["part"] == "median step")
        for dtype in ("bfloat16", "float32")
    )
    assert "in float32](assets/runs/step_profile_qwen_float32.csv), where a step takes four times as long" in " ".join(
        README.read_text(encoding="utf-8").split()
    )
    assert 3.5 < without / with_it < 4.5


def test_the_readme_says_what_sampling_from_the_real_model_printed():
    text = (ROOT / "assets" / "runs" / "decoding_qwen.txt").read_text(encoding="utf-8")
    parts = re.split(r"\$ ONEDNN_MAX_CPU_ISA|# on another machine|# on a third machine", text)
    printed, without_tiles, without_bfloat16, never_tiles = parts
    spread = r" +([\d.]+) tokens/s \[([\d.]+), ([\d.]+)\]"
    told = []
    for what in ("short loop", "generate", "vLLM"):
        found = re.search(what + spread, printed)
        told.append("{:.0f} [{:.0f}, {:.0f}]".format(*map(float, found.groups())))
    page = " ".join(README.read_text(encoding="utf-8").split()).replace(" tokens a second", "")
    assert f"our loop samples {told[0]}, `generate` {told[1]} and vLLM's CPU build {told[2]}" in page
    assert "would allow 900, so the loop is at a third" in page
    assert re.search(r"would be 900 tokens/s; short loop 3[2-4]\.\d% of it", printed)
    ours, generate = (float(re.search(what + spread, without_tiles)[1]) for what in ("short loop", "generate"))
    allowed, share = re.search(r"arithmetic .*would be (\d+) tokens/s; short loop ([\d.]+)%", without_tiles).groups()
    told = f"it samples {ours:.0f}, `generate` {generate:.0f}, and products of matrices at full rate would allow"
    assert f"{told} {allowed}: {float(share):.0f}% of it" in page
    assert "in torch.float32" in without_bfloat16 and "in torch.bfloat16" in never_tiles
    for part, told in (
        (without_bfloat16, "it is float32: {:.0f} beside {:.0f}, and {:.0f}% of what its products allow"),
        (never_tiles, "on a third, which has bfloat16 and no tiles, {:.0f} beside {:.0f}, and {:.0f}%"),
    ):
        rates = [float(re.search(what + spread, part)[1]) for what in ("short loop", "generate")]
        [share] = re.findall(r"arithmetic .*short loop ([\d.]+)%", part)
        assert told.format(*rates, float(share)) in page
