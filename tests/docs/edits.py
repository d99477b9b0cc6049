"""Sets keys of a TOML file as a person would: `edits.py FILE < keys.toml`. What stands there as a comment is kept."""

import re
import sys
from pathlib import Path


def edited(text: str, keys: str) -> str:
    """`text` with each `key = value` line of `keys` in the place of its own, or under its table's head."""
    lines, table = text.splitlines(), ""
    for line in keys.splitlines():
        head = re.fullmatch(r"\[(.+)\]", line.strip())
        if head:
            table = head[1]
            if f"[{table}]" not in lines:
                lines += ["", f"[{table}]"]
            continue
        key = line.partition("=")[0].strip()
        if not key or key.startswith("#"):
            continue
        start = lines.index(f"[{table}]") + 1 if table else 0
        end = next((n for n in range(start, len(lines)) if re.match(r"\[", lines[n])), len(lines))
        at = next((n for n in range(start, end) if re.match(rf"{re.escape(key)}\s*=", lines[n])), None)
        if at is None:
            lines.insert(start, line)
        else:
            lines[at] = line
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(edited(file.read_text(encoding="utf-8"), sys.stdin.read()), encoding="utf-8")
