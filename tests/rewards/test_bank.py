"""The stored completions: enough of them, in whole groups, small, with their provenance; and banks of one's own."""

import dataclasses
import gzip
import json
import shutil
from collections import Counter

import pytest

from utils.data.prompts import PROMPTS
from utils.data.questions import load_questions
from utils.files import ROOT
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.rewards.bank import BANKS, FILE, FOLDER, PROVENANCE, REAL, TINY, Bank, Group, banks, load_bank
from utils.rewards.functions import correctness_reward, format_reward
from utils.scripts import record
from utils.scripts.record import ADAPTER, collect, record_real_bank, save_bank


def test_the_bank_is_large_in_groups_of_eight_and_small_on_disk():
    bank = load_bank()
    assert len(bank.completions) >= 2_000 and bank.group_size == 8
    assert f"{len(bank.completions):,} stored\ncompletions" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert {group.policy for group in bank.groups} == {"base", "trained"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 1_000_000
    assert all(len(values) == len(bank.completions) for values in bank.columns.values())


def test_its_provenance_names_what_made_it():
    provenance = json.loads((FOLDER / "provenance.json").read_text(encoding="utf-8"))
    assert (ROOT / provenance["trained"]).is_dir() and (ROOT / provenance["base"]).is_dir()
    assert provenance["group_size"] == 8 and "torch" in provenance["versions"]


def test_its_questions_are_of_the_validation_split_and_the_same_for_both_policies():
    bank, known = load_bank(), {q.question: q.gold for q in load_questions("tiny", "validation")}
    asked = {name: [g.question for g in bank.groups if g.policy == name] for name in ("base", "trained")}
    assert asked["base"] == asked["trained"]
    assert all(known[group.question] == group.gold for group in bank.groups)


def test_the_trained_policy_is_right_more_often():
    right = {}
    for name in ("base", "trained"):
        bank = Bank(tuple(group for group in load_bank().groups if group.policy == name))
        right[name] = sum(correctness_reward(bank.completions, gold=bank.columns["gold"])) / len(bank.completions)
    assert right["trained"] > right["base"] + 0.2


def test_the_real_bank_is_as_large_as_the_readme_says_and_has_both_prompts():
    bank, page = load_bank(REAL), (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"or {len(bank.completions):,} of the real one" in page and bank.group_size == 8
    of_each = Counter((group.policy, group.prompt) for group in bank.groups)
    assert of_each == {(who, prompt): 64 for who in ("base", "trained") for prompt in ("words", "layout and example")}
    size = (BANKS[REAL] / FILE).stat().st_size
    assert size <= 1_500_000 and json.loads((BANKS[REAL] / PROVENANCE).read_text())["model"] == bank.model


def test_a_bank_of_ones_own_is_saved_and_read_back(tmp_path):
    policy = load_policy(get_profile("tiny").replace(group_size=2, micro_batch=2))
    groups = collect(policy, load_questions("tiny", "validation")[:3], "mine")
    save_bank(groups, tmp_path, {"command": "a test"})
    first = (tmp_path / "completions.jsonl.gz").read_bytes()
    assert load_bank(tmp_path).groups == tuple(groups)
    save_bank(groups, tmp_path, {"command": "a test"})
    assert (tmp_path / "completions.jsonl.gz").read_bytes() == first


def test_what_is_no_bank_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m utils.scripts.record bank"):
        load_bank(tmp_path)
    one, two = Group("p", "q", "1", ("a",), (1,)), Group("p", "q", "1", ("a", "b"), (1, 1))
    for groups in ((), (one, two)):
        with pytest.raises(ValueError, match="groups of one size"):
            Bank(groups)


def test_what_is_at_its_default_is_not_written_so_the_stored_bank_stays_as_it_is(tmp_path):
    save_bank(load_bank().groups, tmp_path, {})
    assert gzip.decompress((tmp_path / FILE).read_bytes()) == gzip.decompress((FOLDER / FILE).read_bytes())


def test_a_group_keeps_its_prompt_and_what_was_cut_off_and_rewards_are_told(tmp_path):
    texts = ("<reasoning>\nTo find it:\n\n1. Half of 144 is needed.\n\n72.", "The answer is 72.")
    known = Group("base", "144 / 2?", "72", texts, (20, 6), "two examples", (True, False))
    save_bank([known, dataclasses.replace(known, truncated=None)], tmp_path, {"model": "some/model"})
    bank = load_bank(tmp_path)
    assert bank.groups == (known, dataclasses.replace(known, truncated=None)) and bank.model == "some/model"
    assert bank.columns["truncated"] == [True, False, False, False]
    assert correctness_reward(bank.completions, **bank.columns) == [0.0, 1.0, 1.0, 1.0]
    assert {asked[0]["content"] for asked in bank.columns["prompts"]} == {PROMPTS["two examples"]}
    assert {asked[0]["content"] for asked in load_bank().columns["prompts"]} == {PROMPTS["words"]}


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("prompt", "word", "must be one of words, .* got 'word'"),
        ("truncated", (True,), r"a group of 2 completions needs as many truncated, got \(True,\)"),
        ("tokens", (1, 2, 3), "a group of 2 completions needs as many tokens"),
    ],
)
def test_a_group_that_does_not_fit_together_is_refused(field, value, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(Group("base", "?", "1", ("a", "b"), (1, 1)), **{field: value})


def damaged(path):
    whole = path.read_bytes()
    row = json.loads(gzip.decompress(whole).split(b"\n")[0])
    yield "cut short", whole[:-500]
    yield "a byte changed", whole[:500] + bytes([whole[500] ^ 255]) + whole[501:]
    yield "not compressed", gzip.decompress(whole)
    yield "no JSON", gzip.compress(b"{")
    yield "no rows", gzip.compress(b"")
    yield "no object", gzip.compress(b"[1]")
    yield "an unknown field", gzip.compress(json.dumps(row | {"model": "m"}).encode())
    yield "a prompt of another version", gzip.compress(json.dumps(row | {"prompt": "verse"}).encode())


def test_a_damaged_bank_is_named(tmp_path):
    for what, content in damaged(FOLDER / FILE):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ValueError, match=f"{FILE} is no bank that can be read .*; copy it again"):
            pytest.fail(f"{what}: {load_bank(tmp_path)}")


def test_a_bank_has_a_name_and_is_offered_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setitem(BANKS, REAL, tmp_path)
    assert banks() == [TINY]
    with pytest.raises(FileNotFoundError, match="no bank of completions at"):
        load_bank(REAL)
    shutil.copy(FOLDER / FILE, tmp_path)
    assert banks() == [TINY, REAL] and load_bank(REAL).groups == load_bank(TINY).groups == load_bank().groups
    assert load_bank(TINY).model == "assets/tiny_model" and load_bank(REAL).model == ""


@pytest.mark.skipif(not (BANKS[REAL] / FILE).is_file(), reason="the bank of the real model is not recorded yet")
def test_the_bank_of_the_real_model_is_large_small_on_disk_and_asked_in_two_ways():
    bank, provenance = load_bank(REAL), json.loads((BANKS[REAL] / PROVENANCE).read_text(encoding="utf-8"))
    assert bank.group_size == 8 and (BANKS[REAL] / FILE).stat().st_size <= 1_500_000
    assert provenance["prompts"] == {name: PROMPTS[name] for name in dict.fromkeys(g.prompt for g in bank.groups)}
    assert len(provenance["prompts"]) == 2 and {group.policy for group in bank.groups} == set(provenance["policies"])
    for policy in provenance["policies"]:
        groups = [group for group in bank.groups if group.policy == policy]
        assert 8 * len(groups) >= 1_024 and all(group.truncated is not None for group in groups)


# ------------------------------------------------------------------------------------- sampling a real model's


@pytest.fixture
def profile():
    """The tiny model in the place of a real one; its dataset has a train split as GSM8K's."""
    small = {"group_size": 2, "micro_batch": 2, "max_completion_tokens": 48}
    return get_profile("tiny").replace(prompt="layout", **small)


def sampled(profile, tmp_path, adapter=None, asked=3):
    record_real_bank(profile, adapter, tmp_path / "raw", tmp_path / "bank", asked)
    return load_bank(tmp_path / "bank"), json.loads((tmp_path / "bank" / PROVENANCE).read_text(encoding="utf-8"))


def test_the_base_is_sampled_first_and_the_trained_model_later(profile, tmp_path):
    base, made = sampled(profile, tmp_path)
    train = {q.question: q.gold for q in load_questions("tiny", "train")}
    assert [(g.policy, g.prompt) for g in base.groups] == [("base", "words")] * 3 + [("base", "layout")] * 3
    assert len({group.question for group in base.groups}) == 3 and base.group_size == 2
    assert all(train[group.question] == group.gold for group in base.groups)
    assert all(cut == (n == 48) for g in base.groups for cut, n in zip(g.truncated, g.tokens, strict=True))
    assert sum(map(sum, (g.truncated for g in base.groups))) > 0, "else the line above shows little"
    assert made["model"] == base.model == "assets/tiny_model" and len(made["weights"]) == 64
    assert made["prompts"] == {name: PROMPTS[name] for name in ("words", "layout")}
    assert (made["temperature"], made["max_completion_tokens"], made["seed"]) == (1.0, 48, 0)
    assert "3 of the tiny train split" in made["questions"] and list(made["policies"]) == ["base"]
    for name in ("words", "layout"):
        header = json.loads((tmp_path / "raw" / f"base-{name}" / "protocol.json").read_text(encoding="utf-8"))
        assert header["protocol"]["system_prompt"] == PROMPTS[name], "so it was really asked"
    shutil.rmtree(tmp_path / "raw")  # the bank itself is enough to go on
    both, now = sampled(profile, tmp_path, ADAPTER)
    assert both.groups[:6] == base.groups and not list((tmp_path / "raw").glob("base*"))
    assert [(g.policy, g.prompt) for g in both.groups[6:]] == [("trained", "words")] * 3 + [("trained", "layout")] * 3
    assert [g.question for g in both.groups[6:]] == [g.question for g in base.groups]
    assert (
        now["policies"]["base"] == made["policies"]["base"] and len(now["policies"]["trained"]["adapter_weights"]) == 64
    )
    assert "torch" in now["policies"]["trained"]["versions"] and now["policies"]["trained"]["machine"]
    words, clean = both.groups[6:9], sum(format_reward([text for g in both.groups[6:9] for text in g.completions]))
    assert clean >= len(words), "an adapter that keeps the layout under its own prompt is in use"


def test_both_at_once_and_again_after_a_kill_while_the_bank_was_written(profile, tmp_path):
    whole, made = sampled(profile, tmp_path, ADAPTER)
    written = (tmp_path / "bank" / FILE).read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").glob("*/completions.jsonl")}
    assert len(stamps) == 4 and len(whole.groups) == 12
    base_alone = made | {"policies": {"base": made["policies"]["base"]}}
    for left in (None, base_alone):  # of the two files the second is written last
        (tmp_path / "bank" / PROVENANCE).unlink()
        if left:
            (tmp_path / "bank" / PROVENANCE).write_text(json.dumps(left), encoding="utf-8")
        sampled(profile, tmp_path, ADAPTER)
        assert (tmp_path / "bank" / FILE).read_bytes() == written
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "nothing was asked again"


@pytest.mark.parametrize(
    "change, adapter, asked, said",
    [
        ({"max_completion_tokens": 40}, None, 3, "max_completion_tokens is 40 in this call and 48 in .*bank"),
        ({"prompt": "one line"}, None, 3, "prompts is "),
        ({}, None, 4, "questions is '4 of the tiny train split.* in this call and '3 of"),
        ({}, "other", 3, "adapter_weights is .* in this call and"),
    ],
)
def test_a_bank_holds_completions_of_one_model_asked_in_one_way(profile, tmp_path, change, adapter, asked, said):
    sampled(profile, tmp_path, ADAPTER)
    before = (tmp_path / "bank" / FILE).read_bytes()
    if adapter:
        adapter = shutil.copytree(ADAPTER, tmp_path / "other")
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        (adapter / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"holds other completions: .*{said}.*Mend: remove that folder"):
        sampled(profile.replace(**change), tmp_path, adapter, asked)
    assert (tmp_path / "bank" / FILE).read_bytes() == before


def test_a_bad_adapter_is_found_before_anything_is_sampled(profile, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sampled(profile, tmp_path, tmp_path / "nowhere")
    assert not (tmp_path / "raw").exists()


def test_a_bank_that_is_too_large_is_refused_by_name_and_the_answers_stay(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "LARGEST_BANK", 400)
    with pytest.raises(ValueError, match=rf"bank/{FILE} would have \d+ bytes, and a bank may have 400"):
        sampled(profile, tmp_path)
    assert not (tmp_path / "bank").exists()
    assert [len(path.read_bytes().splitlines()) for path in (tmp_path / "raw").glob("*/completions.jsonl")] == [6, 6]


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["bank", "--adapter", "x"], 2, "--adapter with --model"),
        (["--model", "x"], 2, "--model goes with bank"),
        (["bank", "--model", "no/such/model"], 1, "there is no model 'no/such/model'"),
        (["bank", "--model", str(ROOT / "assets/tiny_model")], 1, "train.jsonl"),
    ],
)
def test_on_the_command_line_wrong_use_ends_in_a_sentence(arguments, status, said, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("GSM8K_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        record.main(arguments)
    assert ended.value.code == status and said in capsys.readouterr().err
