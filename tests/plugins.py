"""Distributions with methods of their own, laid out as pip lays out a wheel: modules beside a dist-info folder."""

import hashlib
import shutil
import tomllib
from pathlib import Path

FEDPROX = Path(__file__).resolve().parents[1] / "examples" / "fedprox"

MARKED = """
from pathlib import Path

Path({marker!r}).write_text("imported")

from privet.common.methods import ROLES, Averaging


def create(plan):
    return Averaging(plan.method.kind, ROLES["head"])
"""


def install(folder: Path, distribution: str, version: str, modules: dict[str, str], methods: dict[str, str]) -> Path:
    """Write modules and metadata into `folder`, which is to be on the path; returns it."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = []
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
        lines.append(f"{name}.py,sha256={hashlib.sha256(text.encode()).hexdigest()},{len(text.encode())}\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    entries = "".join(f"{name} = {target}\n" for name, target in methods.items())
    (info / "entry_points.txt").write_text(f"[privet.methods]\n{entries}")
    (info / "RECORD").write_text("".join(lines) + f"{info.name}/RECORD,,\n")
    return folder


def install_fedprox(folder: Path) -> Path:
    """The example, as its own pyproject.toml describes it."""
    project = tomllib.loads((FEDPROX / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["py-modules"] == ["privet_fedprox"]
    modules = {"privet_fedprox": (FEDPROX / "privet_fedprox.py").read_text()}
    methods = project["project"]["entry-points"]["privet.methods"]
    return install(folder, project["project"]["name"], project["project"]["version"], modules, methods)


def install_marked(folder: Path, name: str = "marked") -> Path:
    """A method that writes a file where its module is imported; returns the file's path."""
    marker = folder / "imported"
    text = MARKED.format(marker=str(marker))
    install(
        folder, f"privet-{name}", "1.2.3", {f"privet_{name}_of_a_test": text}, {name: f"privet_{name}_of_a_test:create"}
    )
    return marker


def copy_of_fedprox(folder: Path) -> Path:
    """The example's sources, where building them may leave files."""
    return Path(shutil.copytree(FEDPROX, folder))
