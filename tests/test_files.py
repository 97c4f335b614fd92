"""Whole files or none, and one process at a time in a folder."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from utils import files
from utils.files import (
    IN_USE,
    ROOT,
    InUse,
    append_jsonl,
    in_use,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)
from utils.setup import read_pins

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = write_text(tmp_path / "deep" / "file.txt", "old")

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(OSError, match="No space left on device: .*file.txt'"):
        write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file.txt"]


def test_json_and_jsonl_keep_any_text(tmp_path):
    rows = [{"text": "half ½ \u2028 and a\nline"}, {"text": ""}]
    assert read_jsonl(write_jsonl(tmp_path / "rows.jsonl", rows)) == rows
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    assert read_jsonl(tmp_path / "rows.jsonl.gz") == rows
    assert "½" in write_json(tmp_path / "one.json", rows[0]).read_text(encoding="utf-8")
    append_jsonl(tmp_path / "rows.jsonl", rows)
    append_jsonl(tmp_path / "new" / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows * 2 and read_jsonl(tmp_path / "new" / "rows.jsonl") == rows
    assert read_json(tmp_path / "one.json", "mend it") == rows[0]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[" * 100_000, b"\0" * 40, b"\xff\xfe", b"\x1f\x8b garbage", b"1" * 5_000, b"NaN,"]
)
def test_what_is_no_json_object_is_named_with_the_mend(tmp_path, content):
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(ValueError, match="card.json is damaged .*; mend it$"):
        read_json(tmp_path / "card.json", "mend it")


FULL = """
import resource, sys
from utils.files import append_jsonl, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
for write in (lambda: append_jsonl(sys.argv[1], [{"n": "y" * 300}] * 3), lambda: write_json(sys.argv[2], "y" * 3_000)):
    try:
        write()
    except OSError as error:
        print(error)
"""


@posix_only
def test_where_there_is_no_room_for_all_lines_none_is_added_and_the_file_is_named(tmp_path):
    lines, whole = tmp_path / "lines.jsonl", tmp_path / "whole.json"
    append_jsonl(lines, [{"n": "x" * 200}])
    write_json(whole, {"n": "old"})
    done = subprocess.run([sys.executable, "-c", FULL, lines, whole], cwd=ROOT, capture_output=True, text=True)
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == [f"'{lines}'", f"'{whole}'"], done.stderr
    assert read_jsonl(lines) == [{"n": "x" * 200}] and json.loads(whole.read_text()) == {"n": "old"}
    assert sorted(os.listdir(tmp_path)) == ["lines.jsonl", "whole.json"]


# ------------------------------------------------------------------------------------------- one process at a time


def fields(folder):
    return dict(line.split("=", 1) for line in (folder / IN_USE).read_text().splitlines() if "=" in line)


def test_the_mark_is_there_while_it_is_needed_and_may_be_set_again_by_the_same_thread(tmp_path):
    folder = tmp_path / "new" / "run"
    for _ in range(2):  # as a notebook trains twice
        with in_use(folder):
            before = (folder / IN_USE).read_bytes()
            with in_use(str(folder)), in_use(folder / "base"):
                assert (folder / IN_USE).read_bytes() == before
            assert os.listdir(folder / "base") == [] and (folder / IN_USE).read_bytes() == before
        assert os.listdir(folder) == ["base"]


def test_a_live_process_is_named_and_its_folder_left_alone(hold, tmp_path):
    holder = hold(tmp_path)
    before, start = (tmp_path / IN_USE).read_bytes(), time.monotonic()
    with pytest.raises(InUse) as refused, in_use(tmp_path):
        pass
    assert time.monotonic() - start < 5, "at once"
    said, mark = str(refused.value), fields(tmp_path)
    assert f"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()} since {mark['since']}" in said
    assert f"(-c {tmp_path} 30.0); wait until it has ended, or name another folder" in said and "\n" not in said
    assert os.listdir(tmp_path) == [IN_USE] and (tmp_path / IN_USE).read_bytes() == before
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "out\n" and os.listdir(tmp_path) == []
    with in_use(tmp_path):
        assert fields(tmp_path)["pid"] == str(os.getpid())


def test_another_thread_of_this_process_is_another_writer(tmp_path):
    said = []

    def enter():
        try:
            with in_use(tmp_path):
                said.append("in")
        except InUse as error:
            said.append(str(error))

    with in_use(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert f"in use by process {os.getpid()}" in said[0]


@posix_only
@pytest.mark.parametrize("exchange", [True, False], ids=["local disk", "a file system that exchanges no names"])
def test_a_killed_process_is_succeeded_at_once(hold, tmp_path, exchange, monkeypatch):
    holder = hold(tmp_path)
    holder.kill()
    holder.wait()
    assert (tmp_path / IN_USE).exists()
    if not exchange:  # NFS, most FUSE drives and gVisor answer EINVAL
        monkeypatch.setattr("filelock._soft._exclusive._recovery.exchange_names", lambda *names: False)
    start = time.monotonic()
    with in_use(tmp_path):
        assert fields(tmp_path)["pid"] == str(os.getpid()) and time.monotonic() - start < 5
    assert os.listdir(tmp_path) == []


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_gives_the_folder_back_and_other_signals_leave_it_to_the_next(hold, tmp_path, number):
    holder = hold(tmp_path)
    holder.send_signal(number)
    holder.wait(timeout=60)
    assert (os.listdir(tmp_path) == []) == (number == signal.SIGINT)
    hold(tmp_path)


def foreign_mark(folder, age=0.0, host="another-machine", pid=None, duration=0.9):
    mark = folder / IN_USE
    lines = [f"pid={pid or os.getpid()}", f"host={host}", "mode=lease", f"token={'0' * 32}", f"duration={duration}"]
    mark.write_text("filelock/2\n" + "".join(f"{line}\n" for line in lines))
    os.utime(mark, (time.time() - age,) * 2)
    return mark


@pytest.mark.parametrize("age", [0, 1_000_000])
@pytest.mark.parametrize("pid", [None, 999_999_999])
def test_a_machine_that_gives_no_sign_of_life_is_succeeded(tmp_path, age, pid, capsys):
    foreign_mark(tmp_path, age, pid=pid)
    start = time.monotonic()
    with in_use(tmp_path, 0.9):
        assert fields(tmp_path)["pid"] == str(os.getpid()) and 0.9 < time.monotonic() - start < 5
    said = capsys.readouterr().out
    assert f"is in use by process {pid or os.getpid()} on another-machine; waiting up to 1 s for a sign of life" in said
    assert os.listdir(tmp_path) == []


def test_a_machine_that_gives_one_is_not(tmp_path):
    mark, stop = foreign_mark(tmp_path), threading.Event()

    def beat():
        while not stop.wait(0.1):
            os.utime(mark)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(InUse, match="in use by process .* on another-machine; wait until"), in_use(tmp_path, 0.9):
            pass
    finally:
        stop.set()
        heart.join()
    assert "another-machine" in mark.read_text()


@pytest.mark.parametrize("content", ["", "garbage\n", "x" * 5_000, "filelock/2\npid=0\n"])
def test_a_damaged_mark_stops_nobody_for_ever(tmp_path, content):
    (tmp_path / IN_USE).write_text(content)  # as a machine that lost its power leaves it
    with in_use(tmp_path, 0.9):
        assert fields(tmp_path)["pid"] == str(os.getpid())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("replaced", [True, False])
def test_a_lost_mark_is_said(tmp_path, replaced, capsys):
    with in_use(tmp_path, 0.9):
        (tmp_path / IN_USE).unlink()
        if replaced:
            foreign_mark(tmp_path)
        time.sleep(1.3)
    assert f"{tmp_path / IN_USE}: the mark of this process is lost" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ([IN_USE] if replaced else []), "the mark of another is not ours to remove"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_ends_does_not_take_the_mark_along(tmp_path):
    with in_use(tmp_path):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert fields(tmp_path)["pid"] == str(os.getpid())
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named_with_the_mend(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("file", "link"):
        with pytest.raises(OSError, match=f"a file or a link to nothing is in the way.*name another.*{name}'"):
            with in_use(tmp_path / name):
                pass

    def read_only(*args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("filelock._soft._exclusive._publication.open_into", read_only)
    with pytest.raises(OSError, match=f"Read-only file system.*name another folder: '{tmp_path}'"), in_use(tmp_path):
        pass


@pytest.mark.parametrize("module", [None, ModuleType("filelock")], ids=["missing", "too old"])
def test_without_filelock_the_mend_is_said(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "filelock", module)
    pin = f"filelock=={read_pins(ROOT / 'requirements.txt')['filelock']}"
    with pytest.raises(ImportError, match=f"pip install {pin}$"), in_use(tmp_path):
        pass


def test_the_command_in_the_mark_does_not_make_it_longer_than_filelock_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(files.sys, "argv", ["é\n\x00½" * 1_000])
    with in_use(tmp_path):
        assert len((tmp_path / IN_USE).read_bytes()) < 1_024
        assert Path(tmp_path / IN_USE).read_text().count("\n") == 9


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not tell which process has ended")
def test_a_process_that_was_killed_and_is_still_listed_holds_nothing(tmp_path):
    """A zombie: its parent, as a notebook that started it, has not asked how it ended."""
    code = "import os, sys; from utils.files import in_use\nwith in_use(sys.argv[1]): os.kill(os.getpid(), 9)"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / IN_USE).exists()
    with in_use(tmp_path):
        assert f"pid={os.getpid()}\n" in (tmp_path / IN_USE).read_text()
    assert child.wait() == -signal.SIGKILL
