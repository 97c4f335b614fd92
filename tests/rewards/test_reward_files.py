"""A file for --reward is tried before a model is loaded: what is wrong is said in a sentence, odd ones are served."""

import json
import pickle
import subprocess
import sys
import time
from textwrap import dedent

import pytest
from transformers import TrainerState

from utils.files import ROOT, read_jsonl
from utils.rewards.bench import BESIDE, check_rewards, tried_rewards
from utils.rewards.contract import RewardProblem
from utils.rewards.functions import load_rewards, total_reward

DIGITS = """
def digits(completions, **kwargs):
    return [float(sum(c.isdigit() for c in reply[0]["content"])) for reply in completions]
"""


def returning(what):
    """A file whose reward gives `what` for each completion `c` of the texts."""
    return f"""
        import math, numpy as np
        from decimal import Decimal
        from fractions import Fraction
        def mine(completions, **kwargs):
            texts = [reply[0]["content"] for reply in completions]
            return {what}
        REWARDS = {{mine: 1.0}}
        """


def doing(line, head="def mine(completions, **kwargs):"):
    return f"import asyncio, os, sys, time\n{head}\n    {line}\nREWARDS = {{mine: 1.0}}\n"


def weighing(rewards):
    return f"import numpy as np\n{DIGITS}\nREWARDS = {rewards}\n"


DOES_NOT_LOAD = {  # name: (file, what is said)
    "syntax": ("def f(:\n", r"does not run by itself: SyntaxError: .*line 1"),
    "indent": ("def f():\nreturn 1\n", "IndentationError"),
    "null byte": ("x = '\0'\n", "does not run by itself: (SyntaxError|ValueError): .*null bytes"),
    "an error": ("x = 1\ny = 1 / 0\n", r"ZeroDivisionError: division by zero \(line 2\)"),
    "an error of many lines": ("raise ValueError('a\\n' * 900)\n", r"ValueError: a a a .*… \(line 1\)"),
    "an error in a library": ("import json\n\njson.loads('{')\n", r"JSONDecodeError: .* \(line 3\)"),
    "exit()": ("import sys\nsys.exit()\n", r"SystemExit \(line 2\); take the exit out"),
    "exit with 0": ("raise SystemExit(0)\n", r"SystemExit: 0 \(line 1\); take the exit out"),
    "quit()": ("import builtins, site\nquit()\n", "SystemExit.*; take the exit out"),
    "generator exit": ("raise GeneratorExit\n", "GeneratorExit"),
    "cancelled": ("import asyncio\nraise asyncio.CancelledError\n", "CancelledError"),
    "endless recursion": ("def f():\n    f()\nf()\n", "RecursionError"),
    "a missing package": ("import no_such_package\n", r"No module named 'no_such_package' \(line 1\); install it"),
    "a relative import": ("from . import helpers\n", "relative import"),
    "nothing": ("", "must define REWARDS = .*got nothing of that name"),
    "no REWARDS": (DIGITS, r"must define REWARDS = .*REWARDS = \{my_reward: 1.0\}; got nothing of that name"),
    "empty REWARDS": ("REWARDS = {}", "must define REWARDS .*got {}"),
    "a list": (weighing("[digits]"), r"must define REWARDS .*got \[<function"),
    "None": ("REWARDS = None", "must define REWARDS .*got None"),
    "a set": (weighing("{digits}"), "must define REWARDS"),
    "names": (weighing("{'digits': 1.0}"), "'digits' in REWARDS is no function; name one, without quotes"),
    "turned round": (weighing("{1.0: digits}"), "1.0 in REWARDS is no function"),
    "a class": ("class Mine:\n    pass\nREWARDS = {Mine: 1.0}", r"Mine is a class; put an object .*: Mine\(…\)"),
    "a lambda": ("REWARDS = {lambda completions, **k: []: 1.0}", "<lambda>.* has no name of its own .* with def"),
    "a plain dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    __call__ = print\nREWARDS = {A(): 1}\n",
        r"unhashable type: 'A' \(line 5\); for REWARDS a dataclass needs @dataclass\(frozen=True\)",
    ),
    **{
        f"weight {weight}": (weighing(f"{{digits: {weight}}}"), "the weight of digits is .*; give a finite number")
        for weight in (
            "float('nan')",
            "float('inf')",
            "True",
            "'1.0'",
            "None",
            "1j",
            "[1.0]",
            "1e300",
            "10**400",
            "digits",
        )
    },
    "weights of 0": (weighing("{digits: 0.0}"), "every weight in REWARDS is 0, so that nothing would be learnt"),
    "two of one name": (
        f"{DIGITS}\nfirst = digits\n{DIGITS}\nREWARDS = {{first: 1.0, digits: 1.0}}",
        "2 rewards are called digits, digits; give each a __name__ of its own",
    ),
    "two partials of one function": (
        f"import functools\n{DIGITS}\nREWARDS = {{functools.partial(digits): 1.0, functools.partial(digits): 1.0}}",
        "2 rewards are called digits, digits",
    ),
    "two objects of a class": (
        "class Near:\n    __call__ = print\nREWARDS = {Near(): 1.0, Near(): 2.0}",
        "2 rewards are called Near, Near",
    ),
}

IS_NO_REWARD = {
    "None": (
        returning("[None for t in texts]"),
        "mine returned None for completion 0, not a finite number: .*; return",
    ),
    "None at times": (
        returning("[1.0 if t else None for t in texts]"),
        r"returned None .*content': ''}\]; return .* 0.0",
    ),
    "nan": (returning("[math.nan for t in texts]"), "returned nan for completion 0, not a finite number"),
    "infinite": (returning("[-math.inf for t in texts]"), "returned -inf for completion 0"),
    "too large for float32": (
        returning("[1e30 for t in texts]"),
        "returned 1e[+]30 for completion 0, more than 1e[+]09",
    ),
    "beyond any float": (
        returning("[10 ** 400 for t in texts]"),
        "returned 1000.* for completion 0, not a finite number",
    ),
    "texts": (returning("[str(len(t)) for t in texts]"), "returned '[0-9]+' for completion 0, not a finite number"),
    "texts of numpy": (returning("[np.str_('1') for t in texts]"), "not a finite number"),
    "complex": (returning("[1j for t in texts]"), "returned 1j for completion 0"),
    "pairs": (returning("[(1.0, 'why') for t in texts]"), r"returned \(1.0, 'why'\) for completion 0"),
    "lists of one": (returning("[[1.0] for t in texts]"), r"returned \[1.0\] for completion 0"),
    "a matrix": (returning("np.ones((len(texts), 1))"), r"returned \[1.0\] for completion 0"),
    "one number": (returning("1.0"), "mine returned float, not a list; return"),
    "one number of numpy": (returning("np.array(1.0)"), "mine returned float, not a list"),
    "nothing": (returning("None"), "mine returned NoneType, not a list"),
    "a dictionary": (returning("dict.fromkeys(texts, 1.0)"), "mine returned dict, not a list"),
    "a generator": (returning("(1.0 for t in texts)"), "mine returned generator, not a list"),
    "a text": (returning("'1' * len(texts)"), "mine returned str, not a list"),
    "a map": (returning("map(len, texts)"), "mine returned map, not a list"),
    "too few": (
        returning("[1.0 for t in texts][1:]"),
        r"returned \d+ rewards for \d+ completions; return one for each",
    ),
    "too many": (returning("[1.0 for t in texts] * 2"), r"returned \d+ rewards for \d+ completions"),
    "a total": (returning("[float(sum(map(len, texts)))]"), r"returned 1 rewards for \d+ completions"),
    "raises": (
        returning("[1 / len(t) for t in texts]"),
        r"raised ZeroDivisionError: division by zero \(line 7\) on .* ''",
    ),
    "not for all": (
        returning("[float(t.split()[1] > '') for t in texts]"),
        "raised IndexError: list index out of range",
    ),
    "chance": (returning("[np.random.random() for t in texts]"), "when asked again in another order"),
    "by place": (returning("[float(i) for i, t in enumerate(texts)]"), "a reward must depend on nothing but"),
    "counts its calls": (
        "calls = []\n" + doing("calls.append(1); return [float(len(calls)) for c in completions]"),
        "gave 1 at first and 2 when asked again",
    ),
    "yields": (doing("yield from [1.0 for c in completions]"), "mine returned generator, not a list"),
    "async": (doing("return [1.0]", "async def mine(completions, **k):"), "is an async function.* write it with def"),
    "exits": (doing("sys.exit(0)"), r"mine raised SystemExit: 0 \(line 3\) on completion 0"),
    "raises what cannot be printed": (
        "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n" + doing("raise Odd"),
        r"mine raised Odd \(line 6\) on completion 0",
    ),
    "quits": (doing("raise SystemExit"), r"mine raised SystemExit \(line 3\)"),
    "cancels": (doing("raise asyncio.CancelledError"), "mine raised CancelledError"),
    "ends a generator": (doing("raise GeneratorExit"), "mine raised GeneratorExit"),
    "stops an iteration": (doing("return [next(iter([])) for c in completions]"), "mine raised StopIteration"),
    "takes no keywords": (
        doing("return [0.0 for c in completions]", "def mine(completions, gold):"),
        r"unexpected keyword argument 'prompts'.* It passes completions, prompts, gold, question, truncated, "
        "completion_ids, "
        r"trainer_state, log_extra, log_metric by name; write def mine\(completions, gold, \*\*kwargs\)",
    ),
    "asks for another column": (
        doing("return [0.0 for c in completions]", "def mine(completions, answer, **kwargs):"),
        "missing a required argument: 'answer'.* It passes completions, prompts, gold, question",
    ),
    "another name for completions": (
        doing("return [0.0 for c in replies]", "def mine(replies, **kwargs):"),
        "missing a required argument: 'replies'",
    ),
    "by position": (doing("return [0.0 for c in completions]", "def mine(completions, /, **k):"), "cannot be called"),
    "logs a word": (doing("kwargs['log_metric']('m', 'high'); return [0.0 for c in completions]"), "raised ValueError"),
    "reads texts": (
        doing("return [float('42' in c.strip()) for c in completions]"),
        "raised AttributeError: 'list' object has no attribute 'strip' .*it reads texts, but TRL passes each "
        "completion as a list of messages: write @on_text above it, from utils.rewards.functions import on_text",
    ),
    "takes messages for texts": (
        doing("return [float(len(c)) for c in completions]"),
        r"mine pays all \d+ completions the same; it reads texts, but TRL passes .* write @on_text",
    ),
    "looks for texts in messages": (
        doing("return [float(g in c) for c, g in zip(completions, gold)]", "def mine(completions, gold, **kwargs):"),
        "pays all .* the same; it reads texts",
    ),
    "a partial of it": (
        f"import functools\n{doing('return None')}\nREWARDS = {{functools.partial(mine, scale=1): 1.0}}",
        "mine returned NoneType, not a list",
    ),
    "the second of two, without a weight": (
        f"{DIGITS}\ndef silent(completions, **kwargs):\n    return []\nREWARDS = {{digits: 1.0, silent: 0}}",
        "silent returned 0 rewards",
    ),
}

FOR_EVER = {
    "loops": ("while True: pass", "mine took more than 5 s for .* completions and was broken off"),
    "sleeps": ("time.sleep(1e6)", "mine took more than 5 s"),
    "backtracks": ("__import__('re').match('(a+)+$', 'a' * 40 + 'b')", "nested repetitions"),
    "is slow": ("return [time.sleep(1) or 1.0 for c in completions]", "mine took more than 5 s"),
    "catches errors": (
        "\n".join(["while True:", "        try: time.sleep(1)", "        except Exception: pass"]),
        "mine took more than 5 s",
    ),
    "catches everything": (
        "\n".join(["while True:", "        try: time.sleep(1)", "        except BaseException: pass"]),
        "mine (took more than 5 s|hangs; look for a loop without end)",
    ),
    "does not come back from C": ("sum(__import__('itertools').count())", "mine hangs; look for a loop without end"),
    "leaves without a word": ("os._exit(0)", "mine ends the whole process; take out what exits"),
}

ODD_BUT_GOOD = {  # name: (file, names and weights)
    "numpy numbers": (returning("[np.float32(len(t)) for t in texts]"), {"mine": 1.0}),
    "an array": (returning("np.array([len(t) for t in texts])"), {"mine": 1.0}),
    "truths": (returning("[len(t) > 9 for t in texts]"), {"mine": 1.0}),
    "truths of numpy": (returning("np.array([len(t) for t in texts]) > 9"), {"mine": 1.0}),
    "a tuple": (returning("tuple(len(t) for t in texts)"), {"mine": 1.0}),
    "fractions": (returning("[Fraction(len(t), 3) for t in texts]"), {"mine": 1.0}),
    "decimals": (returning("[Decimal(len(t)) / 3 for t in texts]"), {"mine": 1.0}),
    "a tensor": (returning("__import__('torch').tensor([float(len(t)) for t in texts])"), {"mine": 1.0}),
    "always the same": (returning("[0.5 for t in texts]"), {"mine": 1.0}),
    "a weight of numpy": (weighing("{digits: np.float32(0.5)}"), {"digits": 0.5}),
    "a weight below 0": (weighing("{digits: -1}"), {"digits": -1.0}),
    "a partial": (
        f"import functools\n{DIGITS}\nREWARDS = {{functools.partial(digits, scale=2): 1.0}}",
        {"digits": 1.0},
    ),
    "named partials": (
        f"import functools\n{DIGITS}\none, two = functools.partial(digits), functools.partial(digits)\n"
        "two.__name__ = 'again'\nREWARDS = {one: 1.0, two: 0.5}",
        {"digits": 1.0, "again": 0.5},
    ),
    "an object": (
        """
        class Long:
            def __call__(self, completions, **kwargs):
                return [float(len(reply[0]["content"])) for reply in completions]
        REWARDS = {Long(): 0.25}
        """,
        {"Long": 0.25},
    ),
    "a method": (
        """
        class Long:
            def score(self, completions, **kwargs):
                return [float(len(reply[0]["content"])) for reply in completions]
        REWARDS = {Long().score: 0.25}
        """,
        {"score": 0.25},
    ),
    "a dataclass": (
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar
        @dataclass(frozen=True)
        class Long:
            scale: float = 0.5
            unit: ClassVar[str] = "characters"
            def __call__(self, completions, **kwargs):
                return [self.scale * len(reply[0]["content"]) for reply in completions]
        REWARDS = {Long(2.0): 1.0}
        """,
        {"Long": 1.0},
    ),
    "a text reward that is decorated": (
        """
        from utils.rewards.functions import on_text
        @on_text
        def brief(completions: list, **kwargs):
            return [-len(text) / 100 for text in completions]
        assert brief.__annotations__["completions"] is list, "no __future__ but its own"
        REWARDS = {brief: 1.0}
        """,
        {"brief": 1.0},
    ),
    "everything by name": (
        """
        def all_of_it(
            completions, prompts, gold, question, truncated, completion_ids, trainer_state, log_extra, log_metric
        ):
            log_extra("gold", gold)
            log_metric("share", 0.5)
            done = trainer_state.global_step / trainer_state.max_steps
            return [len(ids) * (1 - done) for ids in completion_ids]
        REWARDS = {all_of_it: 1.0}
        """,
        {"all_of_it": 1.0},
    ),
    "it changes all it is given": (
        """
        def vandal(completions, prompts, gold, trainer_state, **kwargs):
            paid = [float(len(reply[0]["content"])) for reply in completions]
            for reply in completions + prompts:
                reply[0]["content"] = "changed"
                reply.clear()
            gold[:] = ["0"] * len(gold)
            trainer_state.global_step = 10**6
            trainer_state.log_history.append({})
            completions.clear(), prompts.clear(), kwargs.clear()
            return paid
        def after(completions, prompts, gold, trainer_state, **kwargs):
            assert len(completions) == len(prompts) == len(gold) and trainer_state.global_step < 10**6
            assert all("changed" not in reply[0]["content"] for reply in completions + prompts) and any(gold)
            return [float(gold[i] in reply[0]["content"]) for i, reply in enumerate(completions)]
        REWARDS = {vandal: 0.01, after: 1.0}
        """,
        {"vandal": 0.01, "after": 1.0},
    ),
    "in another encoding": ("# coding: latin-1\nunit = '£'\n" + weighing("{digits: 1.0}"), {"digits": 1.0}),
    "it is pickled": (f"import pickle\n{DIGITS}\npickle.dumps(digits)\nREWARDS = {{digits: 1.0}}", {"digits": 1.0}),
}


@pytest.fixture
def written(tmp_path):
    def write(source, name="mine.py"):
        source = dedent(source)
        path = tmp_path / name
        path.write_bytes(source.encode("latin-1" if "latin-1" in source else "utf-8"))
        return path

    return write


@pytest.mark.parametrize(
    "source, said", [*DOES_NOT_LOAD.values(), *IS_NO_REWARD.values()], ids=[*DOES_NOT_LOAD, *IS_NO_REWARD]
)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(written, source, said):
    path = written(source)
    with pytest.raises((ValueError, ImportError), match=said) as problem:
        check_rewards(path)
    message = str(problem.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 700


@pytest.mark.slow
@pytest.mark.parametrize("line, said", FOR_EVER.values(), ids=FOR_EVER)
def test_what_never_comes_back_is_ended(written, line, said):
    start = time.monotonic()
    with pytest.raises(RewardProblem, match=said):
        tried_rewards(written(doing(line)))
    assert time.monotonic() - start < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, said",
    [
        ("while True: pass", "took more than 1 s to load"),
        ("import os; os._exit(0)", "loading it ends the whole process"),
    ],
)
def test_a_file_that_does_not_end_or_ends_everything_is_told(written, monkeypatch, source, said):
    monkeypatch.setattr("utils.rewards.functions.LOAD_LIMIT_S", 1)
    with pytest.raises(ValueError, match=said):
        (tried_rewards if "exit" in source else load_rewards)(written(source))


@pytest.mark.parametrize("source, weights", ODD_BUT_GOOD.values(), ids=ODD_BUT_GOOD)
def test_odd_files_are_served(written, source, weights):
    rewards = check_rewards(written(source))
    assert {f.__name__: w for f, w in rewards.items()} == weights
    assert {type(weight) for weight in rewards.values()} == {float}
    texts = [[{"role": "assistant", "content": text}] for text in ("7", "The answer is 8.")]
    given = dict(
        BESIDE, completion_ids=[[1], [2]], prompts=[[{"content": "?"}]] * 2, gold=["7", "8"], question=["?"] * 2
    )
    assert {type(total) for total in total_reward(texts, rewards, **given)} == {float}
    assert texts[0][0]["content"] == "7" and given["gold"] == ["7", "8"], "a reward must not change what others see"


def test_a_file_shadows_no_module_and_its_functions_can_be_pickled(written):
    for name in ("json.py", "utils.py", "my.v2.py", "mine two.py"):
        (function,) = load_rewards(written(weighing("{digits: 1.0}"), name))
        assert pickle.loads(pickle.dumps(function)) is function
    assert sys.modules["json"] is json and sys.modules["utils"].__file__ == str(ROOT / "utils" / "__init__.py")


def test_other_endings_folders_and_bytes_that_are_no_text_are_refused(tmp_path, written):
    for path in (tmp_path, tmp_path / "none.py", written("REWARDS = {}", "mine.txt"), tmp_path / "folder.py"):
        if path.name == "folder.py":
            path.mkdir()
        with pytest.raises(ValueError, match="is not a Python file; give one that ends in .py"):
            load_rewards(path)
    path = written("")
    for content in (b"x = '\xff\xfe'\n", "x = 1\n".encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="mine.py does not run by itself: (SyntaxError|ValueError)"):
            load_rewards(path)


@pytest.mark.parametrize("source", ["raise KeyboardInterrupt", doing("raise KeyboardInterrupt")])
def test_ctrl_c_stays_ctrl_c(written, source):
    with pytest.raises(KeyboardInterrupt):
        check_rewards(written(source))


def test_the_state_in_the_check_has_what_the_trainers_has():
    assert vars(BESIDE["trainer_state"]).keys() == vars(TrainerState()).keys()


def test_the_traceback_of_a_files_own_error_is_kept(written):
    with pytest.raises(RewardProblem) as problem:
        tried_rewards(written(returning("[{}[t] for t in texts]")))
    assert "KeyError" in problem.value.__notes__[0] and "in mine" in problem.value.__notes__[0]


# -------------------------------------------------------------------------------------- by run.py train


def train(path, output):
    command = ["-m", "utils.scripts.commands", "train", "--profile", "tiny", "--max-steps", "2"]
    command += ["--output", str(output), "--reward", str(path)]
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


THROUGH_THE_COMMAND = {
    **{name: DOES_NOT_LOAD[name] for name in ("syntax", "exit()", "a missing package", "no REWARDS", "weight True")},
    **{f"gives {name}": IS_NO_REWARD[name] for name in ("None", "too few", "exits", "async", "reads texts")},
    **{name: (doing(FOR_EVER[name][0]), FOR_EVER[name][1]) for name in ("loops", "leaves without a word")},
    "two of one name": DOES_NOT_LOAD["two of one name"],
}


@pytest.mark.slow
@pytest.mark.parametrize("source, said", THROUGH_THE_COMMAND.values(), ids=THROUGH_THE_COMMAND)
def test_a_bad_file_ends_the_command_before_anything_is_loaded(written, tmp_path, source, said):
    done = train(written(source), tmp_path / "run")
    sentence, where = done.stderr.splitlines()
    assert done.returncode == 1 and str(tmp_path / "mine.py") in sentence and where.startswith("The traceback is in")
    assert pytest.raises(ValueError, match=said).matches(ValueError(sentence))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["error.log"]


@pytest.mark.slow
def test_odd_rewards_train_and_each_is_called_once_in_a_step(written, tmp_path):
    calls = tmp_path / "calls.txt"
    source = f"""
        from __future__ import annotations
        import functools
        from dataclasses import dataclass
        import numpy as np
        def counted(completions, trainer_state, **kwargs):
            with open({str(calls)!r}, "a") as file:
                print(trainer_state.max_steps, len(completions), file=file)
            return np.array([len(reply[0]["content"]) > 20 for reply in completions])
        def length(completions, completion_ids, log_metric, scale=1.0, **kwargs):
            log_metric("share", 0.5)
            return [np.float32(scale * len(ids)) for ids in completion_ids]
        @dataclass(frozen=True)
        class Near:
            scale: float
            def __call__(self, completions, gold, **kwargs):
                return [self.scale * (g in reply[0]["content"]) for reply, g in zip(completions, gold)]
        REWARDS = {{counted: 0.01, functools.partial(length, scale=0.5): 0.01, Near(2.0): np.float64(1)}}
        """
    done = train(written(source), tmp_path / "run")
    assert done.returncode == 0 and (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file(), done.stderr
    for line in read_jsonl(tmp_path / "run" / "log.jsonl"):
        names = {key.split("/")[1] for key in line if key.startswith("rewards/")}
        assert names == {"counted", "length", "Near"} and line["share"] == 0.5
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["rewards"] == ["counted", "length", "Near"] and settings["reward_weights"][:3] == [0.01, 0.01, 1.0]
    assert [call for call in calls.read_text().splitlines() if call.startswith("2 ")] == ["2 16"] * 2


@pytest.mark.slow
def test_what_a_reward_does_to_its_completions_reaches_neither_record_nor_loss(written, tmp_path):
    """Two trainings, with a reward that changes what it is given and with one that pays the same and does not."""
    kind = """
        def vandal(completions, **kwargs):
            paid = [float(len(reply[0]["content"])) for reply in completions]
            LINE
            return paid
        REWARDS = {vandal: 0.01}
        """
    records = []
    for line in ("pass", 'for reply in completions: reply[0]["content"] = ""'):
        folder = tmp_path / str(len(records))
        assert train(written(kind.replace("LINE", line)), folder).returncode == 0
        log = [[line["loss"], line["grad_norm"], line["reward"]] for line in read_jsonl(folder / "log.jsonl")]
        records.append((log, read_jsonl(folder / "rollouts.jsonl")))
    assert records[0] == records[1] and records[0][1][0]["groups"][0]["completions"][0]


@pytest.mark.slow
def test_an_exit_in_the_middle_of_a_training_is_an_error(written, tmp_path):
    source = """
        import sys
        def later(completions, trainer_state, **kwargs):
            if trainer_state.global_step == 1:
                sys.exit(0)
            return [float(len(reply[0]["content"])) for reply in completions]
        REWARDS = {later: 0.01}
        """
    done = train(written(source), tmp_path / "run")
    assert done.returncode == 1 and not (tmp_path / "run" / "adapter").exists()
    assert "RewardProblem: later raised SystemExit: 0 (line 5) on completion 0: [{'role'" in done.stderr
    assert len(read_jsonl(tmp_path / "run" / "rollouts.jsonl")) == 1


def test_the_number_of_files_tried():
    assert len({*DOES_NOT_LOAD, *IS_NO_REWARD, *FOR_EVER}) >= 40
