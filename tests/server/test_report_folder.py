"""A run folder read for its report: what is whole is read, what is not is told, and a folder that is none is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privet.common.cli import app
from privet.common.errors import ConfigError
from privet.server import run_folder
from privet.server.checkpoint import Checkpoint, save_checkpoint
from privet.server.report import environment_event, read_run, report_html
from privet.server.run_folder import RunFolder
from tests.server.report_runs import plan_of, write_folder
from tests.server.statements import public, round_row, stated
from tests.server.test_report import check_harmless

_EVENTS = [
    {"event": "started", "simulated": True},
    {"event": "initial", "public": public(0.25), "simulated": True},
    round_row(1, simulated=True, public=public(0.5)),
    round_row(2, simulated=True, public=public(0.75)),
    {**environment_event("privet simulate federation.toml --sites 2"), "simulated": True},
]


def _folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "run", _EVENTS, statements={"north": stated()}, reason="It is a simulation.")


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = read_run(_folder(tmp_path))
    assert [row.round for row in run.history] == [1, 2]
    assert run.initial is not None
    assert run.initial.accuracy == 0.25
    assert run.statements == {"north": stated()}
    assert (run.simulated, run.finished, run.notes) == (True, True, ())
    assert (run.command, run.reason) == ("privet simulate federation.toml --sites 2", "It is a simulation.")
    assert "Python" in run.versions
    assert run.plan == plan_of()
    assert (run.seconds, run.bytes_down, run.bytes_up) == (4.0, 6000, 4000)


def test_a_half_written_line_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    path = folder / "metrics.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text(lines[0] + "{not json}\n" + '[1]\n{"event": "round", "round": 1}\n' + lines[3] + lines[2][:40])
    run = read_run(folder)
    assert [row.round for row in run.history] == [2]
    told = " ".join(run.notes)
    assert "Left out: 2 lines of metrics.jsonl that cannot be read." in told
    assert "Left out: 1 line of metrics.jsonl that cannot be understood." in told
    assert "last line of metrics.jsonl is not complete" in told
    page = check_harmless(report_html(run)).text
    assert "The run has not come to its end" in page
    assert "last line of metrics.jsonl is not complete" in page


@pytest.mark.parametrize("end", range(0, 900, 45))
def test_wherever_the_log_is_cut_off_there_is_a_page(tmp_path: Path, end: int) -> None:
    folder = _folder(tmp_path)
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:end])
    run = read_run(folder)
    assert bool(run.notes) == (end > 0 and not path.read_bytes().endswith(b"\n"))
    assert len(run.history) == path.read_bytes().count(b'"macro_f1"') - (run.initial is not None) or run.notes


def test_of_a_round_that_was_run_again_the_second_counts(tmp_path: Path) -> None:
    events = [
        round_row(1, seconds=1.0),
        round_row(2, seconds=20.0),
        round_row(3, seconds=30.0),
        {"event": "resumed", "round": 1},
        round_row(2, seconds=5.0),
    ]
    run = read_run(write_folder(tmp_path / "run", events))
    assert [(row.round, row.seconds) for row in run.history] == [(1, 1.0), (2, 5.0)]


def test_statements_of_a_run_that_stopped_are_its_newest_checkpoints(tmp_path: Path) -> None:
    from privet.common.methods import State

    folder = write_folder(tmp_path / "run", _EVENTS[:4])
    for number, epsilon in ((1, 2.5), (2, 2.75)):
        told = {"north": stated(epsilon=epsilon)}
        save_checkpoint(
            Checkpoint(plan_of().digest, number, number, State({}), {}, statements=told), folder / "checkpoints"
        )
    assert read_run(folder).statements["north"].epsilon == 2.75
    newest = folder / "checkpoints" / "round-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:50])
    assert read_run(folder).statements["north"].epsilon == 2.5


def test_a_statement_that_cannot_be_read_is_told_and_the_others_stand(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", _EVENTS, statements={"north": stated(), "south": stated()})
    path = folder / "adapter" / "privacy.json"
    document = json.loads(path.read_text())
    document["sites"]["south"]["epsilon"] = "small"
    path.write_text(json.dumps(document))
    run = read_run(folder)
    assert list(run.statements) == ["north"]
    assert run.notes == ("The privacy statement of one site could not be read.",)


def test_the_spread_comes_in_three_forms(tmp_path: Path) -> None:
    forms: list[Any] = [{"sites": {"a": 0.25, "b": 0.75}}, [0.75, 0.25], {"quantiles": {"0.5": 0.5}, "num_sites": 9}]
    run = read_run(write_folder(tmp_path / "run", [round_row(n, spread=s) for n, s in enumerate(forms, start=1)]))
    spreads = [row.spread for row in run.history if row.spread is not None]
    assert [spread.quantile(0.5) for spread in spreads] == [0.5, 0.5, 0.5]
    assert [spread.every for spread in spreads] == [[0.25, 0.75], [0.25, 0.75], []]
    bad = write_folder(tmp_path / "bad", [round_row(1, spread={"sites": {"a": 1.5}})])
    assert read_run(bad).notes == ("Left out: 1 line of metrics.jsonl that cannot be understood.",)


def _broken(tmp_path: Path, what: str) -> Path:
    folder = _folder(tmp_path)
    if what == "absent":
        return tmp_path / "nothing"
    if what == "a file":
        return folder / "plan.toml"
    if what == "empty":
        (tmp_path / "empty").mkdir()
        return tmp_path / "empty"
    if what == "no log":
        (folder / "metrics.jsonl").unlink()
    elif what == "no TOML":
        (folder / "plan.toml").write_text("[plan")
    elif what == "no plan":
        (folder / "plan.toml").write_text("format = 1\n")
    elif what == "no text":
        (folder / "plan.toml").write_bytes(b"\xff\xfe")
    elif what == "log is a folder":
        (folder / "metrics.jsonl").unlink()
        (folder / "metrics.jsonl").mkdir()
    return folder


@pytest.mark.parametrize(
    "what", ["absent", "a file", "empty", "no log", "no TOML", "no plan", "no text", "log is a folder"]
)
def test_what_is_no_run_is_the_users_error(tmp_path: Path, what: str) -> None:
    folder = _broken(tmp_path, what)
    with pytest.raises(ConfigError) as caught:
        read_run(folder)
    assert caught.value.exit_code == 2
    assert caught.value.mend
    assert str(folder) in caught.value.where
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert isinstance(result.exception, ConfigError)


def test_the_page_made_anew_is_the_page_that_the_run_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the page tells stands in the folder."""

    class Weights:
        def write(self, _arrays: object) -> None: ...

    def export(_classifier: object, _base: object, folder: Path, *, documents: dict[str, str]) -> None:
        folder.mkdir()
        for name, text in documents.items():
            (folder / name).write_text(text)

    monkeypatch.setattr(run_folder, "export_adapter", export)
    plan = plan_of()
    folder = RunFolder(tmp_path / "run", plan)
    history: list[dict[str, Any]] = [round_row(1), round_row(2)]
    for event in _EVENTS[:2] + history:
        folder.record({**event, "simulated": True})
    folder.finish(
        Weights(),  # type: ignore[arg-type]
        tmp_path,
        {},
        statements={"north": stated(), "south": stated(epsilon=2.0)},
        history=history,
        simulated=True,
        reason="Noise is seeded.",
        command="privet simulate a.toml",
        merged=False,
    )
    folder.record({"event": "finished"})
    folder.close()
    written = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for part in ("privet simulate a.toml", "Noise is seeded.", "53", "Simulation: no guarantee."):
        assert part in written
    assert "not come to its end" not in written
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--out", str(tmp_path / "again.html"), "--json"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == written
    document = json.loads(result.stdout)
    assert document["runs"][0]["accuracy"] == history[1]["public"]["accuracy"]
    assert document["runs"][0]["epsilon"] == 2.971
    assert document["notes"] == {}
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in document["figures"])
    names = {Path(path).stem for path in document["figures"]}
    assert names == {"metrics", "loss", "epsilon", "time", "bytes", "sites"}
