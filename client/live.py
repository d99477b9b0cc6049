"""What the operator sees: the link, the round and the budget; JSON lines on request."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.text import Text

from privet.common import live
from privet.common.live import Listener
from privet.common.terminal import printable

_BAR = 32
_LINE = 300  # characters of one drawn line
_REMARKABLE = ("refused", "pending", "error", "replayed", "finished", "rehearsed", "hours")


@dataclass
class View:
    """Folds events into what is shown; draws itself. What events bring may be the server's words: none steers."""

    site: str
    links: dict[str, str] = field(default_factory=dict)  # of each federation
    doing: str = ""
    budget: dict[str, Any] = field(default_factory=dict)

    def feed(self, event: dict[str, Any]) -> str | None:
        """Take one event; the plain line that tells it, if it is worth one."""
        kind = printable(str(event["event"]))
        text = printable(str(event.get("text") or ""))
        if kind == "budget":
            self.budget = event
            return None
        if kind == "link":
            federation = printable(str(event.get("federation") or ""))
            changed = self.links.get(federation) != text and bool(text)
            if text:
                self.links[federation] = text
            return text if changed else None
        self.doing = text.splitlines()[0] if text else kind
        return text or kind

    def __rich__(self) -> Group:
        title = printable(f"privet client {self.site}", _LINE)
        links = "; ".join(self.links.values()) or "starting"
        rows = [Text(title, "bold") + Text("  " + printable(links, _LINE)), Text(printable(self.doing, _LINE))]
        if self.budget:
            whole = float(self.budget["epsilon"])
            spent = min(_BAR, round(_BAR * float(self.budget["spent_epsilon"]) / whole))
            reserved = min(_BAR - spent, max(0, round(_BAR * float(self.budget["reserved_epsilon"]) / whole) - spent))
            bar = (
                Text("█" * spent, "red") + Text("▒" * reserved, "yellow") + Text("░" * (_BAR - spent - reserved), "dim")
            )
            words = (
                f"  ε spent {self.budget['spent_epsilon']:.2f}, reserved {self.budget['reserved_epsilon']:.2f}, "
                f"left {self.budget['left_epsilon']:.2f} of {whole:g}; {self.budget['rounds']} rounds"
            )
            rows.append(bar + Text(words))
        return Group(*rows)


def watch(site: str, *, as_json: bool) -> AbstractContextManager[Listener]:
    """A listener: JSON lines on standard output, or people's words on standard error."""
    return live.watch(View(site), as_json=as_json, remarkable=_REMARKABLE)
