"""A missing head file is evidence from a ledger's first entry on, and no crash is taken for one."""

import hashlib
import shutil
from pathlib import Path

import pytest

from privet.client.ledger import Ledger, New
from privet.client.ledger.head import read_head
from privet.common.config import Plan
from privet.common.errors import Code, RefusedError
from tests.client.killed import killed
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
PLAN = make_plan()
SITE = make_site(member={"epsilon": 8.0, "delta": 1e-5})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / f"{DATA_ID}.sqlite"


def train(ledger: Ledger, plan: Plan = PLAN) -> None:
    ledger.record_plan(plan, make_admission(plan, epsilon=1.0, delta=1e-6), SITE)
    assert isinstance(ledger.reserve(plan.digest, 1, "train", BODY), New)


def back_up(path: Path) -> Path:
    """A copy of the files of the ledger without its head file, in a folder."""
    folder = path.parent.parent / "backup"
    folder.mkdir()
    for file in path.parent.glob("*.sqlite*"):
        shutil.copy(file, folder / file.name)
    return folder


def put_back(path: Path, folder: Path) -> None:
    """The copy alone: what lay there is gone, the head file too."""
    for file in (*path.parent.glob("*.sqlite*"), path.with_suffix(".head")):
        file.unlink()
    for file in folder.iterdir():
        shutil.copy(file, path.parent / file.name)


def found(path: Path) -> None:
    with Ledger.open(path, agent=True) as ledger:
        assert [evidence.source for evidence in ledger.behind()] == ["missing"]
        with pytest.raises(RefusedError) as caught:
            train(ledger)
        assert caught.value.code is Code.LEDGER_BEHIND
        assert ledger.events() == []


@pytest.mark.parametrize("killed_there", [False, True])
def test_put_back_to_its_genesis(path: Path, killed_there: bool) -> None:
    if killed_there:
        killed(path, "after the commit")
    else:
        Ledger.open(path).close()
    folder = back_up(path)
    with Ledger.open(path, agent=True) as ledger:
        train(ledger)
    put_back(path, folder)
    found(path)


@pytest.mark.parametrize("killed_there", [False, True])
def test_put_back_to_a_charge(path: Path, killed_there: bool) -> None:
    """Also to a charge for a head file that was missing before, whose own head was never written."""
    Ledger.open(path).close()
    path.with_suffix(".head").unlink()
    if killed_there:
        killed(path, "after a charge")
    else:
        with Ledger.open(path) as ledger:
            assert ledger.charge_all() is not None
    folder = back_up(path)
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert read_head(path) == ledger.head()
        train(ledger)
    put_back(path, folder)
    found(path)


def test_a_head_file_that_goes_while_its_absence_is_not_settled_is_told_once(path: Path) -> None:
    Ledger.open(path).close()
    for _ in range(2):
        path.with_suffix(".head").unlink()
        found(path)
        assert read_head(path) is not None
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.charge_all() is not None
        train(ledger)


@pytest.mark.parametrize("moment", ["before the head", "after the head", "after the commit"])
def test_killed_while_it_is_made(path: Path, moment: str) -> None:
    killed(path, moment)
    first = read_head(path)
    assert (first is None) == (moment == "before the head")
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert read_head(path) == ledger.head()
        assert ledger.head().seq == 1
        assert (first == ledger.head()) == (moment == "after the commit")
        train(ledger)
        assert ledger.verify()


@pytest.mark.parametrize("moment", ["after the commit", None])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_lost_ledger_is_found_wherever_its_successor_is_killed(path: Path, moment: str | None, damaged: bool) -> None:
    with Ledger.open(path, agent=True) as ledger:
        train(ledger)
    for file in path.parent.glob("*.sqlite*"):
        file.unlink()
    if damaged:
        path.with_suffix(".head").write_bytes(b"{}")
    if moment is not None:
        killed(path, moment)
    with Ledger.open(path, agent=True) as ledger:
        assert [evidence.source for evidence in ledger.behind()] == ["missing" if damaged else "file"]
        assert ledger.charge_all() is not None
        assert ledger.head().epsilon >= (0.0 if damaged else 1.0)
