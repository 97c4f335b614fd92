"""The catalogue: arms that all differ, choices of questions, a reward; and whether the recorded rows are today's."""

import re

import pytest

from utils.experiments import catalogue, grid
from utils.experiments.catalogue import ARMS, EXPERIMENTS
from utils.experiments.grid import fingerprint
from utils.model.policy import load_policy
from utils.model.profiles import get_profile


def test_all_definitions_differ():
    assert len({fingerprint(arm) for arm in ARMS.values()}) == len(ARMS)
    for experiment in EXPERIMENTS.values():
        assert {experiment.reference, *experiment.arms} <= ARMS.keys() and experiment.reference not in experiment.arms
    used = {name for e in EXPERIMENTS.values() for name in (e.reference, *e.arms)}
    assert used == ARMS.keys(), "an arm that no experiment asks for is run for nothing"
    shared = catalogue.arms_of(list(EXPERIMENTS.values()))
    assert len(shared) == len(ARMS), "a shared arm should be listed once"


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_question_says_what_its_reference_has(experiment):
    word = "default" if experiment.reference == "default" else "reference"
    assert re.search(rf" \({word}: .+\)\?$", experiment.question)


def test_orders_and_filters_choose_from_the_same_questions():
    shuffled = grid._shuffled(0)
    assert shuffled != grid._shuffled(1) and shuffled == grid._shuffled(0)
    drawn, easy, hard = (
        choose(shuffled, 40, None) for choose in (grid.as_drawn, catalogue.easy_first, catalogue.hard_first)
    )
    assert sorted(q.question for q in drawn) == sorted(q.question for q in easy) == sorted(q.question for q in hard)
    steps = [q.row["steps"] for q in easy]
    assert steps == sorted(steps) and steps[0] < steps[-1] and easy == hard[::-1]


def test_dead_questions_are_left_out(monkeypatch):
    shuffled = grid._shuffled(0)
    rights = {q.question: i % 9 for i, q in enumerate(shuffled)}  # 0 to 8 of 8
    monkeypatch.setattr(
        "utils.experiments.catalogue.correct_counts",
        lambda policy, questions, n: [rights[q.question] for q in questions],
    )
    chosen = catalogue.with_spread(shuffled, 100, load_policy(grid.START))
    assert len(chosen) == 100 and all(0 < rights[q.question] < 8 for q in chosen)
    assert chosen == [q for q in shuffled if 0 < rights[q.question] < 8][:100]


def test_the_proximity_reward_pays_for_being_near():
    replies = ["<reasoning>a</reasoning><answer>42</answer>", "The answer is 40.", "36", "Nothing.", "9" * 400]
    paid = catalogue.proximity_reward(replies, gold=["42"] * 4 + ["1"])
    assert paid[0] == 1 and 1 > paid[1] > paid[2] > 0 and paid[3:] == [0, 0]


def test_every_question_was_asked_with_five_seeds_of_todays_arms():
    seen = {(row["arm"], row["seed"]) for row in catalogue.stored()}
    assert seen >= {(arm, seed) for arm in ARMS for seed in range(catalogue.SEEDS)}


def test_tiny_has_the_numbers_of_the_long_runs():
    assert get_profile("tiny").replace(save_every=grid.START.save_every) == grid.START.replace(**ARMS["long"].profile)
