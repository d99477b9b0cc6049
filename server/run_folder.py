"""runs/<federation>-<UTC>: plan.toml, metrics.jsonl, adapter/, report.html, checkpoints/."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from privet.common.adapter import Arrays
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.live import Event
from privet.common.model import Classifier
from privet.common.privacy.statement import Statement
from privet.server.card import model_card, privacy_json
from privet.server.checkpoint import Checkpoint, save_checkpoint
from privet.server.export import export_adapter, export_sentence_transformers, plan_toml
from privet.server.judgement import kept_round
from privet.server.report import report_html


class RunFolder:
    """One run's folder; `record` is a listener that appends each event, durably, to metrics.jsonl."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self._plan = path, plan
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError("the run folder exists.", where=str(path), mend="move it away or give another.") from None
        except OSError as error:
            raise ConfigError(f"cannot be made ({error}).", where=str(path), mend="give a writable folder.") from None
        (path / "plan.toml").write_text(plan_toml(plan), encoding="utf-8")
        self._metrics = (path / "metrics.jsonl").open("a", encoding="utf-8")

    @classmethod
    def new(cls, runs: Path, plan: Plan) -> "RunFolder":
        """A folder of this second under `runs`.

        Raises: ConfigError where it exists.
        """
        return cls(runs / f"{plan.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}", plan)

    def record(self, event: Event) -> None:
        self._metrics.write(json.dumps(event, sort_keys=True) + "\n")
        self._metrics.flush()
        os.fsync(self._metrics.fileno())

    def keep(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint; the two newest stay."""
        folder = self.path / "checkpoints"
        save_checkpoint(checkpoint, folder)
        for old in sorted(folder.glob("round-*.safetensors"))[:-2]:
            old.unlink()

    def finish(
        self,
        classifier: Classifier,
        base: Path,
        arrays: Arrays,
        *,
        statements: Mapping[str, Statement],
        history: Sequence[Event],
        simulated: bool,
        reason: str = "",
        command: str,
        merged: bool = True,
    ) -> None:
        """Write adapter/, its card and statement, report.html and, for mean pooling, the merged model.

        arrays: of the round that the plan keeps: the last, or the best; its metrics are the ones told.
        """
        plan, adapter = self._plan, self.path / "adapter"
        classifier.write(arrays)
        kept = kept_round(history, plan.evaluation)
        results = cast(Mapping[str, Any] | None, kept and kept["public"])
        done = 0 if kept is None else sum(bool(row["aggregated"]) and row["round"] <= kept["round"] for row in history)
        privacy = privacy_json(plan, statements, guarantee=not simulated, reason=reason)
        documents = {
            "README.md": model_card(
                plan,
                statements=statements,
                results=results,
                rounds_done=done,
                simulated=simulated,
                at_sites=cast(Mapping[str, Any] | None, kept and kept.get("sites")),
            ),
            "privacy.json": json.dumps(privacy, indent=2, ensure_ascii=False) + "\n",
        }
        export_adapter(classifier, base, adapter, documents=documents)
        if merged and plan.model.pooling == "mean":
            merged_folder = self.path / "sentence-transformers"
            statement = {"privacy.json": documents["privacy.json"]}
            export_sentence_transformers(classifier, base, merged_folder, documents=statement)
        page = report_html(
            plan, history=history, statements=statements, simulated=simulated, command=command, final=results
        )
        (self.path / "report.html").write_text(page, encoding="utf-8")

    def close(self) -> None:
        self._metrics.close()
