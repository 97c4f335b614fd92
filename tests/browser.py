"""JupyterLab in a real browser, for tests that press keys and read the screen; there are no tests in here.

    @pytest.fixture(scope="module")
    def lab(tmp_path_factory):
        with open_lab(tmp_path_factory.mktemp("lab")) as lab:
            yield lab

    def test_slider(lab):
        notebook = lab.open(["import ipywidgets", "..."])  # the slider had .add_class("speed")
        notebook.run_next()
        notebook.run_next()
        notebook.move_slider("speed", 3)
        notebook.wait_for_text("result", "1.3 m/s")
        assert notebook.errors == []

An open browser makes `asyncio.run` fail in the same thread, and nbclient uses that: no session-wide fixture.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

from utils.files import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",  # root cannot have it, and the only page shown is our own
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # else cells out of sight are not laid out
}
IS_IDLE = """() => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    const kernel = context?.session?.kernel;
    return context?.isReady && kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""
PRESSES = 3  # of an arrow key, until a slider moves
TIMEOUT_S = 60  # for what takes a second or two on a quiet machine


def chromium_or_skip() -> str:
    """Path of the installed Chromium or Chrome; without one, or without playwright, the test is skipped."""
    pytest.importorskip("playwright", reason="no playwright here: pip install -r requirements-dev.txt")
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if not found:
        pytest.skip(f"no browser on PATH (looked for {', '.join(CHROMIUM_NAMES)}); Debian: apt install chromium")
    return found


@contextmanager
def open_lab(folder: Path) -> Iterator[Lab]:
    """JupyterLab on 127.0.0.1 and a browser to look at it; both are closed at the end.

    Args:
        folder: an empty folder for the notebooks and for all that Jupyter and the browser write.
    Raises:
        RuntimeError: JupyterLab did not start; the message ends with its log.
    """
    chromium = chromium_or_skip()
    from playwright.sync_api import sync_playwright

    home = folder / "home"  # certificates and caches go there, whatever the profile
    home.mkdir()
    with running_server(folder) as (address, token), sync_playwright() as playwright:
        environment = {**os.environ, "HOME": str(home)}
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS, env=environment)
        try:
            yield Lab(address, token, folder / "project" / "notebooks", browser)
        finally:
            browser.close()


@contextmanager
def running_server(folder: Path) -> Iterator[tuple[str, str]]:
    """JupyterLab with this Python as its kernel and no settings but ours; gives its address and token."""
    project = copy_project(folder)
    settings = folder / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    command += [f"--ServerApp.root_dir={project}", "--LabApp.expose_app_in_browser=True"]
    command += ["--LanguageServerManager.autodetect=False"]  # it would start npm, which writes to HOME
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    log = folder / "server.log"
    with log.open("wb") as output:
        environment = server_environment(folder)
        server = subprocess.Popen(command, cwd=project, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not (info := server_info(folder)):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not start (status {server.poll()}); its log:\n{log.read_text()}")
            time.sleep(0.1)
        yield info["url"], info["token"]
    finally:
        server.terminate()  # it ends its kernels first
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def copy_project(folder: Path) -> Path:
    """Copy what a notebook uses, so that the set-up cell finds it and the checkout gets nothing written into it."""
    project = folder / "project"
    (project / "notebooks").mkdir(parents=True)
    for name in ("utils", "assets"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, project)
    return project


def server_environment(folder: Path) -> dict[str, str]:
    """This process's environment without the user's Jupyter settings. HOME stays: packages may lie below it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON"))}
    ours = {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "project"), os.environ.get("PYTHONPATH")])),
    }
    return {**kept, **ours}


def server_info(folder: Path) -> dict | None:
    """What the server says of itself (url, token, …) once it listens; None before."""
    try:
        return json.loads(next((folder / "runtime").glob("jpserver-*.json")).read_text())
    except (StopIteration, json.JSONDecodeError):  # not there yet, or half-written
        return None


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab and a browser. `token` is random and new each time; `folder` holds the notebooks."""

    address: str
    token: str
    folder: Path
    browser: Browser

    def open(self, cells: Sequence[str] | nbformat.NotebookNode, width: int = 1280, height: int = 1000) -> Notebook:
        """Open a copy of a notebook, its outputs removed, and wait until its kernel is idle.

        Args:
            cells: source of each code cell, or a notebook read by nbformat.
            width: of the page, px.
            height: of the page, px.
        """
        path = self.folder / f"notebook-{len(list(self.folder.glob('*.ipynb'))) + 1}.ipynb"
        nbformat.write(without_outputs(cells), path)
        page = self.browser.new_page(viewport={"width": width, "height": height})
        errors: list[str] = []
        outside: list[str] = []

        def note_and_answer_nothing(route: Route) -> None:
            outside.append(route.request.url)
            route.fulfill(status=204)

        page.route(re.compile(r"https?://(?!127\.0\.0\.1:)"), note_and_answer_nothing)

        def note_error(message: ConsoleMessage) -> None:
            if message.type == "error":
                errors.append(f"console: {message.text} ({message.location['url']})")

        page.on("console", note_error)
        page.on("pageerror", lambda error: errors.append(f"page: {error}"))
        page.set_default_timeout(1000 * TIMEOUT_S)
        page.goto(f"{self.address}doc/tree/notebooks/{path.name}?token={self.token}")
        notebook = Notebook(page, errors, outside)
        notebook.wait_until_idle()
        return notebook


def without_outputs(cells: Sequence[str] | nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A fresh notebook with these cells, for the kernel of the Python that runs JupyterLab."""
    new = nbformat.v4
    if not isinstance(cells, nbformat.NotebookNode):
        cells = new.new_notebook(cells=[new.new_code_cell(source) for source in cells])
    make = {"code": new.new_code_cell, "markdown": new.new_markdown_cell, "raw": new.new_raw_cell}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    copies = [make[cell.cell_type](cell.source) for cell in cells.cells]
    return new.new_notebook(cells=copies, metadata={"kernelspec": kernel})


@dataclass
class Notebook:
    """An open notebook, used as a person would: by mouse, keyboard and eye.

    Widgets are found by the class that `widget.add_class(name)` gave them; a name on two widgets is an error.
    `errors` collects what the page threw or wrote to the console as an error; `outside` the addresses beyond this
    machine that it asked for in vain. `page` is Playwright's, for the rest.
    """

    page: Page
    errors: list[str]
    outside: list[str]
    cells_run: int = 0

    def wait_until_idle(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the kernel is connected and has nothing left to do.

        The page's own indicator says "idle" before there is a kernel, and a cell run then is dropped silently.
        """
        self.page.wait_for_function(IS_IDLE, timeout=1000 * timeout_s)

    def run_next(self, timeout_s: float = TIMEOUT_S) -> None:
        """Run the next cell with Shift+Enter and wait until it has finished.

        Raises:
            AssertionError: the cell raised an error (which is named), or it took longer than `timeout_s`.
        """
        cell = self.page.locator(".jp-Notebook-cell").nth(self.cells_run)
        self.cells_run += 1
        prompt = cell.locator(".jp-InputPrompt")
        prompt.click()
        self.page.keyboard.press("Shift+Enter")
        if "jp-CodeCell" not in cell.get_attribute("class"):
            return
        expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=1000 * timeout_s)
        for output in self.outputs(self.cells_run - 1):
            assert output["output_type"] != "error", f"cell {self.cells_run}: {output['ename']}: {output['evalue']}"

    def outputs(self, index: int) -> list[dict]:
        """The outputs of cell `index`, in nbformat's form."""
        model = "jupyterapp.shell.currentWidget.content.widgets[index].model"
        return self.page.evaluate(f"index => {model}.outputs.toJSON()", index)

    def widget(self, name: str) -> Locator:
        """The widget with the class `name`; Playwright waits for it when it is used."""
        return self.page.locator(f".{name}")

    def move_slider(self, name: str, steps: int) -> None:
        """Press the arrow keys on a slider: `steps` to the right, or to the left when negative."""
        handle = self.widget(name).locator(".noUi-handle")
        handle.focus()
        for _ in range(abs(steps)):
            before = handle.get_attribute("aria-valuenow")
            for attempt in range(PRESSES):  # one while the kernel still answers the one before may get lost
                handle.press("ArrowRight" if steps > 0 else "ArrowLeft")
                try:
                    expect(handle).not_to_have_attribute("aria-valuenow", before)
                    break
                except AssertionError:
                    if attempt == PRESSES - 1:
                        raise
            self.page.wait_for_timeout(100)

    def write_text(self, name: str, text: str) -> None:
        """Replace the text of a Textarea and leave the field, so that the kernel gets it in any case."""
        area = self.widget(name).locator("textarea")
        area.fill(text)
        area.blur()

    def click_button(self, name: str) -> None:
        """Click a Button."""
        self.widget(name).click()

    def text(self, name: str) -> str:
        """The text that is to be read in a widget."""
        return self.widget(name).inner_text()

    def wait_for_text(self, name: str, wanted: str | re.Pattern[str], timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a widget's text contains `wanted` or matches it; the error shows what it had instead."""
        expect(self.widget(name)).to_contain_text(wanted, timeout=1000 * timeout_s)

    def picture(self, name: str) -> str:
        """Address of the picture that an Image shows now; it is another one after each change."""
        image = self.widget(name)
        shown = "image => image.complete && image.naturalWidth > 0 ? image.src : ''"
        return image.evaluate(shown)

    def wait_for_change(self, read: Callable[[], str], before: str, timeout_s: float = TIMEOUT_S) -> str:
        """Read, for example `lambda: notebook.picture("plot")`, until it is neither `before` nor empty; return it."""
        deadline = time.monotonic() + timeout_s
        while (value := read()) in (before, ""):
            assert time.monotonic() < deadline, f"after {timeout_s} s still {value!r}"
            self.page.wait_for_timeout(50)
        return value

    def screenshot(self, name: str, path: Path, width: int) -> None:
        """Save a widget as PNG, whole, as it looks in a page of `width` px; the page gets its size back."""
        before, widget = self.page.viewport_size, self.widget(name)
        self.page.set_viewport_size({"width": width, "height": before["height"]})
        widget.scroll_into_view_if_needed()  # waits until the layout stands still
        # The notebook scrolls inside the page, which therefore has to be higher than the widget.
        height = before["height"] + math.ceil(widget.bounding_box()["height"])
        self.page.set_viewport_size({"width": width, "height": height})
        widget.screenshot(path=path, animations="disabled")
        self.page.set_viewport_size(before)


def expect(locator: Locator):
    """Playwright's assertions, which try again until their timeout."""
    from playwright.sync_api import expect as playwright_expect

    return playwright_expect(locator)
