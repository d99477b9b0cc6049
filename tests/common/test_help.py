"""The help of every command: no summary in a list is cut off, and exit codes stay told."""

import pytest
import typer
from click import Context, Group
from typer.testing import CliRunner

from privet.common.cli import app


def _groups() -> list[tuple[str, ...]]:
    """The paths of all groups of commands, hidden ones too."""
    found: list[tuple[str, ...]] = []

    def walk(group: Group, path: tuple[str, ...]) -> None:
        found.append(path)
        for name, command in group.commands.items():
            if isinstance(command, Group):
                walk(command, (*path, name))

    root = typer.main.get_command(app)
    assert isinstance(root, Group)
    walk(root, ())
    return found


def _help(path: tuple[str, ...], columns: int) -> str:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": str(columns)}, terminal_width=columns)
    assert shown.exit_code == 0
    return shown.stdout


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("path", _groups(), ids=" ".join)
def test_no_summary_is_cut_off(path: tuple[str, ...], columns: int) -> None:
    """Each command has one line in its group's list, and that is a whole sentence."""
    listed = _help(path, columns).split("Commands:\n")[1].splitlines()
    group = typer.main.get_command(app)
    for name in path:
        assert isinstance(group, Group)
        group = group.commands[name]
    assert isinstance(group, Group)
    names = [name for name in group.list_commands(Context(group)) if not group.commands[name].hidden]
    assert len(names) > 2
    assert [line.split()[0] for line in listed if line.strip()] == names
    for line in listed:
        assert not line.rstrip().endswith(("...", "…")), line
        assert line.rstrip().endswith("."), line


def test_exit_codes_stay_in_the_help() -> None:
    assert "exit 1 where none runs" in _help(("status",), 100).replace("\n  ", " ")
    assert "exit 1 where it is not as it was written" in " ".join(_help(("log",), 100).split())


def test_predict_says_how_it_finds_words() -> None:
    words = " ".join(_help(("predict",), 100).split())
    assert "parted into words by the rule of the base's tokenizer" in words
    assert "Training and `privet evaluate` take the words as the file has them" in words


@pytest.mark.parametrize("path", [("simulate",), ("init", "site"), ("export",)], ids=" ".join)
def test_brackets_stand_as_they_are(path: tuple[str, ...]) -> None:
    shown = _help(path, 80)
    assert "\\" not in shown
    assert "[default: " in shown
