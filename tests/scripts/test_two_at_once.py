"""The series and the notebooks are not disturbed by a second start; what is tried here trains nothing."""

import os

import pytest

from utils.files import IN_USE
from utils.scripts import commands, notebooks


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with an earlier run, where `commands` works; the series leaves one file."""
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    monkeypatch.setattr(commands, "run_series", lambda output: commands.write_text(output / "new", ""))
    for folder in ("notebooks", "runs/latest/mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs" / "latest" / "old").touch()
    return tmp_path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "folder, argv", [("runs", []), ("runs/latest/mine", []), ("notebooks", ["notebooks", "--write"])]
)
def test_a_second_start_moves_and_writes_nothing(folder, argv, project, hold, monkeypatch):
    executed = []
    monkeypatch.setattr(notebooks, "execute", lambda *args: executed.append(args))
    holder = hold(project / folder)
    before = files(project)
    with pytest.raises(SystemExit, match=f"InUse: {project / folder} is in use by process {holder.pid} on "):
        commands.main(argv)
    assert files(project) == before and executed == []


def test_a_killed_series_is_in_nobody_s_way(project, hold):
    for folder in ("runs", "runs/latest/mine"):
        holder = hold(project / folder)
        holder.kill()
        holder.wait()
    commands.main([])
    assert not [*project.rglob(f"{IN_USE}*")] and files(project / "runs" / "latest") == ["new"]
    assert [path.parent.parent.name for path in project.rglob("old")] == ["runs"], "kept under the time it ended"


@pytest.mark.parametrize("make", [os.mkdir, lambda path: path.touch(), lambda path: path.symlink_to("nowhere")])
def test_whatever_runs_latest_is_it_is_moved_aside(make, project):
    os.replace(project / "runs" / "latest", project / "runs" / "before")
    make(project / "runs" / "latest")
    commands.series(commands.parse([]))
    assert files(project / "runs" / "latest") == ["new"] and len(os.listdir(project / "runs")) == 3


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("nowhere")])
def test_a_file_in_the_place_of_runs_is_named(make, project):
    os.replace(project / "runs", project / "elsewhere")
    make(project / "runs")
    with pytest.raises(SystemExit, match=f"a file or a link to nothing is in the way.*: '{project / 'runs'}'$"):
        commands.main([])
