"""A run that starts from a finished one: the very weights, by digest, and what they cost stays told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.adapter import digest
from privet.common.config import Plan, ServerSpec, load_federation
from privet.common.errors import Code, ConfigError, ModelError
from privet.common.model import build_classifier, initial_arrays
from privet.server import run_folder
from privet.server.export import plan_toml
from privet.server.run_folder import RunFolder
from privet.server.start import load_start
from privet.server.start_arrays import Start
from tests.client.agent_bench import Bench
from tests.server.statements import stated
from tests.tiny_models import tiny_plan, trained


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "report_html", lambda *_, **__: "")


def _run(folder: Path, base: Path, plan: Plan, *, simulated: bool = False, **more: Any) -> tuple[Path, str]:
    """A finished run of random weights: its folder, and the digest of its adapter."""
    classifier = trained(plan, base)
    arrays = classifier.read()
    made = RunFolder(folder, plan)
    statements = {"north": stated()}
    told: dict[str, Any] = {"statements": statements, "history": [], "simulated": simulated, "command": ""}
    made.finish(classifier, base, arrays, merged=False, **told, **more)
    made.close()
    return folder, digest(arrays)


def _start(plan: Plan, init: Path | None, base: Path) -> Start:
    return load_start(plan, ServerSpec(init=init), build_classifier(plan, base), base)


@pytest.mark.parametrize(("kind", "pooling"), [("head", "mean"), ("fedavg", "mean"), ("ffa", "cls")])
def test_the_weights_of_a_run_come_back_bit_by_bit(tmp_path: Path, base: Path, kind: str, pooling: str) -> None:
    tables: dict[str, Any] = {"model": {"pooling": pooling}}
    run, final = _run(tmp_path / "run", base, tiny_plan(base, method={"kind": kind, "seed": 5}, **tables))
    privacy = json.loads((run / "adapter" / "privacy.json").read_text())
    assert privacy["adapter"] == final
    plan = tiny_plan(base, method={"kind": kind, "seed": 5, "init": final}, **tables)
    for init in (run, run / "adapter"):
        start = _start(plan, init, base)
        assert digest(start.arrays) == final
        assert start.earlier is not None
        assert start.earlier["privacy"] == privacy


def test_a_plan_without_it_has_the_digest_that_it_always_had(base: Path) -> None:
    plan = tiny_plan(base)
    assert '"init"' not in plan.canonical()
    assert "init" not in plan_toml(plan)
    named = tiny_plan(base, method={"init": "ab" * 32})
    assert named.digest != plan.digest
    assert json.loads(named.canonical())["method"]["init"] == "ab" * 32
    assert Plan.model_validate_json(named.canonical()) == named


def test_the_servers_key_is_relative_to_its_file(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "federation.toml"
    file.write_text(plan_toml(tiny_plan(base)) + '\n[server]\ninit = "runs/x"\n')
    assert load_federation(file).server.init == tmp_path / "runs" / "x"


def test_another_adapter_than_the_plan_names_is_refused_with_both_digests(tmp_path: Path, base: Path) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base))
    with pytest.raises(ConfigError) as caught:
        _start(tiny_plan(base, method={"init": "ab" * 32}), run, base)
    assert final in caught.value.what
    assert "ab" * 32 in caught.value.what
    with pytest.raises(ConfigError, match=final):  # named by the server alone
        _start(tiny_plan(base), run, base)
    with pytest.raises(ConfigError, match="no folder is named"):
        _start(tiny_plan(base, method={"init": final}), None, base)
    with pytest.raises(ModelError, match="no such folder"):
        _start(tiny_plan(base, method={"init": final}), tmp_path / "nowhere", base)


def test_what_a_method_never_trains_must_be_what_the_sites_derive(tmp_path: Path, base: Path) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base, method={"kind": "ffa", "seed": 5}))
    with pytest.raises(ConfigError, match="lora_A") as caught:
        _start(tiny_plan(base, method={"kind": "ffa", "seed": 6, "init": final}), run, base)
    assert "set method.seed to that of the earlier plan, 5" in caught.value.mend
    with pytest.raises(ConfigError, match="lora_B") as caught:
        _start(tiny_plan(base, method={"kind": "head", "seed": 5, "init": final}), run, base)
    assert caught.value.where == "method.kind"
    free = tiny_plan(base, method={"kind": "fedavg", "seed": 6, "init": final})  # all of it is sent
    assert digest(_start(free, run, base).arrays) == final


@pytest.mark.parametrize(
    "tables",
    [
        {"task": {"labels": ["urgent", "calm", "other"]}},
        {"model": {"feature_scale": 5.0}},
        {"lora": {"alpha": 8.0}},
        {"lora": {"rank": 4}},
    ],
)
def test_another_shape_or_meaning_is_refused(tmp_path: Path, base: Path, tables: dict[str, Any]) -> None:
    run, final = _run(tmp_path / "run", base, tiny_plan(base))
    (table,) = tables
    with pytest.raises(ConfigError) as caught:
        _start(tiny_plan(base, **(tables | {"method": {"init": final}})), run, base)
    assert f"{table}.{next(iter(tables[table]))}" in caught.value.where


def test_the_card_and_the_statement_say_what_it_started_from(tmp_path: Path, base: Path) -> None:
    first = tiny_plan(base)
    run, final = _run(tmp_path / "first", base, first)
    plan = tiny_plan(base, method={"init": final})
    start = _start(plan, run, base)
    second, _ = _run(tmp_path / "second", base, plan, earlier=start.earlier)
    document = json.loads((second / "adapter" / "privacy.json").read_text())
    assert document["guarantee"] is True
    assert (document["init"]["adapter"], document["init"]["plan"]) == (final, first.digest)
    assert document["init"]["privacy"]["sites"].keys() == {"north"}
    card = (second / "adapter" / "README.md").read_text()
    assert final in card
    assert first.digest in card
    assert "- differential-privacy" in card


@pytest.mark.parametrize("case", ["simulated", "unknown", "of another adapter"])
def test_without_the_earlier_runs_guarantee_there_is_none(tmp_path: Path, base: Path, case: str) -> None:
    run, final = _run(tmp_path / "first", base, tiny_plan(base), simulated=case == "simulated")
    privacy = run / "adapter" / "privacy.json"
    if case == "unknown":
        privacy.unlink()
    elif case == "of another adapter":
        privacy.write_text(json.dumps(json.loads(privacy.read_text()) | {"adapter": "ab" * 32}))
    plan = tiny_plan(base, method={"init": final})
    second, _ = _run(tmp_path / "second", base, plan, earlier=_start(plan, run, base).earlier)
    document = json.loads((second / "adapter" / "privacy.json").read_text())
    assert document["guarantee"] is False
    assert "started from" in document["reason"]
    card = (second / "adapter" / "README.md").read_text()
    assert "no guarantee" in card
    assert "- differential-privacy" not in card


def test_what_only_the_server_has_is_derived_by_nobody(base: Path) -> None:
    plan = tiny_plan(base, method={"init": "ab" * 32})
    with pytest.raises(ConfigError, match="trained adapter"):
        initial_arrays(build_classifier(plan, base))


def test_a_site_takes_part_only_where_the_offer_names_that_adapter(tmp_path: Path, base: Path) -> None:
    arrays = trained(tiny_plan(base), base).read()
    bench = Bench(tmp_path, tiny_plan(base, method={"init": digest(arrays)}), base)
    try:
        derived = digest(bench.initial)
        assert derived != digest(arrays)
        assert bench.offer().code is Code.ADAPTER_MISMATCH  # with the derived one's
        assert bench.offer(adapter_digest="cd" * 32).code is Code.ADAPTER_MISMATCH
        assert "method.init" in " ".join(text for kind, text in bench.told if kind == "refused")
        bench.initial = {name: np.asarray(array) for name, array in arrays.items()}
        assert bench.offer().code is Code.OK
        assert bench.train(1).code is Code.OK
    finally:
        bench.close()


def test_a_site_of_a_plan_without_it_wants_the_derived_one(tmp_path: Path, base: Path) -> None:
    bench = Bench(tmp_path, tiny_plan(base), base)
    try:
        assert bench.offer(adapter_digest=digest(trained(bench.plan, base).read())).code is Code.ADAPTER_MISMATCH
        assert bench.offer().code is Code.OK
    finally:
        bench.close()
