"""The stored completions: enough of them, in whole groups, small, with their provenance; and banks of one's own."""

import json

import pytest

from utils.data.questions import load_questions
from utils.files import ROOT
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.rewards.bank import FOLDER, Bank, Group, load_bank
from utils.rewards.functions import correctness_reward
from utils.scripts.record import collect, save_bank


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
