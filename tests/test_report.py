"""summary.json and report.html: complete, self-contained, and safe with any completion."""

import json
import re

from utils.evaluation import Verdict
from utils.report import summarise, verdict_line, write_report

NEEDED = {
    "profile",
    "seed",
    "versions",
    "n_test",
    "base",
    "trained",
    "flips",
    "mcnemar_p",
    "train_steps",
    "train_seconds",
}


def verdict(question, strict, completion="<reasoning>x</reasoning>"):
    return Verdict("0" * 16, question, "7", completion, 5, strict, strict, True, truncated=False, no_answer=False)


BASE = [verdict("a", False, "<script>alert(1)</script>"), verdict("b", True), verdict("c", False)]
TRAINED = [verdict("a", True), verdict("b", False), verdict("c", False)]
HISTORY = [{"step": i, "reward": 0.1 * i, "rewards/correctness_reward/mean": 0.1 * i} for i in (1, 2, 3)]


def test_the_summary_holds_what_it_must():
    summary = summarise("tiny", {"trl": "1"}, BASE, TRAINED, seed=0, train_steps=3, train_seconds=1.5)
    assert NEEDED <= summary.keys()
    assert summary["flips"] == {"fixed": 1, "broken": 1, "both": 0, "neither": 1} and summary["mcnemar_p"] == 1.0
    for who in ("base", "trained"):
        for name in ("strict", "lenient", "format", "truncated", "no_answer"):
            r = summary[who][name]
            assert 0 <= r["low"] <= r["rate"] <= r["high"] <= 1


def test_the_report_needs_nothing_else_and_runs_nothing(tmp_path):
    summary = summarise("tiny", {"trl": "1"}, BASE, TRAINED, seed=0, train_steps=3, train_seconds=1.5)
    page = write_report(tmp_path, summary, HISTORY, BASE, TRAINED).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert page.count("data:image/png;base64,") == 2
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert "teaching model" in page and "1 fixed, 1 broken" in page


def test_a_base_alone_is_summed_up_too():
    assert "strict 33.3%" in verdict_line(summarise("tiny", {}, BASE))
