"""GRPO training on the embedded model: steps, log, checkpoints, resume, Ctrl-C, saving."""

import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from utils.data.answers import is_correct
from utils.data.questions import load_questions
from utils.files import IN_USE, InUse, read_jsonl, sha256
from utils.model.policy import LORA_TARGETS, generate, load_policy, load_tokenizer, with_adapter
from utils.model.profiles import get_profile
from utils.rewards.functions import correctness_reward, load_rewards, text_of
from utils.setup import machine
from utils.training.checkpoints import complete_checkpoints, write_manifest
from utils.training.grpo import build_config, build_trainer, grpo_settings, run_training, training_questions

SMALL = get_profile("tiny").replace(
    steps=6, prompts_per_step=2, group_size=4, micro_batch=8, max_completion_tokens=48, save_every=3
)
QUESTIONS = load_questions("tiny", "train")[:40]


pytestmark = pytest.mark.slow


def trainer_for(folder, callbacks=(), **changes):
    profile = SMALL.replace(**changes)
    return build_trainer(load_policy(profile), QUESTIONS, folder, seed=3, callbacks=callbacks)


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def same_weights(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Six steps without a pause: (folder, result, the trainer's own advantages of the last step)."""
    folder = tmp_path_factory.mktemp("straight")
    trainer = trainer_for(folder)
    result = run_training(trainer)
    return folder, result, list(trainer._logs["advantages"])[-8:]


@pytest.fixture
def copy(straight, tmp_path):
    """A copy of the straight run to damage."""
    return shutil.copytree(straight[0], tmp_path / "copy")


def test_training_leaves_what_it_promises(straight):
    folder, result, _ = straight
    assert result.finished and result.steps == 6 and result.seconds > 0
    assert result.adapter == folder / "adapter"
    changed = [name for name, tensor in weights(result.adapter).items() if "lora_B" in name and tensor.any()]
    assert len(changed) == 28, "7 matrices in each of 4 layers should have moved away from zero"
    targets = json.loads((result.adapter / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(LORA_TARGETS), "in one order, or the same adapter would differ by process"
    saved = json.loads((folder / "training.json").read_text())
    assert saved["steps"] == 6 and saved["seed"] == 3 and saved["versions"]["trl"] and saved["machine"] == machine()
    assert [c.name for c in complete_checkpoints(folder)] == ["checkpoint-3", "checkpoint-6"]


@pytest.mark.parametrize("most", [None, 2, 3, 99])
def test_a_profile_may_train_on_the_questions_with_short_solutions(most, capsys):
    every = load_questions("tiny", "train")
    lines = [q.row["answer"].strip().count("\n") for q in every]  # the gold stands on a line of its own
    profile = get_profile("tiny").replace(solution_steps=most)
    chosen = training_questions(profile, load_tokenizer(profile.model))
    assert chosen == [q for q, n in zip(every, lines, strict=True) if n <= (most or 99)]
    assert min(lines) <= 2 < max(lines), "else nothing would be left out, or all"
    said = f"{len(chosen):,} of {len(every):,} questions are trained on" if most else ""
    assert capsys.readouterr().out.startswith(said)


def test_log_and_rollouts_have_one_line_a_step_and_agree(straight):
    folder, result, last_advantages = straight
    rollouts = read_jsonl(folder / "rollouts.jsonl")
    assert [line["step"] for line in result.history] == [r["step"] for r in rollouts] == [1, 2, 3, 4, 5, 6]
    assert not any("rollout_recorder" in name for name in result.history[0])
    for line, record in zip(result.history, rollouts, strict=True):
        rewards = [r for group in record["groups"] for r in group["rewards"]]
        dead = [len(set(group["rewards"])) == 1 for group in record["groups"]]
        assert len(rewards) == 8
        assert line["reward"] == pytest.approx(sum(rewards) / 8)
        assert line["frac_reward_zero_std"] == sum(dead) / 2
    recorded = [a for group in rollouts[-1]["groups"] for a in group["advantages"]]
    assert recorded == pytest.approx(last_advantages, abs=1e-3), "the recorder should show what TRL used"


def test_rewards_are_told_what_was_cut_off_and_a_mere_last_number_there_earns_nothing(tmp_path):
    told = []

    def listener(completions, truncated, completion_ids, **kwargs):
        told.extend(zip([text_of(c) for c in completions], truncated, completion_ids, strict=True))
        return [0.0] * len(completions)

    profile = SMALL.replace(steps=1, max_completion_tokens=14, group_size=8, micro_batch=16)
    rewards = {correctness_reward: 1.0, listener: 0.0}
    trainer = build_trainer(load_policy(profile), QUESTIONS, tmp_path, seed=3, rewards=rewards)
    trainer.train()
    assert {cut for _, cut, _ in told} == {True, False}
    assert all(cut == (len(ids) == 14 and ids[-1] != 2) for _, cut, ids in told)
    (line,) = read_jsonl(tmp_path / "log.jsonl")
    assert line["completions/clipped_ratio"] == sum(cut for _, cut, _ in told) / len(told)
    (record,) = read_jsonl(tmp_path / "rollouts.jsonl")
    paid = [(r, group["gold"]) for group in record["groups"] for r in group["parts"]["correctness_reward"]]
    for (text, cut, _), (reward, gold) in zip(told, paid, strict=True):
        assert reward == is_correct(text, gold, "lenient", truncated=cut)


def test_the_learning_rate_falls_with_the_power_of_the_profile(straight, tmp_path):
    def rates(history):
        return [line["learning_rate"] for line in history]

    left = [1 - step / 6 for step in range(6)]
    assert SMALL.lr_power == 2 and rates(straight[1].history) == pytest.approx(
        [SMALL.learning_rate * share**2 for share in left]
    )
    evenly = run_training(trainer_for(tmp_path, lr_power=1.0))
    assert rates(evenly.history) == pytest.approx([SMALL.learning_rate * share for share in left])


def test_resume_is_bit_exact(straight, tmp_path):
    assert run_training(trainer_for(tmp_path, [CtrlC(1)])).steps < 6
    result = run_training(trainer_for(tmp_path), resume=True)
    assert result.finished and result.steps == 6
    assert same_weights(result.adapter, straight[1].adapter)
    assert (tmp_path / "rollouts.jsonl").read_text() == (straight[0] / "rollouts.jsonl").read_text()
    assert [line["reward"] for line in result.history] == [line["reward"] for line in straight[1].history]


def test_a_finished_run_is_loaded_not_trained_further(straight, copy):
    trainer = trainer_for(copy)
    result = run_training(trainer, resume=True)
    assert result.finished and result.steps == 6 and len(result.history) == 6
    assert result.seconds == pytest.approx(straight[1].seconds, abs=0.06)
    assert same_weights(result.adapter, straight[1].adapter)
    in_memory = {name: p for name, p in trainer.model.named_parameters() if "lora_B" in name}
    assert all(p.any() for p in in_memory.values()), "the model in memory should hold the trained adapter"


def test_incomplete_checkpoints_are_ignored(copy):
    (copy / "checkpoint-9").mkdir()
    assert [c.name for c in complete_checkpoints(copy)] == ["checkpoint-3", "checkpoint-6"]
    os.truncate(copy / "checkpoint-6" / "optimizer.pt", 100)
    assert [c.name for c in complete_checkpoints(copy)] == ["checkpoint-3"]


def test_a_refused_checkpoint_is_named_and_the_previous_one_used(straight, copy, capsys):
    """It must also leave the trainer's sight, which keeps two checkpoints and would delete the only whole one."""
    os.truncate(copy / "checkpoint-6" / "optimizer.pt", 100)
    (copy / "checkpoint-9").mkdir()
    result = run_training(trainer_for(copy), resume=True)
    said = capsys.readouterr().out
    assert "checkpoint-6 is not used: optimizer.pt is truncated: 100 bytes" in said
    assert "checkpoint-9 is not used: it was not written to its end" in said
    assert result.finished and same_weights(result.adapter, straight[1].adapter)
    names = sorted(f.name for f in copy.glob("*checkpoint*"))
    assert names == ["checkpoint-3", "checkpoint-6", "refused-checkpoint-6"]
    assert [c.name for c in complete_checkpoints(copy)] == ["checkpoint-3", "checkpoint-6"]


def test_a_checkpoint_of_another_run_is_refused_by_name(straight, copy, capsys):
    foreign = copy / "checkpoint-6" / "complete.json"
    manifest = json.loads(foreign.read_text())
    manifest["settings"]["seed"] = 7
    foreign.write_text(json.dumps(manifest))
    assert same_weights(run_training(trainer_for(copy), resume=True).adapter, straight[1].adapter)
    assert (
        "checkpoint-6 is not used: it belongs to another run: seed is 7 in it and 3 in this run"
        in capsys.readouterr().out
    )


def test_a_line_cut_short_by_a_kill_does_not_stop_the_next_start(straight, copy):
    for name in ("log.jsonl", "rollouts.jsonl"):
        with (copy / name).open("ab") as file:
            file.write('{"step": 7, "question": "½'.encode()[:-1])
    assert len(run_training(trainer_for(copy), resume=True).history) == 6
    assert (copy / "rollouts.jsonl").read_bytes() == (straight[0] / "rollouts.jsonl").read_bytes()


def test_a_run_of_a_moved_clone_goes_on(copy):
    assert json.loads((copy / "settings.json").read_text())["model"] == "assets/tiny_model"
    for checkpoint in complete_checkpoints(copy):
        assert json.loads((checkpoint / "complete.json").read_text())["settings"]["model"] == "assets/tiny_model"


def test_a_mirror_of_another_run_is_refused_before_anything_is_copied(copy, tmp_path):
    with pytest.raises(ValueError, match="learning_rate is 0.002 in .*copy/settings.json and 0.003 in this run"):
        run_training(trainer_for(tmp_path / "new", learning_rate=3e-3), resume=True, mirror=copy)
    with pytest.raises(FileExistsError, match="copy holds an earlier run"):
        run_training(trainer_for(tmp_path / "new"), mirror=copy)
    with pytest.raises(FileNotFoundError, match="mount the Drive first"):
        run_training(trainer_for(tmp_path / "new"), resume=True, mirror=tmp_path / "drive" / "MyDrive" / "grpo")
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    "name, value",
    [("scale_rewards", "batch"), ("epsilon_high", 0.28), ("num_iterations", 2), ("top_p", 0.9), ("adam_beta2", 0.999)],
)
def test_a_run_goes_on_with_the_algorithm_it_began_with(copy, name, value):
    trainer = build_trainer(load_policy(SMALL), QUESTIONS, copy, seed=3, settings={name: value})
    with pytest.raises(ValueError, match=f"{name} is .* in .*copy/settings.json and {value!r} in this run"):
        run_training(trainer, resume=True)


def test_a_run_recorded_before_a_setting_was_goes_on(copy):
    for path in (copy / "settings.json", *copy.glob("checkpoint-*/complete.json")):
        told = json.loads(path.read_text())
        (told["settings"] if "settings" in told else told).pop("scale_rewards")
        path.write_text(json.dumps(told))
    assert len(run_training(trainer_for(copy), resume=True).history) == 6


class Holds(TrainerCallback):
    """What the adapter holds when training begins."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.seen = {n: p.detach().clone() for n, p in get_peft_model_state_dict(model).items()}


def test_a_trained_adapter_is_trained_further_as_a_run_of_its_own(straight, tmp_path):
    start, holds, profile = straight[1].adapter, Holds(), SMALL.replace(steps=2)

    def further(folder, adapter=start, callbacks=()):
        return build_trainer(load_policy(profile), QUESTIONS, folder, seed=4, callbacks=callbacks, adapter=adapter)

    result = run_training(further(tmp_path, callbacks=[holds]))
    saved, after = weights(start), weights(result.adapter)
    assert holds.seen.keys() == saved.keys() and all(torch.equal(holds.seen[n], saved[n]) for n in saved)
    assert any(not torch.equal(after[n], saved[n]) for n in saved)
    assert [line["step"] for line in result.history] == [1, 2] and result.finished
    rates = [[line["learning_rate"] for line in each] for each in (result.history, straight[1].history)]
    assert rates[0][0] == rates[1][0] > rates[0][1] and rates[1][-1] < rates[1][0], "the schedule begins anew"
    told = sha256(start / "adapter_model.safetensors")
    assert json.loads((tmp_path / "settings.json").read_text())["adapter"] == told
    with pytest.raises(ValueError, match=f"adapter is '{told}' in .*settings.json and None in this run"):
        run_training(further(tmp_path, adapter=None), resume=True)
    assert len(run_training(further(tmp_path), resume=True).history) == 2


def test_an_adapter_that_was_not_told_of_at_first_is_not_gone_on_with(straight, copy):
    """Also where the record is older than the setting."""
    for path in (copy / "settings.json", *copy.glob("checkpoint-*/complete.json")):
        told = json.loads(path.read_text())
        (told["settings"] if "settings" in told else told).pop("adapter")
        path.write_text(json.dumps(told))
    start = straight[1].adapter
    trainer = build_trainer(load_policy(SMALL), QUESTIONS, copy, seed=3, adapter=start)
    with pytest.raises(ValueError, match="adapter is None in .*settings.json and '[0-9a-f]{64}' in this run"):
        run_training(trainer, resume=True)
    assert len(run_training(trainer_for(copy), resume=True).history) == 6


@pytest.mark.parametrize(
    "changes, how, said",
    [
        ({"lora_rank": 8}, {}, "has r 16, and profile tiny trains with 8; train it further with the profile"),
        ({"lora_alpha": 16}, {}, "has lora_alpha 32, and profile tiny trains with 16"),
        ({}, {"full_weights": True}, "leave out full_weights"),
    ],
)
def test_an_adapter_that_training_cannot_go_on_with_is_refused(straight, tmp_path, changes, how, said):
    with pytest.raises(ValueError, match=said):
        profile = SMALL.replace(**changes)
        build_trainer(load_policy(profile), QUESTIONS, tmp_path, adapter=straight[1].adapter, **how)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_comes_back_from_its_mirror(straight, copy, tmp_path, capsys):
    result = run_training(trainer_for(tmp_path / "new"), resume=True, mirror=copy)
    assert "brought checkpoint-6 back" in capsys.readouterr().out
    assert result.finished and [line["step"] for line in result.history] == [1, 2, 3, 4, 5, 6]
    assert same_weights(result.adapter, straight[1].adapter)


def test_a_mirror_in_which_another_process_works_is_refused(hold, tmp_path):
    run, mirror = tmp_path / "run", tmp_path / "mirror"
    other = hold(mirror)
    with pytest.raises(InUse, match=f"{mirror} is in use by process {other.pid} on "):
        run_training(trainer_for(run), mirror=mirror)
    assert os.listdir(run) == [] and os.listdir(mirror) == [IN_USE]
    other.communicate("\n")
    assert run_training(trainer_for(run, steps=3), mirror=mirror).finished
    assert not [*tmp_path.rglob(f"{IN_USE}*")], "nor was one copied"


def test_an_existing_run_is_not_overwritten(copy):
    with pytest.raises(FileExistsError, match="--resume"):
        run_training(trainer_for(copy))


def content(folder):
    return {f.relative_to(folder): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def without_checkpoints(run, *names):
    """A run of which only the named are left beside its settings; names that end in .jsonl keep 4 of their 6 lines."""
    for path in run.iterdir():
        if path.name not in (*names, "settings.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.suffix == ".jsonl":
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))


def damage_all(run):
    for checkpoint in complete_checkpoints(run):
        os.truncate(checkpoint / "optimizer.pt", 100)


LEFT = {
    "an adapter": lambda run: without_checkpoints(run, "adapter"),
    "a log": lambda run: without_checkpoints(run, "log.jsonl"),
    "rollouts": lambda run: without_checkpoints(run, "rollouts.jsonl"),
    "training.json": lambda run: without_checkpoints(run, "training.json"),
    "damaged checkpoints": lambda run: (damage_all(run), without_checkpoints(run, "checkpoint-3", "checkpoint-6")),
    "no manifest": lambda run: [(c / "complete.json").unlink() for c in complete_checkpoints(run)],
}


@pytest.mark.parametrize(
    "left, mirrored", [*((left, False) for left in LEFT), ("a log", True), ("damaged checkpoints", True)]
)
def test_what_cannot_be_remade_is_not_overwritten(copy, tmp_path, left, mirrored):
    LEFT[left](copy)
    before = content(copy)
    folder, mirror = (tmp_path / "new", copy) if mirrored else (copy, None)
    with pytest.raises(
        FileExistsError, match=f"{copy} holds a run and no checkpoint .* Choose another folder, or move"
    ):
        run_training(trainer_for(folder), resume=True, mirror=mirror)
    assert content(copy) == before and (not mirrored or not content(folder))


def test_an_adapter_that_a_kill_left_aside_gets_its_name_back(copy):
    without_checkpoints(copy, "adapter")
    before = content(copy / "adapter")
    (copy / "adapter").rename(copy / ".adapter-old")
    with pytest.raises(FileExistsError, match="holds a run and no checkpoint"):
        run_training(trainer_for(copy), resume=True)
    assert content(copy / "adapter") == before


def test_other_settings_leave_no_trace_in_a_folder_that_they_do_not_fit(straight, copy):
    """Without settings.json the checkpoints tell whose run it is."""
    (copy / "settings.json").unlink()
    with pytest.raises(FileExistsError, match="no checkpoint that it can go on from"):
        run_training(trainer_for(copy, learning_rate=3e-3), resume=True)
    assert same_weights(run_training(trainer_for(copy), resume=True).adapter, straight[1].adapter)


@pytest.mark.parametrize("left", ["nothing", "2 steps", "3 steps and a checkpoint begun"])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(straight, tmp_path, left):
    run = tmp_path / "run"
    if left != "nothing":
        run.mkdir()
        for name in ("log.jsonl", "rollouts.jsonl"):
            lines = (straight[0] / name).read_bytes().splitlines(keepends=True)
            (run / name).write_bytes(b"".join(lines[: int(left[0])]) + lines[4][:9])
    if left[0] == "3":
        shutil.copytree(straight[0] / "checkpoint-3", run / "checkpoint-3", ignore=lambda *_: ["complete.json"])
    if left != "nothing":
        with pytest.raises(FileExistsError, match="holds an earlier run; resume it"):
            run_training(trainer_for(run))
    result = run_training(trainer_for(run), resume=True)
    assert same_weights(result.adapter, straight[1].adapter)
    assert (run / "rollouts.jsonl").read_bytes() == (straight[0] / "rollouts.jsonl").read_bytes()


def test_a_run_does_not_end_before_the_step_it_has_reached(copy):
    os.truncate(copy / "checkpoint-6" / "optimizer.pt", 100)  # the adapter is of step 6 all the same
    for done, asked in ((6, 4), (3, 2)):
        before = content(copy / "adapter")
        with pytest.raises(ValueError, match=f"a run of {done} steps, and {asked} were asked for; ask for at least"):
            run_training(trainer_for(copy, steps=asked), resume=True)
        assert content(copy / "adapter") == before
        without_checkpoints(copy, "checkpoint-3", "adapter")


def test_a_finished_run_with_more_steps_goes_on_at_the_rate_of_its_new_schedule(copy, capsys):
    used = []

    class Used(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            used.append(optimizer.param_groups[0]["lr"])

    stopped = run_training(trainer_for(copy, [Used(), CtrlC(1, at=7)], steps=12), resume=True)
    assert stopped.steps == 8 and not stopped.finished
    assert (
        "Up to step 6 the learning rate was that of a run of 6 steps; from step 7 on it is that of a run of 12"
        in capsys.readouterr().out
    )
    result = run_training(trainer_for(copy, [Used()], steps=12), resume=True)
    assert "learning rate was" not in capsys.readouterr().out, "the schedule is the one of before"
    wanted = [1 - i / 6 for i in range(6)] + [1 - i / 12 for i in range(6, 12)]
    rates = [line["learning_rate"] for line in result.history]
    assert rates == pytest.approx([SMALL.learning_rate * left**2 for left in wanted])
    assert used == pytest.approx(rates[6:]), "the optimizer should step with the rate that is logged"
    assert json.loads((copy / "training.json").read_text())["schedules"] == [
        {"from_step": 1, "max_steps": 6},
        {"from_step": 7, "max_steps": 12},
    ]


def test_a_gap_in_the_log_is_told(straight, copy, capsys):
    lines = (copy / "log.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "log.jsonl").write_bytes(b"".join(lines[:1] + lines[3:]))
    (copy / "rollouts.jsonl").unlink()
    result = run_training(trainer_for(copy), resume=True)
    said = capsys.readouterr().out
    assert "log.jsonl lacks 2 of the 6 steps that are done, the first is step 2" in said
    assert "rollouts.jsonl lacks 6 of the 6 steps" in said
    assert [line["step"] for line in result.history] == [1, 4, 5, 6]
    assert same_weights(result.adapter, straight[1].adapter)


@pytest.mark.parametrize("name", ["settings.json", "log.jsonl", "rollouts.jsonl", "training.json"])
def test_a_damaged_record_stops_the_run_until_the_mend_is_done(straight, copy, name):
    with (copy / name).open("r+b") as file:
        file.write(b"\0\xff{")
    before = content(copy)
    with pytest.raises(ValueError, match=f"{name}.* is damaged .*(delete it|move the file away)"):
        run_training(trainer_for(copy), resume=True)
    assert content(copy) == before
    (copy / name).unlink()
    assert same_weights(run_training(trainer_for(copy), resume=True).adapter, straight[1].adapter)


def test_a_checkpoint_that_is_whole_and_cannot_be_loaded_is_named(straight, copy):
    torch.save({}, copy / "checkpoint-3" / "optimizer.pt")
    shutil.rmtree(copy / "checkpoint-6")
    write_manifest(copy / "checkpoint-3", json.loads((copy / "settings.json").read_text()))
    with pytest.raises(ValueError, match="checkpoint-3 could not be loaded .KeyError: .* Move it away"):
        run_training(trainer_for(copy), resume=True)
    assert same_weights(copy / "adapter", straight[1].adapter)


@pytest.mark.parametrize("old, new", [("base_model.model.", "base_model.model.module."), ("lora_A", "lora_Z")])
def test_a_checkpoint_whose_adapter_would_not_land_is_named_and_the_previous_one_used(straight, copy, capsys, old, new):
    path = copy / "checkpoint-6" / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)
    write_manifest(copy / "checkpoint-6", json.loads((copy / "settings.json").read_text()))
    result = run_training(trainer_for(copy), resume=True)
    said = capsys.readouterr().out
    assert "checkpoint-6 is not used: its adapter would not land: of 56 tensors" in said and "missing" in said
    assert same_weights(result.adapter, straight[1].adapter)


def test_no_adapter_of_more_steps_is_overwritten(straight, copy):
    """Its checkpoint is damaged, its logs and training.json are gone: the name of that checkpoint still tells."""
    (copy / "checkpoint-6" / "complete.json").write_text("{}")
    for name in ("log.jsonl", "rollouts.jsonl", "training.json"):
        (copy / name).unlink()
    with pytest.raises(ValueError, match="holds a run of 6 steps, and 4 were asked for"):
        run_training(trainer_for(copy, steps=4), resume=True)
    assert same_weights(copy / "adapter", straight[1].adapter)


def test_other_questions_and_an_edited_reward_are_another_run(copy, tmp_path):
    other = [dataclasses.replace(QUESTIONS[0], gold="999"), *QUESTIONS[1:]]
    with pytest.raises(ValueError, match="questions_sha256 is .* Resume with the same settings"):
        run_training(build_trainer(load_policy(SMALL), other, copy, seed=3), resume=True)
    file = tmp_path / "mine.py"
    for value in ("0.5", "1.5"):
        file.write_text(
            f"def mine(completions, **kwargs):\n    return [{value}] * len(completions)\nREWARDS = {{mine: 1.0}}"
        )
        trainer = build_trainer(load_policy(SMALL.replace(steps=1)), QUESTIONS, tmp_path / "run", 3, load_rewards(file))
        if value == "0.5":
            run_training(trainer)
    with pytest.raises(ValueError, match="rewards_sha256 is "):
        run_training(trainer, resume=True)


def test_a_mirror_in_the_runs_own_folder_is_refused(tmp_path):
    for mirror in (tmp_path, tmp_path / "mirror"):
        with pytest.raises(ValueError, match="lies in the run's own folder"):
            run_training(trainer_for(tmp_path), mirror=mirror)


def test_a_refused_checkpoint_takes_no_others_place(copy, capsys):
    (copy / "refused-checkpoint-6").mkdir()
    (copy / "refused-checkpoint-6" / "mine").touch()
    (copy / "checkpoint-6" / "complete.json").write_text("{}")
    run_training(trainer_for(copy), resume=True)
    assert (copy / "refused-checkpoint-6" / "mine").exists() and (copy / "refused-checkpoint-6-2").is_dir()


def test_no_environment_variable_lets_a_pickle_run(straight, copy, monkeypatch, recwarn):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    shutil.rmtree(copy / "checkpoint-6")
    assert same_weights(run_training(trainer_for(copy), resume=True).adapter, straight[1].adapter)
    assert not [w for w in recwarn if "weights_only" in str(w.message)], "torch warns where the variable decides"


def test_no_form_calls_itself_a_model_card(straight):
    assert not list(straight[0].rglob("README.md"))


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"learning_rate": 3e-3}, "learning_rate"),
        ({"lr_power": 1.0}, "lr_scheduler_kwargs"),
        ({"lora_rank": 8}, "lora_rank"),
        ({"beta": 0.1}, "beta"),
        ({"prompt": "layout"}, "system_prompt"),
    ],
)
def test_other_settings_are_refused_on_resume(copy, changes, named):
    with pytest.raises(ValueError, match=f"{named} is .* in this run. Resume with the same settings"):
        run_training(trainer_for(copy, **changes), resume=True)


class CtrlC(TrainerCallback):
    """Press Ctrl-C `presses` times in the step after step `at`."""

    def __init__(self, presses, at=0):
        self.presses, self.at = presses, at

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            for _ in range(self.presses):
                signal.raise_signal(signal.SIGINT)


def test_ctrl_c_finishes_the_step_and_saves(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    result = run_training(trainer_for(tmp_path, [CtrlC(1)]))
    assert (result.finished, result.steps) == (False, 1)
    assert [c.name for c in complete_checkpoints(tmp_path)] == ["checkpoint-1"]
    assert weights(result.adapter)
    assert "stopping after this step" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupted_trainer_goes_on_as_if_nothing_had_been(straight, tmp_path):
    trainer = trainer_for(tmp_path, [CtrlC(1)])
    assert not run_training(trainer).finished
    assert same_weights(run_training(trainer, resume=True).adapter, straight[1].adapter)


def test_second_ctrl_c_stops_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_training(trainer_for(tmp_path, [CtrlC(2)]))
    assert not (tmp_path / "adapter").exists()


def test_a_full_disk_loses_no_finished_checkpoint(tmp_path, monkeypatch):
    trainer = trainer_for(tmp_path, steps=2, save_every=1)
    save = trainer._save_optimizer_and_scheduler

    def full(folder):
        if folder.endswith("-2"):
            raise OSError(28, "No space left on device")
        save(folder)

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(OSError, match="No space left"):
        run_training(trainer)
    assert [c.name for c in complete_checkpoints(tmp_path)] == ["checkpoint-1"]
    result = run_training(trainer_for(tmp_path, steps=2, save_every=1), resume=True)
    assert result.finished and [line["step"] for line in result.history] == [1, 2]


def test_reloaded_adapter_gives_the_same_greedy_answers(copy):
    trainer = trainer_for(copy)
    run_training(trainer, resume=True)
    policy = load_policy(SMALL)
    base = generate(policy, QUESTIONS[:16])
    reloaded = generate(load_policy(SMALL, copy / "adapter"), QUESTIONS[:16])
    policy.model = trainer.model.eval()
    assert reloaded == generate(policy, QUESTIONS[:16])
    policy.model = trainer.model.unload()
    assert generate(policy, QUESTIONS[:16]) == base, "without its adapter this should be the base model again"
    assert generate(with_adapter(policy, copy / "adapter"), QUESTIONS[:16]) == reloaded


def test_a_damaged_or_foreign_adapter_is_refused(copy):
    adapter = copy / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 4}))
    with pytest.raises(ValueError, match="does not fit"):
        load_policy(SMALL, adapter)
    os.truncate(adapter / "adapter_model.safetensors", 1000)
    with pytest.raises(ValueError, match="is damaged"):
        load_policy(SMALL, adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors is missing"):
        load_policy(SMALL, adapter)


def test_too_few_questions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a step takes 2 prompts, got only 1"):
        build_trainer(load_policy(SMALL), QUESTIONS[:1], tmp_path)


def test_settings_unknown_to_trl_are_named(tmp_path):
    settings = grpo_settings(SMALL, "transformers", tmp_path, 0, [1.0, 0.2])
    assert build_config(settings).epsilon_high == 0.2
    with pytest.raises(ValueError, match="no setting max_prompt_length"):
        build_config(settings | {"max_prompt_length": 160})
