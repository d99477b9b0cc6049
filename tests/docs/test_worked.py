"""The worked federations under examples/: their files, and their READMEs' commands from the first to the last."""

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from privet.common.config import load_federation, load_site
from tests.docs.pages import ROOT, follow

SITES = ("north", "south", "east")


@pytest.mark.parametrize("name", ["hospital", "bank"])
def test_site_files_name_the_plan_of_the_federation_file(name: str) -> None:
    folder = ROOT / "examples" / name
    federation = load_federation(folder / "federation.toml")
    ids = set()
    for site in SITES:
        read = load_site(folder / f"{site}.toml")
        assert read.federation[federation.name].plan == federation.plan.digest, f"put {federation.plan.digest} there"
        assert read.policy.approve == "ask"
        ids.add(read.data.id)
    assert len(ids) == 3


def run(name: str, folder: Path) -> tuple[Path, dict[str, Any], list[dict[str, Any]], str]:
    """Follow the README in a copy: the run folder, statements by site, rounds, all words."""
    shutil.copytree(ROOT / "examples" / name, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for file in folder.glob("*.toml"):
        file.write_text(file.read_text().replace("9092", port))
    page = folder / "README.md"
    page.write_text(page.read_text().replace("--folder work/server", f"--folder work/server --port {port}"))
    words = follow(page, folder, 3300)
    (made,) = (folder / "work" / "server" / "runs").iterdir()
    privacy = json.loads((made / "adapter" / "privacy.json").read_text())
    events = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    return made, privacy, [event for event in events if event["event"] == "round"], words


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_hospitals(tmp_path: Path) -> None:
    made, privacy, rounds, words = run("hospital", tmp_path / "hospital")
    assert [len(event["answered"]) for event in rounds] == [3] * 8
    stated = privacy["sites"]
    for site, share in (("north", 8), ("south", 4), ("east", 2)):
        assert 0.97 * share < stated[site]["epsilon"] <= share
    assert rounds[-1]["public"]["accuracy"] > 0.5
    assert len(re.findall(r"^[a-z]+\t0\.\d+$", words, re.MULTILINE)) == 2
    assert (made / "adapter" / "README.md").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_banks(tmp_path: Path) -> None:
    _, privacy, rounds, words = run("bank", tmp_path / "bank")
    assert [len(event["answered"]) for event in rounds] == [3] * 6
    assert all(event["public"] is None for event in rounds)
    stated = privacy["sites"]
    assert set(stated) == set(SITES)
    assert len(re.findall(r"^[a-z]+\t0\.\d+$", words, re.MULTILINE)) == 2
