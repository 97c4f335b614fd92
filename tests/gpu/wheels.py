"""Pack what a machine with a GPU, torch and no network lacks: stripped wheels, small enough to be copied there.

    python -m tests.gpu.wheels --output runs/wheels                  # where the package index answers
    python -m tests.gpu.wheels --unpack runs/wheels --into /tmp/site   # on the machine; then PYTHONPATH=/tmp/site

Both sets of versions are in it. "pinned" is requirements.txt, less vLLM and xformers (with what they need hundreds of
megabytes); "newer" keeps the machine's own transformers 5. Files that the proof never opens are left out: bitsandbytes
for other CUDA versions and other makers, Unsloth's web application, torchao's compiled kernels.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from utils.files import ROOT
from utils.setup import read_pins

PINNED = {"transformers", "trl"}  # from requirements.txt, in the set "pinned" alone
SHARED = {  # from there, in both
    "unsloth",
    "unsloth_zoo",
    "bitsandbytes",
    "torchao",
    "peft",
    "datasets",
    "accelerate",
    "filelock",
}
NEEDED = {  # what these import and a machine with torch and transformers may lack, as they resolve
    "dill": "0.4.1",
    "multiprocess": "0.70.19",
    "cut_cross_entropy": "25.1.1",
    "msgspec": "0.22.0",
    "tyro": "1.0.17",
    "docstring_parser": "0.18.0",
    "typeguard": "4.5.2",
}
SETS = {
    "pinned": {"tokenizers": "0.22.2", "huggingface_hub": "0.36.2"},  # what transformers 4.57.6 takes
    "newer": {"trl": "1.14.2"},
}
LEFT_OUT = {
    "bitsandbytes": ("bitsandbytes/libbitsandbytes_",),
    "unsloth": ("studio/",),
    "torchao": ("torchao/_C", "test/"),
}
KEPT = ("bitsandbytes/libbitsandbytes_cuda130.so", "bitsandbytes/libbitsandbytes_cpu.so")
LIMIT = 56 * 2**20  # bytes; beside the repository it has to fit in 64 MiB
PLATFORMS = [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_24", "_2_17", "2014", "1")]


def versions_of(which: str) -> dict[str, str]:
    """{package: version} of the folder "shared", "pinned" or "newer"."""
    pins = read_pins(ROOT / "requirements.txt")
    if which == "shared":
        return {name: pins[name] for name in SHARED} | NEEDED
    return SETS[which] | ({name: pins[name] for name in PINNED} if which == "pinned" else {})


def download(packages: dict[str, str], folder: Path, python: str = "3.12") -> None:
    """Wheels of these versions for Linux x86_64, without what they depend on.

    Raises:
        RuntimeError: pip found no such wheel, or no index; its own words are in the message.
    """
    wanted = [f"{name}=={version}" for name, version in sorted(packages.items())]
    how = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *how, "--dest", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not fetch {' '.join(wanted)}:\n{done.stderr.strip()}")


def strip(wheel: Path, folder: Path) -> Path:
    """Copy a wheel to `folder` without the files of `LEFT_OUT`."""
    left_out = LEFT_OUT.get(wheel.name.split("-")[0], ())
    target = folder / wheel.name
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept:
        for member in source.infolist():
            if member.filename in KEPT or not member.filename.startswith(left_out or ("\0",)):
                kept.writestr(member, source.read(member), zipfile.ZIP_DEFLATED, 9)
    return target


def pack(output: Path) -> int:
    """Download and strip both sets into `output`; return the bytes they take.

    Raises:
        ValueError: `output` holds files already, or the result is over `LIMIT`.
    """
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty; remove it or choose another folder")
    for which in ("shared", *SETS):
        with tempfile.TemporaryDirectory() as temporary:
            download(versions_of(which), Path(temporary))
            for wheel in sorted(Path(temporary).iterdir()):
                strip(wheel, output / which)
    total = sum(file.stat().st_size for file in output.rglob("*.whl"))
    if total > LIMIT:
        raise ValueError(f"{output} holds {total / 2**20:.1f} MiB, {LIMIT / 2**20:.0f} are allowed; strip more")
    return total


def unpack(packed: Path, into: Path, which: str) -> None:
    """Lay out one set in a folder for PYTHONPATH."""
    for wheel in [*(packed / "shared").glob("*.whl"), *(packed / which).glob("*.whl")]:
        with zipfile.ZipFile(wheel) as content:
            content.extractall(into)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="download into this folder, which git should ignore")
    parser.add_argument("--unpack", type=Path, help="a folder made with --output")
    parser.add_argument("--into", type=Path, help="where to unpack")
    parser.add_argument("--set", choices=SETS, default="pinned")
    args = parser.parse_args()
    if args.output:
        total = pack(args.output)
        for wheel in sorted(args.output.rglob("*.whl")):
            print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.relative_to(args.output)}")
        print(f"{total / 2**20:7.2f} MiB  in all, of {LIMIT / 2**20:.0f}")
    elif args.unpack and args.into:
        unpack(args.unpack, args.into, args.set)
    else:
        parser.error("give --output DIR, or --unpack DIR --into DIR")


if __name__ == "__main__":
    main()
