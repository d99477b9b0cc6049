"""README's doors as written, by a server and two sites on machines of their own: files cross only as README says."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from privet.simulations.corpus import hospital_notes
from tests.integration.machines import Machine, Program, apart, cable, pull, why_not
from tests.integration.readme import Line, door

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SITES = ("north", "south")
PATIENTS = 1010  # the README's operator declares 2000: within the factor of two that `privet check` asks for
ROUNDS = 6
CUT_SECONDS = 20.0


@dataclass
class Hospitals:
    """Three machines, the lines of two doors, and what happened when."""

    folder: Path
    server: Machine
    sites: dict[str, Machine]
    serve: list[Line]
    take_part: list[Line]
    started: list[Program] = field(default_factory=list)

    def site_line(self, line: Line, name: str) -> str:
        """The line as the operator of this site types it."""
        return re.sub(r"\bnorth\b", name, line.typed)

    def in_background(self, machine: Machine, line: str) -> Program:
        self.started.append(machine.start(line))
        return self.started[-1]

    def close(self) -> None:
        for program in self.started:
            program.kill()

    def events(self) -> list[dict]:  # type: ignore[type-arg]
        """What the server wrote about its run so far; a line that is being written is left out."""
        files = list((self.server.home / "hospitals" / "runs").glob("*/metrics.jsonl"))
        lines = files[0].read_text().split("\n")[:-1] if files else []
        return [json.loads(line) for line in lines]

    def rounds(self) -> list[dict]:  # type: ignore[type-arg]
        return [event for event in self.events() if event["event"] == "round"]

    def until(self, met: Callable[[], bool], timeout: float = 900.0) -> None:
        end = time.monotonic() + timeout
        while not met():
            for program in self.started:
                assert program.child.poll() in (None, 0), (program.line, program.words[-3000:])
            assert time.monotonic() < end, [program.words[-2000:] for program in self.started]
            time.sleep(0.02)


@pytest.fixture
def hospitals(tmp_path: Path) -> Iterator[Hospitals]:
    if reason := why_not():
        pytest.skip(reason)
    commands = tmp_path / "bin"
    commands.mkdir()
    _script(commands / "privet", f'exec {shlex.quote(sys.executable)} -m privet.common.cli "$@"')
    _script(commands / "an-editor", f'exec sed -i -e "s/^rounds = 40/rounds = {ROUNDS}/" "$1"')
    with ExitStack() as stack:
        machines = {}
        for name in ("server", *SITES):
            machines[name] = Machine(name, tmp_path / name, commands)
            stack.callback(machines[name].close)
        server, sites = machines["server"], {name: machines[name] for name in SITES}
        apart(list(machines.values()))
        server.environment["EDITOR"] = "an-editor"
        for number, site in enumerate(sites.values()):
            cable(server, site, f"10.77.{number}")
        corpus = hospital_notes(num_sites=len(SITES), num_patients=PATIENTS)
        for site, source in zip(sites.values(), corpus.sites, strict=True):
            notes = corpus.at(source)
            with (site.home / "notes.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["note", "specialty", "patient"])
                for text, label, patient in zip(notes.text, notes.label, notes.unit, strict=True):
                    writer.writerow([text, label if label in ("cardiology", "neurology") else "other", patient])
        made = Hospitals(tmp_path, server, sites, door("Serve:"), door("Take part:"))
        stack.callback(made.close)
        yield made


def test_the_doors_of_the_readme_on_separate_machines(hospitals: Hospitals, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that fails to resolve at first, a cable pulled in a round: the run goes on, as each line says."""
    server, sites, began = hospitals.server, hospitals.sites, time.monotonic()
    clock = {}

    # The engineer, up to the server's start.
    launch = next(n for n, line in enumerate(hospitals.serve) if line.named("server"))
    post = ""
    for line in hospitals.serve[:launch]:
        if line.typed:
            post += server.run(line.typed, line.code)
            if line.said.startswith("then: "):
                post += server.run(line.said.removeprefix("then: "))
        else:
            assert "hospitals/invite.toml" in line.said, line
            assert "NAME.pub" in line.said, line
            assert "hospitals/sites/" in line.said, line
    invite = server.home / "hospitals" / "invite.toml"
    clock["invitation"] = time.monotonic() - began

    # The operators: one file to them, one file back; everything else stays where it is.
    first_client = next(n for n, line in enumerate(hospitals.take_part) if line.named("client"))
    for name, site in sites.items():
        shutil.copy(invite, site.home / "invite.toml")
        said = ""
        for line in hospitals.take_part[:first_client]:
            if line.typed:
                said += site.run(hospitals.site_line(line, name), line.code)
            elif "north.pub" in line.said:
                shutil.copy(site.home / f"{name}.pub", server.home / "hospitals" / "sites" / f"{name}.pub")
        authorities = [re.findall(r"\b(?:[0-9a-f]{2,4}[ :]){7,}[0-9a-f]{2,4}\b", words) for words in (post, said)]
        assert set(authorities[0]) & set(authorities[1]), "the CA's fingerprint is told at both ends"
        assert (site.home / "dpia.html").stat().st_size > 10_000
    clock["sites' files checked"] = time.monotonic() - began

    running = hospitals.in_background(server, hospitals.serve[launch].typed)
    running.until(lambda words: "9092" in words or "listening" in words)

    # The first start: at one site the server's name does not resolve yet; then the plan waits, exit 3.
    line = hospitals.take_part[first_client]
    assert line.code == 3
    sites["south"].knows("10.77.1.1", "fl.example.org")
    early = {name: hospitals.in_background(site, line.typed) for name, site in sites.items()}
    early["north"].until(lambda words: "next try in" in words)
    assert early["south"].wait() == 3, early["south"].words
    assert early["north"].child.poll() is None, early["north"].words
    sites["north"].knows("10.77.0.1", "fl.example.org")
    assert early["north"].wait() == 3, early["north"].words
    hospitals.started.remove(early["north"])
    hospitals.started.remove(early["south"])
    clock["plans waiting"] = time.monotonic() - began

    # The yes, and the agents.
    second_client = (
        first_client
        + 1
        + next(n for n, line in enumerate(hospitals.take_part[first_client + 1 :]) if line.named("client"))
    )
    agents = {}
    for name, site in sites.items():
        digest = re.search(r"privet approve SITE\.toml ([0-9a-f]{64})", early[name].words)
        assert digest, early[name].words
        for line in hospitals.take_part[first_client + 1 : second_client]:
            if line.typed:
                site.run(hospitals.site_line(line, name).replace("DIGEST", digest[1]), line.code)
        agents[name] = hospitals.in_background(site, hospitals.take_part[second_client].typed)
    hospitals.until(lambda: bool(hospitals.rounds()))
    clock["first round"] = time.monotonic() - began

    # The cable of one site, pulled in a round for 20 s.
    hospitals.until(lambda: hospitals.events()[-1]["event"] == "round_started")
    within = hospitals.events()[-1]["round"]
    pull(server, sites["north"], out=True)
    whole = len(hospitals.rounds())
    time.sleep(CUT_SECONDS)
    alone = [event for event in hospitals.rounds()[whole:] if "north" in event["answered"]]
    assert len(alone) <= 1, "what had arrived before the cut may count, and nothing more"
    pull(server, sites["north"], out=False)
    hospitals.until(lambda: any(e["round"] > within and "north" in e["answered"] for e in hospitals.rounds()))
    assert running.wait() == 0, running.words
    clock["finished run"] = time.monotonic() - began
    assert [agent.wait(60) for agent in agents.values()] == [0, 0], [agent.words for agent in agents.values()]

    rounds = hospitals.rounds()
    assert len(rounds) == ROUNDS
    assert all(set(event["answered"]) == set(SITES) for event in rounds), rounds

    # What is left of both doors.
    (server.home / "texts.txt").write_text("chest pain since the morning\nnumb left hand\n")
    run = hospitals.events()[-1]["run"]
    for line in hospitals.serve[launch + 1 :]:
        if line.typed and not line.named("status"):
            said = server.run(line.typed.replace("…", Path(run).name), line.code)
            assert not line.named("predict") or len(re.findall(r"^(cardiology|neurology|other)\t", said, re.M)) == 2
    for name, site in sites.items():
        for line in hospitals.take_part[second_client + 1 :]:
            if line.typed:
                site.run(hospitals.site_line(line, name), line.code)
        book = json.loads(site.run("privet ledger site.toml --json 2>/dev/null"))
        assert [event["state"] for event in book["events"]] == ["stored"] * ROUNDS, "nothing was trained twice, or lost"

    # Nothing but the invitation and the public keys crossed.
    needles = [row["note"][:40].encode() for site in sites.values() for row in _rows(site.home / "notes.csv")[:20]]
    needles += [(site.home / f"{name}.key").read_bytes()[60:120] for name, site in sites.items()]
    for path in server.disk.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [needle for needle in needles if needle in content], path
    with capsys.disabled():
        told = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in clock.items())
        cut = next(e["seconds"] for e in rounds if e["round"] == within) if "seconds" in rounds[0] else CUT_SECONDS
        print(f"\nTwo machines, {ROUNDS} rounds: {told}; the round of the cut took {cut:.0f} s")


def test_the_door_of_the_researcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line of it, on one machine."""
    _script(tmp_path / "privet", f'exec {shlex.quote(sys.executable)} -m privet.common.cli "$@"')
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    lines = [line for line in door("Simulate:") if line.typed]
    clock = []
    for line in lines:
        began = time.monotonic()
        done = subprocess.run(
            ["sh", "-c", line.typed], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1400
        )
        assert done.returncode == line.code, (line, done.stdout[-2000:], done.stderr[-2000:])
        clock.append(f"{' '.join(line.typed.split()[1:6])} … {time.monotonic() - began:.0f} s")
    results = list((tmp_path / "trial" / "runs").glob("*/report.html"))
    assert len(results) == sum(line.named("simulate") for line in lines)
    with capsys.disabled():
        print("\nThe researcher's door: " + "; ".join(clock))


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    os.chmod(path, 0o755)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
