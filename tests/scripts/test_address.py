"""The repository's address and tag stand in pyproject.toml, and every page points there."""

import re

import pytest

from utils.scripts.notebooks import NOTEBOOKS, PAGES, WITH_EXERCISES, addressed, origin

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pages
def test_every_page_points_where_pyproject_says(page):
    text = page.read_text(encoding="utf-8")
    assert addressed(text, *origin()) == text


@pages
def test_a_fork_gets_its_own_address_everywhere(page):
    theirs = addressed(page.read_text(encoding="utf-8"), "https://github.com/a-school/course", "v2")
    badges = re.findall(r"colab\.research\.google\.com/github/(\S+?)/(?:notebooks|workshop)/", theirs)
    assert badges == ["a-school/course/blob/v2"] * (1 if page in WITH_EXERCISES else len(NOTEBOOKS))
    assert (r"here = \"https://github.com/a-school/course\", \"v2\"," in theirs) == (page in WITH_EXERCISES)
    address, tag = origin()
    assert address.removeprefix("https://") not in theirs and f'"{tag}' not in theirs
    assert addressed(theirs, address, tag) == page.read_text(encoding="utf-8"), "nothing else has changed"
