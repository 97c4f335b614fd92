"""The checks of notebook 01, held against wrong solutions."""

import random
import re
from collections import Counter

import numpy as np

from tests.exercises.given import hold, solution
from utils.data.numbers import to_number
from utils.data.questions import to_question
from utils.exercises.data_prep import (
    FAULTS,
    GOLDS,
    NAMES,
    check_leaks,
    check_malformed,
    check_smallest_cap,
    drawn_row,
    usable,
)

NAME = "01_data_prep"


def test_every_fault_is_one_and_every_gold_can_be_read():
    assert [usable(drawn_row(reason, random.Random())) for reason in [*FAULTS, *GOLDS]] == [False] * len(FAULTS) + [
        True
    ] * len(GOLDS)


def test_exercise_1():
    def positions(faulty):
        return lambda rows: [i for i, row in enumerate(rows) if faulty(row)]

    def raises(row):
        try:
            to_question(row, "row")
        except ValueError:
            return True
        return False

    def any_digit(row):
        return not row.get("question", "").strip() or not re.search(r"\d", row.get("answer", ""))

    def any_digit_behind_the_hashes(row):
        return not row.get("question", "").strip() or not re.search(r"####.*\d", row.get("answer", ""))

    def digits_only(row):
        gold = row.get("answer", "").rpartition("####")[2].strip()
        return not row.get("question", "").strip() or not gold.isdecimal()

    def no_number_or_zero(row):
        gold = to_number(row.get("answer", "").rpartition("####")[2])
        return not row.get("question", "").strip() or not gold

    def fields_at_hand(row):
        return not row["question"].strip() or to_number(row["answer"].rpartition("####")[2]) is None

    def hashes_at_hand(row):
        gold = row.get("answer", "")
        unread = "####" in gold and to_number(gold.rpartition("####")[2]) is None
        return not row.get("question", "").strip() or not gold.strip() or unread

    def split_at_hashes(row):
        fields = row.get("question", "").strip(), row.get("answer", "").strip()
        return not all(fields) or to_number(fields[1].split("####")[1]) is None

    def by_float(row):
        try:
            float(row["answer"].split("####")[1].replace(",", "").replace("$", ""))
        except (KeyError, IndexError, ValueError):
            return True
        return not row.get("question", "").strip()

    def empty_only(row):
        return not row.get("question") or to_number(row.get("answer", "").rpartition("####")[2]) is None

    hold(
        check_malformed,
        solution(NAME, 1)["malformed"],
        {
            "any digit taken for a gold": (positions(any_digit), "cannot be used"),
            "any digit behind the hashes": (positions(any_digit_behind_the_hashes), "two numbers"),
            "digits alone": (positions(digits_only), "can be used"),
            "zero taken for none": (positions(no_number_or_zero), "like any other"),
            "a field that is missing": (positions(fields_at_hand), "KeyError"),
            "a blank question taken": (positions(empty_only), "is blank"),
            "no hashes, no look": (positions(hashes_at_hand), "it has no ####"),
            "hashes taken for granted": (positions(split_at_hashes), "IndexError"),
            "nan taken for a number": (positions(by_float), "nan"),
            "the first row that is alike": lambda rows: [rows.index(row) for row in rows if raises(row)],
            "texts": (lambda rows: list(map(str, positions(raises)(rows))), "list of positions"),
            "the rows themselves": (lambda rows: [row for row in rows if raises(row)], "list of positions"),
            "how many": (lambda rows: sum(map(raises, rows)), "list of positions"),
            "a mark for each row": lambda rows: list(map(raises, rows)),
            "from the last": (lambda rows: positions(raises)(rows)[::-1], "in order"),
            "the printed case": (lambda rows: [1, 3, 4], "of 0 rows"),
            "the printed case where it has its length": lambda rows: [1, 3, 4] if len(rows) == 6 else [],
            "every row": (lambda rows: list(range(len(rows))), "can be used"),
            "the stub": (lambda rows: [], "cannot be used"),
            "nothing": (lambda rows: None, "list of positions"),
            "no function": ([1, 3, 4], "a function is wanted"),
        },
        also=[
            lambda rows: np.flatnonzero([raises(row) for row in rows]),
            lambda rows: [np.int64(i) for i, row in enumerate(rows) if raises(row)],
            lambda rows: tuple(sorted({i for i in range(len(rows)) if raises(rows[i])})),
        ],
    )


def test_exercise_2():
    def by(key):
        def leaks(train, other):
            seen = {key(q) for q in train}
            return [q for q in other if key(q) in seen]

        return leaks

    def alike(train, other):
        known = [grams(q) for q in train]
        return [q for q in other if any(len(g & grams(q)) > 0.9 * len(g | grams(q)) for g in known)]

    def grams(q):
        words = in_order(q)
        return set(zip(words, words[1:], words[2:], strict=False))

    names = {name.casefold() for name in NAMES}
    at_end = re.compile(rf"({'|'.join(NAMES)})\b", re.I)
    anywhere, within = re.compile("|".join(names)), re.compile("|".join(NAMES))

    def in_order(q):
        return tuple(word for word in re.findall(r"\w+", q.question.casefold()) if word not in names)

    right = solution(NAME, 2, NAMES=NAMES, re=re)["leaks"]
    hold(
        check_leaks,
        right,
        {
            "a bag of words": (by(lambda q: frozenset(Counter(in_order(q)).items())), "another order"),
            "words sorted": (by(lambda q: tuple(sorted(in_order(q)))), "another order"),
            "a bag of words, and the numbers in order": (
                by(lambda q: (tuple(sorted(in_order(q))), tuple(re.findall(r"\d+", q.question)))),
                "its words stand in another order",
            ),
            "names masked inside words": (by(lambda q: anywhere.sub("_", q.question.casefold())), "within a word"),
            "names deleted inside words": (by(lambda q: anywhere.sub("", q.question.casefold())), "within a word"),
            "names at the end of a word": (by(lambda q: at_end.sub("_", q.question).casefold()), "within a word"),
            "nearly the same words": (alike, "a number of it is another"),
            "neighbours": (by(lambda q: frozenset(grams(q))), "words stand in another order"),
            "numbers masked": (by(lambda q: re.sub(r"\d+", "", " ".join(in_order(q)))), "accused wrongly"),
            "as shared_questions": (by(lambda q: tuple(re.findall(r"\w+", q.question.casefold()))), "other names"),
            "names in small letters alone": (by(lambda q: within.sub("_", q.question).casefold()), "capitals"),
            "names with a stop": (
                by(lambda q: tuple(w for w in q.question.casefold().split() if w not in names)),
                "other names",
            ),
            "the case minded": (
                by(lambda q: tuple(w for w in re.findall(r"\w+", q.question) if w not in NAMES)),
                "capitals",
            ),
            "questions of train": (lambda train, other: right(other, train), "though it stands in"),
            "found twice": (lambda train, other: right(train, other) * 2, "twice"),
            "their texts": (lambda train, other: [q.question for q in right(train, other)], "list of the questions"),
            "the marks of the planted": lambda train, other: [q for q in other if q.question.isupper()],
            "the printed places": lambda train, other: other[400:403],
            "everybody accused": (lambda train, other: other, "accused wrongly"),
            "the stub": (lambda train, other: [], "though it stands in"),
            "nothing": (lambda train, other: None, "list of the questions"),
        },
    )


def test_exercise_3():
    def less(lengths, share):
        return next((c for c in sorted(lengths) if sum(n < c for n in lengths) >= share * len(lengths)), max(lengths))

    def more(lengths, share):
        return next((c for c in sorted(lengths) if sum(n <= c for n in lengths) > share * len(lengths)), max(lengths))

    def interpolated(lengths, share):
        ordered, place = sorted(lengths), share * (len(lengths) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    def of_different(lengths, share):
        ordered = sorted(set(lengths))
        return next(c for c in ordered if sum(n <= c for n in ordered) >= share * len(ordered))

    def unsorted(lengths, share):
        return next(c for c in lengths if sum(n <= c for n in lengths) >= share * len(lengths))

    right = solution(NAME, 3)["smallest_cap"]
    hold(
        check_smallest_cap,
        right,
        {
            "share ignored, all whole": (lambda lengths, share: max(lengths), "a lower cap would do"),
            "share ignored, 99 in 100": lambda lengths, share: right(lengths, 0.99),
            "share ignored, the median": lambda lengths, share: right(lengths, 0.5),
            "shorter than the cap": less,
            "one too high": (lambda lengths, share: right(lengths, share) + 1, "as long as the cap"),
            "more than the share": (more, "not more"),
            "an interpolated quantile": interpolated,
            "each length once": of_different,
            "the lengths taken as they come": unsorted,
            "by position": lambda lengths, share: sorted(lengths)[int(share * len(lengths))],
            "by position, less one": lambda lengths, share: sorted(lengths)[int(share * len(lengths)) - 1],
            "by position, rounded": lambda lengths, share: sorted(lengths)[round(share * len(lengths)) - 1],
            "the share cut off": lambda lengths, share: right(lengths, 1 - share),
            "a list": (lambda lengths, share: [right(lengths, share)], "one number"),
            "text": (lambda lengths, share: str(right(lengths, share)), "one number"),
            "the printed number": lambda lengths, share: 83,
            "the stub": lambda lengths, share: 0,
            "nothing": (lambda lengths, share: None, "one number"),
        },
        also=[
            lambda lengths, share: np.quantile(lengths, share, method="inverted_cdf"),
            lambda lengths, share: float(right(lengths, share)),
        ],
    )
