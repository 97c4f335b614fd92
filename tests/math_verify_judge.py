"""Ask math-verify for its verdicts, in a process of its own and with a time limit for each text.

math-verify hands what it reads to SymPy (LaTeX through a grammar; of plain text only digits, operators and brackets),
and SymPy computes it: `10^{10^{10}}` in a box would take forever and all memory. Its own time limits work in the main
thread alone. So it runs apart; where it fails or is silent for too long, its process is ended, the text counts as not
judged, and the next one is asked of a new process.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence

from utils.files import ROOT
from utils.setup import require

PIN = "math-verify==0.9.0"
SECONDS = 5.0  # for one text
START_SECONDS = 60.0  # for the process to import SymPy
MEMORY = 4 * 2**30  # bytes that the process may take, where the system can limit it

Judged = tuple[str | None, bool | None]  # what it read, and whether that is right; (None, None) where it gave up


def judge_all(cases: Sequence[tuple[str, str]]) -> list[Judged]:
    """math-verify's reading and verdict of each (completion, gold).

    Raises:
        ImportError: math-verify is missing, or is not the pinned version.
    """
    require(PIN, "the cross-check")
    judged: list[Judged] = []
    while len(judged) < len(cases):
        judged += _ask(cases[len(judged) :])
    return judged


def _ask(cases: Sequence[tuple[str, str]]) -> list[Judged]:
    """Ask one process until the cases or its time are at an end; the last one is given up if it was that."""
    command = [sys.executable, "-m", "tests.math_verify_judge"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_collect, args=(process.stdout, answers), daemon=True).start()
        judged: list[Judged] = []
        try:
            if not _next_line(answers, START_SECONDS):
                raise RuntimeError(f"math-verify did not start within {START_SECONDS:g} s; try `import math_verify`")
            for case in cases:
                process.stdin.write(json.dumps(case) + "\n")
                process.stdin.flush()
                line = _next_line(answers, SECONDS)
                judged.append(tuple(json.loads(line)) if line else (None, None))
                if not line:
                    break
        finally:
            process.kill()
    return judged


def _collect(stream, answers: queue.Queue[str]) -> None:
    for line in stream:
        answers.put(line)
    answers.put("")  # it ended


def _next_line(answers: queue.Queue[str], seconds: float) -> str:
    """The next line, or nothing where the process was silent for so long, or has ended (on an error, say)."""
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return ""


def _serve() -> None:
    """Read a JSON [completion, gold] a line and answer a JSON [reading, right], until the input ends."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.WARNING)  # it warns at each call that nothing stops a slow one
    _limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        completion, gold = json.loads(line)
        found = parse(completion, parsing_timeout=None)
        right = verify(parse(gold, parsing_timeout=None), found, timeout_seconds=None)
        print(json.dumps([str(found[-1])[:200] if found else None, bool(right)]), flush=True)


def _limit_memory() -> None:
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    _serve()
