"""Who may join: the starter files of a federation, the public keys of its sites, the invitation."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from pydantic import ValidationError

from privet.common.config import Federation, Invite, Plan, load_invite
from privet.common.config.files import describe
from privet.common.config.task import TaskKind
from privet.common.errors import ConfigError
from privet.common.keys import public_pem, read_public_file
from privet.common.starter import NewFile, create_files, render, replace_file
from privet.server.certificates import (
    authority_files,
    covers,
    create_authority,
    load_certificates,
    renew_certificate,
)

__all__ = [
    "create_authority",
    "create_federation",
    "is_invite_stale",
    "load_certificates",
    "load_sites",
    "make_invite",
    "rewrite_invite",
    "write_invite",
]


_EXAMPLES: dict[TaskKind, list[str]] = {  # of labels
    "classification": ["negative", "positive"],
    "multilabel": ["E11", "I10"],
    "tokens": ["condition", "drug"],
}


def create_federation(
    folder: Path,
    *,
    name: str,
    hosts: Sequence[str],
    port: int,
    base: str,
    sha256: str,
    labels: Sequence[str] = (),
    task: TaskKind = "classification",
) -> Invite:
    """The starter files of a federation in `folder`: federation.toml, keys/, sites/ and invite.toml.

    Sites are invited to `hosts[0]`:`port`; the certificate covers all `hosts`. Without `labels` the file holds example
    ones, to be changed. All files are made, or none.
    Raises: ConfigError; also where one of the files exists.
    """
    text = render(
        "federation.toml.j2",
        name=name,
        task=task,
        labels=list(labels) or _EXAMPLES[task],
        placeholder_labels=not labels,
        base=base,
        sha256=sha256,
        address=join_address("::" if ":" in hosts[0] else "0.0.0.0", port),
    )
    try:
        federation = Federation.model_validate_json(json.dumps(tomllib.loads(text)))
    except ValidationError as error:
        raise describe(error, "privet init federation") from None
    authority = authority_files(folder / "keys", hosts)
    ca_pem = next(file.content for file in authority if file.path.name == "ca.crt")
    invite = make_invite(address=join_address(hosts[0], port), ca_pem=ca_pem, federation=federation)
    create_files(
        [
            NewFile(path=folder / "federation.toml", content=text.encode()),
            NewFile(path=folder / "invite.toml", content=invite.to_toml().encode()),
            *authority,
        ]
    )
    (folder / "sites").mkdir(exist_ok=True)
    return invite


def join_address(host: str, port: int) -> str:
    """host:port; an IPv6 address in brackets."""
    host = host.removeprefix("[").removesuffix("]").lower().removesuffix(".")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def rewrite_invite(path: Path, federation: Federation, *, host: str | None = None, renew: bool = False) -> Invite:
    """Write the invitation at `path` anew, from the present plan and certificates.

    The address is `host` with the server's port; without `host` that of the invitation already there, or else the
    first name in the server's certificate. `renew` first issues a new server certificate, which covers `host` too.
    Raises: ConfigError; also where the server's certificate does not cover the host.
    """
    spec = federation.server
    if host is not None:
        address = join_address(host, int(spec.address.rpartition(":")[2]))
    elif path.exists():
        address = load_invite(path).address
    else:
        raise ConfigError(
            "there is no invitation yet, so that the server's public address is not known.",
            where=str(path),
            mend="give it with --host.",
        )
    name = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if renew:
        renew_certificate(spec, [name])
    ca_pem, certificate, _ = load_certificates(spec)
    if not covers(x509.load_pem_x509_certificate(certificate), name):
        raise ConfigError(
            f"the certificate does not cover {name}: every site would refuse it.",
            where=str(spec.certificate),
            mend="add --renew, or give another --host.",
        )
    return write_invite(path, address=address, ca_pem=ca_pem, federation=federation, replace=True)


def load_sites(folder: Path) -> dict[bytes, str]:
    """{public key as PEM: site name} of every `NAME.pub` in `folder`; no file, no site.

    The file's name and the name inside must agree: who saves a file as clinic-a.pub enrols clinic-a and no other.
    Raises: ConfigError for a malformed file, and for a name or a key that occurs twice.
    """
    if not folder.is_dir():
        raise ConfigError("no such folder.", where=str(folder), mend="make it, and put the sites' .pub files there.")
    sites: dict[bytes, str] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix == ".pub"):
        name, key = read_public_file(path)
        if path.stem != name:
            raise ConfigError(
                f"the file holds the key of the site {name}.",
                where=str(path),
                mend=f"if that is meant, call it {name}.pub.",
            )
        pem = public_pem(key)
        if pem in sites:
            raise ConfigError(
                f"the same key as in {sites[pem]}.pub.", where=str(path), mend="remove one; each site has its own key."
            )
        sites[pem] = name
    return sites


def make_invite(*, address: str, ca_pem: bytes, federation: Plan) -> Invite:
    """The invitation to a federation at `address` (host:port).

    Raises: ConfigError.
    """
    plan = federation.plan if isinstance(federation, Federation) else federation
    try:
        return Invite(format=1, name=plan.name, address=address, ca=ca_pem.decode(), digest=plan.digest, plan=plan)
    except ValidationError as error:
        raise describe(error, "invite.toml") from None


def write_invite(path: Path, *, address: str, ca_pem: bytes, federation: Plan, replace: bool = False) -> Invite:
    """Write invite.toml; an existing one only with `replace`.

    Raises: ConfigError.
    """
    invite = make_invite(address=address, ca_pem=ca_pem, federation=federation)
    content = invite.to_toml().encode()
    if replace:
        replace_file(path, content)
    else:
        create_files([NewFile(path=path, content=content)])
    return invite


def is_invite_stale(path: Path, plan: Plan) -> bool:
    """Whether the invitation at `path` names another plan than `plan` (or cannot be read); no file is not stale."""
    if not path.exists():
        return False
    try:
        return load_invite(path).digest != (plan.plan if isinstance(plan, Federation) else plan).digest
    except ConfigError:
        return True
