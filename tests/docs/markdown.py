"""What the tests need to know about Markdown: fenced blocks, headings, links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)\s*$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->")


def pages() -> list[Path]:
    """The pages that users read: README and its neighbours, and docs."""
    return sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its first line of text, from 1.
        not_run: why it is not executed, from a comment right before it; None: it is.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def fenced_blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language, without their indentation."""
    return [block for block in _blocks(page) if block.language == language]


def _blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    opened: re.Match[str] | None = None
    body: list[str] = []
    reason: str | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, body = fence, []
        elif opened is None:
            comment = _NOT_RUN.search(line)
            reason = comment["reason"] if comment else (reason if not line.strip() else None)
        elif fence and not fence["language"]:
            text = textwrap.dedent("\n".join(body)) + "\n"
            found.append(Block(page, number - len(body), opened["language"], text, reason))
            opened, reason = None, None
        else:
            body.append(line)
    assert opened is None, f"{page.name}: a fenced block is not closed"
    return found


def prose(page: Path) -> str:
    """The page without fenced blocks and code spans."""
    kept: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return re.sub(r"`[^`\n]*`", "", "\n".join(kept))


def links(page: Path) -> list[str]:
    """Targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Names by which headings can be linked to, made as GitHub makes them."""
    headings = re.findall(
        r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
