"""The head of a model card: the YAML that model hubs read."""

from collections.abc import Mapping
from typing import Any

from privet.common.config import Plan
from privet.common.tasks.score import score_name, score_of
from privet.server.exporting.outputs import pipeline_tag
from privet.server.exporting.snippets import hub_id


def judged(measured: Mapping[str, Any] | None) -> list[tuple[str, float]]:
    """The score by its name, and macro F1 where it is another; nothing where the noise drowned them."""
    score = score_of(measured)
    if measured is None or score is None:
        return []
    name = score_name(measured)
    macro = measured.get("macro_f1") if name != "macro F1" else None
    if isinstance(macro, Mapping):  # an estimate and its errors
        macro = macro["value"]
    return [(name, score), *([] if macro is None else [("macro F1", float(macro))])]


def card_head(
    plan: Plan,
    *,
    results: Mapping[str, Any] | None,
    at_sites: Mapping[str, Any] | None,
    private: bool,
    licence: str | None,
) -> str:
    """Base model, task, library, tags, licence, and the results as a model index.

    results: public metrics; at_sites: those of the sites' noised counts, which name their standard error.
    private: every site stated a guarantee.
    """
    from huggingface_hub import EvalResult, ModelCardData

    task = pipeline_tag(plan)
    found: list[EvalResult] = []

    def add(name: str, split: str, title: str, value: float) -> None:
        found.append(
            EvalResult(
                task_type=task,
                dataset_type="unknown",  # a hub's data set; these are none
                dataset_name=name,
                dataset_split=split,  # by which the library tells one data set from another
                metric_type="f1" if "F1" in title else title.partition(",")[0],  # as hubs call them
                metric_name=title,
                metric_value=round(float(value), 6),
            )
        )

    for title, value in judged(results):
        add("the server's public file", "test", title, value)
    for title, value in judged(at_sites)[:1]:
        title += f", standard error {at_sites['error']:.4f}" if at_sites else ""
        add("units that the sites kept from training, by noised counts", "validation", title, value)
    data = ModelCardData(
        model_name=plan.name if found else None,
        eval_results=found or None,
        license=licence,
        base_model=hub_id(plan.model.base),
        library_name="peft",
        pipeline_tag=task,
        tags=["lora", "federated-learning", "differential-privacy" if private else "simulation", "privet"],
        metrics=list(dict.fromkeys(result.metric_type for result in found)) or None,
    )
    return data.to_yaml() + "\n"
