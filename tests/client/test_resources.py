"""Hours by the clock alone; memory that strikes before records or not at all; threads."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from privet.client import agent as agent_room
from privet.client import app, resources
from privet.client.apart import Apart, ApartError
from privet.client.app import _Serving
from privet.client.resources import Hours, Leave, attend, fits, use_threads
from privet.common.config import Plan, Site
from privet.common.config.site import ResourcesSpec
from privet.common.errors import Code, RefusedError
from privet.common.messages import FinishBody, Request, parse_reply, to_record
from tests.client.agent_bench import Bench, site_of
from tests.tiny_models import tiny_plan


def at(text: str) -> Callable[[], int]:
    hour, minute = text.split(":")
    return lambda: 60 * int(hour) + int(minute)


# Hours


@pytest.mark.parametrize(
    ("windows", "open_at", "closed_at"),
    [
        ((), ["00:00", "12:00", "23:59"], []),
        (("09:00-17:30",), ["09:00", "12:00", "17:29"], ["08:59", "17:30", "00:00"]),
        (("19:00-07:00",), ["19:00", "23:59", "00:00", "06:59"], ["07:00", "18:59"]),
        (("22:00-23:00", "01:00-02:00"), ["22:30", "01:00"], ["23:00", "00:30", "02:00"]),
    ],
)
def test_a_window_is_open_from_its_start_until_its_end(
    windows: tuple[str, ...], open_at: list[str], closed_at: list[str]
) -> None:
    assert all(Hours(windows, at(time)).is_open() for time in open_at)
    assert not any(Hours(windows, at(time)).is_open() for time in closed_at)


@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        (("19:00-07:00",), "07:00", "19:00"),
        (("19:00-07:00",), "18:59", "19:00"),
        (("13:00-14:00", "09:00-10:00"), "12:00", "13:00"),
        (("13:00-14:00", "09:00-10:00"), "19:00", "09:00"),
    ],
)
def test_the_next_window_is_named(windows: tuple[str, ...], now: str, opens: str) -> None:
    assert Hours(windows, at(now)).opens() == opens


def test_where_the_clock_is_put_forward_or_back_a_window_goes_by_the_wall_clock() -> None:
    """Berlin, 2026: at 2:00 on 29 March it is 3:00, at 3:00 on 25 October it is 2:00."""
    zone = ZoneInfo("Europe/Berlin")

    def opened(window: str, start: datetime) -> list[str]:
        moments = [start.astimezone(UTC) + timedelta(minutes=10 * n) for n in range(6 * 6)]
        found = []
        for moment in moments:
            local = moment.astimezone(zone)
            if Hours((window,), lambda local=local: 60 * local.hour + local.minute).is_open():  # type: ignore[misc]
                found.append(f"{local:%H:%M}")
        return found

    spring, autumn = datetime(2026, 3, 29, 0, 0, tzinfo=zone), datetime(2026, 10, 25, 0, 0, tzinfo=zone)
    assert opened("01:30-03:30", spring) == ["01:30", "01:40", "01:50", "03:00", "03:10", "03:20"]
    assert opened("02:10-02:50", spring) == []
    assert opened("02:10-02:40", autumn) == ["02:10", "02:20", "02:30"] * 2
    assert opened("01:50-02:10", autumn) == ["01:50", "02:00", "02:00"]


class Wall:
    """A wall clock that moves on at each look: minutes of the day from a script, the last for ever."""

    def __init__(self, *minutes: int) -> None:
        self.left = list(minutes)

    def __call__(self) -> int:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def test_a_site_leaves_when_its_hours_end_and_comes_back_when_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_LOOK_SECONDS", 0.01)
    now = [8 * 60]
    hours, stop, told = Hours(("09:00-10:00",), lambda: now[0]), threading.Event(), list[str]()
    served: list[tuple[str, bool]] = []

    def serve(leave: threading.Event) -> None:
        served.append(("begins", leave.is_set()))
        now[0] = 11 * 60
        assert leave.wait(10)
        now[0] = 9 * 60 + 1  # opens again: what was left stays left
        assert leave.is_set()
        served.append(("ends", stop.is_set()))
        now[0] = 11 * 60
        if len(served) == 4:
            stop.set()

    def tell(text: str) -> None:
        told.append(text)
        threading.Timer(0.05, lambda: now.__setitem__(0, 9 * 60)).start()

    attend(hours, stop, serve, tell)
    assert served == [("begins", False), ("ends", False)] * 2
    assert told == ["outside [resources] hours until 09:00: this site is not connected."] * 2


def test_a_stop_ends_waiting_for_a_window_and_a_site_without_hours_has_no_clock() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    attend(Hours(("09:00-10:00",), at("12:00")), stop, lambda _: pytest.fail("connected"), lambda _: None)
    leaves: list[threading.Event] = []
    attend(Hours(()), stop, leaves.append, lambda _: None)
    assert leaves == [stop]
    leave = Leave(stop, Hours(("09:00-10:00",), at("09:30")))
    assert leave.is_set()
    assert not Leave(threading.Event(), Hours(("09:00-10:00",), at("09:30"))).wait(0.01)


def test_no_request_is_begun_once_the_hours_are_over(tmp_path: Path) -> None:
    """Also where they end while another federation of the site has its turn; the agent does not hear of it."""
    now, turn = [9 * 60], threading.Lock()
    nobody: Any = SimpleNamespace(path=tmp_path / "ledger.sqlite")
    serving = _Serving(site_of(tmp_path), "tiny", nobody, nobody, turn, lambda _event: None)
    serving._hours = Hours(("09:00-10:00",), lambda: now[0])
    replies: list[Any] = []
    asked = to_record(Request(FinishBody(plan_digest="0" * 64)))
    with turn:
        waiting = threading.Thread(target=lambda: replies.append(serving.answer(asked)))
        waiting.start()
        now[0] = 10 * 60
    waiting.join(10)
    assert parse_reply(replies[0]).code is Code.UNAVAILABLE


def test_the_client_is_connected_in_its_hours_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    nobody: Any = SimpleNamespace(path=tmp_path / "ledger.sqlite")
    site = site_of(tmp_path, resources={"hours": "09:00-10:00"})
    assert site.resources.hours == ("09:00-10:00",)
    serving = _Serving(site, "tiny", nobody, nobody, threading.Lock(), told.append)
    serving._hours = Hours(site.resources.hours, Wall(8 * 60, 8 * 60, 9 * 60))
    monkeypatch.setattr(app, "serve", lambda *, stop, **_: serving.stop.set())
    door: Any = SimpleNamespace(ca=b"", key=None, proxy=None)
    serving.serve(door)
    assert [event["event"] for event in told] == ["hours"]


# Threads


def test_threads_are_torch_s_and_those_of_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "2"
    finally:
        torch.set_num_threads(before)


# Memory

_READ = """
import resource
from privet.client.resources import reading_within
from privet.common.errors import ConfigError

before = resource.getrlimit(resource.RLIMIT_DATA)
for size in (2 * 10**9, 6 * 10**8, 10**8):
    try:
        with reading_within(10**9):
            records = bytearray(size)
        print("read")
    except ConfigError as error:
        print(error)
    records = None
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
print("alive", len(bytearray(2 * 10**9)))
"""


def test_records_that_are_too_large_are_told_before_anything_connects() -> None:
    done = subprocess.run([sys.executable, "-c", _READ], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert "cannot be read within it" in lines[0]
    assert "more than half" in lines[1]
    assert lines[2:] == ["read", "alive 2000000000"]


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return tiny_plan(base)


def small(site: Site, memory: str) -> Site:
    spec = ResourcesSpec.model_construct(threads=1, hours=(), memory=memory)
    return site.model_copy(update={"resources": spec})


def test_a_plan_that_does_not_fit_gets_one_code_before_a_record_is_read(
    tmp_path: Path, plan: Plan, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, plan, base)

    def ask(*_args: Any, **_kwargs: Any) -> Any:
        raise ApartError("the plan could not be tried out: MemoryError")

    monkeypatch.setattr(Apart, "ask", ask)
    monkeypatch.setattr(agent_room, "prepare", lambda *_: pytest.fail("records were read"))
    bench.agent._site = small(bench.site, "1 GB")
    assert bench.offer().code is Code.UNAVAILABLE
    assert bench.train().code is Code.UNKNOWN_PLAN
    assert not bench.ledger.events()
    bench.close()


@pytest.mark.slow
def test_a_real_process_that_runs_out_of_memory_leaves_this_one_and_the_ledger_alone(
    tmp_path: Path, plan: Plan, base: Path
) -> None:
    bench = Bench(tmp_path, plan, base)
    before = os.environ.copy()
    bench.agent._site = small(bench.site, "700 MB")
    assert bench.offer().code is Code.UNAVAILABLE
    assert "MemoryError" in bench.told[-1][1] or "ended" in bench.told[-1][1]
    assert not bench.ledger.events()
    bench.agent._site = small(bench.site, "4 GB")
    assert bench.offer().code is Code.OK
    assert bench.train().code is Code.OK
    assert os.environ.copy() == before
    row = bench.ledger.plans()[0]
    other = row.plan.model_copy(update={"model": row.plan.model.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(RefusedError) as caught:
        fits(other, row.admission, bench.agent._site)
    assert caught.value.code is Code.BASE_MISMATCH
    bench.close()


@pytest.mark.parametrize(
    ("raw", "bytes_"), [("6 GB", 6 * 10**9), ("1.5GiB", 3 * 2**29), ("2000 MB", 2 * 10**9), (None, None)]
)
def test_memory_is_read_with_its_unit(raw: str | None, bytes_: int | None) -> None:
    assert ResourcesSpec(memory=raw).memory_bytes == bytes_


@pytest.mark.parametrize(
    ("key", "raw"),
    [("memory", "6"), ("memory", "-1 GB"), ("memory", "900 MB"), ("memory", 6), ("hours", "19-7"), ("hours", 7)],
)
def test_what_cannot_be_meant_is_refused(key: str, raw: object) -> None:
    with pytest.raises(ValueError, match=r"memory|hours"):
        ResourcesSpec.model_validate({key: raw})


@pytest.mark.parametrize("raw", ["24:00-07:00", "07:00-07:00", "19:00-07:60", " 19:00-07:00"])
def test_hours_are_two_different_times(raw: str) -> None:
    with pytest.raises(ValueError, match="hours"):
        ResourcesSpec.model_validate({"hours": [raw]})
