"""What notebooks 01 and 02 say of the numbers that they print, held against those numbers."""

import os
import re
from statistics import fmean

import pytest

from tests.pages import Page
from utils.data.audit import WRONG_LABELS, leaks
from utils.data.prompts import PROMPTS
from utils.data.tiny_world import SPLIT_SIZES, TOPICS
from utils.experiments.short_run import HELD_OUT, PROFILE
from utils.files import ROOT, read_json
from utils.rewards.bank import load_bank, part_scores
from utils.rewards.functions import correctness_reward, format_reward, group_advantages, total_reward, working_metric


@pytest.fixture(scope="module")
def data():
    return Page("01_data_prep")


@pytest.fixture(scope="module")
def design():
    return Page("02_reward_design")


def numbers(text):
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)]


# ------------------------------------------------------------------------------------------------- 01: GSM8K's quirks


def facts(page):
    """{what is counted: [cited in train, cited in test, counted here in test, first row]}"""
    lines = page.printed("first at test row").splitlines()
    return {line[:37].strip(): line[37:].split() for line in lines[1:]}


def test_01_counts_what_it_cites(data):
    counted = facts(data)
    of_questions = [cells for cells in counted.values() if len(cells) == 4]
    assert len(of_questions) == 8 and all(cited == here for _, cited, here, _ in of_questions)
    assert data.says("What is counted here equals what is cited")
    assert not any("not loaded" in str(cell) for cell in data.code)
    train, test, *_ = counted["rows"]
    assert data.says("GSM8K holds some 8,800") and round(sum(numbers(train + " " + test)), -2) == 8_800
    assert [int(n.replace(",", "")) for n in (train, test)] == [SPLIT_SIZES["train"], SPLIT_SIZES["test"]]
    assert data.says("Every gold is a whole number") and counted["gold is not a whole number"][:3] == ["0"] * 3
    assert data.says("commas, minus signs and missing annotations are all there, in both splits")
    common = [counted[fact][:2] for fact in ("gold written with a comma", "negative gold", "no annotation at all")]
    assert all(0 < int(n) for two in common for n in two)
    assert data.says("None of them is frequent")
    assert all(
        int(n) < 0.015 * SPLIT_SIZES[split] for two in common for n, split in zip(two, ("train", "test"), strict=True)
    )
    assert data.says("the first hundred test rows hold neither a comma nor a minus sign")
    assert all(int(counted[fact][3]) >= 100 for fact in ("gold written with a comma", "negative gold"))
    assert data.says("Zero is a perfectly good gold (GSM8K has one)") and counted["gold is zero"][:2] == ["1", "0"]


@pytest.mark.skipif(not os.environ.get("GSM8K_DIR"), reason="GSM8K_DIR names no folder with GSM8K's files")
def test_01_cites_the_train_split_as_it_is(data):
    from utils.data.questions import load_questions

    cells = [cell.source for cell in data.code]
    names = {}
    for part in ("def last_annotation", "def differs(q):"):
        [source] = [s for s in cells if s.startswith(part)]
        exec("import re\nfrom utils.data.numbers import to_number\n" + source.split("\n\n\nprint")[0], names)
    train = load_questions("gsm8k", "train") + load_questions("gsm8k", "validation")
    for fact, (holds, *cited) in (names["FACTS"] | names["OF_SOLUTIONS"]).items():
        assert [sum(map(holds, rows)) for rows in (train, load_questions("gsm8k", "test"))] == cited, fact


def test_01_shows_the_wrong_labels_where_the_rows_are_at_hand(data):
    told = " ".join(data.printed("for label in WRONG_LABELS").split())
    for label in WRONG_LABELS:
        here = f" (so it is here: {label.printed})" if label.split == "test" else ""
        assert f"{label.split} row {label.row}, gold {label.printed}{here}," in told, label
    assert data.says("four come close: test rows 602, 632, 824 and 974")
    assert set(re.findall(r"\b(602|632|824|974)\b", leaks.__doc__)) == {"602", "632", "824", "974"}


def test_01_tells_what_its_cells_on_quirks_print(data):
    table = [line.split()[-2:] for line in data.printed("same text  same number").splitlines()[1:]]
    assert table == [["True", "True"], ["False", "True"], ["True", "True"], ["False", "False"], ["False", "False"]]
    assert data.says("The comma breaks the text comparison", "an intermediate result, and a solution without any")
    pairs = [line.split()[-3:] for line in data.printed("by_float(stated, gold)").splitlines()[1:]]
    assert data.says("Only the last column is right in every line", "in the last line `float` accepts a wrong answer")
    assert [exact for *_, exact in pairs] == ["True", "True", "True", "True", "False", "False"] and pairs[-1][
        1
    ] == "True"
    assert data.says("crashes on commas, on currency and on the typographic minus sign (U+2212, the third line)")
    assert [by_float for _, by_float, _ in pairs] == ["ValueError", "True", *["ValueError"] * 3, "True"]
    assert data.says("Two rows went in, and `splitlines` makes three pieces of them")
    assert "splitlines: 3, rows by read_questions: 2" in data.printed("pasted.jsonl")
    found = [
        re.findall(r"True|False|\[.*\]", line) for line in data.printed("for name, solution in WRONG").splitlines()
    ]
    assert found == [["True", "[]"], ["False", "['120+45=175']"], ["False", "[]"]]
    assert data.says("A check finds the first kind, another finds the second, and nothing mechanical finds the third")


def test_01_tells_what_its_cells_on_the_tiny_world_print(data):
    assert data.says("about one of twelve topics", "Three zeros, and a histogram") and len(TOPICS) == 12
    assert numbers(data.printed("questions with a false sum")) == [0, 0, 0]
    assert data.says("the shares come out near 8 : 1 : 1")
    shares = dict(re.findall(r"'(\w+)': '(\d+) %'", data.printed("share = Counter")))
    assert all(abs(int(shares[name]) - near) <= 2 for name, near in (("train", 80), ("validation", 10), ("test", 10)))
    assert data.says("finds few shared questions or none, and renaming one single person brings many to light")
    few, many = (int(line.split()[-1]) for line in data.printed("retold = with_ben").splitlines())
    assert few <= 5 and many >= 50
    assert re.findall(r": (\d+)$", data.printed("questions shared by"), re.M) == ["0"] * 3
    assert data.says("`shared_questions` finds two of them") and "finds 2 of 3" in data.printed("planted = [")


def test_01_tells_what_its_cells_on_tokens_print(data):
    assert data.says("Every digit is a token of its own", "in the tiny model each is a single token")
    told = data.printed("def pieces_of")
    assert "1|,|2|0|0" in told and "<answer>|4|8|</answer>" in told
    assert data.says("nine prompts in ten fit")
    fit, out = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:prompts fit|are too)", told_caps(data))[:2])
    assert 0.89 < fit / (fit + out) < 0.93
    cut = [float(share) for share in re.findall(r"([\d.]+) % cut", data.printed("for limit in (cap"))]
    assert data.says("How quickly a cap turns from generous to ruinous") and cut[0] == 0 and cut[1] > 30 and cut[2] > 80
    assert data.says("*layout, urged* insists") and len(PROMPTS) == 7
    assert data.pictures() == 3


def told_caps(page):
    return page.printed("for cap in (tight")


# ------------------------------------------------------------------------------------------------- 02: reward design


def rows(text):
    """A printed table of `show`: {name: [numbers]}."""
    return {line.split()[0]: [float(n) for n in line.split()[1:]] for line in text.splitlines() if "." in line}


def test_02_tells_what_its_drafts_print(design):
    draft = rows(design.printed("def format_draft"))
    assert (
        design.says("Not one, not even the careful one") and {n for (n,) in draft.values()} == {0.0} and len(draft) == 4
    )
    both = rows(design.printed("format_dotall = partial"))
    assert (
        design.says("the empty shell now earns as much as the careful work")
        and both["shell"][1] == both["careful"][1] == 1
    )
    failed = design.printed("failures(format_dotall, FORMAT_CASES)")
    assert design.says(
        "There are more than three", "Every failure is a text that was paid although it should not have been"
    )
    assert failed.count("wanted 0 for") == 5 and "wanted 1" not in failed and "6 of 11 as wanted" in failed
    final = rows(design.printed("def format_final"))
    assert design.says("*hasty* is still paid") and final["hasty"][2] == 1


def test_02_tells_how_the_three_ideas_err(design):
    lines = [
        re.findall(r"ok|MISTAKE", line) for line in design.printed("for text, gold, wanted, reason").splitlines()[1:]
    ]
    wanted = [
        not re.search("wrong|stuffed|no answer", line)
        for line in design.printed('print(*(f"{name:13}" for name in IDEAS)').splitlines()[1:]
    ]
    mistakes = [[line[k] == "MISTAKE" for line in lines] for k in range(3)]
    assert design.says("Each idea errs in four rows") and [sum(idea) for idea in mistakes] == [4, 4, 4]
    paid_wrong, refused = (
        [sum(m for m, right in zip(idea, wanted, strict=True) if right is side) for idea in mistakes]
        for side in (False, True)
    )
    assert design.says("*Same text* never pays for a wrong answer, but it refuses most of the right ones")
    assert paid_wrong[0] == 0 and refused[0] > sum(wanted) / 2
    assert design.says("*Last number* pays a hedge that ends well. *Gold occurs* can be **gamed**")
    assert paid_wrong[1] == 1 and paid_wrong[2] == 3 and lines[9][1:] == ["MISTAKE", "MISTAKE"]


def test_02_tells_what_the_classic_set_pays(design):
    parts = rows(design.printed('removeprefix("classic_")'))
    assert design.says("The right answer without tags earns nothing at all, the guess something")
    assert parts["untagged"][-1] == 0 < parts["hasty"][-1]
    assert design.says("Two of them are patterns without DOTALL, and never fire on the careful work")
    assert parts["careful"][2:4] == [0, 0]
    ours = [line[1] for line in rows(design.printed("classic=partial(total_reward")).values()]
    assert ours == sorted(ours, reverse=True) == [1.2, 1.0, 0.2, 0.0]
    defects = {
        line[:16].strip(): numbers(line[16:]) for line in design.printed("for defect, wrong_way").splitlines()[1:]
    }
    alike = [name for name, (better, worse, *_) in defects.items() if better == worse]
    assert design.says("In six of these nine lines", "in three it pays both alike", "Ours puts each pair in order")
    assert len(defects) == 9 and alike == ["talks on", "last match wins", "cut off"]
    assert design.says(
        "Both are paid alike where the model *talks on*, where the *last match wins* and where the text is *cut off*"
    )
    assert all(better <= worse and ours > other for better, worse, ours, other in defects.values())
    assert design.says(
        "In the last line a wrong answer earns nearly the full sum and a right one without a tag nothing"
    )
    assert defects["near is paid"][0] == 0 and defects["near is paid"][1] > 0.9
    (classic, n), *own = (
        map(int, re.findall(r"(\d+) of (\d+)", line)[0]) for line in design.printed("results = bench(").splitlines()
    )
    assert design.says("The functions you wrote put every row in its place") and all(right == of for right, of in own)
    assert design.says("misplaces nearly half") and 0.4 < 1 - classic / n < 0.5
    failed = design.printed("for r in failed[::5]").splitlines()
    assert design.says("Every fifth row that the classic set gets wrong") and len(failed) == 2 * -(-(n - classic) // 5)


def test_02_tells_what_advantages_come_out(design):
    table = {line.split()[0]: numbers(line) for line in design.printed("by_hand = [").splitlines()}
    assert sum(line[-1] for line in table.values()) == pytest.approx(0) and table["careful"][-1] > table["untagged"][-1]
    a, b, c = (group_advantages(group, 4) for group in ([1.0, 0, 0, 0], [0.2, 0, 0, 0], [0.2] * 4))
    assert design.says("is paid five times what that of (b) is paid, and their advantages are the same")
    assert [f"{x:.2f}" for x in a] == [f"{x:.2f}" for x in b] and a[0] > 0
    assert design.says("all advantages are zero") and c == [0] * 4
    tenfold = group_advantages([10 * r for r in (1.2, 1.0, 0.2, 0.0)], 4)
    assert design.says("Multiplying every reward by ten changes next to nothing")
    assert tenfold == pytest.approx(group_advantages([1.2, 1.0, 0.2, 0.0], 4), abs=1e-3)
    assert design.pictures() == 2


def test_02_tells_what_the_lab_finds(design):
    told = design.printed('lab.sliders["correctness_reward"]')
    assert design.says("how many of the five lights") and len(re.findall("^[●○]", told, re.M)) == 5
    dead = int(re.search(r"-> (\d+)%", told)[1])
    won, pairs = (int(n.replace(",", "")) for n in re.search(r"in ([\d,]+) of ([\d,]+) pairs", told).groups())
    assert design.says(
        "Half of the groups have nothing left to teach", "the wrong one is paid as much almost every time"
    )
    assert 48 <= dead <= 55 and won > 0.95 * pairs
    assert design.says("(notebook 01 compares seven)") and len(PROMPTS) == 7
    assert design.says("One completion with five equations would have ended") and "ZeroDivisionError" in design.printed(
        "1 / (5 -"
    )
    own = design.printed("bench(partial(total_reward, rewards=lab.rewards))")
    assert design.says("No wrong answer wins, but *length drift* lights up") and re.findall("● (.*?):", own) == [
        "length drift"
    ]
    assert "wrong one earns as much or more in 0 of" in own
    assert (
        design.says("The bench finds one case: an equation repeated in the answer tag")
        and own.count("more than the plain") == 1
    )
    assert "= 42</answer>" in own


def test_02_tells_how_the_short_runs_end(design):
    [cell] = [c for c in design.code if "verdict_table({" in c.source]
    table = next(o.data["text/html"] for o in cell.outputs if "text/html" in o.data)
    marks = {}
    for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)[1:]:
        name, *values = (re.sub("<.*?>", "", value) for value in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S))
        marks[name] = dict(zip(("strict", "lenient", "format"), (numbers(value)[0] for value in values), strict=True))
    before, default, alone, classic = (marks[name] for name in ("before", "default", "format only", "classic"))
    assert design.says("reaches a perfect layout and mostly stops solving") and alone["format"] == 100
    assert alone["strict"] < 0.5 * before["strict"]
    assert design.says("the classic set, with all its defects, gains strict accuracy *faster* than our default")
    assert classic["strict"] > default["strict"] > before["strict"]
    assert design.says("whose layout even falls while its lenient accuracy rises", "at first it pushes the layout down")
    assert default["format"] < before["format"] and default["lenient"] > before["lenient"]
    assert design.says("each judged on 200 held-out ones", "one seed and twenty steps") and (
        HELD_OUT,
        PROFILE.steps,
    ) == (200, 20)


def test_02_tells_what_the_bank_holds(design):
    bank = load_bank()
    half = len(bank.completions) // 2
    right, clean, working = (part_scores(bank, f)[:half] for f in (correctness_reward, format_reward, working_metric))
    assert {group.policy for group in bank.groups[: len(bank.groups) // 2]} == {"base"}
    assert f"of {half:,} completions {sum(right):.0f} are right, and {sum(clean):.0f} keep" in design.printed(
        "right, clean = ("
    )

    def among(marks, kept):
        return fmean(mark for mark, c in zip(marks, clean, strict=True) if c == kept)

    assert design.says(f"of the clean ones {among(right, 1):.0%} are right, of the others {among(right, 0):.0%}")
    assert design.says(f"nearly all worked out ({among(working, 0):.0%} write a sum)")
    assert design.says(f"more than half of the clean ones are guesses ({1 - among(working, 1):.0%} write none)")


def test_02_tells_what_follows_from_its_exercises(design):
    cheat = "<reasoning>Hm.</reasoning><answer>0</answer>"
    assert design.says("Put one word into the reasoning and it earns 0.2 from ours as well")
    assert total_reward([cheat], gold=["39"]) == [0.2]
    summary = read_json(ROOT / "assets" / "runs" / "tiny" / "seed-0" / "summary.json", "")
    assert design.says("in a full run the layout comes back") and summary["trained"]["format"]["rate"] > 0.99
