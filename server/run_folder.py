"""runs/<federation>-<UTC>: plan.toml, metrics.jsonl, adapter/, report.html, checkpoints/."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from privet.common.adapter import Arrays, digest
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.live import Event
from privet.common.privacy.statement import Statement
from privet.server.asked import Asked, save_asked
from privet.server.card import model_card, privacy_json
from privet.server.checkpoint import Checkpoint, save_checkpoint, write_durably, writing
from privet.server.export import export_adapter, export_sentence_transformers, plan_toml
from privet.server.judgement import kept_round
from privet.server.report import environment_event, read_run, report_html

if TYPE_CHECKING:
    from privet.common.model import Classifier


class RunFolder:
    """One run's folder; `record` is a listener that appends each event, durably, to metrics.jsonl.

    What cannot be written raises RunError, and leaves what stood there whole.
    """

    def __init__(self, path: Path, plan: Plan, *, again: bool = False, resume: str = "") -> None:
        """again: open a folder that exists, and clear away what a kill left half-written. resume: the command that goes
        on with this run, told where something cannot be written."""
        self.path, self.resume, self._plan = path, resume, plan
        try:
            if not again:
                path.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError("the run folder exists.", where=str(path), mend="move it away or give another.") from None
        except OSError as error:
            raise ConfigError(f"cannot be made ({error}).", where=str(path), mend="give a writable folder.") from None
        metrics = path / "metrics.jsonl"
        with self._writing(metrics):
            if again:
                _clear(path)
            else:
                write_durably(path / "plan.toml", plan_toml(plan).encode())
            self._metrics = os.open(metrics, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @classmethod
    def new(cls, runs: Path, plan: Plan, *, resume: str = "") -> "RunFolder":
        """A folder of this second under `runs`.

        Raises: ConfigError where it exists.
        """
        return cls(runs / f"{plan.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}", plan, resume=resume)

    def record(self, event: Event, *, durably: bool = True) -> None:
        line = (json.dumps(event, sort_keys=True) + "\n").encode()
        with self._writing(self.path / "metrics.jsonl"):
            end = os.fstat(self._metrics).st_size
            try:
                while line:
                    line = line[os.write(self._metrics, line) :]
                if durably:
                    os.fsync(self._metrics)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._metrics, end)  # no half line
                raise

    def keep(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint; the two newest stay."""
        folder = self.path / "checkpoints"
        with self._writing(folder):
            save_checkpoint(checkpoint, folder)
            for old in sorted(folder.glob("round-*.safetensors"))[:-2]:
                old.unlink()

    def ask(self, asked: Asked) -> None:
        """Store what is about to be asked."""
        with self._writing(self.path / "checkpoints"):
            save_asked(asked, self.path / "checkpoints")

    def finish(
        self,
        classifier: "Classifier",
        base: Path,
        arrays: Arrays,
        *,
        statements: Mapping[str, Statement],
        history: Sequence[Event],
        simulated: bool,
        reason: str = "",
        command: str,
        merged: bool = True,
        earlier: Mapping[str, Any] | None = None,
        licence: str | None = None,
    ) -> None:
        """Write adapter/, its card and statement, report.html and, for mean pooling, the merged model.

        arrays: of the round that the plan keeps: the last, or the best; its metrics are the ones told.
        earlier: the run that this one started from, as `start.load_start` tells it.
        """
        plan, adapter = self._plan, self.path / "adapter"
        classifier.write(arrays)
        kept = kept_round(history, plan.evaluation)
        results = cast(Mapping[str, Any] | None, kept and kept["public"])
        done = 0 if kept is None else sum(bool(row["aggregated"]) and row["round"] <= kept["round"] for row in history)
        privacy = privacy_json(plan, statements, guarantee=not simulated, reason=reason, earlier=earlier)
        privacy["adapter"] = digest(arrays)
        documents = {
            "README.md": model_card(
                plan,
                statements=statements,
                results=results,
                rounds_done=done,
                simulated=simulated,
                at_sites=cast(Mapping[str, Any] | None, kept and kept.get("sites")),
                earlier=earlier,
                licence=licence,
            ),
            "privacy.json": json.dumps(privacy, indent=2, ensure_ascii=False) + "\n",
        }
        export_adapter(classifier, base, adapter, documents=documents)
        if merged and plan.model.pooling == "mean":
            merged_folder = self.path / "sentence-transformers"
            statement = {"privacy.json": documents["privacy.json"]}
            export_sentence_transformers(classifier, base, merged_folder, documents=statement)
        self.record(environment_event(command) | ({"simulated": True} if simulated else {}))
        page = report_html(read_run(self.path))
        with self._writing(self.path / "report.html"):
            write_durably(self.path / "report.html", page.encode())

    def close(self) -> None:
        os.close(self._metrics)

    def _writing(self, where: Path) -> AbstractContextManager[None]:
        return writing(where, f"go on with `{self.resume}`" if self.resume else "start again")


def _clear(path: Path) -> None:
    """Remove the drafts of exports and files, and a torn last line of metrics.jsonl."""
    for pattern in (".*.new", ".*.old"):
        for draft in path.glob(pattern):
            shutil.rmtree(draft)
    for partial in (*path.glob("*.partial"), *path.glob("checkpoints/*.partial")):
        partial.unlink()
    metrics = path / "metrics.jsonl"
    if metrics.exists():
        with metrics.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(file.fileno())
