"""What README, the operator's book and the units tell people and systemd to run is what the command line knows."""

import re
import shlex

import click
import typer

from privet.common.cli import app
from tests.integration.readme import ROOT, blocks

_AS_SERVICE = re.compile(r"^runuser -u privet -- |^/opt/privet/bin/(?=privet )")


def _of_text(name: str) -> list[str]:
    """Lines of the blocks of commands that begin with privet, and what stands between backticks."""
    file = ROOT / name
    lines = [part for _, block in blocks(file) for line in block for part in line.typed.split(" && ")]
    lines += [line.said.removeprefix("then: ") for _, block in blocks(file) for line in block]
    prose = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.S)
    lines += re.findall(r"`(privet [^`]+)`", prose)
    bare = [_AS_SERVICE.sub("", _AS_SERVICE.sub("", line.strip())) for line in lines]
    return [line for line in bare if line.startswith("privet ")]


def _of_units() -> list[str]:
    texts = [path.read_text() for path in (ROOT / "deploy").glob("*.service")]
    return [found for text in texts for found in re.findall(r"^ExecStart=/opt/privet/bin/(privet .*)$", text, re.M)]


def refusal(line: str) -> str | None:
    """Why the command line would not take this line; None where it would. Nothing is run."""
    words = shlex.split(line)[1:]
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            return None
        name = words.pop(0)
        found = command.get_command(context, name)
        if found is None:
            return f"no command {name}"
        command = found
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts} | {
        "--help"
    }
    return f"no option {unknown[0]} of {command.name}" if (unknown := sorted(set(given) - known)) else None


def test_the_check_itself_refuses() -> None:
    assert refusal("privet fly") == "no command fly"
    assert refusal("privet client site.toml --faster") == "no option --faster of client"
    assert refusal("privet init site north --invite invite.toml") is None
    assert refusal("privet --version") is None


def test_every_command_of_the_readme_exists() -> None:
    lines = _of_text("README.md")
    assert len(lines) > 15
    assert {line: why for line in lines if (why := refusal(line))} == {}


def test_every_command_of_the_operators_book_and_of_the_units_exists() -> None:
    lines = _of_text("docs/deployment.md") + _of_units()
    assert len(lines) > 20
    assert {line: why for line in lines if (why := refusal(line))} == {}
