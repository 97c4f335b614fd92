"""The tiny world: every problem is solvable as written, splits are disjoint, and the draw is the same everywhere."""

import hashlib
import itertools
import re
from fractions import Fraction

import pytest

from utils.data.answers import gold_answer
from utils.data.questions import load_questions
from utils.data.tiny_world import (
    ENDINGS,
    EVENTS,
    LARGEST,
    OPENINGS,
    SHIFT_SIZE,
    SHIFTS,
    SPLIT_SIZES,
    WORDINGS,
    problems,
    shifted,
    split_of,
    tiny_split,
)
from utils.files import ROOT

ANNOTATION = re.compile(r"(\d+)([-+*/])(\d+)=<<(\d+[-+*/]\d+)=(\d+)>>(\d+)")
SUMS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": Fraction}


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_every_line_of_working_is_a_true_sum_and_the_last_is_the_gold(split):
    for problem in tiny_split(split):
        *lines, last = problem.answer.split("\n")
        assert len(lines) == problem.steps and 1 <= problem.steps <= 5
        for line in lines:
            a, op, b, inside, result, shown = ANNOTATION.search(line).groups()
            assert inside == f"{a}{op}{b}" and result == shown
            assert SUMS[op](int(a), int(b)) == int(result) <= LARGEST
        assert last == f"#### {result}" and gold_answer(problem.answer) == result


def test_every_number_used_is_in_the_question_or_was_worked_out():
    for problem in tiny_split("test"):
        known = set(re.findall(r"\d+", problem.question)) | {"2"}  # half of them: divide by 2
        for a, _, b, _, result, _ in ANNOTATION.findall(problem.answer):
            assert {a, b} <= known, problem
            known.add(result)


def test_splits_have_their_sizes_and_share_no_question():
    splits = {name: {p.question for p in tiny_split(name)} for name in SPLIT_SIZES}
    assert {name: len(questions) for name, questions in splits.items()} == SPLIT_SIZES
    for a, b in itertools.combinations(splits.values(), 2):
        assert not a & b


def test_a_plot_belongs_to_one_split_whatever_the_names():
    """Questions with names and things blanked out: the same plot never turns up in two splits."""

    def plot(problem):
        return re.sub(r"<<.*?>>|[^\d+*/=-]", "", problem.answer), tuple(re.findall(r"\d+", problem.question))

    drawn = {name: {plot(p) for p in itertools.islice(problems(name, seed=3), 3_000)} for name in SPLIT_SIZES}
    shared = drawn["train"] & drawn["test"]
    assert len(shared) < 0.02 * len(
        drawn["test"]
    )  # plots of different sentences can blank to one; the hash itself never
    assert split_of(["_has", 5, "_now"]) == split_of(["_has", 5, "_now"])


def test_the_test_split_is_the_same_on_every_machine():
    assert digest(tiny_split("test")) == "ba0bfe8d5050f3cef6f6a91e109a0e0e95a69ed6b04442aab38a7abc1d3e3a31"


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation, test.*'dev'"):
        next(problems("dev", seed=0))


def digest(drawn):
    return hashlib.sha256("\n".join(p.question + p.answer for p in drawn).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ the text, read again

# Each sentence as a reader understands it: what it does to the number of things, given its own numbers. Of a question
# that asks for something else than this number, the last step. Nothing of the generator is used here.
READING = [
    # openings
    (r"(?:There are )?N \w+ (?:that )?belong to \w+\.", lambda _, a: a),
    (r"\w+ has N \w+ with N \w+ in each\.", lambda _, k, a: k * a),
    (r"\w+ has N \w+\. Each holds N \w+\.", lambda _, k, a: k * a),
    (r"\w+ \w+ N \w+ in the morning and N in the evening\.", lambda _, a, b: a + b),
    (r"In the morning \w+ \w+ N \w+, and in the evening N more\.", lambda _, a, b: a + b),
    (r"\w+ \w+ N \w+ a day for N days\.", lambda _, a, k: a * k),
    (r"Every day \w+ \w+ N \w+\. (?:He|She) does this for N days\.", lambda _, a, k: a * k),
    (r"There are N \w+ in each of the N \w+ that belong to \w+\.", lambda _, a, k: k * a),
    (r"Each of N \w+ holds N \w+, and all of them belong to \w+\.", lambda _, k, a: k * a),
    (r"\w+ \w+ N \w+ in the morning\. In the evening (?:he|she) \w+ N more\.", lambda _, a, b: a + b),
    (r"There are N \w+ that \w+ \w+ in the morning and N in the evening\.", lambda _, a, b: a + b),
    (r"\w+ \w+ \w+ for N days, N of them each day\.", lambda _, k, a: a * k),
    (r"In each of N days \w+ \w+ N \w+\.", lambda _, k, a: a * k),
    (r"In the morning \w+ has N \w+\.", lambda _, a: a),
    # events
    (r"\w+ gives (?:him|her) N more\.", lambda q, b: q + b),
    (r"(?:Then )?(?:he|she) gets N (?:more|\w+) from \w+\.", lambda q, b: q + b),
    (r"\w+ has N \w+ and gives all of them to (?:him|her)\.", lambda q, b: q + b),
    (r"(?:He|She) \w+ N of (?:them|all the \w+)\.", lambda q, b: q - b),
    (r"Then (?:he|she) \w+ N \w+\.", lambda q, b: q - b),
    (r"There are N \w+ that (?:he|she) \w+\.", lambda q, b: q - b),
    (r"(?:Then )?(?:he|she) gives (?:half of them to \w+|\w+ half of them)\.", lambda q: q / 2),
    (r"(?:He|She) keeps only half of them\.", lambda q: q / 2),
    (r"\w+ gets half of all the \w+ from (?:him|her)\.", lambda q: q / 2),
    # endings
    (r"How many \w+ does \w+ have (?:now|in the end|in all)\?", lambda q: q),
    (r"How many \w+ belong to \w+ now\?", lambda q: q),
    (r"(?:He|She) shares them equally among N friends\. How many \w+ does each friend get\?", lambda q, k: q / k),
    (r"N friends share all of them equally\. How many \w+ are there for each friend\?", lambda q, k: q / k),
    (r"How many \w+ does each friend get, now that N friends share all of them equally\?", lambda q, k: q / k),
    (
        r"(?:He|She) gives all of them to N friends, equally many to each\. How many \w+ is that for each friend\?",
        lambda q, k: q / k,
    ),
    (
        r"(?:He sells|She sells|\w+ buys) them (?:all )?for \$N each\. How many dollars does \w+ (?:get|pay)\?",
        lambda q, p: q * p,
    ),
    (
        r"(?:Each of them sells|\w+ buys each of them) for \$N\. How many dollars does (?:he|she) get "
        r"(?:for all of them|from \w+)\?",
        lambda q, p: q * p,
    ),
    (
        r"\w+ has N (?:more \w+|\w+ more) than \w+(?: has)?\. "
        r"How many \w+ (?:do they have together|is that for both)\?",
        lambda q, b: q + q + b,
    ),
    (r"\w+ has as many \w+ as \w+ and N more\. How many \w+ do both of them have together\?", lambda q, b: q + q + b),
    (r"There are N more \w+ that belong to \w+ than to \w+\. How many do they have in all\?", lambda q, b: q + q + b),
    (r"\w+ has N times as many \w+ as \w+\. How many \w+ does \w+ have\?", lambda q, k: q * k),
    (r"\w+ has N \w+ for each that \w+ has\. How many \w+ is that\?", lambda q, k: q * k),
    (r"How many \w+ does \w+ have with N times as many as \w+\?", lambda q, k: q * k),
    (r"(?:He|She) wants N \w+\. How many more \w+ does (?:he|she) need\?", lambda q, goal: goal - q),
    (r"How many more \w+ does \w+ need to have N of them\?", lambda q, goal: goal - q),
    (
        r"(?:He|She) wants to have N in the end\. How many more \w+ does (?:he|she) need to get\?",
        lambda q, goal: goal - q,
    ),
    # last, since longer sentences begin like it
    (r"\w+ has N \w+\.", lambda _, a: a),
]
READING = [
    (re.compile(pattern.replace("N", r"(\d+)", pattern.count("N")), re.IGNORECASE), do) for pattern, do in READING
]


def sentences(question):
    """(place in READING, what it does, its numbers) of each sentence, or pair of sentences, in turn."""
    while question:
        place = next((i for i, (pattern, _) in enumerate(READING) if pattern.match(question)), None)
        assert place is not None, f"no reading for {question!r}"
        found = READING[place][0].match(question)
        yield place, READING[place][1], [int(number) for number in found.groups()]
        question = question[found.end() :].lstrip()


def solve(question):
    quantity = Fraction(0)
    for _, do, numbers in sentences(question):
        quantity = Fraction(do(quantity, *numbers))
    return quantity


@pytest.mark.parametrize("name", ["tiny", *(f"tiny-{shift}" for shift in SHIFTS)])
def test_whoever_reads_the_text_alone_finds_the_gold(name):
    for question in load_questions(name, "test"):
        assert solve(question.question) == int(question.gold), question


# ----------------------------------------------------------------------------------------------------------- the shifts

FINGERPRINTS = {
    "longer": "5331e3fb17aeb00272dbb9e5c0953d6b0a2646f807f5ea38c2f89c5383b26aff",
    "larger": "5a7c6c04a10418dab2e83d0c5cd46f556be6e09c610674ed5e56276d1b7438bc",
    "reworded": "cb39214f9d190e1becbe6cacba0a758671a375b082cdb58be4657396439c121c",
}


def known_to_training():
    return [p for split in ("train", "validation") for p in tiny_split(split)]


def skeleton(question):
    """A question's sentences without names, things and numbers: lower case words that are in the templates."""
    return {re.sub(r"\d+|\b[A-Z][a-z]+\b", "_", sentence) for sentence in re.split(r"(?<=[.?]) ", question)}


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_has_its_size_and_is_the_same_on_every_machine(shift):
    drawn = shifted(shift)
    assert len({p.question for p in drawn}) == SHIFT_SIZE
    assert digest(drawn) == FINGERPRINTS[shift]


def test_an_unknown_shift_is_refused():
    with pytest.raises(ValueError, match="longer, larger, reworded.*'shorter'"):
        shifted("shorter")


def test_longer_stories_have_an_event_more_than_any_of_training():
    assert {len(list(sentences(p.question))) for p in shifted("longer")} == {5}  # an opening, three events, an ending
    assert max(len(list(sentences(p.question))) for p in known_to_training()) == 4


def test_of_larger_stories_every_number_is_above_its_range():
    def ranges(drawn):
        found = {}
        for problem in drawn:
            for place, _, numbers in sentences(problem.question):
                for i, number in enumerate(numbers):
                    found.setdefault((place, i), []).append(number)
        return found

    usual, larger = ranges(itertools.islice(problems("train", seed=5), 20_000)), ranges(shifted("larger"))
    assert len(larger) > 20
    for place, numbers in larger.items():
        assert min(numbers) > max(usual[place]), READING[place[0]]
    results = [int(result) for p in shifted("larger") for *_, result, _ in ANNOTATION.findall(p.answer)]
    assert LARGEST < max(results) <= 999


def test_reworded_stories_share_no_sentence_with_training_but_every_word():
    from transformers import AutoTokenizer

    trained = known_to_training()
    assert set(WORDINGS) == {chapter.__name__ for chapter in (*OPENINGS, *EVENTS, *ENDINGS)}
    assert not set().union(*(skeleton(p.question) for p in trained)) & set().union(
        *(skeleton(p.question) for p in shifted("reworded"))
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "tiny_model")
    tokens = {token for p in trained for token in tokenizer(f"{p.question}\n{p.answer}").input_ids}
    for shift in SHIFTS:
        assert {token for p in shifted(shift) for token in tokenizer(p.question).input_ids} <= tokens
