"""A workshop on a stick: the repository and every wheel it needs, for rooms without a network.

    DIR/INSTALL.md     three commands for each system
    DIR/grpo-math.zip  the repository, as git tracks it
    DIR/wheels/        of requirements-cpu.txt and all that it needs, for each system and Python
    DIR/workshop/      the guide
    DIR/SHA256SUMS     of every file, as `sha256sum -c` reads it
    DIR/bundle.json    what the bundle is for, what is missing, and of which commit it is

uv says which wheels another system needs, since pip evaluates the conditions of a dependency for the machine it runs
on; pip downloads them, each against its hash. `run.py` in the unpacked repository finds the wheels beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from utils.files import ROOT, in_use, sha256, write_bytes, write_json, write_text
from utils.setup import PYTHONS, read_pins

NAME = "grpo-math"  # of the folder that the archive holds
MARK, SUMS, WHEELS, ARCHIVE = "bundle.json", "SHA256SUMS", "wheels", f"{NAME}.zip"
CPU_FILE = ROOT / "requirements-cpu.txt"
MACOS = "14.0"  # the oldest for which torch has wheels
GLIBC = 28  # 2.28, for which torch is built
TARGETS = {  # as uv calls them
    "Linux": f"x86_64-manylinux_2_{GLIBC}",
    "macOS": "aarch64-apple-darwin",
    "Windows": "x86_64-pc-windows-msvc",
}
MACHINES = {
    "Linux": "Linux, x86_64",
    "macOS": f"macOS {MACOS[:2]} or newer, Apple silicon",
    "Windows": "Windows, 64-bit",
}
SOME = 50_000_000  # bytes that one call of pip downloads, or one file: an interrupted call loses that at most
ROOM = 100_000_000  # bytes beside the wheels


@dataclass(frozen=True)
class Wheel:
    """A file of the index. `size` in bytes, None where the index does not tell."""

    url: str
    sha256: str
    size: int | None

    @property
    def file(self) -> str:
        return unquote(self.url.rsplit("/", 1)[1])


@dataclass(frozen=True)
class Part:
    """What one system with one Python needs: its wheels, or why there are none."""

    system: str
    python: str
    wheels: tuple[Wheel, ...] = ()
    missing: str = ""

    @property
    def name(self) -> str:
        return f"{MACHINES[self.system]}, Python {self.python}"


def bundle(folder: str | Path, pythons: Sequence[str] = ()) -> dict[str, Any]:
    """Make the bundle, or bring one up to date; what is there already is not downloaded again.

    Args:
        folder: new, empty or a bundle.
        pythons: e.g. ["3.11", "3.12"]; the one that runs this unless given.
    Returns:
        What bundle.json says.
    Raises:
        ValueError: the folder holds something else, or the project is no git checkout.
        RuntimeError: nothing could be resolved, a download failed, or the disk has no room.
        InUse: another process works there.
    """
    folder = Path(folder)
    check_folder(folder)
    files = tracked()
    with in_use(folder), tempfile.TemporaryDirectory() as scratch:
        pip, uv = tools(Path(scratch))
        print(f"Asking the index what {CPU_FILE.name} needs", flush=True)
        pythons = pythons or [".".join(map(str, sys.version_info[:2]))]
        parts = [resolve(uv, pip, system, python, Path(scratch)) for python in pythons for system in TARGETS]
        for part in parts:
            print(f"  {part.name}: {part.missing and 'missing, ' + part.missing or extent(part.wheels)}", flush=True)
        if not any(part.wheels for part in parts):
            raise RuntimeError(
                f"no system could be packed; mend what is said above and call again ({parts[0].missing})"
            )
        wanted = {wheel.file: wheel for part in parts for wheel in part.wheels}
        check_room(folder, wanted)
        about = {"commit": commit(), "parts": [part_record(part) for part in parts]}
        (folder / SUMS).unlink(missing_ok=True)  # it comes back last, so a bundle without it is not whole
        write_json(folder / MARK, about)
        for part in parts:
            download(pip, part, folder / WHEELS, Path(scratch))
        if not any(part.missing for part in parts):
            for old in {path.name for path in (folder / WHEELS).iterdir()} - wanted.keys():
                (folder / WHEELS / old).unlink()
        pack(files, folder)
        write_text(folder / "INSTALL.md", install_text(parts))
        write_text(folder / SUMS, sums(folder))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"The bundle takes {size / 1e6:,.0f} MB in {folder}; how to install from it is in INSTALL.md there.")
    return about


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a bundle."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise ValueError(f"{folder} is not empty and holds no {MARK}, so it is no bundle; name a new or empty folder")


def tracked() -> list[str]:
    """The files that git tracks, relative to the project; what was deleted without a commit is left out."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"git cannot be started ({error}), and it knows what to pack; install it") from error
    files = [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]
    if done.returncode or not files:
        raise ValueError(
            f"{ROOT} is no git checkout ({done.stderr.strip() or 'nothing is tracked'}); "
            "clone the repository and pack that"
        )
    return files


def commit() -> str:
    """The commit of the checkout, and whether files differ from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "none yet"


def check_room(folder: Path, wanted: dict[str, Wheel]) -> None:
    """Say how much will be downloaded and how much room there is; refuse where that is too little."""
    todo = [wheel for wheel in wanted.values() if not is_there(wheel, folder / WHEELS)]
    free, need = shutil.disk_usage(folder).free, sum(wheel.size or 0 for wheel in todo) + ROOM
    print(
        f"In all {extent(wanted.values())}; {len(wanted) - len(todo)} are there already, to be downloaded: "
        f"{extent(todo)}. Free in {folder}: {free / 1e9:.1f} GB",
        flush=True,
    )
    if need > free:
        raise RuntimeError(f"the bundle needs {need / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free; free some")


def extent(wheels: Any) -> str:
    """How many wheels and how large: "140 wheels, 408 MB"."""
    wheels = list(wheels)
    unknown = sum(wheel.size is None for wheel in wheels)
    told = f"{len(wheels)} wheels, {sum(wheel.size or 0 for wheel in wheels) / 1e6:,.0f} MB"
    return told + (f" and {unknown} whose size the index does not tell" if unknown else "")


# --------------------------------------------------------------------------------------------- which wheels


def tools(scratch: Path) -> tuple[list[str], list[str]]:
    """The commands of pip and uv; uv is installed into `scratch` where this Python has none."""
    pip, uv = [sys.executable, "-m", "pip"], [sys.executable, "-m", "uv"]
    if not find_spec("pip"):
        raise RuntimeError(f"{sys.executable} has no pip, which downloads the wheels; {sys.executable} -m ensurepip")
    if find_spec("uv"):
        return pip, uv
    pin = f"uv=={read_pins(ROOT / 'requirements-dev.txt')['uv']}"
    done = subprocess.run([*pip, "install", "-q", "--target", str(scratch / "uv"), pin], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{pin}, which finds the wheels of other systems, cannot be installed: {last_line(done.stderr)}"
        )
    return pip, [str(scratch / "uv" / "bin" / ("uv.exe" if os.name == "nt" else "uv"))]


def resolve(uv: list[str], pip: list[str], system: str, python: str, scratch: Path) -> Part:
    """The wheels that installing requirements-cpu.txt on a system would bring.

    On Linux torch is asked for as `+cpu`: where pip's settings find such a build, else on the index that uv knows.
    """
    pins, lock = read_pins(CPU_FILE), scratch / "pylock.toml"
    if system == "Linux":
        pins["torch"] += "+cpu"
    wanted = scratch / "wanted.txt"
    write_text(wanted, "".join(f"{name}=={version}\n" for name, version in pins.items()))
    command = [*uv, "pip", "compile", "-q", "--only-binary", ":all:", "--format", "pylock.toml", "-o", str(lock)]
    command += ["--python-platform", TARGETS[system], "--python-version", python, *index_settings(pip), str(wanted)]
    env, reasons = os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS}, []
    for more in [[], ["--torch-backend", "cpu"]] if system == "Linux" else [[]]:
        lock.unlink(missing_ok=True)
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=env, encoding="utf-8")
        if done.returncode == 0:
            return Part(system, python, tuple(locked(tomllib.loads(lock.read_text(encoding="utf-8")), system, python)))
        reasons.append(last_line(done.stderr))
    return Part(system, python, missing="; and from torch's CPU index: ".join(reasons))


def index_settings(pip: list[str]) -> list[str]:
    """pip's own index and wheel folders as options of uv, which does not read pip's settings."""
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True)
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        if (key := name.rsplit(".", 1)[-1]) in ("index-url", "find-links"):
            found[key] = value.strip("'")  # what the environment sets comes last and counts
    return [word for key, values in found.items() for value in values.split() for word in (f"--{key}", value)]


def last_line(text: str) -> str:
    """The sentence of an error message that says most: the last one that is no hint."""
    lines = [line.strip().removeprefix("cause: ") for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("hint:")), "no reason was given")


def locked(lock: dict[str, Any], system: str, python: str) -> list[Wheel]:
    """The wheels of a pylock.toml; where a package has several, the one that pip would take."""
    order = {str(tag): place for place, tag in enumerate(tags_of(system, python))}
    wheels = []
    for package in lock["packages"]:
        found = [
            Wheel(wheel.get("url") or Path(wheel["path"]).as_uri(), wheel["hashes"]["sha256"], wheel.get("size"))
            for wheel in package["wheels"]
        ]
        best = min(found, key=lambda wheel: min(order.get(tag, len(order)) for tag in tags_in(wheel.file)))
        if best.size is None and best.url.startswith("file://"):
            best = Wheel(best.url, best.sha256, Path(unquote(best.url.removeprefix("file://"))).stat().st_size)
        wheels.append(best)
    return wheels


def platforms(system: str) -> list[str]:
    """The platform tags that a system installs, best first."""
    from packaging.tags import mac_platforms

    if system == "macOS":
        return list(mac_platforms(tuple(map(int, MACOS.split("."))), "arm64"))
    if system == "Windows":
        return ["win_amd64"]
    older = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}
    steps = ([f"manylinux_2_{minor}_x86_64", *filter(None, [older.get(minor)])] for minor in range(GLIBC, 4, -1))
    return [tag for step in steps for tag in step] + ["linux_x86_64"]


def tags_of(system: str, python: str) -> list[Any]:
    """All tags that a system with this Python installs, best first, as pip orders them."""
    from packaging.tags import compatible_tags, cpython_tags

    version, places = tuple(map(int, python.split("."))), platforms(system)
    own = f"cp{version[0]}{version[1]}"
    return [*cpython_tags(version, [own], places), *compatible_tags(version, own, places)]


def tags_in(file: str) -> list[str]:
    """The tags in the name of a wheel."""
    from packaging.utils import parse_wheel_filename

    return [str(tag) for tag in parse_wheel_filename(file)[3]]


# --------------------------------------------------------------------------------------------- the download


def is_there(wheel: Wheel, folder: Path) -> bool:
    """Whether the folder holds this very file."""
    path = folder / wheel.file
    return path.is_file() and sha256(path) == wheel.sha256


def download(pip: list[str], part: Part, folder: Path, scratch: Path) -> None:
    """Bring the wheels of a part that the folder lacks, some at a time."""
    folder.mkdir(exist_ok=True)
    todo = [wheel for wheel in part.wheels if not is_there(wheel, folder)]
    for some in portions(todo):
        listed = scratch / "download.txt"
        lines = [f"{w.file.split('-')[0]} @ {w.url} --hash=sha256:{w.sha256}\n" for w in some]
        write_text(listed, "".join(lines))
        for wheel in some:
            (folder / wheel.file).unlink(missing_ok=True)  # a damaged one
        how = ["--no-deps", "--only-binary=:all:", "--python-version", part.python, "--implementation", "cp"]
        places = [word for place in platforms(part.system) for word in ("--platform", place)]
        command = [*pip, "download", "-q", "--disable-pip-version-check", "-d", str(folder), *how, *places]
        done = subprocess.run([*command, "-r", str(listed)], capture_output=True, text=True)
        lacking = [wheel.file for wheel in some if not is_there(wheel, folder)]
        if done.returncode or lacking:
            raise RuntimeError(
                f"the download stopped ({last_line(done.stderr)}); mend that and call again, what is there is kept"
            )
        there = sum(w.file in {path.name for path in folder.iterdir()} for w in part.wheels)
        print(f"  {part.name}: {there} of {len(part.wheels)} wheels are there", flush=True)


def portions(wheels: Sequence[Wheel]) -> list[list[Wheel]]:
    """The wheels in portions of about `SOME` bytes, in their order."""
    found: list[list[Wheel]] = []
    for wheel in wheels:
        if not found or sum(each.size or SOME for each in found[-1]) + (wheel.size or SOME) > SOME:
            found.append([])
        found[-1].append(wheel)
    return found


# ------------------------------------------------------------------------------------------ all but the wheels


def pack(files: Sequence[str], folder: Path) -> None:
    """Write the archive of the repository, whole or not at all, and the guide beside it."""
    draft = folder / f".{ARCHIVE}"
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            archive.write(ROOT / name, f"{NAME}/{name}")
    os.replace(draft, folder / ARCHIVE)
    for name in files:
        if name.startswith("workshop/"):
            write_bytes(folder / name, (ROOT / name).read_bytes())


def part_record(part: Part) -> dict[str, Any]:
    """A part as bundle.json has it."""
    size = sum(wheel.size or 0 for wheel in part.wheels)
    record = {"system": part.system, "python": part.python, "wheels": len(part.wheels), "bytes": size}
    return record | ({"missing": part.missing} if part.missing else {})


def sums(folder: Path) -> str:
    """SHA256SUMS of all files in the folder but itself and those whose name begins with a dot."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return "".join(f"{sha256(folder / name)}  {name}\n" for name in names if name != SUMS and not name.startswith("."))


def install_text(parts: Sequence[Part]) -> str:
    """INSTALL.md."""
    lists = {
        "This bundle is for": [f"{part.name} ({extent(part.wheels)})" for part in parts if part.wheels],
        "Missing": [f"{part.name}: {part.missing}" for part in parts if part.missing],
    }
    oldest, newest = (".".join(map(str, version)) for version in PYTHONS)
    return "\n".join(
        [
            "# Install GRPO-Math without a network",
            "",
            *(f"{title}:\n\n" + "".join(f"- {line}\n" for line in lines) for title, lines in lists.items() if lines),
            "Python itself is not in it: each laptop needs one of those named above, and 3 GB of free disk.",
            f"(The project runs on {oldest} to {newest}.)",
            "",
            "Copy this whole folder from the stick to the laptop (on Windows to a short path, such as",
            "`C:\\grpo`), open a terminal in the copy, and call",
            "",
            "```",
            f"python3 -m zipfile -e {ARCHIVE} .",
            f"cd {NAME}",
            "python3 run.py lab",
            "```",
            "",
            "On Windows it is `py` in the place of `python3`. Where several Pythons are installed, name the one:",
            "`python3.12 run.py lab`, `py -3.12 run.py lab`.",
            "",
            "`run.py` finds `wheels/` beside the repository, checks it against `SHA256SUMS`, installs from there and",
            "asks no index; it takes some minutes. Then notebook 00 opens. `python3 run.py test --fast -k answers` is",
            "a quick check. If a file was damaged on the way it is named: copy the folder again.",
            "",
            "The guide for the workshop is in `workshop/`.",
            "",
        ]
    )
