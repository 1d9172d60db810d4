"""The articles: every link, name of code and quotation is true, and both languages show the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import article_text
from benchmarks.article_text import ARTICLES, IMAGES, LANGUAGES, REPOSITORY
from benchmarks.articles import FIGURES

PAGES = article_text.pages()
ALL = [ARTICLES / "README.md", *(page for each in PAGES.values() for page in each)]


def named(page: Path) -> str:
    return str(page.relative_to(ARTICLES))


def test_every_article_is_there_in_both_languages_and_has_its_figures() -> None:
    assert set(PAGES) == set(FIGURES)
    for pages in PAGES.values():
        assert len(pages) == len(LANGUAGES)
        assert [page for page in pages if not page.is_file()] == []
    drawn = sorted(name for _, names in FIGURES.values() for name in names)
    assert sorted(path.name for path in IMAGES.iterdir()) == drawn
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) < 1_500_000  # git keeps every version


@pytest.mark.parametrize("name", PAGES)
def test_both_languages_show_the_same(name: str) -> None:
    english, *others = PAGES[name]
    assert sorted(article_text.figures(english)) == sorted(FIGURES[name][1])
    for other in others:
        assert article_text.figures(other) == article_text.figures(english)
        assert article_text.headings(other) == article_text.headings(english)
        formulas = [
            re.findall(r"^```math\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL) for page in (english, other)
        ]
        assert formulas[0] == formulas[1]


@pytest.mark.parametrize("page", ALL, ids=named)
def test_every_link_leads_somewhere_and_every_name_is_defined(page: Path) -> None:
    wrong = []
    for text, to in article_text.links(page):
        if to.startswith("https://"):
            continue
        there = (page.parent / to.partition("#")[0]).resolve()
        name = text.strip("`")
        if not there.exists() or not there.is_relative_to(REPOSITORY):
            wrong.append(to)
        elif (
            there.suffix == ".py" and text.startswith("`") and "/" not in name and not article_text.defined(there, name)
        ):
            wrong.append(f"{name} in {to}")
        elif "/" in name and text.startswith("`") and REPOSITORY / name != there:
            wrong.append(f"{name} is not {to}")
    assert wrong == []


@pytest.mark.parametrize("page", ALL, ids=named)
def test_quotations_agree_with_their_sources(page: Path) -> None:
    assert article_text.misquoted(page) == []
    text = page.read_text()
    # python -m benchmarks.articles --tables
    assert article_text.with_tables(text) == text


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It is 17.\n<!-- quoted: README.md: no such words 17 | Settings 18 -->\n")
    assert len(article_text.misquoted(page)) == 3
    engine = REPOSITORY / "studio/engine/diffusion/denoiser.py"
    assert article_text.defined(engine, "Denoiser.branches")
    assert not article_text.defined(engine, "Denoiser.twigs")
    assert not article_text.defined(engine, "branches")
    with pytest.raises(ValueError, match="no table"):
        article_text.with_tables("<!-- table: README.md: no such table -->\n| a |\n|---|\n")
