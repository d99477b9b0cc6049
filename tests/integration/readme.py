"""The command lines of README.md, as a reader would type them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Line:
    """One line of a block of commands: what is typed, and what the comment behind it says."""

    typed: str
    said: str

    @property
    def code(self) -> int:
        """The exit code that the comment announces; 0 unless it does."""
        found = re.search(r"\bexit (\d)", self.said)
        return int(found[1]) if found else 0

    def named(self, command: str) -> bool:
        return self.typed.startswith(f"privet {command} ") or self.typed == f"privet {command}"


def blocks(file: Path) -> list[tuple[str, list[Line]]]:
    """(heading above it, lines) of each fenced block without a language or with a shell's."""
    heading, found = "", list[tuple[str, list[Line]]]()
    inside: list[Line] | None = None
    kept = False
    for text in file.read_text(encoding="utf-8").splitlines():
        fence = re.match(r"\s*```(\w*)", text)
        if fence and inside is None:
            inside, kept = [], fence[1] in ("", "sh", "bash", "console")
        elif fence and inside is not None:
            if kept:
                found.append((heading, inside))
            inside = None
        elif inside is not None:
            typed, _, said = text.partition(" #") if not text.startswith("#") else ("", "", text[1:])
            if typed.strip() or said.strip():
                inside.append(Line(typed.strip(), said.strip()))
        elif text.startswith("#"):
            heading = text.lstrip("# ").strip()
    return found


def door(heading: str, file: Path = ROOT / "README.md") -> list[Line]:
    """The lines of the first block under the heading that begins so."""
    for title, lines in blocks(file):
        if title.startswith(heading):
            return lines
    raise AssertionError(f"{file} has no block of commands under {heading!r}")
