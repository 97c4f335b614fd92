"""Rows: files of one JSON record a line, every number as it was written; another kind of file is refused by name."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from utils.data.numbers import MAX_LENGTH

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class ExactFloat(float):
    """A number of a JSON text that still knows its `digits`: few decimal fractions are floats."""

    def __new__(cls, digits: str) -> ExactFloat:
        number = super().__new__(cls, digits)
        number.digits = digits
        return number


def parse_row(line: str | bytes) -> Any:
    """What one line of JSON holds; a fraction is an `ExactFloat`.

    Raises:
        ValueError: it is not JSON in UTF-8 (NaN is none), a key stands twice, or a number is beyond Python's limit.
    """
    text = line.decode("utf-8") if isinstance(line, bytes) else line
    if text.startswith("\ufeff"):
        raise ValueError("a byte-order mark stands before it: were two files joined?")
    try:
        return _JSON.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:
        raise ValueError(f"it holds an integer of {len(digits):,} digits; put that in quotes") from error


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands in it twice")
    return record


_JSON = json.JSONDecoder(
    parse_float=ExactFloat, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_record
)


def number_text(value: Any) -> Any:
    """A JSON number in plain digits, all of them, 8.0 as "8"; anything else as it is.

    What would be longer than anything that is read as a number stays as it was written.

    >>> number_text(parse_row("12345678901234567.890")), number_text(10**22), number_text("1,000")
    ('12345678901234567.89', '10000000000000000000000', '1,000')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    written = getattr(value, "digits", None) or repr(value)
    try:
        number = Decimal(written)
    except InvalidOperation:  # its exponent alone has 19 digits
        return written
    if not number.is_finite() or abs(number.as_tuple().exponent) > MAX_LENGTH:
        return written
    digits = f"{number:f}"
    return digits.rstrip("0").removesuffix(".") if "." in digits else digits


def check_text(text: str, where: str) -> None:
    r"""Refuse a text that no file can hold: half a surrogate pair stands in it, as from "\ud83d" alone in JSON.

    Raises:
        ValueError: names `where` and the half.
    """
    if half := LONE_SURROGATE.search(text):
        raise ValueError(
            f"{where} holds {half[0]!r}, half of a surrogate pair, after {text[: half.start()][-20:]!r}: it is no "
            "character and UTF-8 cannot hold it; mend or remove the line"
        )


# ------------------------------------------------------------------------------------------------------ other formats

_TEXT, _WRITE = "save it as UTF-8 text", "write each row as JSON on a line of its own"
_CONVERT = 'python -c "import csv, json, sys; [print(json.dumps(row)) for row in %s]" "{}" > rows.jsonl'
_FROM_ARRAY = _CONVERT % "json.load(open(sys.argv[1], encoding='utf-8-sig'), parse_float=str)"
_FROM_TABLE = _CONVERT % "csv.DictReader(open(sys.argv[1], encoding='utf-8-sig', newline=''), delimiter=%r)"
_FROM_PARQUET = (
    'python -c "import pandas, sys; '
    "pandas.read_parquet(sys.argv[1]).to_json('rows.jsonl', orient='records', lines=True)\" \"{}\""
)
_BEGINNINGS = {  # of a file: (what it is, the mend)
    b"\x1f\x8b": ("compressed (gzip)", 'gunzip -k "{}"'),
    b"BZh": ("compressed (bzip2)", 'bunzip2 -k "{}"'),
    b"\xfd7zXZ": ("compressed (xz)", 'unxz -k "{}"'),
    b"(\xb5/\xfd": ("compressed (zstd)", 'unzstd "{}"'),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"PK": ("a zip archive or an Excel workbook", f"unpack it, or {_WRITE}"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", _WRITE),
    b"PAR1": ("a Parquet file", _FROM_PARQUET),
    b"ARROW1": ("an Arrow file", _TEXT),
    b"SQLite format 3": ("an SQLite database", _TEXT),
    b"%PDF": ("a PDF", _TEXT),
    b"\xff\xfe": ("in UTF-16 or UTF-32", _TEXT),
    b"\xfe\xff": ("in UTF-16", _TEXT),
    b"version https://git-lfs": ("a Git LFS pointer and not the file", "git lfs pull"),
    b"<": ("HTML or XML", "download the file itself, not the page about it"),
    b"---\n": ("YAML", _WRITE),
    b"- ": ("YAML", _WRITE),
    b"{'": ("Python and not JSON, for its quotes are single", "write each row with json.dumps"),
}


def check_format(path: Path) -> None:
    """Refuse a file that is plainly something else than rows.

    Raises:
        ValueError: names the file, what it is, what is needed and the mend, where it is short as a command.
    """
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").lstrip()
    if found := _format(content):
        what, mend = found
        raise ValueError(f"{path} is {what}; it needs one JSON row a line. Mend: {mend.format(str(path))}")


def _format(content: bytes) -> tuple[str, str] | None:
    """What a file is that does not begin with a row, and its mend; None where nothing can be said."""
    for beginning, found in _BEGINNINGS.items():
        if content.startswith(beginning):
            return found
    if b"\0" in content[:4]:
        return "binary, or in UTF-16", _TEXT
    first, _, rest = content.partition(b"\n")
    if isinstance(_json(first), dict):
        return None
    whole = _json(content)
    if isinstance(whole, list):
        return f"a JSON array of {len(whole):,} rows", _FROM_ARRAY
    if isinstance(whole, dict) or first.strip() == b"{":
        return "pretty-printed JSON, with a row over many lines", 'jq -c . "{}" > rows.jsonl'
    if first[:1] == b"[" and rest and first.strip()[-1:] in b"[,":
        return "a JSON array, and a damaged one", _WRITE
    for delimiter, name in {"\t": "TSV", ",": "CSV", ";": "CSV with semicolons"}.items():
        if first[:1] not in b"{[" and delimiter.encode() in first and delimiter.encode() in rest:
            return name, _FROM_TABLE % delimiter
    return None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
