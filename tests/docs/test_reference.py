"""docs/reference.md is what the models say, and a key without words is an error."""

from typing import Annotated

import pytest
from pydantic import Field, model_validator

import privet.common.config.reference as made
from privet.common.config import Federation, Site
from privet.common.config.table import Table
from privet.common.errors import ConfigError
from tests.docs.pages import ROOT

_COMMAND = "privet docs reference --write docs/reference.md"


def test_the_reference_is_current() -> None:
    stored = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert stored == made.reference(), f"a key or its words changed: run `{_COMMAND}`"


def test_every_key_of_both_files_is_in_its_table() -> None:
    page = made.reference()
    for model in (Federation, Site):
        for path, table in made.tables(model):
            head = f"### `[{path}]`\n" if path else "### Top level\n"
            section = page.split(head)[2 if not path and model is Site else 1].split("\n## ")[0].split("\n### ")[0]
            nested = {name.rpartition(".")[2] for name, _ in made.tables(table) if name and "." not in name}
            nested |= {name.split(".")[0] for name, _ in made.tables(table) if name}
            for key in table.model_fields.keys() - nested:
                assert f"\n| `{key}` | " in section, f"[{path}] {key}"


class Silent(Table):
    """A table."""

    count: Annotated[int, Field(ge=1, lt=5)] = 3  # of things
    told: str | None = None
    """What is told | and how."""
    silent: bool = False

    @model_validator(mode="after")
    def _check(self) -> "Silent":
        return self


def test_words_come_from_docstrings_and_comments_and_silence_is_told() -> None:
    silent: list[str] = []
    section = made._section("some.table", Silent, silent)
    assert "| `count` | integer from 1 below 5 | `3` | Of things. |" in section
    assert "| `told` | text | *unset* | What is told \\| and how. |" in section
    assert silent == ["Silent.silent", "Silent._check()"]


def test_silence_is_refused_with_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "Site", Silent)
    with pytest.raises(ConfigError, match=r"Silent\.silent, Silent\._check\(\)") as refused:
        made.reference()
    assert _COMMAND in refused.value.mend
