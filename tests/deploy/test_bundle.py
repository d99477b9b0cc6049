"""The bundle for machines without an index: what was altered on the way is refused, what was not is installed."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import bundle

REFUSED = 3


def wheel(folder: Path, name: str, version: str, module: str) -> Path:
    """A wheel with one module, and a script of the package's name that runs its `main`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sealed bundle of two small wheels and a base model's folder."""
    out = tmp_path / "bundle"
    wheel(out / "wheels", "privet", "1.2.3", 'def main():\n    print("privet 1.2.3")\n')
    wheel(out / "wheels", "hedge", "0.1", "")
    source = tmp_path / "tiny"
    source.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"):
        (source / name).write_text("{}")
    bundle.copy_base(source, out / "base" / "tiny")
    (out / "sbom.cdx.json").write_text("{}")
    bundle.seal(out)
    return out


def install(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PIP_INDEX_URL": "https://index.invalid/simple", "PIP_EXTRA_INDEX_URL": ""}
    command = ["sh", str(folder / "install.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, cwd=folder.parent)


def _altered(folder: Path) -> None:
    path = folder / "wheels" / "hedge-0.1-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _altered_model(folder: Path) -> None:
    (folder / "base" / "tiny" / "model.safetensors").write_text("{ }")


def _missing(folder: Path) -> None:
    (folder / "wheels" / "hedge-0.1-py3-none-any.whl").unlink()


def _extra(folder: Path) -> None:
    wheel(folder / "wheels", "hedge", "0.2", "")


def _hidden(folder: Path) -> None:
    (folder / "base" / ".more").write_text("")


def _linked(folder: Path) -> None:
    (folder / "wheels" / "other.whl").symlink_to("/etc/hostname")


def _unlisted(folder: Path) -> None:
    """An altered file whose line is taken out of the sums."""
    _altered(folder)
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "hedge" not in line))


def _commented(folder: Path) -> None:
    """An altered file whose line is spoilt, so that a lenient check skips it."""
    _altered(folder)
    sums = folder / "SHA256SUMS"
    sums.write_text("".join("#" * ("hedge" in line) + line for line in sums.read_text().splitlines(True)))


@pytest.mark.parametrize(
    "change", [_altered, _altered_model, _missing, _extra, _hidden, _linked, _unlisted, _commented]
)
def test_a_bundle_that_changed_on_the_way_is_refused(
    small: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(small)
    done = install(small, str(tmp_path / "target"))
    assert done.returncode == REFUSED, (done.stdout, done.stderr)
    assert "Nothing was installed" in done.stderr
    assert not (tmp_path / "target").exists()


def test_a_whole_bundle_is_verified_and_names_the_digest_to_compare(small: Path, tmp_path: Path) -> None:
    done = install(small, "--verify")
    assert done.returncode == 0, done.stderr
    told = done.stderr.split("SHA256SUMS: ")[1].splitlines()[0].replace(" ", "")
    assert told == hashlib.sha256((small / "SHA256SUMS").read_bytes()).hexdigest()
    assert not (small / "base" / "tiny" / "pytorch_model.bin").exists(), "pickled weights are not carried"
    assert install(small, str(tmp_path)).returncode == REFUSED, "a folder that exists is left alone"


def test_every_wheel_is_held_to_its_hash_by_pip_too(small: Path) -> None:
    lines = [line for line in (small / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    wheels = {path.name.split("-")[0]: path for path in (small / "wheels").iterdir()}
    assert len(lines) == len(wheels) == 2
    for line in lines:
        name = line.partition("==")[0]
        assert line.endswith(f"--hash=sha256:{hashlib.sha256(wheels[name].read_bytes()).hexdigest()}")


def test_the_source_that_is_built_holds_code_alone(tmp_path: Path) -> None:
    made = bundle.copy_source(tmp_path / "privet")
    assert {path.name for path in made.iterdir()} == {
        *("LICENSE", "README.md", "pyproject.toml", "client", "common", "server", "simulations")
    }
    assert not list(made.rglob("*.pyc"))
    assert list(made.rglob("*.j2"))


@pytest.mark.slow
def test_a_small_bundle_is_installed_without_an_index(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = install(small, str(target), sys.executable)
    assert done.returncode == 0, done.stderr
    assert "Installed: privet 1.2.3" in done.stderr
    assert (target / "base" / "tiny" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_real_bundle_is_made_and_works_where_no_index_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Needs an index to make it, and some 3 GB of disk."""
    out, target = tmp_path / "bundle", tmp_path / "privet"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(bundle.HERE / "bundle.py"), str(out)], capture_output=True, text=True, timeout=1800
    )
    if done.returncode and "ConnectionError" in done.stderr + done.stdout:
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr[-3000:]
    made = time.monotonic() - began
    sbom = json.loads((out / "sbom.cdx.json").read_text())
    assert sbom["specVersion"] == "1.6"
    listed = {component["name"]: component for component in sbom["components"]}
    for path in (out / "wheels").glob("*.whl"):
        name, version = bundle.wheel_name(path)
        if name != "privet":
            assert listed[name]["version"] == version
            assert listed[name]["hashes"][0]["content"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sbom["metadata"]["component"]["name"] == "privet"

    began = time.monotonic()
    done = install(out, str(target))
    assert done.returncode == 0, done.stderr
    installed = time.monotonic() - began
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    shutil.rmtree(out)  # what was installed stands alone

    def privet(*command: str) -> str:
        ran = subprocess.run(
            [str(target / "bin" / "privet"), *command], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return ran.stdout

    assert privet("--version").startswith("privet ")
    privet("init", "federation", "--host", "localhost", "--folder", "fed", "--labels", "heart,skin")
    (tmp_path / "notes.csv").write_text("note,kind,who\n" + "chest pain,heart,a\nan itching rash,skin,b\n")
    privet(
        *("init", "site", "clinic", "--invite", "fed/invite.toml", "--data", "notes.csv", "--text", "note"),
        *("--label", "kind", "--unit", "who", "--units", "2"),
    )
    privet("check", "site.toml", "--plan", "fed/invite.toml", "--set", "policy.max_sample_rate=1.0")
    with capsys.disabled():
        print(f"\nThe bundle was made in {made:.0f} s and installed in {installed:.0f} s.")
