"""Methods of other distributions: found without an import, never in the place of privet's own, checked in all."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privet.common.adapter import AdapterSpec, Entry, Role
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.methods import ROLES, Averaging, adjustment, method_for
from privet.common.methods.installed import provider, words
from tests.plugins import FEDPROX, copy_of_fedprox, install, install_fedprox, install_marked

SPEC = AdapterSpec(
    (
        Entry("a", (2, 3), Role.LORA_A),
        Entry("b", (3, 2), Role.LORA_B),
        Entry("head", (2, 3), Role.HEAD),
        Entry("new", (3,), Role.NEW),
    )
)


def _plan(kind: str, **options: Any) -> Plan:
    return Plan.model_validate(
        {
            "format": 1,
            "name": "x",
            "task": {"labels": ["p", "q"]},
            "model": {"base": "x", "sha256": "0" * 64},
            "method": {"kind": kind, "options": options},
            "training": {"rounds": 1, "expected_batch": 1, "learning_rate": 1.0},
        }
    )


# Finding


def test_an_installed_method_is_found_named_and_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install_fedprox(tmp_path))
    assert words("fedprox") == "fedprox (of privet-fedprox 0.1.0, installed here; not privet's own)"
    method = method_for(_plan("fedprox", mu=0.5, trains="ffa"))
    assert method.kind == "fedprox"
    assert method.trainable(SPEC, 1).names == ("b", "head", "new")
    assert adjustment(method) is not None


def test_one_that_is_not_installed_is_told_with_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install_fedprox(tmp_path))
    with pytest.raises(ConfigError) as caught:
        method_for(_plan("fedprix"))
    assert caught.value.where == "method.kind"
    assert "head, ffa, fedavg, fedprox of privet-fedprox 0.1.0" in caught.value.what
    assert words("fedprix") == "fedprix (not installed here)"


def test_finding_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = install_marked(tmp_path, "looked_at")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(provider("looked_at")) == "privet-looked_at 1.2.3"
    assert "1.2.3" in words("looked_at")
    with pytest.raises(ConfigError):
        method_for(_plan("another"))
    assert not marker.exists()
    method_for(_plan("looked_at"))
    assert marker.exists()


@pytest.mark.parametrize("name", ["head", "Head", "HEAD", "fedavg", "fed-avg", "fed_avg", "FedAvg", "f-f-a", "ffa"])
def test_nobody_takes_the_place_of_privets_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "imported"
    text = f"open({str(marker)!r}, 'w').close()\n"
    install(tmp_path, "privet-evil", "6.6.6", {"privet_evil_of_a_test": text}, {name: "privet_evil_of_a_test:create"})
    monkeypatch.syspath_prepend(tmp_path)
    for own in ROLES:
        assert type(method_for(_plan(own))) is Averaging
        assert words(own) == own
    if name not in ROLES and name == name.lower():
        with pytest.raises(ConfigError, match="is not"):
            method_for(_plan(name))
        assert words(name).endswith("(not installed here)")
    with pytest.raises(ConfigError) as caught:
        method_for(_plan("nowhere"))
    assert "evil" not in caught.value.what
    assert not marker.exists()


def test_two_that_provide_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    markers = [tmp_path / "one", tmp_path / "two"]
    for marker in markers:
        text = f"open({str(marker / 'imported')!r}, 'w').close()\n"
        module = f"privet_{marker.name}_of_a_test"
        install(marker, f"privet-{marker.name}", "1", {module: text}, {"twice": f"{module}:create"})
        monkeypatch.syspath_prepend(marker)
    with pytest.raises(ConfigError, match=r"privet-two 1 and by privet-one 1"):
        method_for(_plan("twice"))
    assert not any((marker / "imported").exists() for marker in markers)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("pass", "AttributeError"),
        ("def create(plan): raise ValueError('expected mu')", "expected mu"),
        ("def create(plan): return object()", "expected a method with trainable"),
        ("create = 3", "TypeError"),
    ],
)
def test_what_cannot_be_made_is_a_fault_of_the_configuration(
    body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path,
        "privet-broken",
        "0.9",
        {"privet_broken_of_a_test": body},
        {"broken": "privet_broken_of_a_test:create"},
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "privet_broken_of_a_test", raising=False)
    with pytest.raises(ConfigError) as caught:
        method_for(_plan("broken"))
    assert words in caught.value.what
    assert "privet-broken 0.9" in caught.value.what
    sys.modules.pop("privet_broken_of_a_test", None)


def test_privets_own_take_no_options() -> None:
    with pytest.raises(ConfigError, match="fedavg takes no options, got mu"):
        method_for(_plan("fedavg", mu=0.1))


@pytest.mark.parametrize("options", [{"mu": -0.1}, {"mu": True}, {"mu": "much"}, {"nu": 1}, {"trains": "all"}])
def test_the_example_takes_its_own_options_only(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install_fedprox(tmp_path))
    with pytest.raises(ConfigError) as caught:
        method_for(_plan("fedprox", **options))
    assert caught.value.where == "method"


def test_the_plan_is_nobodys_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from privet.common.methods import ROLES, Averaging\n"
        "def create(plan):\n    plan.method.options.clear()\n    return Averaging('x', ROLES['head'])\n"
    )
    install(
        tmp_path, "privet-greedy", "1", {"privet_greedy_of_a_test": text}, {"greedy": "privet_greedy_of_a_test:create"}
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan = _plan("greedy", mu=0.5)
    before = plan.digest
    assert method_for(plan).kind == "greedy"
    assert plan.digest == before


# FedProx


@pytest.mark.parametrize("shape", [(7,), (4, 7)])
def test_fedproxs_pull_is_that_of_its_term(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against autograd: the gradient of (mu / 2) ‖w − w₀‖², for one site and for many in one pass."""
    monkeypatch.syspath_prepend(install_fedprox(tmp_path))
    gradient, weights, start = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    hook = method_for(_plan("fedprox", mu=0.7)).local_gradient
    w = torch.tensor(weights, requires_grad=True)
    (0.7 / 2 * ((w - torch.tensor(start)) ** 2).sum()).backward()
    assert w.grad is not None
    expected = gradient + w.grad.numpy()
    by_numpy = hook(gradient, weights, start)
    by_torch = hook(*(torch.tensor(given) for given in (gradient, weights, start)))
    np.testing.assert_allclose(by_numpy, expected, rtol=1e-6)
    np.testing.assert_allclose(by_torch.numpy(), expected, rtol=1e-6)
    assert (by_numpy.dtype, by_torch.dtype) == (np.float32, torch.float32)
    still = method_for(_plan("fedprox", mu=0)).local_gradient(gradient, weights, start)
    assert np.array_equal(still, gradient)


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (FEDPROX.parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown in (FEDPROX / "privet_fedprox.py").read_text(encoding="utf-8")
    assert 'fedprox = "privet_fedprox:create"' in page


@pytest.mark.slow
def test_the_example_installs_by_pip_alone(tmp_path: Path) -> None:
    """Offline, as a wheel of its own: the module and the entry point are in it."""
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--target", str(target), str(copy_of_fedprox(tmp_path / "source"))], check=True)
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "from privet.common.methods.installed import provider\n"
        "print(provider('fedprox'))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "privet-fedprox 0.1.0"
