"""Text of others on this machine's screen: it may be read, and never steer the terminal."""


def printable(text: str, limit: int = 20_000) -> str:
    r"""`text` with U+FFFD for every character that is neither printable nor a line break, at most `limit` characters.

    Control characters (escape sequences among them), marks that turn the direction of writing, and lone surrogates
    are not printable. An ellipsis stands where text was cut.

    >>> printable("calm\x1b[2J")
    'calm�[2J'
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(char if char == "\n" or char.isprintable() else "\ufffd" for char in text)
