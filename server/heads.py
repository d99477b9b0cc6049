"""The newest ledger head that each site showed: sealed by the site, kept here, and given back with the next offer.

A site whose ledger was put back to an older copy learns of it so. The server can read no head; it keeps the last one
that came, for a site puts its present head on every reply.
"""

import json
import os
import re
import tempfile
from pathlib import Path

from privet.common.errors import RunError

_HEAD = re.compile(r"[A-Za-z0-9+/]{40,200}={0,2}")
_MAX_BYTES = 64 << 20


class Heads:
    """Heads by site name, in the JSON file at `path`; None keeps them in memory alone.

    Raises: RunError where the file is there and cannot be read: without it a site's loss would go unnoticed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._heads = path, {} if path is None else _read(path)

    def get(self, site: str) -> str | None:
        """The newest head of `site`, if it ever showed one."""
        return self._heads.get(site)

    def note(self, site: str, head: str | None) -> None:
        """Keep a head, durably; None changes nothing.

        Raises: RunError where it cannot be kept.
        """
        if head is None or self._heads.get(site) == head:
            return
        self._heads[site] = head
        if self._path is not None:
            _write(self._path, self._heads)


def _read(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        heads = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(heads, dict) or not all(
            isinstance(head, str) and _HEAD.fullmatch(head) for head in heads.values()
        ):
            raise ValueError("another form")
        return heads
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"the sites' ledger heads cannot be read ({error}).",
            where=str(path),
            mend="restore the file; without it a site whose ledger was put back would not learn of it.",
        ) from None


def _write(path: Path, heads: dict[str, str]) -> None:
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(heads, file, sort_keys=True, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        raise RunError(
            f"the sites' ledger heads cannot be kept ({error.strerror}).",
            where=str(path),
            mend="free space, or make the folder writable, then start again.",
        ) from None
