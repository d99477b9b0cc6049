"""The Dockerfile: what gets into the image, as whom it runs, and that the bundle's digest is demanded."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_nothing_but_the_bundle_and_the_health_check_is_copied() -> None:
    copied = [words.split()[:-1] for name, words in instructions() if name in ("COPY", "ADD")]
    assert copied == [["bundle"], ["--from=build", "/opt/privet"], ["deploy/health.py"]]
    kept = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert kept == ["*", "!bundle", "!deploy/health.py"]


def test_it_runs_as_nobody_special_and_without_a_shell() -> None:
    stages = [number for number, (name, _) in enumerate(instructions()) if name == "FROM"]
    last = dict(instructions()[stages[-1] :])
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last["USER"])
    assert last["ENTRYPOINT"].startswith("[")
    assert last["CMD"].startswith("[")
    assert "CMD [" in last["HEALTHCHECK"]
    assert "RUN" not in last, "the second stage only takes what the first one verified and installed"


@pytest.mark.parametrize("known", ["right", "wrong", "none"])
def test_the_build_demands_the_digest_that_was_told(tmp_path: Path, known: str) -> None:
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  ./x\n")
    digest = hashlib.sha256((tmp_path / "SHA256SUMS").read_bytes()).hexdigest()
    steps = [words for name, words in instructions() if name == "RUN"]
    check = steps[0].replace("/bundle/", f"{tmp_path}/").replace("/tmp/sums", str(tmp_path / "sums"))
    sums = {"right": {"SUMS": digest}, "wrong": {"SUMS": "1" * 64}, "none": {}}[known]
    environment = {key: value for key, value in os.environ.items() if key != "SUMS"} | sums
    done = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == (known == "right"), done.stderr
    assert steps[1] == "sh /bundle/install.sh /opt/privet python3"
