"""The trainer beside TRL's own way: what is left out of a step, and that it learns the same."""

import math
from statistics import fmean

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import TrainerCallback

from utils.data.questions import load_questions
from utils.files import read_jsonl
from utils.model import prompt_sharing
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.plots import learning_curves, png
from utils.rewards.functions import text_of
from utils.rewards.groups import is_dead
from utils.training import trainer as module
from utils.training.grpo import build_trainer, run_training
from utils.training.trainer import by_prompt
from utils.training.watch import Alarms, LiveTable, alarms, log_table, panel

PROFILE = get_profile("tiny").replace(
    steps=3, prompts_per_step=3, group_size=4, micro_batch=4, max_completion_tokens=24, save_every=1
)
QUESTIONS = load_questions("tiny", "train")[:12]

# ------------------------------------------------------------------------------------------------ by_prompt

LIVE, DEAD = [0.9, -0.9, 0.0], [0.0, 0.0, 0.0]


def step_of(*groups, micro_batch=3, lengths=None):
    """A step's micro-batches from the advantages of its groups, shuffled; every tensor tells which row it is of."""
    advantages = torch.tensor([a for group in groups for a in group])
    row = torch.arange(len(advantages))
    prompt = torch.tensor([i for i, group in enumerate(groups) for _ in group])
    lengths = torch.tensor(lengths) if lengths else 2 + row % 3
    rows = {
        "prompt_ids": torch.stack([torch.zeros_like(prompt), 7 + prompt], 1),
        "prompt_mask": torch.stack([torch.zeros_like(prompt), torch.ones_like(prompt)], 1),
        "completion_ids": 100 + row[:, None].expand(-1, 9),
        "completion_mask": (torch.arange(9) < lengths[:, None]).long(),
        "advantages": advantages,
    }
    order = torch.randperm(len(row), generator=torch.Generator().manual_seed(1))
    whole = {"num_items_in_batch": torch.tensor(51), "ref_per_token_logps": None}
    return [{name: t[part] for name, t in rows.items()} | whole for part in order.split(micro_batch)], rows


def numbers(batches):
    """Which rows stand in each micro-batch."""
    return [(batch["completion_ids"][:, 0] - 100).tolist() for batch in batches]


@pytest.mark.parametrize(
    "groups, micro_batch, kept",
    [
        ((LIVE, LIVE), 3, {0, 1, 3, 4}),  # without an advantage of its own
        ((LIVE, DEAD, LIVE), 3, {0, 1, 6, 7}),
        ((DEAD, LIVE), 1, {3, 4}),
        ((LIVE, LIVE), 6, {0, 1, 3, 4}),
        (([1e-9, -1e-9], [5.0, -5.0]), 2, {0, 1, 2, 3}),  # small is not none
        (([math.nan, math.nan], [1.0, -1.0]), 2, {0, 1, 2, 3}),  # nor is what is no number: the alarm has to see it
    ],
)
def test_what_has_an_advantage_is_there_once_with_all_that_belongs_to_it(groups, micro_batch, kept):
    batches, rows = step_of(*groups, micro_batch=micro_batch)
    found = by_prompt(batches)
    assert len(found) == len(batches) and all(1 <= len(each["advantages"]) <= micro_batch for each in found)
    there = [number for part in numbers(found) for number in part]
    assert kept <= set(there) and len(there) == len(set(there)), "each of them, and none twice"
    for batch, part in zip(found, numbers(found), strict=True):
        assert set(part) <= kept or len(part) == 1, "one without an advantage is there alone or not at all"
        assert batch.keys() == batches[0].keys()
        assert batch["num_items_in_batch"] == 51 and batch["ref_per_token_logps"] is None
        for name, tensor in rows.items():
            assert torch.allclose(batch[name].float(), tensor[part].float(), rtol=0, atol=0, equal_nan=True), name


def test_rows_of_a_prompt_stand_together_and_those_with_an_advantage_in_front():
    batches, rows = step_of(LIVE, DEAD, LIVE, LIVE, micro_batch=4)
    found = by_prompt(batches)
    assert [len(part) for part in numbers(found)] == [4, 2, 1]
    prompts = [prompt for batch in found for prompt in batch["prompt_ids"][:, 1].tolist()]
    assert prompts[:6] == [7, 7, 9, 9, 10, 10], "six with an advantage, by prompts"


def test_a_micro_batch_without_any_keeps_its_shortest():
    batches, rows = step_of(DEAD, DEAD, micro_batch=3, lengths=[5, 3, 4, 2, 8, 6])
    assert numbers(by_prompt(batches)) == [[1], [3]]
    assert all(batch["advantages"].tolist() == [0] for batch in by_prompt(batches))


@pytest.mark.parametrize("size", [3, 6, 8, 16])
@pytest.mark.parametrize("reward", [0.0, 0.2, 1.0, 1.2, 0.7, 1 / 3, 12.3])
def test_equal_rewards_are_no_advantage_whatever_float32_makes_of_their_mean(size, reward):
    rewards = torch.tensor([reward] * size + [reward, 0.1] * (size // 2) + [reward] * (size % 2)).view(2, size)
    off, std = rewards - rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)  # as TRL does
    advantages = (off / (std + 1e-4)).tolist()
    assert max(map(abs, advantages[0])) < 0.02, "of the dead group; with 8 of 1.2 it is 0.0012"
    found = by_prompt(step_of(*advantages, micro_batch=2 * size)[0])
    assert sorted(numbers(found)[0]) == [i for i in range(size, 2 * size) if advantages[1][i - size] != 0]
    (left,) = by_prompt(step_of(advantages[0], micro_batch=size)[0])
    assert left["advantages"].tolist() == [0.0]


# ------------------------------------------------------------------------------------------------ three steps


def lively(completions, question, **columns):
    """Depends on the length; to some questions all answers are worth the same."""
    return [1.0 if len(q) % 2 else len(text_of(c)) % 5 / 4 for c, q in zip(completions, question, strict=True)]


def lifeless(completions, **columns):
    return [1.2] * len(completions)


@pytest.fixture
def read(monkeypatch):
    """Let the tiny vocabulary count as a wide one; lists how many completions each call reads."""
    calls, completion_logps = [], module.completion_logps

    def counted(model, input_ids, *args):
        calls.append(len(input_ids))
        return completion_logps(model, input_ids, *args)

    monkeypatch.setattr(prompt_sharing, "WIDE", 100)
    monkeypatch.setattr(module, "completion_logps", counted)
    return calls


def trainer_for(folder, reward=lively, callbacks=(), settings=None, **changes):
    """By plain steps: Adam goes as far where the gradient is 0 but for rounding as anywhere else."""
    changes = {"learning_rate": 1.0} | changes
    settings = {"optim": "sgd"} | (settings or {})
    return build_trainer(
        load_policy(PROFILE.replace(**changes)), QUESTIONS, folder, 3, {reward: 1.0}, callbacks, settings
    )


def in_trls_way(folder, **how):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "without_logits", lambda model: False)
        run_training(trainer_for(folder, **how))
    return folder


def assert_learnt_the_same(one, other, rel=1e-4):
    assert read_jsonl(one / "rollouts.jsonl") == read_jsonl(other / "rollouts.jsonl")
    for a, b in zip(*(read_jsonl(folder / "log.jsonl") for folder in (one, other)), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"step_time", "entropy"}:
            assert a[name] == pytest.approx(b[name], rel=rel, abs=1e-6), (a["step"], name)
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys() and len(first) == 56
    for name, tensor in second.items():
        assert tensor.abs().max() > 0, name
        assert (first[name] - tensor).abs().max() <= rel * tensor.abs().max(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, calls",
    [
        ({}, [4, 1, 1] + [4, 4, 1] + [4, 1, 1]),
        ({"micro_batch": 1}, [1] * 36),
        ({"micro_batch": 12}, [4] + [8] + [4]),
        ({"group_size": 6, "micro_batch": 9}, [6, 1] + [9, 3] + [6, 1]),
        ({"beta": 0.04}, [12, 4, 4, 4] * 3),  # the reference reads them, too
        ({"settings": {"loss_type": "grpo"}}, [4] * 9),
        ({"settings": {"num_iterations": 2}}, [12] + [4, 1, 1] * 2 + [12] + [4, 4, 1]),
    ],
    ids=str,
)
def test_it_learns_what_trl_learns_from_fewer_completions(tmp_path, read, how, calls):
    run_training(trainer_for(tmp_path / "ours", **how))
    assert_learnt_the_same(tmp_path / "ours", in_trls_way(tmp_path / "theirs", **how))
    assert read == calls


@pytest.mark.parametrize(
    "settings, left_out",
    [
        ({}, True),
        ({"num_iterations": 2}, True),
        ({"scale_rewards": "none"}, True),
        ({"steps_per_generation": 6}, False),  # two steps, each with its own completions
        ({"beta": 0.04}, False),
        ({"top_entropy_quantile": 0.8}, False),
        *(({"loss_type": loss}, False) for loss in ("grpo", "bnpo", "dr_grpo")),  # means over a micro-batch
    ],
    ids=str,
)
def test_where_the_loss_is_no_sum_everything_is_read(tmp_path, read, settings, left_out):
    assert completions(trainer_for(tmp_path, lifeless, settings=settings)) == {1 if left_out else 4}


def completions(trainer):
    """How many of its four each micro-batch of a step holds."""
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    trainer._prepare_inputs(rows)
    return {len(batch["advantages"]) for batch in trainer._buffered_inputs}


def test_beside_other_processes_everything_is_read_in_trls_way(tmp_path, read, monkeypatch):
    trainer = trainer_for(tmp_path, lifeless)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    assert completions(trainer) == {4}
    trainer.current_gradient_accumulation_steps = 3
    trainer.compute_loss(trainer.model, trainer._buffered_inputs[0]).backward()
    assert read == []


def test_a_model_in_a_wrapper_is_left_to_trl(tmp_path, monkeypatch):
    """transformers puts one on several GPUs into a DataParallel, which has no config."""
    trainer = trainer_for(tmp_path)
    monkeypatch.setattr(module, "without_logits", lambda model: model.config.vocab_size < 0)
    ids, mask = torch.randint(3, 600, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    logps, _ = trainer._get_per_token_logps_and_entropies(torch.nn.DataParallel(trainer.model), ids, mask, 4)
    assert logps.shape == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_what_advantages_are_divided_by_changes_them_in_the_rollouts_and_not_the_dead_groups(
    tmp_path, monkeypatch, scale
):
    used, score = [], module.Trainer._generate_and_score_completions

    def watched(trainer, inputs):
        scored = score(trainer, inputs)
        used.append(scored["advantages"].tolist())
        return scored

    monkeypatch.setattr(module.Trainer, "_generate_and_score_completions", watched)

    def some(completions, **_):  # of the first question alike, of the others not
        return [1.0 if i < 4 else (i % 2) / (1 + i // 8) for i in range(len(completions))]

    run_training(trainer_for(tmp_path, some, settings={"scale_rewards": scale}))
    log, rollouts = (read_jsonl(tmp_path / name) for name in ("log.jsonl", "rollouts.jsonl"))
    assert [line["frac_reward_zero_std"] for line in log] == pytest.approx([1 / 3] * 3)
    assert [fmean(map(is_dead, record["groups"])) for record in rollouts] == pytest.approx([1 / 3] * 3)
    recorded = [[a for group in record["groups"] for a in group["advantages"]] for record in rollouts]
    assert len(used) == 3 and recorded == [pytest.approx(each, abs=1e-3) for each in used]
    largest = max(map(abs, used[0]))
    assert largest == pytest.approx({"group": 0.866, "batch": 1.067, "none": 0.5}[scale], abs=0.01), (
        "else all are alike"
    )


@pytest.mark.slow
def test_a_step_in_which_every_group_is_dead(tmp_path, read, capsys):
    table, watch = LiveTable(3, every=1), Alarms({lifeless: 1.0})
    run_training(trainer_for(tmp_path, lifeless, [table, watch], group_size=8, micro_batch=6))
    assert read == [1] * 12
    history = read_jsonl(tmp_path / "log.jsonl")
    for line in history:
        assert line["loss"] == line["grad_norm"] == 0 and line["frac_reward_zero_std"] == 1
        assert line["entropy"] > 0 and line["clip_ratio/region_mean"] == 0
    assert "step    3/3  reward 1.20" in capsys.readouterr().out
    before = load_file(tmp_path / "checkpoint-2" / "adapter_model.safetensors")
    after = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.slow
@pytest.mark.parametrize("entropy", ["missing", None])
def test_a_log_without_an_entropy_is_shown_and_watched(entropy):
    line = {"loss": 0.0, "grad_norm": 0.0, "reward": 1.2, "reward_std": 0.0, "frac_reward_zero_std": 1.0}
    history = [{"step": n, **line} | ({} if entropy else {"entropy": entropy}) for n in range(1, 31)]
    assert [alarm.name for alarm in alarms(history, {lifeless: 1.0})] == ["dead groups"]
    assert "dead groups" in panel(history, {lifeless: 1.0}) and "100%" in log_table(history, 30)
    assert png(learning_curves(history)).startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_resumed_in_the_middle_is_the_same_to_the_bit(tmp_path, read):
    unbroken = run_training(trainer_for(tmp_path / "unbroken", settings={"optim": "adamw_torch"}))

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    how = {"settings": {"optim": "adamw_torch"}}
    run_training(trainer_for(tmp_path / "broken", callbacks=[Stop()], **how))
    resumed = run_training(trainer_for(tmp_path / "broken", **how), resume=True)
    assert resumed.steps == 3 and read[:9] == read[9:]
    assert read_jsonl(tmp_path / "unbroken" / "rollouts.jsonl") == read_jsonl(tmp_path / "broken" / "rollouts.jsonl")
    first, second = (load_file(result.adapter / "adapter_model.safetensors") for result in (unbroken, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
