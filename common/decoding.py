"""Text encodings of data files: any codec of Python's, and undecodable bytes that stay where they are."""

import codecs
import io

MARK = "\udcff"  # stands for one undecodable code unit: a lone surrogate, which no sound text holds
MARKING = "privet.mark"  # the error handler, for `open(errors=...)`


def text_codec(encoding: str) -> str | None:
    """The name of the codec for `open(encoding=...)`, or None when it is unknown or does not decode to text.

    utf-8 tolerates a byte order mark.
    """
    try:
        name = codecs.lookup(encoding).name
        io.TextIOWrapper(io.BytesIO(), encoding=name)  # refuses codecs from bytes to bytes and from text to text
    except (LookupError, ValueError):
        return None
    return "utf-8-sig" if name == "utf-8" else name


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Replace one code unit and go on right after it, so that the line break behind it survives."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    name = error.encoding.lower().replace("_", "-")
    width = 4 if name.startswith("utf-32") else 2 if name.startswith("utf-16") else 1
    return MARK, min(error.start + width, len(error.object))


codecs.register_error(MARKING, _mark)
