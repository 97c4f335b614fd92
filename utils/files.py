"""Files: whole or not at all, known by their hashes, and named so that another machine understands.

Every write goes to a temporary file in the same folder first, which is then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent  # of the project


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is then still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` of a text, in UTF-8 with its line ends as they are."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """`write_text` of a JSON document."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: list[dict[str, Any]]) -> Path:
    """`write_text` of one JSON record a line."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: str | Path, mend: str) -> dict[str, Any]:
    """The object in a JSON file that this project wrote.

    Raises:
        ValueError: the file is damaged; names it and `mend`.
    """
    try:
        return json_object(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {mend}") from error


def json_object(content: bytes) -> dict[str, Any]:
    """The object that a JSON text holds; ValueError where it is none, or no JSON."""
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.40} is no object")
    return value


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSONL file that this project wrote."""
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def replace_folder(new: Path, folder: Path) -> None:
    """Give the finished folder `new` the name `folder`; one that has it is deleted when the new one is in its place.

    Killed in between, the old folder is found by `put_back`.
    """
    put_back(folder)
    if folder.exists():
        os.replace(folder, _aside(folder))
    try:
        os.replace(new, folder)
    finally:
        put_back(folder)


def put_back(folder: Path) -> None:
    """End what `replace_folder` began: the old folder gets its name back where no new one took it, or is deleted."""
    if _aside(folder).exists():
        if folder.exists():
            shutil.rmtree(_aside(folder))
        else:
            os.replace(_aside(folder), folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-old")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def portable(model: str) -> str:
    """A model's name as every machine knows it: a folder of this project relative to it, any other as given."""
    path = Path(model)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else model


def differences(there: Mapping[str, Any], here: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """The entries of one record that another one holds otherwise, in the order of the first.

    Args:
        names: what to call the two.
    Example:
        >>> differences({"seed": 3, "beta": 0.0}, {"seed": 0, "beta": 0.0}, ("runs/mine", "this call"))
        ['seed is 3 in runs/mine and 0 in this call']
    """
    return [
        f"{name} is {value!r} in {names[0]} and {here.get(name)!r} in {names[1]}"
        for name, value in there.items()
        if here.get(name) != value
    ]
