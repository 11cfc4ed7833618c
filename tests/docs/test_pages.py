"""The tutorials: their commands and examples run as they stand; the site names every page."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.console import run_page
from tests.shared import CHECKOUT

PAGES: Final = ("start.md", "leaving-spdk.md", "cluster-sizes.md")

_NAVIGATION: Final = re.compile(r"- ([^:]+): ([\w/-]+\.md)$", re.MULTILINE)
_LINK: Final = re.compile(r"(?<!!)\[([^\]]+)\]\(([\w/-]+\.md)\)")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_shows_happens(name: str, tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / name).read_text(encoding="utf-8")
    assert run_page(page, tmp_path) > 2


def test_a_page_that_shows_something_else_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_page("```console\n$ echo 1\n2\n```\n", tmp_path)


def test_the_site_has_every_page() -> None:
    navigation = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", navigation, re.MULTILINE))
    docs = CHECKOUT / "docs"
    assert listed == {str(path.relative_to(docs)) for path in docs.rglob("*.md")}


def test_a_page_has_one_title_in_its_heading_the_navigation_and_the_first_page() -> None:
    docs = CHECKOUT / "docs"
    navigation = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    titles = {page: title for title, page in _NAVIGATION.findall(navigation)}
    del titles["index.md"], titles["changes.md"]  # the project's name, and a copy of the changelog
    for page, title in titles.items():
        assert (docs / page).read_text(encoding="utf-8").splitlines()[0] == f"# {title}"
    links = _LINK.findall((docs / "index.md").read_text(encoding="utf-8"))
    assert len(links) > 15
    for text, page in links:
        assert text.casefold() == titles[page].casefold()
