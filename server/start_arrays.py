"""What a run starts from. Importing this loads no library that computes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privet.common.adapter import Floats


@dataclass(frozen=True)
class Start:
    """arrays: every one of the adapter. earlier: the entry "init" of privacy.json, None for a derived adapter."""

    arrays: Mapping[str, Floats]
    earlier: dict[str, Any] | None = None
