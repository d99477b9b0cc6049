"""invite.toml: what a server gives its sites to join: address, CA certificate, and the plan under its digest."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privet.common.config.files import _read, _validate, parse_plan
from privet.common.config.plan import Plan
from privet.common.config.table import Name, Table
from privet.common.errors import ConfigError


class Invite(Table):
    """One invitation; `digest` is that of the plan inside."""

    format: Literal[1]
    name: Name  # of the federation
    address: Annotated[str, Field(pattern=r"^([^\s:/]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$")]
    ca: Annotated[str, Field(max_length=20_000)]  # PEM, one certificate
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    plan: Plan  # in the file: its JSON text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.plan.digest != self.digest:
            raise ValueError("The plan inside is not the one that the digest names: the invitation was altered.")
        if self.plan.name != self.name:
            raise ValueError("Expected the plan's name.")
        if not 1 <= int(self.address.rpartition(":")[2]) <= 65_535:
            raise ValueError("Expected a port from 1 to 65535 in the address.")
        _check_authority(self.ca)
        return self

    def to_toml(self) -> str:
        """The file's text. The plan is JSON inside a literal TOML string: readable, and exact in every digit."""
        plan = json.dumps(json.loads(self.plan.canonical()), indent=2, sort_keys=True)
        plan = plan.replace("'", "\\u0027").replace("\x7f", "\\u007f")  # what a literal string may not hold
        return (
            "# An invitation to a privet federation. Give it to `privet init site NAME --invite invite.toml`.\n"
            "# Nothing in it is secret, but it must arrive unaltered: compare the CA's fingerprint by phone.\n"
            "format = 1\n"
            f'name = "{self.name}"\n'
            f"address = {json.dumps(self.address)}\n"
            f'digest = "{self.digest}"\n'
            f"ca = '''\n{self.ca.strip()}\n'''\n"
            f"plan = '''\n{plan}\n'''\n"
        )


def _check_authority(pem: str) -> None:
    """ValueError unless `pem` is one CA certificate and nothing else."""
    from cryptography import x509

    body = r"-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----"
    if not re.fullmatch(body, pem.strip()):
        raise ValueError("Expected one certificate in PEM form as ca, and nothing else.")
    try:
        certificate = x509.load_pem_x509_certificate(pem.strip().encode())
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        is_authority = False
    if not is_authority:
        raise ValueError("Expected the certificate of a certificate authority as ca.")


def load_invite(path: Path) -> Invite:
    """invite.toml, its digest checked against the plan inside.

    Raises: ConfigError.
    """
    raw = _read(path)
    try:
        if isinstance(raw.get("plan"), str):
            raw["plan"] = parse_plan(raw["plan"], f"{path}: plan")
        return _validate(Invite, raw, str(path))
    except ConfigError as error:
        raise ConfigError(error.what, where=error.where, mend="ask the server's operator for it again.") from None
