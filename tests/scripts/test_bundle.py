"""The bundle: which wheels, each downloaded once and whole, and what is said of the rest."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from utils.files import ROOT, sha256
from utils.scripts import bundle as script
from utils.scripts.bundle import MARK, SUMS, Part, Wheel, bundle, last_line, locked, portions, tags_of

BOTH, ON_WINDOWS = "thing-1.0-py3-none-any.whl", "other-2.0-cp312-cp312-win_amd64.whl"


PIP = [sys.executable, "-m", "pip"]
QUICK = """
import shutil, sys
target, listed = sys.argv[sys.argv.index("-d") + 1], sys.argv[-1]
for line in open(listed, encoding="utf-8"):
    shutil.copy(line.split()[2].removeprefix("file://"), target)
"""  # pip's download of files in a hundredth of the time


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of two wheels; `resolve` finds both for Windows, one for macOS, none for Linux."""
    folder = tmp_path / "index"
    folder.mkdir()
    for file in (BOTH, ON_WINDOWS):
        name, version, *tags = file.removesuffix(".whl").split("-")
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / file, "w") as archive:
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {'-'.join(tags)}\n")
            archive.writestr(f"{about}/RECORD", "")
    wheels = [Wheel(path.as_uri(), sha256(path), path.stat().st_size) for path in (folder / BOTH, folder / ON_WINDOWS)]
    found = {"Windows": {"wheels": tuple(wheels)}, "macOS": {"wheels": (wheels[0],)}, "Linux": {"missing": "no torch"}}
    monkeypatch.setattr(
        script, "resolve", lambda uv, pip, system, python, scratch: Part(system, python, **found[system])
    )
    monkeypatch.setattr(script, "tools", lambda scratch: ([sys.executable, "-I", "-S", "-c", QUICK], ["uv"]))
    monkeypatch.setattr(script, "tracked", lambda: ["run.py", "utils/files.py"])
    return folder, found


def test_a_bundle_is_whole_and_says_what_is_missing(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "tools", lambda scratch: (PIP, ["uv"]))
    about = bundle(tmp_path / "stick", ["3.12"])
    stick = tmp_path / "stick"
    assert {path.name for path in (stick / "wheels").iterdir()} == {BOTH, ON_WINDOWS}
    for line in (stick / SUMS).read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert sha256(stick / name) == digest
    named = {line.split("  ")[1] for line in (stick / SUMS).read_text(encoding="utf-8").splitlines()}
    assert named == {"INSTALL.md", MARK, "grpo-math.zip", f"wheels/{BOTH}", f"wheels/{ON_WINDOWS}"}
    with zipfile.ZipFile(stick / "grpo-math.zip") as archive:
        assert archive.namelist() == ["grpo-math/run.py", "grpo-math/utils/files.py"] and archive.testzip() is None
        assert archive.read("grpo-math/run.py") == (ROOT / "run.py").read_bytes()
    assert json.loads((stick / MARK).read_text(encoding="utf-8")) == about
    assert [part["wheels"] for part in about["parts"]] == [0, 1, 2] and about["parts"][0]["missing"] == "no torch"
    text = (stick / "INSTALL.md").read_text(encoding="utf-8")
    assert "Missing:\n\n- Linux, x86_64, Python 3.12: no torch\n" in text and "python3 run.py lab" in text
    said = capsys.readouterr().out
    assert "In all 2 wheels, 0 MB; 0 are there already" in said and f"Free in {stick}: " in said


def test_a_second_call_downloads_what_is_missing_or_damaged_and_nothing_else(index, tmp_path, monkeypatch, capsys):
    bundle(tmp_path / "stick", ["3.12"])
    kept, damaged = (tmp_path / "stick" / "wheels" / name for name in (BOTH, ON_WINDOWS))
    damaged.write_bytes(b"damaged")
    asked, real = [], subprocess.run

    def watched(command, **how):
        if "download" in command:
            with open(command[-1], encoding="utf-8") as lines:
                asked.extend(line.split(" @ ")[0] for line in lines)
        return real(command, **how)

    monkeypatch.setattr(script.subprocess, "run", watched)
    capsys.readouterr()
    bundle(tmp_path / "stick", ["3.12"])
    assert asked == ["other"] and sha256(damaged) == index[1]["Windows"]["wheels"][1].sha256 and kept.is_file()
    assert "1 are there already, to be downloaded: 1 wheels" in capsys.readouterr().out


def test_a_download_that_stops_keeps_what_is_there_and_leaves_no_sums(index, tmp_path):
    folder, _ = index
    (folder / ON_WINDOWS).rename(folder / "gone")
    with pytest.raises(RuntimeError, match="the download stopped .*call again, what is there is kept"):
        bundle(tmp_path / "stick", ["3.12"])
    stick = tmp_path / "stick"
    assert (stick / "wheels" / BOTH).is_file() and (stick / MARK).is_file() and not (stick / SUMS).exists()
    (folder / "gone").rename(folder / ON_WINDOWS)
    bundle(stick, ["3.12"])
    assert (stick / SUMS).is_file()


def test_a_wheel_that_is_not_the_one_planned_is_refused(index, tmp_path):
    folder, _ = index
    shutil.copy(folder / BOTH, folder / ON_WINDOWS)
    with pytest.raises(RuntimeError, match="the download stopped"):
        bundle(tmp_path / "stick", ["3.12"])
    assert not (tmp_path / "stick" / SUMS).exists()


def test_wheels_of_other_pins_go_once_every_system_has_an_answer(index, tmp_path):
    _, found = index
    bundle(tmp_path / "stick", ["3.12"])
    old = tmp_path / "stick" / "wheels" / "old-0.1-py3-none-any.whl"
    old.touch()
    bundle(tmp_path / "stick", ["3.12"])
    assert old.exists(), "Linux had no answer, perhaps for a moment only: nothing is thrown away"
    found["Linux"] = found["macOS"]
    bundle(tmp_path / "stick", ["3.12"])
    assert not old.exists()


def test_without_any_system_or_room_nothing_is_written(index, tmp_path, monkeypatch):
    _, found = index
    monkeypatch.setattr(script.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 10**7))
    with pytest.raises(RuntimeError, match="needs 0.1 GB more, and 0.0 GB are free"):
        bundle(tmp_path / "stick", ["3.12"])
    found["Windows"] = found["macOS"] = found["Linux"]
    with pytest.raises(RuntimeError, match=r"no system could be packed; .*\(no torch\)"):
        bundle(tmp_path / "stick", ["3.12"])
    assert [*(tmp_path / "stick").iterdir()] == []


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="is not empty and holds no bundle.json"):
        bundle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_what_git_does_not_know_is_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="is no git checkout .*clone the repository"):
        script.tracked()
    for name in ("a.py", "deleted.py", "secret.txt"):
        (tmp_path / name).touch()
    for command in (["init", "-q"], ["add", "a.py", "deleted.py"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "deleted.py").unlink()
    assert script.tracked() == ["a.py"]


@pytest.mark.parametrize(
    "system, files, best",
    [
        ("Linux", ["a-1-py3-none-any.whl", "a-1-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"], 1),
        ("Linux", ["a-1-cp310-abi3-manylinux_2_28_x86_64.whl", "a-1-cp312-cp312-manylinux_2_17_x86_64.whl"], 1),
        ("macOS", ["a-1-cp312-cp312-macosx_10_13_universal2.whl", "a-1-cp312-cp312-macosx_11_0_arm64.whl"], 1),
        ("macOS", ["a-1-cp312-cp312-macosx_14_0_arm64.whl", "a-1-cp312-cp312-macosx_11_0_arm64.whl"], 0),
        ("Windows", ["a-1-py39-none-any.whl", "a-1-py312-none-any.whl", "a-1-py311-none-any.whl"], 1),
    ],
)
def test_of_several_wheels_the_one_that_pip_prefers(system, files, best):
    wheels = [{"url": f"https://index/{file}", "hashes": {"sha256": file}, "size": 1} for file in files]
    (found,) = locked({"packages": [{"name": "a", "wheels": wheels}]}, system, "3.12")
    assert found.file == files[best]


def test_the_tags_of_linux_are_those_that_pip_takes():
    places = [word for place in script.platforms("Linux") for word in ("--platform", place)]
    command = [*PIP, "debug", "-v", "--python-version", "3.12", "--implementation", "cp", *places]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    listed = {line.strip() for line in said.partition("Compatible tags: ")[2].splitlines()[1:]}
    assert listed == {str(tag) for tag in tags_of("Linux", "3.12")}


def test_portions_are_of_a_bounded_size_in_order():
    sizes = [60_000_000, 20_000_000, 25_000_000, 10_000_000, None, 1]
    wheels = [Wheel(f"https://index/{i}.whl", "", size) for i, size in enumerate(sizes)]
    assert [[wheel.file for wheel in some] for some in portions(wheels)] == [
        ["0.whl"],
        ["1.whl", "2.whl"],
        ["3.whl"],
        ["4.whl"],
        ["5.whl"],
    ]


def test_the_reason_is_the_last_line_that_is_no_hint():
    said = "error: No solution found\n  cause: torch==2.13.0+cpu has no wheels\n\nhint: Wheels are available for\n"
    assert last_line(said) == "torch==2.13.0+cpu has no wheels" and last_line("") == "no reason was given"


@pytest.mark.network
def test_real_wheels_for_another_system_with_what_only_that_one_needs(tmp_path, monkeypatch):
    pins = tmp_path / "pins.txt"
    pins.write_text("tqdm==4.67.1  # needs colorama on Windows alone\nmarkupsafe==3.0.2  # has compiled code\n")
    monkeypatch.setattr(script, "CPU_FILE", pins)
    monkeypatch.setattr(script, "TARGETS", {"Windows": script.TARGETS["Windows"]})
    bundle(tmp_path / "stick", ["3.13"])
    files = {path.name.split("-")[0]: path.name for path in (tmp_path / "stick" / "wheels").iterdir()}
    assert files.keys() == {"tqdm", "colorama", "MarkupSafe"}
    assert files["MarkupSafe"] == "MarkupSafe-3.0.2-cp313-cp313-win_amd64.whl"
