"""Whole files or none."""

import os

import pytest

from utils.files import read_jsonl, write_json, write_jsonl, write_text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = write_text(tmp_path / "deep" / "file.txt", "old")

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file.txt"]


def test_json_and_jsonl_keep_any_text(tmp_path):
    rows = [{"text": "half ½ \u2028 and a\nline"}, {"text": ""}]
    assert read_jsonl(write_jsonl(tmp_path / "rows.jsonl", rows)) == rows
    assert "½" in write_json(tmp_path / "one.json", rows[0]).read_text(encoding="utf-8")
