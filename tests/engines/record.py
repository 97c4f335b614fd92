"""Ask the real engines and write what was run, where, with which versions and with what result.

    .venv-engines/bin/python -m tests.engines.record     minutes; writes assets/runs/engines.md

`python3 run.py test --engines` makes the environment, and runs the same tests without writing.
"""

from __future__ import annotations

import sys
import time

import pytest

from utils.files import ROOT, write_text
from utils.setup import installed, machine

PAGE = ROOT / "assets" / "runs" / "engines.md"
PACKAGES = ("torch", "vllm", "bitsandbytes", "trl", "transformers", "peft", "accelerate")
NEVER_RUN = ("unsloth+vllm", "unsloth")


class Results:
    """What pytest reports of each test: one row of the table a test."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str, float]] = []
        self.seconds = 0.0  # of the fixtures, which start an engine or train

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if report.when == "call" or report.outcome != "passed":
            file, _, name = report.nodeid.partition("::")
            measured = ", ".join(f"{what}: {value}" for what, value in report.user_properties)
            self.rows.append((file, name, report.outcome, measured, self.seconds))
        if report.when == "teardown":
            self.seconds = 0.0


def page(rows: list[tuple[str, str, str, str, float]], status: int) -> str:
    """The page in Markdown; `status` is pytest's."""
    versions = ", ".join(f"{package} {installed(package) or 'missing'}" for package in PACKAGES)
    outcome = "all passed" if status == 0 else f"pytest ended with status {status}"
    lines = [
        "# Engines, really run",
        "",
        "Written by `.venv-engines/bin/python -m tests.engines.record`. The rungs "
        f"{' and '.join(NEVER_RUN)} need an NVIDIA GPU and were not run here: **not measured**.",
        "",
        f"{time.strftime('%Y-%m-%d')}, {machine()}: {len(rows)} tests, {outcome}. {versions}.",
        "",
        "| file | test | result | measured | seconds, with what it starts |",
        "|---|---|---|---|---|",
    ]
    for file, name, result, measured, seconds in rows:
        name = name.removeprefix("test_").replace("_", " ").replace("|", "\\|")
        lines.append(f"| {file.rpartition('/')[2]} | {name} | {result} | {measured} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    results = Results()
    status = int(pytest.main(["-v", "-m", "engines", "tests/engines"], plugins=[results]))
    if results.rows:
        write_text(PAGE, page(results.rows, status))
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
