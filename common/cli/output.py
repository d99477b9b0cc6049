"""How a command that ends tells its result: one JSON document on standard output, or words on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def emit(document: Mapping[str, Any], lines: Sequence[str], as_json: bool) -> None:
    """Write `document` as JSON on standard output if `as_json`, else `lines` on standard error."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        return
    from rich.console import Console

    # Names and paths are not ours: no markup is read in them, and no line is broken or coloured.
    console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
    for line in lines:
        console.print(line)
