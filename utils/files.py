"""Files: whole or not at all, written by one process at a time, and named so that another machine understands.

A file is written to a temporary one in the same folder, which is then renamed; a line is appended whole or not at all.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent  # of the project
IN_USE = ".in-use"  # the mark of a process in the folder where it works
SIGN_OF_LIFE_S = 30.0  # a process on another machine that gave none for so long has ended
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, larger than files may be


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        OSError: the folder cannot be written or the disk is full; names the file, and the old one is still there.
    """
    path = Path(path)
    with naming(path):
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of the file into an error of the operating system, which leaves it out when a disk is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def append_jsonl(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Add JSON records, one a line, to the end of a file: all of them or, where the disk is full, none.

    Raises:
        OSError: the file cannot be written; names it.
    """
    path, data = Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)
                raise


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
    """The records of a JSONL file that this project wrote, compressed where its name ends in .gz."""
    with (gzip.open if Path(path).suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
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


# ------------------------------------------------------------------------------------------- one process at a time


class InUse(RuntimeError):
    """Another process works in the folder; the message says which one, since when, and the mend."""


@contextmanager
def in_use(folder: str | Path, sign_of_life_s: float = SIGN_OF_LIFE_S) -> Iterator[None]:
    """Have a folder to oneself: make it where it is missing, and mark it while this process works there.

    The mark, a file `.in-use` in the folder, is refreshed. One whose process has ended is replaced at once, and one of
    another machine (on a network folder, a mounted Drive) once it was not refreshed for `sign_of_life_s`. A thread that
    holds a folder may enter it again.

    Raises:
        InUse: another process works there.
        OSError: the folder cannot be made or written.
        ImportError: filelock is missing, or older than its leases.
    """
    try:
        from filelock import SoftFileLease
    except ImportError as error:
        raise ImportError(
            f"{error}; requirements.txt has the one that is needed: pip install filelock==4.3.1"
        ) from error
    folder = Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLease(
            folder / IN_USE, lease_duration=sign_of_life_s, on_compromise=_mark_lost, is_singleton=True
        )
        _acquire(lock, folder)
    except OSError as error:
        in_the_way = os.path.lexists(folder) and not folder.is_dir()
        why = "a file or a link to nothing is in the way" if in_the_way else error.strerror
        raise OSError(
            error.errno, f"cannot write there ({why}); mend that or name another folder", str(folder)
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # a drive that is gone took the mark along
            lock.release()


def _acquire(lock: Any, folder: Path) -> None:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0.5)  # in that time the mark of a process of this machine that has ended is replaced
    except Timeout as refused:
        elsewhere = "cannot probe" in str(refused)
    else:
        if lock.lock_counter == 1:
            command = ascii(" ".join(sys.argv))[1:-1][:300]  # a mark of over 1,024 bytes would count as damaged
            with suppress(OSError), open(lock.lock_file, "a", encoding="ascii") as mark:
                mark.write(f"since={time.strftime('%Y-%m-%d %H:%M:%S')}\ncommand={command}\n")
        return
    owner, mark = lock.owner, _mark(lock)
    if _gives_a_sign(lock, mark, folder) if elsewhere or owner is None else not _has_ended(owner.pid):
        raise InUse(f"{_who(lock, folder)}; wait until it has ended, or name another folder")
    if mark == _mark(lock):  # where a file system cannot exchange two names (NFS, gVisor), filelock leaves it, too
        Path(lock.lock_file).unlink(missing_ok=True)
    _acquire(lock, folder)


def _mark(lock: Any) -> tuple[int, int] | None:
    """What changes where the mark is refreshed or another's; None where there is none."""
    with suppress(FileNotFoundError):
        mark = os.stat(lock.lock_file, follow_symlinks=False)
        return mark.st_mtime_ns, mark.st_ino
    return None


def _has_ended(pid: int) -> bool:
    """Whether there is no such process on this machine; on Windows the mark of such a one is always replaced."""
    with suppress(OSError):  # a process that its parent has not asked after yet is still listed
        if Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "Z":
            return True
    try:
        return os.name != "nt" and os.kill(pid, 0) is not None
    except OSError as error:
        return error.errno == errno.ESRCH  # another user's process may not be asked, so it is there


def _gives_a_sign(lock: Any, mark: tuple[int, int] | None, folder: Path) -> bool:
    """Whether a process, on another machine as a rule, refreshes its mark before the time is up."""
    wait = 1.2 * lock.lease_duration
    print(f"{_who(lock, folder)}; waiting up to {wait:.0f} s for a sign of life from there", flush=True)
    end = time.monotonic() + wait
    while time.monotonic() < end and (now := _mark(lock)):
        if now != mark:
            return True
        time.sleep(0.1)
    return False


def _who(lock: Any, folder: Path) -> str:
    """Who works in a folder, as its mark says."""
    lines = []
    with suppress(OSError):  # it was just removed
        lines = Path(lock.lock_file).read_text(encoding="ascii", errors="replace").splitlines()
    mark, owner = dict(line.partition("=")[::2] for line in lines), lock.owner
    who = f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"
    more = f" since {mark['since']} ({mark['command']})" if {"since", "command"} <= mark.keys() else ""
    return f"{folder} is in use by {who}{more}"


def _mark_lost(lost: Any) -> None:
    print(
        f"{lost.lock_file}: the mark of this process is lost ({lost.reason}), so another one may begin to write in "
        "that folder. See that none does, or stop this one",
        flush=True,
    )
