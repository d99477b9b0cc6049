"""Who runs this process, for an audit log."""

import getpass
import os


def user() -> str:
    """The name of this process's user on this machine, or the number where it has no plain name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    kept = "".join(char for char in name if char.isascii() and (char.isalnum() or char in "._@$-"))
    return kept[:64] or str(os.getuid())
