"""Finding a base model (hub id, folder, installed package) and checking its digest.

Local first: the network is asked only for a hub id that is not in the local cache.
"""

import hashlib
import importlib.util
import json
from functools import lru_cache
from pathlib import Path

from privet.common.errors import ModelError

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def resolve_base(base: str, *, local_only: bool = False) -> Path:
    """The local folder of a base model; with `local_only` the network is asked in no case.

    `package:NAME` is looked up without importing it; its folder `model/` is taken where there is one.
    Raises: ModelError.
    """
    if base.startswith("package:"):
        name = base.removeprefix("package:")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        for location in (spec.submodule_search_locations or ()) if spec else ():
            for folder in (Path(location) / "model", Path(location)):
                if (folder / "config.json").is_file():
                    return folder
        raise ModelError(
            f"no installed package {name!r} with a model.", where="model.base", mend=f"install {name} on this machine."
        )
    try:
        folder = Path(base).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # another user's home, a NUL, a name too long
        is_folder = False
    if is_folder:
        if not (folder / "config.json").is_file():
            raise ModelError(
                "the folder has no config.json.", where=str(folder), mend="give a transformers model folder."
            )
        return folder
    return _from_hub(base, (True,) if local_only else (True, False))


def _from_hub(base: str, attempts: tuple[bool, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = ["config.json", "*.safetensors", *TOKENIZER_FILES]
    for local_only in attempts:
        try:
            folder = Path(snapshot_download(base, allow_patterns=patterns, local_files_only=local_only))
        except HFValidationError:
            break
        except LocalEntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises many kinds; all mean: not to be had
            raise ModelError(
                f"cannot be fetched ({type(error).__name__}).", where=f"model.base {base}", mend="give a local folder."
            ) from None
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(
        "neither a folder nor a model that can be had here.",
        where=f"model.base {base}",
        mend="correct the path, or copy the model here and give its folder (site.toml: federation.NAME.base).",
    )


@lru_cache(maxsize=8)
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_digest(folder: Path) -> str:
    """SHA-256 over the sorted (name, SHA-256) of config, tokenizer files and safetensors; 64 hex digits.

    Raises: ModelError, also where there are only pickled weights: those can run code.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(
            "no *.safetensors file; pickled weights are refused because loading them can run code.",
            where=str(folder),
            mend="convert the weights to safetensors.",
        )
    files = [folder / "config.json", *(folder / name for name in TOKENIZER_FILES), *weights]
    listing = []
    for path in sorted(file for file in files if file.is_file()):
        status = path.stat()
        listing.append([path.name, _file_digest(path, status.st_size, status.st_mtime_ns)])
    return hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()


def checked_base(base: str, sha256: str, *, local_only: bool = False) -> Path:
    """The folder of `base`, its digest equal to `sha256`; `local_only` as in `resolve_base`.

    Raises: ModelError.
    """
    folder = resolve_base(base, local_only=local_only)
    found = base_digest(folder)
    if found != sha256:
        raise ModelError(
            f"the base model's digest is {found[:12]}…, the plan says {sha256[:12]}….",
            where=str(folder),
            mend="put the very same files there as the federation uses.",
        )
    return folder
