"""`export`: write a form, hold it against the adapter, and only then let it take its name."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from privet.common.base import checked_base
from privet.common.errors import InputError, ModelError, PrivetError, RunError
from privet.common.exported import Kind, write_marker
from privet.server.export import merged_classifier, write_sentence_transformers
from privet.server.exporting import onnx
from privet.server.exporting.card import export_card
from privet.server.exporting.check import Check, compare
from privet.server.exporting.draft import check_target, clear_leftovers, replaced
from privet.server.exporting.merged import write_merged
from privet.server.exporting.reading import Reader, adapter_reader, form_reader

if TYPE_CHECKING:
    from privet.common.model import Classifier

MAX_TEXTS = 512  # of a sample; more say no more


def export(
    adapter: Path,
    kind: Kind,
    folder: Path,
    *,
    texts: Sequence[str],
    base: str | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda _line: None,
) -> Check:
    """Write the adapter as `kind` into `folder`, checked on `texts`; what is there is replaced only with `force`.

    base: stands for the plan's `model.base`, with its digest. tell: is given a sentence on each thing done on the way.
    Raises: ModelError (no adapter, damaged, another base), InputError (the folder, a library that lacks), RunError
    where the export is not what it was made from, or cannot be written: nothing is then left under the name.
    """
    from privet.common.model import load_tokenizer
    from privet.common.prediction import Predictor

    _check_installed(kind)
    for line in clear_leftovers(folder):
        tell(line)
    check_target(folder, force=force)
    classifier = Predictor.load(adapter, base).classifier
    plan = classifier.plan
    where = checked_base(base or plan.model.base, plan.model.sha256)
    tokenizer = load_tokenizer(where)
    reference = adapter_reader(classifier, tokenizer)
    pytorch = adapter_reader(merged_classifier(classifier), tokenizer)
    sample = [text for text in texts if text.strip()][:MAX_TEXTS]
    if not sample:
        raise InputError("no text to check the export on.", where="--sample", mend="give a file with texts.")

    def checked(what: Kind, draft: Path) -> Check:
        form = _reader(what, draft, plan.task.max_length)
        try:
            found = compare(what, plan, draft, sample, adapter=reference, pytorch=pytorch, form=form)
        except PrivetError:
            raise
        except Exception as error:  # many libraries read it, each with kinds of its own
            raise _unsound(folder, f"it cannot be run ({type(error).__name__})") from None
        if found.fault:
            raise _unsound(folder, found.fault)
        return found

    with replaced(folder) as draft:
        _write(kind, classifier, where, draft)
        if kind == "onnx-int8":
            checked("onnx", draft)
            onnx.quantise(draft)
        check = checked(kind, draft)
        card = _text(adapter / "README.md")
        (draft / "README.md").write_text(export_card(kind, plan, card, check), encoding="utf-8")
        if (adapter / "privacy.json").is_file():
            shutil.copyfile(adapter / "privacy.json", draft / "privacy.json")
        write_marker(draft, kind, plan.digest, check.to_json())
        check_target(folder, force=force)  # it took a while: something may have been put there
    return check


def _check_installed(kind: Kind) -> None:
    from importlib.util import find_spec

    if kind.startswith("onnx"):
        onnx.check_installed()
    elif kind == "sentence-transformers" and find_spec("sentence_transformers") is None:
        raise InputError("sentence-transformers is not installed.", where="--to", mend="pip install 'privet[export]'")


def _write(kind: Kind, classifier: "Classifier", base: Path, draft: Path) -> None:
    if kind == "merged":
        write_merged(classifier, base, draft)
    elif kind == "sentence-transformers":
        write_sentence_transformers(classifier, base, draft)
    else:
        onnx.write_onnx(classifier, base, draft)


def _reader(kind: Kind, draft: Path, max_length: int) -> Reader:
    try:
        return form_reader(kind, draft, max_length)
    except Exception as error:
        raise _unsound(draft, f"it cannot be read back ({type(error).__name__})") from None


def _unsound(folder: Path, fault: str) -> RunError:
    return RunError(
        f"the export is not what it was made from: {fault}. Nothing was left there.",
        where=str(folder),
        mend="give another form, or for int8 a --sample of your own kind of text.",
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"cannot be read ({type(error).__name__}).", where=str(path), mend="mend or remove it."
        ) from None
