"""A start under another label set: only as the operator says, row by row; and told in every paper of the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client import rehearsal as rehearsals
from privet.common.adapter import Role, digest
from privet.common.config import ServerSpec, load_federation
from privet.common.errors import Code, ConfigError
from privet.common.model import build_classifier
from privet.server import run_folder
from privet.server.export import plan_toml
from privet.server.relabel import relabelled
from privet.server.start import load_start
from privet.server.start_arrays import Start
from tests.client.rehearsal_bench import RoomHere, Server
from tests.client.test_rehearsal import CONSENT
from tests.server.test_start import _run
from tests.tiny_models import tiny_base, tiny_plan, trained

OLD = ["calm", "urgent", "other"]
NEW = ["acute", "calm", "unclear"]
MAP = {"acute": "urgent", "unclear": ""}


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "report_html", lambda *_, **__: "")


def _start(base: Path, init: Path, labels: list[str], mapping: dict[str, str], **tables: Any) -> Start:
    plan = tiny_plan(base, task={"labels": labels}, **tables)
    return load_start(plan, ServerSpec(init=init, init_labels=mapping), build_classifier(plan, base), base)


def _digest_for(base: Path, init: Path, labels: list[str], mapping: dict[str, str], **tables: Any) -> str:
    """What the server tells to set."""
    with pytest.raises(ConfigError, match="does not say") as caught:
        _start(base, init, labels, mapping, **tables)
    return caught.value.what.split("digest ")[1][:64]


@pytest.mark.parametrize(("kind", "pooling"), [("head", "mean"), ("ffa", "cls"), ("fedavg", "mean")])
def test_rows_go_where_the_operator_puts_them(tmp_path: Path, base: Path, kind: str, pooling: str) -> None:
    tables: dict[str, Any] = {"model": {"pooling": pooling}}
    earlier = tiny_plan(base, method={"kind": kind}, **tables)
    run, final = _run(tmp_path / "run", base, earlier)
    old = trained(earlier, base)
    assert digest(old.read()) == final
    wanted = _digest_for(base, run, NEW, MAP, method={"kind": kind}, **tables)
    start = _start(base, run, NEW, MAP, method={"kind": kind, "init": wanted}, **tables)
    before, rows = old.read(), 0
    for entry in old.spec.entries:
        now = start.arrays[entry.name]
        if entry.role is Role.HEAD:
            rows += 1
            np.testing.assert_array_equal(now[0], before[entry.name][1])  # acute: urgent's
            np.testing.assert_array_equal(now[1], before[entry.name][0])  # calm keeps its own
            assert not now[2].any()
            assert now.shape == entry.shape
            assert np.abs(before[entry.name]).sum() > 0
        else:
            np.testing.assert_array_equal(now, before[entry.name])
    assert rows == 2
    assert start.earlier is not None
    assert start.earlier["adapter"] == final
    assert start.earlier["started_from"] == wanted == digest(start.arrays)
    assert start.earlier["labels"] == {"acute": "urgent", "calm": "calm", "unclear": ""}
    assert start.earlier["privacy"] is not None


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (NEW, ("added 'acute', 'unclear'", "removed 'urgent', 'other'")),
        (["urgent", "calm", "other"], ("another order",)),
        ([*OLD, "more"], ("added 'more'",)),
    ],
)
def test_without_a_word_a_changed_set_is_refused(tmp_path: Path, base: Path, labels: list[str], told: Any) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base))
    with pytest.raises(ConfigError) as caught:
        _start(base, run, labels, {}, method={"init": final})
    assert caught.value.where == "task.labels"
    assert "server.init_labels" in caught.value.mend
    for words in told:
        assert words in caught.value.what


@pytest.mark.parametrize(
    ("mapping", "where", "what"),
    [
        ({"acute": "urgent"}, "server.init_labels.unclear", "nothing says"),
        ({"acute": "urgently", "unclear": ""}, "server.init_labels.acute", "no label 'urgently'"),
        ({**MAP, "late": "calm"}, "server.init_labels", "'late' is no label of the plan"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path: Path, base: Path, mapping: Any, where: str, what: str) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base))
    with pytest.raises(ConfigError) as caught:
        _start(base, run, NEW, mapping, method={"init": final})
    assert caught.value.where == where
    assert what in caught.value.what


def test_a_digest_from_before_the_map_is_refused_with_the_right_one(tmp_path: Path, base: Path) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base))
    with pytest.raises(ConfigError, match="under the plan's labels has digest") as caught:
        _start(base, run, NEW, MAP, method={"init": final})
    assert _digest_for(base, run, NEW, MAP) in caught.value.what


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"lora": {"rank": 4}}, "lora.rank"),
        ({"lora": {"targets": ["key"]}}, "lora.targets"),
        ({"lora": {"first_layer": 1}}, "lora.first_layer"),
    ],
)
def test_other_lora_is_refused_by_name(tmp_path: Path, base: Path, tables: Any, key: str) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base, method={"kind": "ffa"}))
    with pytest.raises(ConfigError, match="was trained with") as caught:
        _start(base, run, OLD, {}, **tables, method={"kind": "ffa", "init": final})
    assert caught.value.where.endswith(key)


def test_another_base_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base))
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="was trained with") as caught:
        _start(other, run, OLD, {}, method={"init": final})
    assert caught.value.where.endswith("model.sha256")


def test_the_map_stands_in_the_servers_table_and_not_in_the_plan(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "federation.toml"
    plan = tiny_plan(base, task={"labels": NEW})
    file.write_text(
        plan_toml(plan) + '\n[server]\ninit = "runs/x"\n[server.init_labels]\nacute = "urgent"\nunclear = ""\n'
    )
    read = load_federation(file)
    assert read.server.init_labels == MAP
    assert read.plan.digest == plan.digest


def test_a_site_rehearses_a_plan_that_starts_from_another_label_set(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from privet.client.rehearsal import Rehearsals
    from tests.client.agent_bench import site_of

    monkeypatch.setattr(rehearsals, "Apart", RoomHere)
    run, _ = _run(tmp_path / "run", base, tiny_plan(base))
    wanted = _digest_for(base, run, NEW, MAP)
    start = _start(base, run, NEW, MAP, method={"init": wanted})
    plan = tiny_plan(base, task={"labels": NEW}, method={"init": wanted})
    server = Server(tiny_plan(base, task={"labels": NEW}), base)
    server.plan, server.initial = plan, start.arrays
    site = site_of(tmp_path, **CONSENT, federation__tiny__plan=plan.digest)
    rehearsing = Rehearsals(site, plan.name, lambda *_: None, threading.Event())
    assert rehearsing.answer(server.offer()).body.code is Code.OK
    assert rehearsing.answer(server.round(1)).body.code is Code.OK
    server.initial = trained(plan, base, seed=7).read()
    assert rehearsing.answer(server.offer()).body.code is Code.ADAPTER_MISMATCH
    rehearsing.close()


def test_equal_labels_and_no_word_change_nothing(base: Path) -> None:
    plan = tiny_plan(base)
    arrays = trained(plan, base).read()
    made = relabelled(arrays, build_classifier(plan, base).spec, plan.task, plan.task, {})
    assert digest(made) == digest(arrays)
