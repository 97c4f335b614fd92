"""Write rewards from a notebook to a Python file that `run.py train --reward FILE` and TRL can use.

The file holds the source of what was written in the notebook, with the helpers, imports and constants it uses, and
imports what is the project's own. It is read back and must give the same rewards on the whole bank before it is kept.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import itertools
import os
import re
import sys
import tempfile
import textwrap
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from utils.rewards.bank import Bank, rescore
from utils.rewards.bench import bench, check_rewards
from utils.rewards.functions import RewardFunction, total_reward


class CannotExport(ValueError):
    """A reward whose source cannot stand in a file by itself; the message says why."""


def export_rewards(path: str | Path, rewards: dict[RewardFunction, float], bank: Bank) -> Path:
    """Write `rewards` to a `.py` file, once they are seen to work from there; an older file of that name is kept.

    Args:
        path: where to; an older file becomes `…-1.py`, `…-2.py` and so on.
        rewards: functions of the project, or of a notebook or module with readable source; and their weights.
        bank: completions on which the file must give the same totals, passed as TRL passes them.
    Raises:
        CannotExport: a function depends on something that cannot be written down, or scores otherwise from the file.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise CannotExport(f"{path} is no name for a Python file; give one that ends in .py, e.g. runs/my_rewards.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".py", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(source_of(rewards))
        _check_draft(Path(draft), rewards, bank)
        _keep_older(path)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)
    return path


def _keep_older(path: Path) -> None:
    """Give an older file of that name the first free number: my_rewards.py becomes my_rewards-1.py."""
    if path.exists():
        numbered = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(1))
        os.replace(path, next(other for other in numbered if not other.exists()))


def _check_draft(draft: Path, rewards: dict[RewardFunction, float], bank: Bank) -> None:
    messages = [[{"role": "assistant", "content": text}] for text in bank.completions]
    try:
        found = total_reward(messages, check_rewards(draft), **bank.columns)
    except Exception as error:
        said = str(error).removeprefix(f"{draft}: ")
        raise CannotExport(f"the file does not work by itself ({type(error).__name__}: {said})") from error
    wanted = rescore(bank, list(rewards), list(rewards.values())).totals
    differing = sum(abs(a - b) > 1e-9 for a, b in zip(found, wanted, strict=True))
    if differing:
        raise CannotExport(
            f"read from the file, the rewards differ on {differing} of {len(wanted)} completions; "
            "does a function depend on something that changes from call to call?"
        )


def source_of(rewards: dict[RewardFunction, float]) -> str:
    """The text of the file."""
    writer = _Writer()
    for function in rewards:
        writer.add_reward(function)
    results = bench(partial(total_reward, rewards=rewards))
    weights = "".join(f"    {f.__name__}: {float(weight)!r},\n" for f, weight in rewards.items())
    blocks = [
        f'"""Rewards exported from the Reward Lab: {", ".join(f.__name__ for f in rewards)}.\n\n'
        "    python3 run.py train --profile tiny --output runs/mine --reward THIS_FILE\n\n"
        "With TRL alone, from the project's folder: GRPOTrainer(reward_funcs=list(REWARDS), …) and\n"
        "GRPOConfig(reward_weights=list(REWARDS.values()), …); the dataset needs a column `gold`.\n\n"
        f'Reward bench when exported: {sum(r.passed for r in results)} of {len(results)} rows in order.\n"""',
        "\n".join(sorted(writer.imports)),
        *writer.blocks,
        f"REWARDS = {{\n{weights}}}",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


class _Writer:
    """Collects what a file needs: import lines, then constants and functions, each after what it uses."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.blocks: list[str] = []
        self.written: dict[str, Any] = {}

    def add_reward(self, function: RewardFunction) -> None:
        if _importable(function):
            self.add(function.__name__, function)
            return
        self.imports.add("from utils.rewards.functions import on_text")
        self.add(function.__name__, inspect.unwrap(function), "@on_text\n")

    def add(self, name: str, value: Any, decorator: str = "") -> None:
        if name in self.written:
            if self.written[name] is not value:
                raise CannotExport(f"two different things are called {name!r}; rename one of them")
            return
        self.written[name] = value
        if isinstance(value, ModuleType) and _importable(value):
            self.imports.add(f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else ""))
        elif _importable(value):
            self.imports.add(f"from {value.__module__} import {value.__qualname__}" + _as(value.__qualname__, name))
        elif isinstance(value, re.Pattern):
            self.imports.add("import re")
            self.blocks.append(f"{name} = re.compile({value.pattern!r}, {value.flags})")
        elif inspect.isfunction(value):
            self.blocks.append(decorator + self._function(value))
        elif _is_literal(value):
            self.blocks.append(f"{name} = {value!r}")
        else:
            raise CannotExport(
                f"{name} is a {type(value).__name__}, which cannot be written to a file; make it inside the function, "
                "or import it from a module"
            )

    def _function(self, function: Any) -> str:
        """The source of a function without its decorators; what it uses is added before it."""
        if function.__closure__:
            raise CannotExport(
                f"{function.__name__} uses variables of the function around it "
                f"({', '.join(function.__code__.co_freevars)}); define it at the top level of a cell"
            )
        try:
            source = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError) as error:
            raise CannotExport(
                f"the source of {function.__name__} cannot be read ({error}); define it in a cell"
            ) from error
        node = ast.parse(source).body[0]
        if not isinstance(node, ast.FunctionDef):
            raise CannotExport(f"{function.__name__} is not written with def; a lambda has no name to import")
        for name in sorted(_names_used(function.__code__, node) & function.__globals__.keys() - {function.__name__}):
            if not hasattr(builtins, name):
                self.add(name, function.__globals__[name])
        return "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])


def _names_used(code: CodeType, node: ast.FunctionDef) -> set[str]:
    """The global names that a function looks up, in its body, its defaults and its annotations."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _names_used(inner, node)
    heads = [node.args, *([node.returns] if node.returns else [])]
    return names | {part.id for head in heads for part in ast.walk(head) if isinstance(part, ast.Name)}


def _as(found: str, wanted: str) -> str:
    return f" as {wanted}" if found != wanted else ""


def _importable(value: Any) -> bool:
    """Whether any process can import this very object, from the project, the standard library or a package."""
    module = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
    if module is None:
        return False
    known = {"utils", *sys.stdlib_module_names} - {"__main__"}
    anywhere = module.__name__.partition(".")[0] in known or "site-packages" in (
        getattr(module, "__file__", None) or ""
    )
    return anywhere and (value is module or getattr(module, getattr(value, "__qualname__", ""), None) is value)


def _is_literal(value: Any) -> bool:
    try:
        return ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError, TypeError):
        return False
