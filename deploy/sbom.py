"""sbom.cdx.json of a bundle: CycloneDX 1.6, a component for each wheel or model file, with hash, licence, dependencies.

Run by bundle.py in an environment that has cyclonedx-python-lib and packaging: python sbom.py BUNDLE
"""

import hashlib
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def main(bundle: Path) -> int:
    bom = Bom()
    wheels = sorted((*bundle.glob("wheels/*.whl"), *bundle.glob("base/*.whl")))
    components = {name: (_wheel(path, metadata), metadata) for path in wheels for name, metadata in [_metadata(path)]}
    for component, _ in components.values():
        bom.components.add(component)
    for path in sorted(path for path in bundle.glob("base/*/**/*") if path.is_file()):
        bom.components.add(_model_file(path, path.relative_to(bundle)))
    for name, (component, metadata) in components.items():
        needed = {canonicalize_name(Requirement(text).name) for text in metadata.get_all("Requires-Dist") or ()}
        bom.register_dependency(
            component, [components[other][0] for other in sorted(needed - {name}) if other in components]
        )
    if "privet" in components:
        bom.metadata.component = components["privet"][0]
        bom.components.discard(components["privet"][0])
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if (errors := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        print(f"the SBOM is not valid: {errors}", file=sys.stderr)
        return 1
    (bundle / "sbom.cdx.json").write_text(text + "\n", encoding="utf-8")
    return 0


def _metadata(path: Path) -> tuple[str, Message]:
    with zipfile.ZipFile(path) as wheel:
        inside = next(
            name for name in wheel.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1
        )
        message = HeaderParser().parsestr(wheel.read(inside).decode("utf-8"))
    return canonicalize_name(message["Name"]), message


def _wheel(path: Path, metadata: Message) -> Component:
    name, version = canonicalize_name(metadata["Name"]), metadata["Version"]
    stated = metadata["License-Expression"] or metadata["License"] or ""
    licenses = [LicenseFactory().make_from_string(stated)] if 0 < len(stated) <= 100 and "\n" not in stated else []
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", None, name, version),
        licenses=licenses,
        hashes=[_hash(path)],
    )


def _model_file(path: Path, name: Path) -> Component:
    return Component(type=ComponentType.FILE, name=name.as_posix(), bom_ref=name.as_posix(), hashes=[_hash(path)])


def _hash(path: Path) -> HashType:
    with path.open("rb") as file:
        return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.file_digest(file, "sha256").hexdigest())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
