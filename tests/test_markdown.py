"""Every relative link and anchor in the project's Markdown leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folders at the root that are not ours to check.
FOREIGN = {".venv", ".cache", ".git", ".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache"}
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not FOREIGN & set(p.relative_to(ROOT).parts))

FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1`*[ \t]*$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
INLINE_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?\s*$", re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
HTML_ANCHOR = re.compile(r"<a\s+(?:name|id)=[\"']([^\"']+)[\"']")
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings: lower case, punctuation gone, spaces as hyphens."""
    found: set[str] = set(HTML_ANCHOR.findall(text))
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number = 0
        while (candidate := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(candidate)
    return found


def links(text: str) -> Iterator[str]:
    """Every link target outside code."""
    prose = CODE_SPAN.sub("", FENCE.sub("", text))
    yield from INLINE_LINK.findall(prose)
    yield from REFERENCE.findall(prose)


def broken_links(document: Path) -> list[str]:
    """The relative links of a document that lead to no file or to no heading."""
    broken = []
    for link in links(document.read_text()):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """No relative link of a document points at a missing file or heading."""
    assert broken_links(document) == []


def test_the_root_documents_are_checked() -> None:
    """The list of documents is not empty by accident."""
    assert {ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")} <= set(DOCUMENTS)


def test_a_missing_file_and_a_missing_heading_are_found(tmp_path: Path) -> None:
    """The check reports both kinds of dead link, in both styles, and leaves code and the web alone."""
    (tmp_path / "there.md").write_text("# One *word*, twice\n# One word twice\n```\n# not a heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](there.md) [b](#here) [c](there.md#one-word-twice-1) [w](https://example.org/x#y)\n"
        "`[code](nowhere.md)`\n```\n[code](nowhere.md)\n```\n"
        "[d](gone.md) [e](#gone) [f](there.md#not-a-heading)\n[g]: gone-too.md\n"
    )
    assert broken_links(page) == ["gone.md", "#gone", "there.md#not-a-heading", "gone-too.md"]
