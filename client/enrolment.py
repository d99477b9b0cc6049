"""A site's starter files: its key pair, the federation's CA certificate and site.toml."""

import json
import math
import os
import secrets
import tomllib
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from privet.common.config import Invite, Site
from privet.common.config.files import describe
from privet.common.errors import ConfigError
from privet.common.keys import generate_site_key, load_site_key, public_line
from privet.common.starter import NewFile, create_files, render, replace_file

# What stands in for a key that the operator has yet to fill in, while the rest of a new site.toml is validated.
_STAND_INS = {"source": "notes.csv", "text": "text", "label": "label", "unit": "patient_id"}


@dataclass(frozen=True, kw_only=True)
class SiteAnswers:
    """What the operator said when the site was made; None is left in site.toml to be filled in."""

    data: Path | None = None
    text: str | None = None
    label: str | None = None
    unit: str | None = None
    units: int | None = None  # declared_units: stated from public knowledge, never counted
    epsilon: float = 8.0
    delta: float | None = None  # None: `default_delta`


@dataclass(frozen=True, kw_only=True)
class NewSite:
    """The files of a site that was just made, and the public half of its key."""

    site: Path
    public: Path
    key: Path
    ca: Path
    public_key: ec.EllipticCurvePublicKey
    missing: tuple[str, ...]  # keys of site.toml that the operator has yet to fill in


def default_delta(units: int | None) -> float:
    """min(1e-5, 0.1 / units) rounded down to two digits; 1e-6 where `units` is not known."""
    if units is None:
        return 1e-6
    bound = 0.1 / units
    if bound >= 1e-5:
        return 1e-5
    step = Decimal(1).scaleb(math.floor(math.log10(bound)) - 1)
    digits = Decimal(bound).quantize(step, rounding=ROUND_FLOOR)
    return float(digits)


def create_site(folder: Path, name: str, invite: Invite, answers: SiteAnswers) -> NewSite:
    """Make site.toml, ca.crt, NAME.key (mode 0600) and NAME.pub in `folder`: all of them, or none.

    Raises: ConfigError; also where one of the files exists.
    """
    key, private = generate_site_key()
    line = public_line(key, name)  # refuses a bad name before it becomes part of a path
    text = render(
        "site.toml.j2",
        name=name,
        data_id=secrets.token_hex(16),
        source=None if answers.data is None else _source(answers.data, folder),
        text=answers.text,
        label=answers.label,
        unit=answers.unit,
        units=answers.units,
        epsilon=float(answers.epsilon),
        delta=default_delta(answers.units) if answers.delta is None else answers.delta,
        plan_labels=invite.plan.task.labels,
        federation=invite.name,
        address=invite.address,
        digest=invite.digest,
        key=f"{name}.key",
        expected_batch=invite.plan.training.expected_batch == "site",
        evaluation=invite.plan.evaluation.release,
    )
    missing = _missing(text)
    made = NewSite(
        site=folder / "site.toml",
        public=folder / f"{name}.pub",
        key=folder / f"{name}.key",
        ca=folder / "ca.crt",
        public_key=key.public_key(),
        missing=missing,
    )
    create_files(
        [
            NewFile(path=made.key, content=private, private=True),
            NewFile(path=made.public, content=f"{line}\n".encode()),
            NewFile(path=made.ca, content=invite.ca.strip().encode() + b"\n"),
            NewFile(path=made.site, content=text.encode(), private=True),  # data.id is a key
        ]
    )
    return made


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A site's new key, its public half, and where the one before is kept."""

    key: Path
    public: Path
    kept: Path
    public_key: ec.EllipticCurvePublicKey


def renew_key(folder: Path, name: str) -> NewKey:
    """Put a new key in the place of NAME.key and NAME.pub in `folder`; the old one is kept as NAME.key.old (mode 0600).

    An agent that runs goes on with the old key until the server refuses it, and takes the new one then.
    Raises: ConfigError; also where there is no key, or an older one is still kept.
    """
    key, private = generate_site_key()
    line = public_line(key, name)
    made = NewKey(
        key=folder / f"{name}.key",
        public=folder / f"{name}.pub",
        kept=folder / f"{name}.key.old",
        public_key=key.public_key(),
    )
    load_site_key(made.key)
    try:
        os.link(made.key, made.kept)
    except FileExistsError:
        raise ConfigError(
            "the key before the present one is still kept here.",
            where=str(made.kept),
            mend="remove it once the server has the present one.",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot be made ({error.strerror}).", where=str(made.kept), mend="make its folder writable."
        ) from None
    replace_file(made.key, private, private=True)
    replace_file(made.public, f"{line}\n".encode())
    return made


def _source(data: Path, folder: Path) -> str:
    """`data`, given from the working folder, as site.toml in `folder` must name it."""
    data, folder = data.expanduser().absolute(), folder.absolute()
    return (data.relative_to(folder) if data.is_relative_to(folder) else data).as_posix()


def _missing(text: str) -> tuple[str, ...]:
    """The required keys that a new site.toml leaves open; everything else in it must be valid.

    Raises: ConfigError.
    """
    raw = tomllib.loads(text)
    missing = [f"data.{key}" for key in _STAND_INS if key not in raw["data"]]
    raw["data"] = _STAND_INS | raw["data"]
    if "declared_units" not in raw["budget"]:
        missing.append("budget.declared_units")
        raw["budget"]["declared_units"] = 1
    try:
        Site.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise describe(error, "privet init site") from None
    except ValueError:  # json cannot hold the value
        raise ConfigError("got a value that is not finite.", where="privet init site", mend="give a number.") from None
    return tuple(missing)
