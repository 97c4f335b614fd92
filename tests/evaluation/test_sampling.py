"""Sampled answers: votes, pass@k and maj@k against brute force, bands, calibration, and samples that outlive a kill."""

import itertools
import json
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from utils.data.questions import Question, load_questions
from utils.evaluation import sampling
from utils.evaluation.evaluate import evaluate, load_evaluation, score
from utils.evaluation.sampling import (
    ballot,
    band,
    calibration,
    collect,
    curves,
    gain_curves,
    maj_at_k,
    maj_table,
    pass_table,
    read_ballots,
)
from utils.files import IN_USE, InUse, write_jsonl
from utils.model.policy import load_policy
from utils.model.profiles import get_profile
from utils.stats import wilson_interval

TAGGED = "<reasoning>\n1+1=2\n</reasoning>\n<answer>{}</answer>"


def votes(right, others=(), silent=0, id="q"):
    """A ballot on the gold 7, with so many votes for it, for 101, 102 … and for nothing."""
    texts = [TAGGED.format(7)] * right + [TAGGED.format(101 + i) for i, c in enumerate(others) for _ in range(c)]
    return ballot(id, "7", texts + ["I do not know."] * silent)


def by_brute_force(right, others, silent, k):
    """maj@k over every subset; a tie counts as the right answer's share of it."""
    cast = ["right"] * right + [i for i, count in enumerate(others) for _ in range(count)] + [None] * silent
    won = Fraction(0)
    subsets = list(itertools.combinations(cast, k))
    for subset in subsets:
        counts = Counter(vote for vote in subset if vote is not None)
        leaders = [answer for answer, count in counts.items() if count == max(counts.values())]
        won += Fraction("right" in leaders, max(1, len(leaders)))
    return float(won / len(subsets))


# ----------------------------------------------------------------------------------------------- votes


def test_lenient_answers_vote_unless_strict_ones_are_asked_for():
    texts = [TAGGED.format("$7.00"), "The answer is 7.", "The answer is 8.", TAGGED.format("7/2"), "No idea."]
    lenient, strict = ballot("q", "7", texts), ballot("q", "7", texts, mode="strict")
    assert lenient.votes == (7, 7, 8, Fraction(7, 2), None) and lenient.mode == "lenient"
    assert strict.votes == (7, None, None, Fraction(7, 2), None)
    assert (lenient.right, lenient.others, lenient.silent) == (2, (1, 1), 1)
    assert (strict.right, strict.others, strict.silent) == (1, (1,), 3)


def test_the_same_number_written_differently_is_one_answer():
    texts = [TAGGED.format(text) for text in ("1,000", "1000.0", "$1000", "999")]
    assert ballot("q", "1000", texts).right == 3


def test_a_sample_that_was_cut_off_votes_only_with_a_stated_answer():
    texts = ["<answer>7</answer>", "3 + 4 = 7", "The answer is 7, as"]
    assert ballot("q", "7", texts, truncated=[True, True, True]).votes == (7, None, 7)
    assert ballot("q", "7", texts, truncated=[True, None, False]).right == 3


@pytest.mark.parametrize(
    ("gold", "texts", "mode", "said"),
    [("many", ["7"], "strict", "not a number"), ("7", [], "strict", "no completions"), ("7", ["7"], "best", "best")],
)
def test_what_cannot_vote_is_refused(gold, texts, mode, said):
    with pytest.raises(ValueError, match=said):
        ballot("q", gold, texts, mode)


# ------------------------------------------------------------------------------------- pass@k and maj@k


def test_maj_at_k_equals_brute_force():
    rng = random.Random(0)
    cases = {((1, (1,), 0)), (3, (3,), 2), (2, (2, 2), 1), (1, (4, 1), 0), (0, (3,), 1), (4, (), 3), (0, (), 4)}
    while len(cases) < 60:
        cases.add((rng.randrange(5), tuple(rng.randrange(1, 4) for _ in range(rng.randrange(4))), rng.randrange(3)))
    for right, others, silent in cases:
        for k in range(1, right + sum(others) + silent + 1):
            exact = by_brute_force(right, others, silent, k)
            assert maj_at_k(right, others, silent, k) == pytest.approx(exact, abs=1e-14), (right, others, silent, k)


def test_maj_at_k_of_sixteen_equals_a_long_simulation():
    right, others, silent, k = 5, (5, 3, 1), 2, 9
    cast = np.repeat([0, 1, 2, 3, 4], [right, *others, silent])
    rng = np.random.default_rng(0)
    drawn = rng.permuted(np.tile(cast, (100_000, 1)), axis=1)[:, :k]
    counts = np.stack([(drawn == answer).sum(axis=1) for answer in range(4)], axis=1)
    leads = counts == counts.max(axis=1, keepdims=True)
    simulated = (leads[:, 0] / leads.sum(axis=1)).mean()
    assert maj_at_k(right, others, silent, k) == pytest.approx(simulated, abs=4 * 0.5 / 100_000**0.5)


def test_known_values():
    assert [maj_at_k(16, (), 0, k) for k in (1, 7, 16)] == [1.0, 1.0, 1.0]
    assert [maj_at_k(0, (9,), 7, k) for k in (1, 16)] == [0.0, 0.0]
    assert maj_at_k(9, (7,), 0, 16) == 1.0 and maj_at_k(8, (8,), 0, 16) == 0.5 and maj_at_k(4, (4, 4, 4), 0, 16) == 0.25
    assert maj_at_k(1, (), 15, 16) == 1.0  # who is silent does not vote
    assert maj_at_k(1, (), 15, 4) == 0.25


@pytest.mark.parametrize("arguments", [(1, [1], 0, 0), (1, [1], 0, 3), (-1, [2], 0, 1), (0, [], 0, 1)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError, match="counts from 0"):
        maj_at_k(*arguments)


def test_both_begin_with_the_share_of_right_samples_and_pass_at_n_is_any():
    ballots = [votes(4, [2, 1], 1), votes(0, [8]), votes(1, [7]), votes(8)]
    assert pass_table(ballots)[:, 0] == pytest.approx([0.5, 0, 1 / 8, 1])
    assert maj_table(ballots)[:, 0] == pytest.approx([0.5, 0, 1 / 8, 1])
    assert pass_table(ballots)[:, -1].tolist() == [1, 0, 1, 1] and maj_table(ballots)[:, -1].tolist() == [1, 0, 0, 1]
    assert pass_table(ballots)[2, 1] == pytest.approx(2 / 8)
    with pytest.raises(ValueError, match=r"\[8, 9\]"):
        pass_table([votes(8), votes(9)])


# ------------------------------------------------------------------------------------------------ bands


def test_a_band_is_the_bootstrap_of_the_mean():
    outcomes = np.array([1.0] * 120 + [0.0] * 80)
    found = band(np.stack([outcomes, 0.5 * outcomes], axis=1))
    half = 1.96 * (0.6 * 0.4 / 200) ** 0.5
    assert found["mean"] == pytest.approx([0.6, 0.3])
    assert found["low"][0] == pytest.approx(0.6 - half, abs=0.01) and found["high"][0] == pytest.approx(
        0.6 + half, abs=0.01
    )
    assert found["low"][1] == pytest.approx(found["low"][0] / 2)  # the same questions are drawn for every k
    assert band(outcomes[:, None]) == band(outcomes[:, None]) != band(outcomes[:, None], seed=1)


def test_curves_are_ready_for_json():
    table = json.loads(json.dumps(curves([votes(4, [4]), votes(0, [2], 6), votes(8)])))
    assert table["questions"] == 3 and table["k"] == list(range(1, 9)) and table["mode"] == "lenient"
    assert table["pass"]["mean"][0] == table["maj"]["mean"][0] == pytest.approx(0.5)
    assert all(np.diff(table["pass"]["mean"]) >= 0)


def test_the_gain_is_paired_and_tells_ability_from_concentration():
    base = [votes(2, [1] * 6, id=str(i)) for i in range(20)] + [votes(0, [8], id=str(i)) for i in range(20, 30)]
    concentrated = [votes(8, id=b.id) if b.right else b for b in base]
    gain = gain_curves(base, concentrated)
    assert gain["pass"]["mean"][0] == pytest.approx(2 / 3 * 3 / 4) and gain["pass"]["mean"][-1] == 0
    assert gain["reach"] == {"gained": 0, "lost": 0, "mcnemar_p": 1.0}
    added = gain_curves(base, [votes(8, id=b.id) for b in base])
    assert added["reach"] == {"gained": 10, "lost": 0, "mcnemar_p": pytest.approx(2 / 2**10)}
    lost = gain_curves(concentrated, [votes(0, [8], id=b.id) for b in base])
    assert lost["reach"] == {"gained": 0, "lost": 20, "mcnemar_p": pytest.approx(2 / 2**20)}
    assert lost["pass"]["high"][-1] < 0
    shift = gain_curves(base, [votes(4, [1] * 4, id=b.id) if b.right else votes(2, [6], id=b.id) for b in base])
    assert shift["pass"]["low"][0] == pytest.approx(shift["pass"]["high"][0])  # each question gains a quarter


def test_the_gain_refuses_other_questions_and_other_readings():
    one, other = [votes(1, id="a"), votes(1, id="b")], [votes(1, id="b"), votes(1, id="a")]
    strict = [ballot(b.id, "7", [TAGGED.format(7)], mode="strict") for b in one]
    for wrong in (other, one[:1], strict):
        with pytest.raises(ValueError, match="same questions"):
            gain_curves(one, wrong)


# ------------------------------------------------------------------------------------------ calibration


def test_calibration_by_hand():
    ballots = [votes(8), votes(8), votes(0, [8]), votes(3, [2, 2], 1), votes(1, [3], 4), votes(0, [], 8)]
    found = calibration(ballots)
    assert (found["questions"], found["silent"]) == (6, 1)
    low, high = wilson_interval(2, 3)
    assert found["bins"] == [
        {"from": 0.25, "to": 0.375, "share": 0.375, **_rate(1, 2)},
        {"from": 0.875, "to": 1.0, "share": 1.0, "rate": 2 / 3, "low": low, "high": high, "count": 2, "n": 3},
    ]
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 0.375) + 3 * abs(2 / 3 - 1)) / 5)


def _rate(count, n):
    low, high = wilson_interval(count, n)
    return {"rate": count / n, "low": low, "high": high, "count": count, "n": n}


def test_a_share_between_two_edges_lies_in_the_bin_around_it():
    (row,) = calibration([votes(3, [2])])["bins"]
    assert (row["from"], row["share"], row["to"]) == (0.5, 0.6, 0.625)


def test_a_tie_goes_to_the_answer_sampled_first():
    first, last = TAGGED.format(7), TAGGED.format(9)
    assert calibration([ballot("q", "7", [first, last])])["bins"][0]["count"] == 1
    assert calibration([ballot("q", "7", [last, first])])["bins"][0]["count"] == 0


def test_no_answers_at_all_have_no_calibration():
    assert calibration([votes(0, [], 4)]) == {"questions": 1, "silent": 1, "ece": None, "bins": []}


# ---------------------------------------------------------------------------------------- stored samples


@pytest.fixture(scope="module")
def policy():
    return load_policy(get_profile("tiny").replace(eval_batch=16, max_completion_tokens=16))


QUESTIONS = load_questions("tiny", "test")[:7]


def test_samples_are_kept_and_an_interrupted_sampling_gives_the_same(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "TOGETHER", 3)
    whole = collect(policy, QUESTIONS, tmp_path / "whole", n=4)
    lines = (tmp_path / "whole" / "completions.jsonl").read_bytes().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    assert [row["index"] for row in rows] == [i for i in range(7) for _ in range(4)]
    assert {"id", "question", "gold", "completion", "tokens", "truncated", "seconds", "protocol"} <= rows[0].keys()
    assert len({row["completion"] for row in rows[:4]}) > 1  # sampled, not greedy

    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "protocol.json").write_bytes((tmp_path / "whole" / "protocol.json").read_bytes())
    (cut / "completions.jsonl").write_bytes(b"".join(lines[:17]) + lines[17][:20])  # a kill within the second three
    asked = []
    real = sampling.generate
    monkeypatch.setattr(
        sampling, "generate", lambda policy, some, **how: asked.append(len(some)) or real(policy, some, **how)
    )
    assert collect(policy, QUESTIONS, cut, n=4) == whole and asked == [3, 1]
    assert [json.loads(line)["completion"] for line in (cut / "completions.jsonl").read_bytes().splitlines()] == [
        row["completion"] for row in rows
    ]
    assert collect(policy, QUESTIONS, cut, n=4) == whole and asked == [3, 1]  # finished: nothing is asked


def test_answers_are_added_by_one_process_at_a_time(policy, hold, tmp_path):
    other = hold(tmp_path)
    for use in (
        lambda: collect(policy, QUESTIONS[:2], tmp_path, n=2),
        lambda: evaluate(policy, QUESTIONS[:2], output=tmp_path),
        lambda: score(tmp_path),
    ):
        with pytest.raises(InUse, match=f"in use by process {other.pid} on "):
            use()
    assert [path.name for path in tmp_path.iterdir()] == [IN_USE]
    other.communicate("\n")
    collect(policy, QUESTIONS[:2], tmp_path, n=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["completions.jsonl", "protocol.json"]


def test_the_draws_of_one_part_are_not_those_of_the_next(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "TOGETHER", 1)
    collect(policy, [QUESTIONS[0]] * 2, tmp_path, n=4)
    texts = [json.loads(line)["completion"] for line in (tmp_path / "completions.jsonl").read_bytes().splitlines()]
    assert texts[:4] != texts[4:]


def test_samples_of_another_kind_are_not_mixed(policy, tmp_path):
    collect(policy, QUESTIONS[:2], tmp_path, n=2)
    for questions, n, seed, named in (
        (QUESTIONS[:2], 4, 0, "decoding is '2 samples"),
        (QUESTIONS[:2], 2, 5, "seed is 0 in .* and 5 in this call"),
        (QUESTIONS[1:3], 2, 0, "revision"),
    ):
        with pytest.raises(ValueError, match=named):
            collect(policy, questions, tmp_path, n=n, seed=seed)
    (tmp_path / "protocol.json").unlink()
    with pytest.raises(ValueError, match=r"without protocol\.json"):
        collect(policy, QUESTIONS[:2], tmp_path, n=2)


def test_a_question_too_long_is_not_sampled_and_named(policy, tmp_path):
    long = Question("pen " * 3_000, "1", {"source": "mine.jsonl line 1"})
    assert len(collect(policy, [long, *QUESTIONS[:2]], tmp_path, n=2)) == 2
    header = json.loads((tmp_path / "protocol.json").read_text())
    assert header["questions"] == 2 and [row["id"] for row in header["too_long"]["questions"]] == [long.id]


def test_ballots_are_read_without_a_model(tmp_path):
    rows = [{"question": q, "gold": "7", "completion": text} for q in "ab" for text in (TAGGED.format(7), "It is 7.")]
    path = tmp_path / "completions.jsonl"
    write_jsonl(path, [rows[0], rows[2], rows[1], rows[3]])  # in any order
    assert [b.right for b in read_ballots(path)] == [2, 2]
    assert [b.right for b in read_ballots(path, mode="strict")] == [1, 1]
    write_jsonl(path, rows[:3])
    with pytest.raises(ValueError, match="from 1 to 2 completions"):
        read_ballots(path)
    with pytest.raises(FileNotFoundError):
        read_ballots(tmp_path / "none.jsonl")


def test_a_question_that_stands_in_a_set_twice_is_sampled_twice(tmp_path):
    rows = [{"index": i, "question": "a", "gold": "7", "completion": str(6 + i)} for i in (0, 0, 1, 1)]
    write_jsonl(tmp_path / "completions.jsonl", rows)
    assert [b.right for b in read_ballots(tmp_path / "completions.jsonl")] == [0, 2]


def test_a_folder_of_samples_is_no_evaluation_and_is_left_as_it_is(policy, tmp_path):
    told = []
    collect(policy, QUESTIONS[:2], tmp_path, n=2, progress=lambda *counts: told.append(counts))
    before = (tmp_path / "completions.jsonl").read_bytes()
    for read in (score, load_evaluation):
        with pytest.raises(ValueError, match="holds 2 samples at temperature 1 for each question.*read_ballots"):
            read(tmp_path)
    assert (tmp_path / "completions.jsonl").read_bytes() == before and not (tmp_path / "card.json").exists()
    collect(policy, QUESTIONS[:2], tmp_path, n=2, progress=lambda *counts: told.append(counts))
    assert told == [(2, 2), (2, 2)], "what is there already is told at once"
