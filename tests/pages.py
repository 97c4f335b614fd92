"""A committed notebook as a reader has it before him: its prose, and what stands under its cells."""

import re
from typing import Any

import nbformat

from utils.files import ROOT


class Page:
    """A notebook of the series by its name, e.g. "03_grpo_from_scratch"."""

    def __init__(self, name: str) -> None:
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        markdown = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        self.prose = " ".join(re.sub("^> ", "", markdown, flags=re.MULTILINE).split())
        self.code: list[Any] = [cell for cell in cells if cell.cell_type == "code"]

    def says(self, *sentences: str) -> bool:
        """Assert that the prose holds all of these."""
        missing = [sentence for sentence in sentences if sentence not in self.prose]
        assert not missing, missing
        return True

    def printed(self, within: str) -> str:
        """The text under the one code cell whose source holds `within`."""
        [cell] = [cell for cell in self.code if within in cell.source]
        return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)

    def numbers(self, within: str, after: str) -> list[float]:
        """Every number printed there behind `after`."""
        _, _, text = self.printed(within).partition(after)
        return [float(number) for number in re.findall(r"[+-]?\d+(?:\.\d+)?(?:e-?\d+)?", text)]

    def pictures(self) -> int:
        return sum("image/png" in o.get("data", {}) for cell in self.code for o in cell.outputs)
