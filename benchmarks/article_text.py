"""What stands in the articles of `docs/articles` and can be checked: tables, quoted figures, links and names of code.

- Above a table that is quoted stands `<!-- table: PAGE: BEGIN -->`: the table of PAGE whose first line holds BEGIN.
  Its first column and its heading are the article's own, the other cells are that table's (`with_tables`).
- `<!-- quoted: PAGE: WORDS | WORDS -->` says that these words stand in PAGE; their numbers stand in the article.

Pages are named from the repository's root.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ARTICLES = REPOSITORY / "docs" / "articles"
IMAGES = ARTICLES / "img"
LANGUAGES = ("", "ja")  # folders; "": English

_TABLE = re.compile(r"<!-- table: (?P<page>[^:]+): (?P<begin>.+?) -->\n(?P<table>(?:\|.*\n)+)")
_QUOTED = re.compile(r"<!-- quoted: (?P<page>[^:]+): (?P<words>.+?) -->", re.DOTALL)
_LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]+)\)")
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


def pages() -> dict[str, list[Path]]:
    """Each article by its name: its file in every language, in the order of `LANGUAGES`."""
    names = sorted(path.name for path in ARTICLES.glob("*.md") if path.name != "README.md")
    return {name.removesuffix(".md"): [ARTICLES / language / name for language in LANGUAGES] for name in names}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(text, address) of every link and picture of a page, as they are written."""
    for match in _LINK.finditer(_without_code(page.read_text(encoding="utf-8"))):
        yield match["text"], match["to"]


def figures(page: Path) -> list[str]:
    """Names of the figures that a page shows, in order."""
    return [Path(to).name for _, to in links(page) if Path(to).parent.name == IMAGES.name]


def defined(file: Path, name: str) -> bool:
    """Whether `name` (`f`, `C.method` or a constant) is defined at the top of a Python file."""
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    *outer, last = name.split(".")
    for part in outer:
        found = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == part), None)
        if found is None:
            return False
        body = found.body
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == last:
            return True
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        if last in names:
            return True
    return False


def with_tables(text: str) -> str:
    """An article with the cells of its quoted tables as they are in their pages now. Raises ValueError where a table
    isn't there, or has other rows than the article has names for."""

    def renew(match: re.Match[str]) -> str:
        ours, theirs = _rows(match["table"]), _rows(_table_of(match["page"], match["begin"]))
        if len(ours) != len(theirs):
            raise ValueError(
                f"{match['page']}: the table of {match['begin']!r} has {len(theirs)} rows, not {len(ours)}"
            )
        rows = [*ours[:2], *([own[0], *given[1:]] for own, given in zip(ours[2:], theirs[2:], strict=True))]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        return f"<!-- table: {match['page']}: {match['begin']} -->\n{table}"

    return _TABLE.sub(renew, text)


def _table_of(page: str, begin: str) -> str:
    """The table of a page whose first line holds `begin`, with its end of line."""
    lines = (REPOSITORY / page).read_text(encoding="utf-8").splitlines()
    first = next((k for k, line in enumerate(lines) if line.startswith("|") and begin in line), None)
    if first is None:
        raise ValueError(f"{page} has no table that begins with {begin!r}")
    last = next((k for k in range(first, len(lines)) if not lines[k].startswith("|")), len(lines))
    return "\n".join(lines[first:last]) + "\n"


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]


def misquoted(page: Path) -> list[str]:
    """A sentence for every quotation of a page that isn't in its source, or whose numbers aren't in the page."""
    whole = page.read_text(encoding="utf-8")
    said = set(_NUMBER.findall(re.sub(r"<!--.*?-->", " ", whole, flags=re.DOTALL)))
    wrong = []
    for match in _QUOTED.finditer(whole):
        source = " ".join((REPOSITORY / match["page"]).read_text(encoding="utf-8").split())
        for words in (" ".join(part.split()) for part in match["words"].split("|")):
            if words not in source:
                wrong.append(f"{match['page']} doesn't say {words!r} (any more)")
            wrong += [f"{words!r}: {n} isn't in the article" for n in _NUMBER.findall(words) if n not in said]
    return wrong


def headings(page: Path) -> list[int]:
    """The levels of a page's headings, in order."""
    text = _without_code(page.read_text(encoding="utf-8"))
    return [len(match[1]) for match in re.finditer(r"^(#+) ", text, re.MULTILINE)]


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
