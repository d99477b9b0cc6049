"""Events for whoever watches: JSON lines on standard output, or people's words on standard error."""

import json
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape

Event = dict[str, object]
Listener = Callable[[Event], None]


class View(Protocol):
    """Folds events into what is shown."""

    def feed(self, event: dict[str, Any]) -> str | None:
        """Take one event; the plain line that tells it, if it is worth one."""

    def __rich__(self) -> RenderableType:
        """What a terminal shows now."""


def one_at_a_time(listener: Listener) -> Listener:
    """The listener, for several threads: a second event waits until the first is told."""
    turn = threading.RLock()

    def told(event: Event) -> None:
        with turn:
            listener(event)

    return told


@contextmanager
def watch(view: View, *, as_json: bool, remarkable: Collection[str]) -> Iterator[Listener]:
    """A listener that any thread may call: a whole line for each event, whoever else speaks.

    remarkable: the kinds of events that stay above a terminal's live drawing.
    """
    if as_json:
        yield one_at_a_time(_json_line)
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:

        def plain(event: Event) -> None:
            line = view.feed(event)
            if line:
                print(line, file=sys.stderr, flush=True)

        yield one_at_a_time(plain)
        return
    with Live(view, console=console, refresh_per_second=8) as live:

        def drawn(event: Event) -> None:
            line = view.feed(event)
            if line and event["event"] in remarkable:
                live.console.print(escape(line))

        yield one_at_a_time(drawn)


def _json_line(event: Event) -> None:
    sys.stdout.write(json.dumps(event, sort_keys=True) + "\n")
    sys.stdout.flush()
