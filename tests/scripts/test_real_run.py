"""A real model measured and trained in sittings; the embedded one with a handful of questions stands in."""

import gzip
import json
import re
import shutil
from statistics import fmean

import pytest
from safetensors.torch import load_file, save_file

from utils.data.questions import load_questions, solution_steps
from utils.evaluation.evaluate import compare_folders, load_evaluation
from utils.evaluation.sampling import read_ballots
from utils.files import IN_USE, ROOT, read_json, read_jsonl, sha256
from utils.model import policy as generation
from utils.model.profiles import get_profile
from utils.rewards.functions import group_advantages
from utils.rewards.groups import is_dead
from utils.scripts import real, record
from utils.stats import detectable_difference, interval, percent

PARTS = ("test", "svamp", "pass")
pytestmark = pytest.mark.slow


class Killed(BaseException):
    """The session ends."""


class Sitting:
    """`asked`: how many prompts each batch had; `end`: the session ends at that batch."""

    asked, end = [], None

    def __call__(self, *words, end=None):
        self.asked, self.end = [], end
        real.main([str(word) for word in words])


@pytest.fixture(scope="module")
def sitting():
    call, generate_batch = Sitting(), generation._generate_batch
    profile = get_profile("tiny").replace(
        steps=2, prompts_per_step=2, group_size=4, micro_batch=8, max_completion_tokens=24, eval_batch=2, save_every=1
    )

    def counted(policy, prompts, temperature, n):
        if len(call.asked) == call.end:
            raise Killed
        call.asked.append(len(prompts))
        return generate_batch(policy, prompts, temperature, n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "_generate_batch", counted)
        patch.setattr(real, "get_profile", lambda name, model: profile)
        patch.setattr(real, "SETS", {"test": ("tiny", "test"), "svamp": ("tiny-longer", "test")})
        patch.setattr(real, "load_questions", lambda name, split: load_questions(name, split)[:5])
        patch.setattr(real, "SAMPLED", 4)
        patch.setattr(real, "SAMPLES", 2)
        patch.setattr(real, "PROFILE", "tiny")
        yield call


@pytest.fixture(scope="module")
def work(sitting, tmp_path_factory):
    """Base and one seed, all measured."""
    folder = tmp_path_factory.mktemp("real")
    for what in ("base", "trained"):
        sitting(what, "--work", folder)
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    for function in (real.publish, real.show, real.take_up):
        monkeypatch.setattr(function, "__defaults__", (tmp_path / "assets",))
    monkeypatch.setattr(real, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(record, "README", tmp_path / "README.md")
    record.README.write_text("\n".join(["before", *real.MARKERS, "after"]))
    return tmp_path / "assets"


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != IN_USE
    }


def test_the_base_is_measured_in_sittings_and_nothing_is_asked_twice(sitting, tmp_path, capsys):
    asked = []
    for end in (2, 3, 0, 1, None):
        try:
            sitting("base", "--work", tmp_path / "work", end=end)
        except Killed:
            asked.append(sitting.asked)
    assert asked + [sitting.asked] == [[2, 2], [1, 2, 2], [], [1], [1] * 4], "5 and 5 in twos, then 4 for each sample"
    assert "base, pass: 4 of 4 questions" in capsys.readouterr().out
    sitting("base", "--work", tmp_path / "work")
    assert sitting.asked == []
    assert load_evaluation(tmp_path / "work" / "base" / "test").card["n"] == 5
    assert [len(b.votes) for b in read_ballots(tmp_path / "work" / "base" / "pass" / "completions.jsonl")] == [2] * 4


def test_a_machine_that_computes_in_another_type_measures_in_that_of_the_profile(sitting, tmp_path, monkeypatch):
    """Else its answers could not be compared with those of the others."""
    here = real.get_profile("tiny", None).replace(dtype="bfloat16")
    monkeypatch.setattr(real, "get_profile", lambda name, model: here)
    sitting("base", "--work", tmp_path)
    assert load_evaluation(tmp_path / "base" / "test").header["protocol"]["dtype"] == get_profile("tiny").dtype


def test_base_and_seed_answer_the_same_under_one_protocol(work):
    for name in real.SETS:
        _, trained, comparison = compare_folders(work / "base" / name, work / "seed-0" / name)
        assert comparison["n"] == 5 and trained.header["adapter"] == "run/adapter"
    assert json.loads((work / "seed-0" / "run" / "training.json").read_text())["finished"]


def test_what_is_finished_is_published_with_all_that_the_summary_promises(sitting, work, runs, capsys):
    sitting("publish", "--work", work)
    stored = {
        f"{who}/{part}/{name}"
        for who in ("base", "seed-0")
        for part in PARTS
        for name in ("completions.jsonl.gz", "protocol.json")
    }
    stored |= {f"{who}/{part}/card.json" for who in ("base", "seed-0") for part in real.SETS}
    of_the_seed = {*real.LOGS, "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    of_the_seed |= {"summary.json", "card.md", "rollouts.jsonl.gz"}
    stored.add("base/by_solution_steps.json")
    first = files(runs)
    assert first.keys() == stored | {f"seed-0/{name}" for name in of_the_seed}
    assert capsys.readouterr().out.startswith("Strict accuracy went from ")
    for who in ("base", "seed-0"):
        answers = (work / who / "pass" / "completions.jsonl").read_bytes()
        assert gzip.decompress(first[f"{who}/pass/completions.jsonl.gz"]) == answers
    summary = json.loads(first["seed-0/summary.json"])
    assert (summary["n_test"], summary["svamp"]["n"], summary["sampling"]["gain"]["questions"]) == (5, 5, 4)
    assert (summary["seed"], summary["train_steps"], summary["model"]) == (0, 2, "assets/tiny_model")
    assert summary["base"]["strict"]["n"] == summary["svamp"]["trained"]["strict"]["n"] == 5
    assert summary["sampling"]["base"]["k"] == [1, 2] and summary["train_seconds"] > 0
    steps = [str(solution_steps(q.row["answer"])) for q in load_questions("tiny", "test")[:5]]
    counted = {n: {who: rate["n"] for who, rate in both.items()} for n, both in summary["by_solution_steps"].items()}
    assert counted == {n: {"base": steps.count(n), "trained": steps.count(n)} for n in sorted(steps)}
    steps.pop()
    by_steps = json.loads(first["base/by_solution_steps.json"])
    assert {n: sum(counts.values()) for n, counts in by_steps.items()} == {n: steps.count(n) for n in sorted(steps)}
    right = [b.right for b in read_ballots(work / "base" / "pass" / "completions.jsonl")]
    assert all(by_steps[n]["none"] == [r for r, s in zip(right, steps, strict=True) if s == n].count(0) for n in steps)
    header = json.loads(first["base/test/protocol.json"])
    assert all(summary[name] == header[name] for name in ("weights", "protocol", "protocol_hash"))
    card = first["seed-0/card.md"].decode()
    assert "# tiny_model, trained with GRPO" in card and "| strict | " in card and "| 5, tiny test |" in card
    page, pictures = record.README.read_text(), files(real.FIGURES)
    assert page.startswith("before\n") and page.endswith("\nafter") and "| 0 | " in page and "| 2 steps, " in page
    assert "pass@1 " in page and "pass@2 " in page and "SVAMP, 5 questions" in page
    assert pictures.keys() == {"real_before_after.png", "real_learning_curves.png"}
    sitting("publish", "--work", work)
    assert (files(runs), record.README.read_text(), files(real.FIGURES)) == (first, page, pictures), "the same again"


def trained_further(copy):
    """Another run in `copy`, which says that it began with the adapter of seed 0."""
    further = shutil.copytree(copy / "seed-0" / "run", copy / "seed-0-on" / "run")
    weights, settings = further / "adapter" / "adapter_model.safetensors", further / "settings.json"
    told = json.loads(settings.read_text()) | {"adapter": sha256(weights)}
    settings.write_text(json.dumps(told))
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return further


def test_a_seed_trained_further_is_measured_and_told_with_what_it_began_with(sitting, work, runs, tmp_path):
    copy = shutil.copytree(work, tmp_path / "work")
    trained_further(copy)
    sitting("measure", "--work", copy)
    assert len(sitting.asked) == 10 and all(real.finished(copy / "seed-0-on" / part) for part in PARTS)
    sitting("measure", "--work", copy)
    assert sitting.asked == []
    sitting("publish", "--work", copy)
    before = json.loads((copy / "seed-0" / "run" / "training.json").read_text())
    summary = json.loads((runs / "seed-0-on" / "summary.json").read_text())
    assert summary["begun_with"] == {"run": "seed-0", "steps": 2, "seconds": before["seconds"]}
    page = record.README.read_text()
    assert "| 0 | " in page and "| seed 0 trained on | " in page and "| 2 + 2 steps, " in page
    sitting("unpack", "--work", tmp_path / "new")
    assert (tmp_path / "new" / "seed-0-on" / "run" / "settings.json").read_bytes() == (
        runs / "seed-0-on" / "settings.json"
    ).read_bytes()


def test_a_seed_trained_further_from_what_is_not_there_is_not_summed_up(sitting, work, runs, tmp_path, capsys):
    copy = shutil.copytree(work, tmp_path / "work")
    trained_further(copy)
    sitting("measure", "--work", copy)
    shutil.rmtree(copy / "seed-0")
    with pytest.raises(SystemExit):
        sitting("publish", "--work", copy)
    assert re.search(r"began with an adapter [0-9a-f]{12} … that no run in .*work has left", capsys.readouterr().err)


@pytest.mark.skipif(not list(real.RUNS.glob("seed-*/summary.json")), reason="no seed is recorded yet")
def test_the_readme_shows_the_recorded_runs():
    recorded = [json.loads(path.read_text()) for path in sorted(real.RUNS.glob("seed-*/summary.json"))]
    shown = record.README.read_text(encoding="utf-8").split(real.MARKERS[0])[1].split(real.MARKERS[1])[0].strip()
    assert shown == real.results_table(recorded)


def the_readme():
    return " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_readme_tells_how_long_the_run_was():
    run, page = read_json(real.RUNS / "seed-0" / "training.json", ""), the_readme()
    first, second, third = run["schedules"]
    ended = third["from_step"] - 1
    assert (first["max_steps"], second["max_steps"], third["max_steps"]) == (run["steps"], ended, run["steps"])
    told = f"Planned for {run['steps']} steps, it was ended at step {ended} for want of time, from step"
    assert f"{told} {second['from_step']} on at the learning rate of a run of {ended}" in page
    assert f"from step {third['from_step']} on it went on at that of {run['steps']}" in page
    between = read_json(real.RUNS / "seed-0" / f"after-{ended}-steps.json", "")
    summary = read_json(real.RUNS / "seed-0" / "summary.json", "")
    assert between["protocol_hash"] == summary["protocol_hash"]
    assert f"After {ended} steps it had {percent(between['strict'])}" in page
    assert summary["trained"]["strict"]["rate"] - between["strict"]["rate"] < detectable_difference(
        1319, discordant=0.25
    )


def test_the_readme_tells_how_far_the_gain_carries():
    summary = read_json(real.RUNS / "seed-0" / "summary.json", "")
    rates = {int(n): [100 * both[who]["rate"] for who in both] for n, both in summary["by_solution_steps"].items()}
    most = get_profile("laptop").solution_steps
    before, after = rates[most + 1]
    told = f"at most {most} steps; on test questions with {most + 1} it went from {before:.1f}% to {after:.1f}%"
    assert f"{told}, with 5 and more hardly up" in the_readme()
    assert all(after - before < 6 for n, (before, after) in rates.items() if n >= 5)


def test_the_readme_tells_of_what_kind_the_gain_is():
    summary, page = read_json(real.RUNS / "seed-0" / "summary.json", ""), the_readme()
    gain, sampled = summary["gain"], summary["sampling"]["gain"]
    assert gain["layout"]["broken"] == gain["working"]["fixed"] == gain["working"]["broken"] == 0
    told = f"Of the {summary['flips']['fixed']} fixed questions {gain['layout']['fixed']} were fixed by layout and"
    arithmetic = gain["arithmetic"]
    assert f"{told} {arithmetic['fixed']} by arithmetic, which broke {arithmetic['broken']}" in page
    at = {k: [100 * sampled["pass"][part][k - 1] for part in ("mean", "low", "high")] for k in (1, 8)}
    one, eight = ("{:.1f} points [{:.1f}, {:.1f}]".format(*at[k]) for k in (1, 8))
    assert f"rose by {eight}, about as much as that of a single sample, {one.replace(' points', '')}" in page


def test_the_readme_tells_how_the_seeds_went_apart():
    seeds, page = [real.RUNS / f"seed-{seed}" for seed in range(2)], the_readme()
    run, logs = read_json(seeds[1] / "training.json", ""), [read_jsonl(seed / "log.jsonl") for seed in seeds]
    [schedule] = run["schedules"]
    assert f"Seed 1 had {run['steps']} of its {schedule['max_steps']} steps, at one learning-rate schedule" in page
    pause = max(line["step_time"] for line in logs[1])
    assert f"{pause / 60:.0f} of its minutes are a pause" in page

    def points(base, trained):
        change = compare_folders(base / "test", trained / "test")[2]["difference"]
        ends = sorted(abs(100 * change[end]) for end in ("low", "high"))  # of one sign
        return "{:.1f} points [{:.1f}, {:.1f}]".format(abs(100 * change["points"]), *ends)

    gains = [points(real.RUNS / "base", seed) for seed in seeds]
    assert f"gained {gains[1]} where seed 0 gained {gains[0].replace(' points', '')}" in page
    assert f"between the two trained models lie {points(*seeds)}" in page
    svamp = read_json(seeds[1] / "summary.json", "")["svamp"]
    before, after = (svamp[who]["strict"]["rate"] for who in ("base", "trained"))
    change = "{points:.1f} points [{low:.1f}, {high:.1f}]".format(
        **{k: 100 * v for k, v in svamp["difference"].items()}
    )
    assert f"On SVAMP seed 1 went from {before:.1%} to {after:.1%}, a change of {change}" in page
    assert not (seeds[1] / "pass").exists() and "pass@k of it: **not measured**" in page
    first, second = (
        [fmean(line["completions/mean_length"] for line in log[start : start + 16]) for start in range(0, 128, 16)]
        for log in logs
    )
    assert f"of seed 0 fell to {first[1]:.0f} tokens and came back" in page and first[1] < first[0] < min(first[2:])
    assert f"of seed 1 fell from {second[0]:.0f} to {second[2]:.0f} in its first 48 steps and stayed there" in page
    assert max(second[3:]) < 1.2 * second[2]


def test_the_readme_tells_what_a_hundred_steps_more_brought():
    seed, further, page = real.RUNS / "seed-0", real.RUNS / "seed-0-on", the_readme()

    def difference(before, after, part="test"):
        change = compare_folders(before / part, after / part)[2]
        points = "{points:.1f} points [{low:.1f}, {high:.1f}]".format(
            **{name: 100 * change["difference"][name] for name in ("points", "low", "high")}
        )
        rates = [load_evaluation(each / part).card["strict"]["rate"] for each in (before, after)]
        return "from {:.1%} to {:.1%}".format(*rates), points, change["flips"]

    rates, points, flips = difference(seed, further)
    log = read_jsonl(further / "log.jsonl")
    assert f"Seed 0 trained on for {len(log)} steps" in page
    assert f"went {rates} on the same questions: {points}, {flips['fixed']} fixed and {flips['broken']} broken" in page
    rates, points, _ = difference(seed, further, "svamp")
    assert f"On SVAMP it went {rates}, {points}" in page
    ends = [
        [fmean(line[name] for line in part) for part in (log[:20], log[-20:])]
        for name in ("completions/mean_length", "rewards/format_reward/mean")
    ]
    assert "its completions grew from {:.0f} to {:.0f} tokens".format(*ends[0]) in page
    assert "the share in layout fell from {:.0%} to {:.0%}".format(*ends[1]) in page
    assert f"has now gained {difference(real.RUNS / 'base', further)[1]}" in page
    assert not (further / "pass").exists() and "pass@k of it: not measured" in page


def test_the_readme_tells_the_remedies_that_were_left():
    further, page = real.RUNS / "seed-0-on", the_readme()
    records = read_jsonl(further / "rollouts.jsonl.gz")
    order = [group["question"] for record in records for group in record["groups"]]
    settings = json.loads((further / "settings.json").read_text())

    def by_question(run, part):
        groups = [group for record in read_jsonl(run / "rollouts.jsonl.gz") for group in record["groups"]]
        return {group["question"]: fmean(group["parts"][part]) for group in groups}

    for name, changed, told in (
        (
            "five-times-the-rate",
            {"learning_rate": 5 * settings["learning_rate"]},
            "{right} in its {steps} steps, {points}, with {layout}",
        ),
        (
            "eight-questions-a-step",
            {"gradient_accumulation_steps": 2 * settings["gradient_accumulation_steps"]},
            "instead of four, in a shorter schedule, got {right} in {steps} steps, {points}.",
        ),
    ):
        run = real.RUNS / "tried" / name
        assert json.loads((run / "settings.json").read_text()) == settings | changed, "one setting is changed"
        mine, theirs = (
            [by_question(at, f"{part}_reward") for part in ("correctness", "format")] for at in (run, further)
        )
        assert list(mine[0]) == order[: len(mine[0])], "the same questions in the same order"
        apart = interval([100 * (mine[0][question] - theirs[0][question]) for question in mine[0]])
        right, layout = (
            (fmean(of.values()), fmean(before[q] for q in of)) for of, before in zip(mine, theirs, strict=True)
        )
        assert (
            told.format(
                right="{:.0%} instead of {:.0%}".format(*right),
                layout="{:.0%} in layout instead of {:.0%}".format(*layout),
                points=f"{apart.mean:.1f} points [{apart.low:.1f}, {apart.high:.1f}]",
                steps=len(read_jsonl(run / "log.jsonl")),
            )
            in page
        )


def test_the_readme_tells_what_another_processor_does_to_the_answers():
    again = load_evaluation(real.RUNS / "base" / "another-processor").verdicts
    before = load_evaluation(real.RUNS / "base" / "test").verdicts[: len(again)]
    assert [v.id for v in again] == [v.id for v in before]
    pairs = list(zip(before, again, strict=True))
    same = sum(old.completion == new.completion for old, new in pairs)
    both = sum(old.strict and new.strict for old, new in pairs)
    [right] = {sum(verdict.strict for verdict in each) for each in (before, again)}
    page = the_readme()
    assert f"Of the first {len(again)} questions the base, asked again there" in page
    assert f"answered {same} to the letter as before, and got {right} right, as before, {both} of them the same" in page


def test_the_readme_tells_the_first_try_as_it_was():
    log, page = read_jsonl(real.RUNS / "tried" / "two-questions-a-step" / "log.jsonl"), the_readme()

    def between(metric, shown):
        return [shown.format(fmean(line[metric] for line in part)) for part in (log[:10], log[-10:])]

    tokens, dead, right = (
        between(*each)
        for each in (
            ("completions/mean_length", "{:.0f}"),
            ("frac_reward_zero_std", "{:.0%}"),
            ("rewards/correctness_reward/mean", "{:.0%}"),
        )
    )
    assert f"stopped after {len(log)} steps" in page
    assert "from {} to {} tokens".format(*tokens) in page
    assert "from {} to {}, for {} and {} right answers".format(*dead, *right) in page


def test_the_readme_tells_the_remedy_as_far_as_it_came():
    page, folder = the_readme(), real.RUNS / "tried" / "scaled-by-the-batch"
    log, rollouts = (read_jsonl(folder / name) for name in ("log.jsonl", "rollouts.jsonl.gz"))
    before = [read_jsonl(real.RUNS / "seed-1" / name) for name in ("log.jsonl", "rollouts.jsonl.gz")]
    assert f"seed 1 again, for {len(log)} steps on the same questions in the same order" in page
    asked = [
        [[g["question"] for g in record["groups"]] for record in each[: len(log)]] for each in (rollouts, before[1])
    ]
    assert len(rollouts) == len(log) and asked[0] == asked[1]
    settings = [json.loads((each / "settings.json").read_text()) for each in (folder, real.RUNS / "seed-1")]
    assert settings[0].pop("scale_rewards") == "batch" and settings[0] == settings[1], "nothing else is different"

    def last(metric, shown):
        return tuple(
            shown.format(fmean(line[metric] for line in each[len(log) - 8 : len(log)])) for each in (log, before[0])
        )

    assert (
        "its completions have {} tokens where those of seed 1 have {}".format(
            *last("completions/mean_length", "{:.0f}")
        )
        in page
    )
    right, layout = (last(f"rewards/{part}_reward/mean", "{:.0%}") for part in ("correctness", "format"))
    assert f"for {right[0]} and {right[1]} right answers and {layout[0]} and {layout[1]} in layout" in page
    for line, rollout in zip(log, rollouts, strict=True):
        rewards = [r for group in rollout["groups"] for r in group["rewards"]]
        advantages = [a for group in rollout["groups"] for a in group["advantages"]]
        assert advantages == pytest.approx(group_advantages(rewards, 8, "batch"), abs=1e-4)
        assert line["frac_reward_zero_std"] == fmean(map(is_dead, rollout["groups"]))


def test_no_path_of_this_machine_is_published(sitting, work, runs, tmp_path):
    copy = shutil.copytree(work, tmp_path / "work")
    for name, key in real.PLACES.items():
        path = copy / "seed-0" / "run" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: "/somewhere/models/Qwen2.5-0.5B"}))
    sitting("publish", "--work", copy)
    published = {name: json.loads((runs / "seed-0" / name).read_text())[key] for name, key in real.PLACES.items()}
    assert set(published.values()) == {"models/Qwen2.5-0.5B"}


def unfinished(folder):
    path = folder / "completions.jsonl"
    path.write_bytes(path.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n")


def interrupted(folder):
    path = folder / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": False}))


@pytest.mark.parametrize(
    "harm, part, lacks",
    [
        (unfinished, "base/test", "summary"),
        (unfinished, "base/pass", "sampling"),
        (unfinished, "seed-0/svamp", "svamp"),
        (unfinished, "seed-0/pass", "sampling"),
        (interrupted, "seed-0/run", "summary"),
        (lambda folder: (folder / "training.json").unlink(), "seed-0/run", "summary"),
        (shutil.rmtree, "seed-0/test", "summary"),
        (shutil.rmtree, "seed-0/run", "summary"),
        (lambda folder: (folder / "protocol.json").unlink(), "seed-0/test", "summary"),
        (lambda folder: shutil.copytree(folder, folder.with_name("seed-1")), "seed-0", ""),
    ],
)
def test_what_is_not_finished_is_named_and_left_out(sitting, work, runs, tmp_path, capsys, harm, part, lacks):
    copy = shutil.copytree(work, tmp_path / "work")
    harm(copy / part)
    sitting("publish", "--work", copy)
    said = capsys.readouterr().out
    assert (f"{copy / part} is not finished" in said) == (said.count("not finished") == 1) == bool(lacks)
    published, page = files(runs), record.README.read_text()
    assert ("seed-0/summary.json" in published) == (lacks != "summary") == ("| 2 steps, " in page)
    if lacks:
        left_out = "seed-0/adapter" if part.endswith("run") else part
        assert not any(name.startswith(f"{left_out}/") for name in published) and len(published) > 10
    if lacks != "summary":
        summary = json.loads(published["seed-0/summary.json"])
        assert {"svamp", "sampling"} - summary.keys() == {lacks} - {""}
        assert ("SVAMP" in page, "pass@1" in page) == (lacks != "svamp", lacks != "sampling")


@pytest.mark.parametrize("part", PARTS)
def test_what_was_not_measured_alike_is_not_summed_up(sitting, work, runs, tmp_path, capsys, part):
    """As where the profile's cap was changed between the two."""
    copy = shutil.copytree(work, tmp_path / "work")
    path = copy / "base" / part / "protocol.json"
    path.write_text(path.read_text().replace('"token_cap": 24', '"token_cap": 25'))
    with pytest.raises(SystemExit):
        sitting("publish", "--work", copy)
    assert f"token_cap is 25 in {path.parent} and 24 in {copy / 'seed-0' / part}" in capsys.readouterr().err
    assert not (runs / "seed-0" / "summary.json").exists()


def test_recorded_answers_and_runs_come_back_and_cost_nothing_again(sitting, work, runs, tmp_path, monkeypatch):
    sitting("publish", "--work", work)
    monkeypatch.setattr(real, "train", lambda *args, **kwargs: pytest.fail("it was trained again"))
    for what in ("unpack", "base", "trained"):
        sitting(what, "--work", tmp_path / "new")
        assert sitting.asked == []
    back, before = files(tmp_path / "new"), files(work)
    assert back.keys() >= {f"seed-0/{part}/completions.jsonl" for part in PARTS} | {
        "seed-0/run/log.jsonl",
        "seed-0/run/rollouts.jsonl",
    }
    assert all(content == before[name] for name, content in back.items())
    recorded = files(runs)
    (tmp_path / "new" / "seed-0" / "svamp" / "completions.jsonl").unlink()  # a kill while it was brought back
    shutil.rmtree(tmp_path / "new" / "seed-0" / "pass")
    (runs / "seed-0" / "pass" / "completions.jsonl.gz").unlink()
    for what in ("unpack", "trained"):
        sitting(what, "--work", tmp_path / "new")
    assert sitting.asked == [1] * 4, "what was never recorded is asked, and only that"
    sitting("publish", "--work", tmp_path / "new")
    assert files(runs).keys() == recorded.keys()


def test_what_is_in_the_work_folder_is_not_overwritten_by_what_was_recorded(sitting, work, runs, tmp_path):
    sitting("publish", "--work", work)
    copy = shutil.copytree(work, tmp_path / "work")
    unfinished(copy / "base" / "test")
    before = files(copy)
    sitting("unpack", "--work", copy)
    assert files(copy) == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["base", "--model", "nowhere", "--work", "w"], "there is no model 'nowhere'"),
        (["base", "--model", "README.md", "--work", "w"], "the model file .*README.md is no GGUF"),
        (["base", "--work", "README.md"], "README.md' is a file; give the name of a folder"),
        (["trained", "--work", "README.md/deeper"], "README.md' is a file"),
        (["publish", "--work", "nowhere"], "--work .*nowhere holds no answers of the base model"),
        (["unpack", "--work", "README.md"], "README.md' is a file"),
        (["publish", "--work", "utils"], "utils holds no answers of the base model; name the folder that `base`"),
        (["base"], "the following arguments are required: --work"),
        (["trained", "--work", "w", "--seed", "-1"], "'-1' is not a whole number"),
        (["everything", "--work", "w"], "invalid choice: 'everything'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(capsys, monkeypatch, words, said):
    monkeypatch.chdir(real.ROOT)
    with pytest.raises(SystemExit) as refused:
        real.main(words)
    assert refused.value.code == 2 and re.search(said, capsys.readouterr().err)
