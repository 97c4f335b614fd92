"""The commands as run.py calls them: files seen for the first time, bad input, results that add up."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

from utils.data.answers import is_correct
from utils.evaluation.evaluate import RATES
from utils.files import IN_USE, ROOT, sha256
from utils.scripts.commands import counter, main, options, parse
from utils.stats import wilson_interval

pytestmark = pytest.mark.slow


def command(*args, cwd=ROOT, **how):
    words = [sys.executable, "-m", "utils.scripts.commands", *map(str, args)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, **how)


def here(*args):
    """A command in this process, which has imported what takes a new one five seconds."""
    main([*map(str, args)])


def refused(*args):
    """What a command `here` says last: Python would end with this on stderr, and with 1."""
    with pytest.raises(SystemExit) as end:
        here(*args)
    assert isinstance(end.value.code, str) and "Traceback" not in end.value.code
    return end.value.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("train") / "run"
    done = command("train", "--profile", "tiny", "--output", output, "--seed", 5, "--max-steps", 2)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"question": f"Tom has {n} pens. He buys {n} more. How many pens does he have?", "answer": f"#### {2 * n}"}
        for n in range(3, 9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_training_leaves_adapter_log_and_rollouts(trained):
    assert len((trained / "log.jsonl").read_text().splitlines()) == 2
    assert len((trained / "rollouts.jsonl").read_text().splitlines()) == 2
    assert json.loads((trained / "training.json").read_text())["steps"] == 2
    assert (trained / "adapter" / "adapter_model.safetensors").is_file()


def test_a_second_training_in_the_same_folder_is_refused(trained):
    done = command("train", "--profile", "tiny", "--output", trained, "--max-steps", 2)
    assert done.returncode == 1 and "holds an earlier run" in done.stderr and "Traceback" not in done.stderr


def jsonl(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_trained_adapter_is_trained_further_and_advantages_are_scaled_as_asked(trained, tmp_path):
    numbers = ["--prompts-per-step", "3", "--learning-rate", "0.005"]
    further = [*numbers, "--adapter", trained / "adapter", "--scale-rewards", "batch"]
    here("train", "--profile", "tiny", "--output", tmp_path / "run", "--max-steps", 1, *further)
    told = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert told["adapter"] == sha256(trained / "adapter" / "adapter_model.safetensors")
    assert (told["scale_rewards"], told["learning_rate"]) == ("batch", 0.005)
    assert told["per_device_train_batch_size"] * told["gradient_accumulation_steps"] == 3 * told["num_generations"]
    assert options(parse(["train", "--profile", "tiny", "--output", "x", *map(str, further)]))[-8:] == [
        *numbers,
        *("--adapter", str(trained / "adapter")),
        *("--scale-rewards", "batch"),
    ]


@pytest.fixture(scope="module")
def measured(trained, tmp_path_factory):
    """An evaluation of base and adapter on nine questions of one's own, one of them twice."""
    folder = tmp_path_factory.mktemp("measured")
    rows = [
        {"question": f"Tom has {n} pens. He buys {n} more. How many pens does he have?", "answer": gold.format(2 * n)}
        for n, gold in zip(range(3, 12), ["#### {}", "{}", "first {0}\n#### {0}"] * 3, strict=True)
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]), encoding="utf-8")
    done = command(
        *("evaluate", "--profile", "tiny", "--adapter", trained / "adapter"),
        *("--questions", path, "--output", folder / "out"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout, path


def test_evaluation_on_ones_own_questions(measured):
    out, said, path = measured
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n_test"] == 10 and summary["questions"] == str(path)
    for folder, who in ((out / "base", "base"), (out, "trained")):
        rows, card = jsonl(folder / "completions.jsonl"), json.loads((folder / "card.json").read_text())
        right = sum(is_correct(row["completion"], row["gold"]) for row in rows)
        assert card["strict"]["count"] == right and card["n"] == card["strict"]["n"] == len(rows) == 10
        assert summary[who] == {name: card[name] for name in RATES}
        assert card["protocol"]["dataset"] == "mine.jsonl" and card["protocol_hash"] == summary["protocol_hash"]
    assert sum(summary["flips"].values()) == 10 and "gain" in summary
    assert "base model: 10 of 10, strict" in said and "trained model: 10 of 10, strict" in said and "McNemar p" in said
    assert not (out / "base" / "summary.json").exists()


def test_a_question_that_does_not_fit_is_named_and_not_asked(questions, tmp_path):
    with questions.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"question": "Tom has 3 pens. " * 1_300, "answer": 3}) + "\n")
    done = command("evaluate", "--profile", "tiny", "--questions", questions, "--output", tmp_path / "out")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    said = "1 of 7 questions does not fit 1,952 tokens and is not asked: all rates are over the other 6"
    assert done.stdout.startswith(said) and done.stdout.count(said) == 2 and "mine.jsonl line 7 with " in done.stdout
    assert "base model: 0 of 6\n" in done.stdout and "not asked    1, too long" in done.stdout
    summary, card = (json.loads((tmp_path / "out" / name).read_text()) for name in ("summary.json", "card.json"))
    assert summary["n_test"] == card["n"] == 6 and summary["too_long"] == card["too_long"]


def test_progress_is_shown_at_the_start_and_then_each_tenth_or_half_minute(monkeypatch, capsys):
    now = iter((0, 2, 4, 20, 33, 40, 50))
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    progress = counter("base model")
    for done in (100, 200, 300, 400, 500, 20_099, 20_100):
        progress(done, 200_000, done // 2)
    lines = [line.partition(", strict 50.0%")[::2] for line in capsys.readouterr().out.splitlines()]
    assert [said for said, _ in lines] == [f"base model: {n} of 200,000" for n in ("100", "200", "500", "20,099")]
    assert [rest.partition("], ")[2] for _, rest in lines] == [
        "",
        *("about 67 min to go", "about 274 min to go", "about 6 min to go"),
    ]


def test_comparing_stored_evaluations_needs_no_model(measured, tmp_path):
    out, _, _ = measured
    done = command("compare", out / "base", out, "--output", tmp_path / "compared")
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    found = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert {name: summary[name] for name in ("flips", "mcnemar_p", "difference", "gain")}.items() <= found.items()
    assert found["base"] == json.loads((out / "base" / "card.json").read_text())
    for part in (
        f"Flips: {found['flips']['fixed']} fixed",
        "McNemar p",
        "fixed and 0 broken, where only one answer shows working",
        "10 questions notice",
        "no answer",
    ):
        assert part in done.stdout
    again = command("compare", out / "base", out)
    assert again.returncode == 0 and again.stdout in done.stdout


HEAVY = """
import sys
from utils.scripts.commands import main
main(sys.argv[1:])
print(*sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "trl", "peft", "matplotlib"}))
"""


@pytest.mark.parametrize("words", [["compare", "base", "."], ["score", "base"]])
def test_what_needs_no_model_loads_no_model_library(measured, words):
    out, _, _ = measured
    arguments = [words[0], *(str(out / name) for name in words[1:])]
    done = subprocess.run([sys.executable, "-c", HEAVY, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n\n"), f"loaded: {done.stdout.splitlines()[-1]}"


def test_another_protocol_or_other_questions_are_not_compared(measured, tmp_path, capsys):
    out, _, _ = measured
    other = shutil.copytree(out / "base", tmp_path / "other")
    header = json.loads((other / "protocol.json").read_text())
    header["protocol"]["token_cap"] = 200
    (other / "protocol.json").write_text(json.dumps(header))
    said = refused("compare", out / "base", other)
    assert f"token_cap is 96 in {out / 'base'} and 200 in {other}. Mend: " in said and capsys.readouterr().out == ""
    for name, rows in (("a", ["1?", "2?"]), ("b", ["1?", "3?"])):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"question": row, "gold": "1", "completion": "1"}) + "\n" for row in rows]
        (tmp_path / name / "completions.jsonl").write_text("".join(lines))
    said = refused("compare", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")
    assert "needs the same questions" in said and "'2?'" in said
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_an_evaluation_called_again_asks_nothing_and_one_stored_base_serves_many_adapters(
    measured, trained, tmp_path, capsys
):
    out, said, path = measured
    arguments = ["evaluate", "--profile", "tiny", "--adapter", trained / "adapter", "--questions", path]
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != "summary.json"}
    here(*arguments, "--output", out)
    assert all(file.read_bytes() == content for file, content in before.items())
    capsys.readouterr()
    here(*arguments, "--base", out / "base", "--output", tmp_path / "new")
    assert "base model" not in capsys.readouterr().out.replace("Base model", "")
    assert not (tmp_path / "new" / "base").exists()
    assert (tmp_path / "new" / "card.json").read_bytes() == (out / "card.json").read_bytes()
    old, new = (json.loads((folder / "summary.json").read_text()) for folder in (out, tmp_path / "new"))
    assert old.keys() == new.keys() and old["base"] == new["base"] and old["flips"] == new["flips"]


def test_a_base_of_another_protocol_is_refused_before_anything_is_asked(measured, trained, tmp_path, capsys):
    out, _, _ = measured
    arguments = ["evaluate", "--profile", "tiny", "--adapter", trained / "adapter", "--base", out / "base"]
    said = refused(*arguments, "--output", tmp_path / "new")  # the whole test split, not the nine questions
    assert "dataset is 'mine.jsonl' in" in said and "revision is" in said
    assert not (tmp_path / "new" / "protocol.json").exists() and "of 1,319" not in capsys.readouterr().out


def test_a_folder_of_another_adapter_is_refused_and_kept(measured, trained, tmp_path):
    out, _, path = measured
    arguments = ["evaluate", "--profile", "tiny", "--questions", path, "--output", out]
    before = (out / "completions.jsonl").read_bytes()
    for other in ([], ["--adapter", ROOT / "assets" / "runs" / "tiny" / "seed-0" / "adapter"]):
        said = refused(*arguments, *other)
        assert f"adapter is '{trained.name}/adapter' (weights " in said and "Mend: name another folder" in said
        assert (out / "completions.jsonl").read_bytes() == before


def test_scoring_completions_that_someone_else_wrote(tmp_path):
    rows = [
        {"question": "3 * 14?", "gold": "#### 42", "completion": "<reasoning>\n42\n</reasoning>\n<answer>42</answer>"},
        {"question": "2 * 500?", "gold": "1,000", "completion": "The answer is 1000."},
        {"question": "1 + 1?", "gold": "2", "completion": "Who knows?"},
    ]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command("score", tmp_path)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "card.json").read_text())
    assert [card[name]["count"] for name in ("strict", "lenient", "format", "no_answer")] == [1, 2, 1, 1]
    assert [card["strict"][bound] for bound in ("low", "high")] == list(wilson_interval(1, 3))
    assert "strict       33.3%" in done.stdout and "truncated    not recorded" in done.stdout
    (tmp_path / "completions.jsonl").write_text(json.dumps(rows[0]) + '\n{"question": "?"}\n')
    assert "completions.jsonl, line 2: 'gold' must be str" in refused("score", tmp_path)
    assert json.loads((tmp_path / "card.json").read_text()) == card
    (tmp_path / "empty").mkdir()
    said = refused("score", tmp_path / "empty")
    assert "there is no" in said and "completions.jsonl" in said


@pytest.mark.parametrize(
    "content, reason", [('{"question": "q", "answer": "no number"}', "mine.jsonl line 1"), ("", "holds no rows")]
)
def test_a_broken_question_file_ends_in_one_line(tmp_path, content, reason):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    assert reason in refused("evaluate", "--profile", "tiny", "--questions", path, "--output", tmp_path / "out")
    assert "Traceback" in (tmp_path / "out" / "error.log").read_text()


def test_an_unreadable_adapter_is_refused_before_anything_is_evaluated(questions, tmp_path):
    (tmp_path / "adapter").mkdir()
    arguments = ["evaluate", "--profile", "tiny", "--adapter", tmp_path / "adapter", "--questions", questions]
    assert "adapter_config.json is missing" in refused(*arguments, "--output", tmp_path / "out")
    assert not (tmp_path / "out" / "base").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"seed": "5", "steps": 2, "seconds": 1.0}', "[" * 100_000])
def test_a_damaged_training_record_is_named_before_anything_is_evaluated(trained, questions, tmp_path, content):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "training.json").write_text(content)
    arguments = ["evaluate", "--profile", "tiny", "--adapter", run / "adapter", "--questions", questions]
    said = refused(*arguments, "--output", tmp_path / "out")
    assert f"{run / 'training.json'} is damaged" in said and "delete it" in said
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["error.log"]


def test_resume_starts_and_goes_on_and_overwrites_nothing(tmp_path, capsys):
    arguments = ["train", "--profile", "tiny", "--output", tmp_path / "run", "--resume", "--max-steps"]
    for steps in (1, 2):
        here(*arguments, steps)
        told = capsys.readouterr().out
        assert f"Trained {steps} steps" in told
    assert "Up to step 1 the learning rate was that of a run of 1 steps" in told
    before = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    for steps, reason in ((1, "holds a run of 2 steps"), (2, "no checkpoint that it can go on from")):
        said = refused(*arguments, steps)
        assert reason in said and "hoose another folder" in said
        assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == before
        for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def test_a_profile_this_machine_cannot_run_is_refused_before_any_download(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "Stop here: GPU" in refused("train", "--profile", "t4", "--output", tmp_path / "run")
    told = capsys.readouterr().out
    assert "fail  GPU" in told and "-> on Colab choose Runtime" in told
    assert not (tmp_path / "run" / "settings.json").exists()


# --------------------------------------------------------------------------------------- two at once, and no room


def start_in(folder, *args):
    """A command in a process of its own, returned once it works in `folder`."""
    words = [sys.executable, "-m", "utils.scripts.commands", *map(str, args)]
    process, end = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True), time.monotonic() + 60
    while not (folder / IN_USE).exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    return process


TRAIN = ("train", "--profile", "tiny", "--seed", 5, "--max-steps", 2)


def test_a_second_process_in_the_folder_of_a_training_is_refused(trained, questions, tmp_path):
    run = tmp_path / "run"
    first = start_in(run, *TRAIN, "--output", run)
    for words in (
        (*TRAIN, "--output", run),
        (*TRAIN, "--output", run, "--resume"),
        ("evaluate", "--profile", "tiny", "--questions", questions, "--output", run),
    ):
        said = refused(*words)
        assert said.startswith(f"InUse: {run} is in use by process {first.pid} on ")
        assert "\n" not in said and "commands.py train --profile tiny" in said
    assert first.wait(timeout=60) == 0 and not (run / "error.log").exists()
    assert not [*tmp_path.rglob(f"{IN_USE}*")] and not (run / "protocol.json").exists()
    for name in ("adapter/adapter_model.safetensors", "rollouts.jsonl"):
        assert (run / name).read_bytes() == (trained / name).read_bytes(), "as a training without company"


def test_two_evaluations_at_once_leave_one(measured, tmp_path):
    out, _, path = measured
    evaluate = ("evaluate", "--profile", "tiny", "--questions", path, "--output", tmp_path / "out")
    first = start_in(tmp_path / "out", *evaluate)
    done = command(*evaluate)
    assert done.returncode == 1 and "is in use by process" in done.stderr and done.stderr.count("\n") == 1
    assert (
        first.wait(timeout=60) == 0
        and (tmp_path / "out" / "card.json").read_bytes() == (out / "base" / "card.json").read_bytes()
    )
    assert len(jsonl(tmp_path / "out" / "completions.jsonl")) == 10 and not (tmp_path / "out" / "error.log").exists()


def limited(size):
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize("size, named", [(2_000, "rollouts.jsonl'"), (500_000, "")])
def test_a_training_without_room_says_so_and_goes_on_once_there_is_some(size, named, trained, tmp_path):
    """The limits end it in its records and in its checkpoint."""
    done = command(*TRAIN, "--output", tmp_path, preexec_fn=limited(size))
    assert done.returncode == 1 and named in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert f"There is no room left in {tmp_path}: free some and call this again; what was finished" in done.stderr
    here(*TRAIN, "--output", tmp_path, "--resume")
    for name in ("adapter/adapter_model.safetensors", "rollouts.jsonl"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_an_evaluation_without_room_says_so_and_keeps_what_it_has(measured, tmp_path):
    out, _, path = measured
    rows = [json.loads(line) for line in path.open()]
    many = tmp_path / "mine.jsonl"
    many.write_text(
        "".join(json.dumps(row | {"question": f"{n}: {row['question']}"}) + "\n" for n in range(20) for row in rows)
    )
    evaluate = ("evaluate", "--profile", "tiny", "--questions", many, "--output", tmp_path / "out")
    done = command(*evaluate, preexec_fn=limited(20_000))
    assert done.returncode == 1 and "completions.jsonl'. There is no room left in" in done.stderr, done.stderr
    said = refused("compare", tmp_path / "out", tmp_path / "out")
    assert "is not finished" in said and "of 200 questions are answered" in said
    here(*evaluate)
    assert len(jsonl(tmp_path / "out" / "completions.jsonl")) == 200


def test_an_old_terminal_and_a_name_beyond_it_do_not_lose_a_training(tmp_path):
    done = command(*TRAIN, "--output", tmp_path / "é ☃", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\u2603/adapter" in done.stdout, done.stderr
    assert (tmp_path / "é ☃" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_folder_in_the_place_of_a_file_is_named_with_the_mend(tmp_path):
    (tmp_path / "completions.jsonl").write_text('{"question": "6 * 7?", "gold": "42", "completion": "42"}\n')
    (tmp_path / "card.json").mkdir()
    with pytest.raises(SystemExit, match="card.json.*Something else is expected there: move that away and call this"):
        main(["score", str(tmp_path)])
    assert (tmp_path / "card.json").is_dir() and (tmp_path / "error.log").is_file(), "the log is where it happened"
