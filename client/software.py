"""What runs at this site, by name, version and hash: for a page that someone signs."""

import hashlib
import platform
import re
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from privet.common.methods.installed import GROUP

ROOMS = ("client", "common", "server", "simulations")
_SUFFIXES = {".py", ".j2"}


@dataclass(frozen=True, order=True)
class Package:
    """One installed distribution. `sha256` is of its RECORD file, which lists the hash of each of its files."""

    name: str
    version: str
    sha256: str  # 64 hex digits, or "" where it has no RECORD
    methods: tuple[str, ...] = ()  # federated methods that it provides; they run where policy.methods names them


@dataclass(frozen=True)
class Software:
    """What a page states. `sources` is one digest over privet's own files, `environment` one over all packages."""

    python: str
    system: str
    packages: tuple[Package, ...]
    sources: str

    @property
    def environment(self) -> str:
        """SHA-256 over the lines `name version sha256`, sorted; 64 hex digits."""
        lines = [f"{package.name} {package.version} {package.sha256}\n" for package in self.packages]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def installed() -> Software:
    """The software of this process's environment."""
    found: dict[str, Package] = {}
    for distribution in distributions():  # of two with one name, the first on the path is imported
        name = distribution.metadata["Name"]
        if name:
            methods = sorted(entry.name for entry in distribution.entry_points if entry.group == GROUP)
            package = Package(_plain(name), distribution.version, _record_sha256(distribution), tuple(methods))
            found.setdefault(package.name, package)
    return Software(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.machine()}",
        packages=tuple(sorted(found.values())),
        sources=sources_digest([folder for room in ROOMS for folder in _folders(room)]),
    )


def sources_digest(folders: list[tuple[str, Path]]) -> str:
    """SHA-256 over the sorted lines `sha256  room/path` of every source and template file, as `sha256sum` writes them.

    The same for a wheel and for an editable install of the same sources. 64 hex digits.
    """
    lines = []
    for room, folder in folders:
        for path in folder.rglob("*"):
            if path.suffix in _SUFFIXES and path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                lines.append((f"{room}/{path.relative_to(folder).as_posix()}", digest))
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(lines)).encode()).hexdigest()


def _folders(room: str) -> list[tuple[str, Path]]:
    spec = find_spec(f"privet.{room}")
    return [(room, Path(place)) for place in (spec.submodule_search_locations or ())] if spec else []


def _record_sha256(distribution: Distribution) -> str:
    """Of the RECORD's bytes as they lie on the disk, so that `sha256sum` agrees; "" where there is none."""
    for path in (file.locate() for file in distribution.files or () if file.name == "RECORD"):
        try:
            return hashlib.sha256(Path(str(path)).read_bytes()).hexdigest()
        except OSError:
            continue
    return ""


def _plain(name: str) -> str:
    """A distribution's name in its one normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
