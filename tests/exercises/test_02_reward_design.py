"""The checks of notebook 02, held against wrong solutions."""

import numpy as np

from tests.exercises.given import hold, solution
from utils.exercises.reward_design import check_cheat, check_group, check_right_among

NAME = "02_reward_design"
WORK = "<reasoning>\n48-9=39\n</reasoning>\n"


def clean(number, reasoning="\nso it is\n"):
    return f"<reasoning>{reasoning}</reasoning>\n<answer>{number}</answer>"


def test_exercise_1():
    right = solution(NAME, 1)["cheat"]
    hold(
        check_cheat,
        right,
        {
            "it earns from ours too": (clean(5, "Hm."), "for its layout"),
            "it earns from ours where the gold is the printed one": (right.replace("0", "39"), "right where the gold"),
            "right where the check once looked": ("<reasoning></reasoning><answer>7919</answer>", "gold is 7919"),
            "working in it, and a remark behind": (
                "<reasoning>6*7=42</reasoning><answer>42</answer> I hope this helps!",
                "working",
            ),
            "working without a sign": ("<reasoning>6 and 6 is 12</reasoning><answer>12</answer>!", "working"),
            "working behind the answer": (right + " for 3 and 4 make 7", "working"),
            "the number alone": ("5", "pays it 0.5"),
            "tags alone": ("<reasoning>\n\n</reasoning>", "1 or more is wanted"),
            "the layout on lines, no number": ("<reasoning></reasoning><answer>x</answer>", "pays it 0.5"),
            "all numbers": (" ".join(map(str, range(300))), "1 or more is wanted"),
            "the stub": ("<reasoning>...</reasoning>", "1 or more is wanted"),
            "nothing": ("", "a text is wanted"),
            "a function": (lambda gold: gold, "a text is wanted"),
        },
    )
    for other in (
        "<reasoning>Hm.</reasoning><answer>5</answer> Bye!",
        "<reasoning>\n\n</reasoning>\n<answer>\nx\n</answer>\n",
    ):
        assert check_cheat(other) == "solved", "there is more than one way"


def test_exercise_2():
    def wrong(gold):
        return "0" if gold != "0" else "1"

    hold(
        check_group,
        solution(NAME, 2)["group_for"],
        {
            "the printed gold": (lambda gold: [clean(39)] * 2 + [clean(36)] * 2, "dead, too"),
            "the printed gold, in any case": (
                lambda gold: [clean(39)] * 2 + [clean(36)] * 2 if gold == "39" else [clean(gold)] * 4,
                "dead, too",
            ),
            "a wrong number that is right for some": (lambda gold: [clean(gold)] * 2 + [clean(36)] * 2, "gold is 36"),
            "a wrong number of 7": (lambda gold: [clean(gold)] * 2 + [clean(7)] * 2, "gold is 7 "),
            "a large wrong number": (lambda gold: [clean(gold)] * 2 + [clean("12,345")] * 2, "gold is 12345"),
            "a negative wrong number": (lambda gold: [clean(gold)] * 2 + [clean(-1)] * 2, "gold is -1"),
            "a wrong number of 0": (lambda gold: [clean(gold)] * 2 + [clean(0)] * 2, "gold is 0"),
            "one more, a comma forgotten": (lambda gold: [clean(gold), *[clean(int(gold) + 1)] * 3], "ValueError"),
            "all right": (lambda gold: [clean(gold)] * 4, "dead, too"),
            "all wrong": (lambda gold: [clean(wrong(gold))] * 4, "dead, too"),
            "right and clean, right and messy": (lambda gold: [clean(gold)] * 2 + [gold] * 2, "alive, dead is wanted"),
            "an empty envelope among them": (lambda gold: [clean(gold, "")] + [clean(gold)] * 3, "alive"),
            "three": (lambda gold: [clean(gold)] * 2 + [clean(wrong(gold))], "holds 3"),
            "eight": (lambda gold: ([clean(gold)] + [clean(wrong(gold))]) * 4, "holds 8"),
            "rewards": (lambda gold: [1.2, 1.2, 0.2, 0.2], "list of texts"),
            "the stub": (lambda gold: ["I do not know."] * 4, "dead, too"),
            "a group": ([clean(39)] * 2 + [clean(36)] * 2, "a function is wanted"),
        },
        also=[
            lambda gold: tuple(clean(int(gold.replace(",", "")) + i) for i in range(4)),
            lambda gold: [f"The answer is {gold}.", "I do not know.", "Hm.", "No idea."],
        ],
    )
    assert check_group(lambda gold: ["I do not know."] * 3 + [f"The answer is {gold}."]) == "solved", "all messy"


def test_exercise_3():
    right = solution(NAME, 3)["right_among"]

    def chosen(right, clean, kept):
        return [r for r, c in zip(right, clean, strict=True) if c == kept]

    hold(
        check_right_among,
        right,
        {
            "the printed shares": lambda right, clean, kept: 0.44 if kept else 0.94,
            "the shares of the bank": lambda right, clean, kept: (
                sum(chosen(right, clean, kept)) / len(chosen(right, clean, kept)) if len(right) == 1280 else 0.5
            ),
            "kept ignored": (lambda right, clean, kept: sum(right) / len(right), "whatever `kept`"),
            "the clean ones always": lambda r, c, kept: right(r, c, 1.0),
            "the others": lambda r, c, kept: right(r, c, 1 - kept),
            "of all completions": (lambda r, c, kept: sum(chosen(r, c, kept)) / len(r), "of all completions"),
            "of the right ones": lambda r, c, kept: sum(chosen(r, c, kept)) / max(sum(r), 1),
            "how many": lambda r, c, kept: sum(chosen(r, c, kept)),
            "all clean ones taken for right": lambda r, c, kept: c.count(kept) / len(c),
            "in per cent": lambda r, c, kept: 100 * right(r, c, kept),
            "rounded": lambda r, c, kept: round(right(r, c, kept), 2),
            "the stub": lambda r, c, kept: 0.0,
            "nothing": (lambda r, c, kept: None, "returns None"),
            "text": lambda r, c, kept: str(right(r, c, kept)),
        },
        also=[lambda r, c, kept: np.array(r)[np.array(c) == kept].mean()],
    )
