"""The adapter's arrays, their shapes and roles: from the plan and the base's files, without building the model."""

from pathlib import Path

from privet.common.adapter import AdapterSpec, Entry, Role
from privet.common.architecture import Architecture, check_length, last_layer_name, read_architecture
from privet.common.config import Plan
from privet.common.errors import ModelError
from privet.common.tasks.base import task_of
from privet.common.weights import Stored, check_encoder, other_shape, stored_arrays


def adapter_spec(plan: Plan, folder: Path) -> AdapterSpec | None:
    """What `build_classifier(plan, folder).spec` is, in milliseconds; None where only building tells it.

    Only config.json and the headers of the weights are read.
    Raises: ModelError where building would, as far as these tell.
    """
    architecture = read_architecture(folder)
    check_length(plan, architecture, folder)
    if architecture.unusual:
        return None
    first_layer = int(getattr(plan.lora, "first_layer", 0))
    if first_layer >= architecture.depth:
        raise ModelError(
            f"first_layer {first_layer}, and the base has {architecture.depth} layers, counted from 0.",
            where="lora.first_layer",
            mend=f"set at most {architecture.depth - 1}.",
        )
    stored = stored_arrays(folder)
    check_encoder(architecture, stored, folder)
    mean = plan.model.pooling == "mean"
    prefix = "" if mean else architecture.prefix
    width, rank, num_labels = architecture.width, plan.lora.rank, task_of(plan.task).num_outputs
    entries = []
    for index in range(first_layer, architecture.depth):
        for target in plan.lora.targets:
            name, (rows, columns) = (
                prefix + architecture.projection(index, target),
                architecture.projection_shape(target),
            )
            entries.append(Entry(f"{name}.lora_A.weight", (rank, columns), Role.LORA_A))
            entries.append(Entry(f"{name}.lora_B.weight", (rows, rank), Role.LORA_B))
    last = "head" if mean else last_layer_name(plan, architecture.kind)
    entries.append(Entry(f"{last}.weight", (num_labels, width), Role.HEAD))
    entries.append(Entry(f"{last}.bias", (num_labels,), Role.HEAD))
    if plan.model.pooling == "cls":
        entries += _new(architecture, stored, folder)
    return AdapterSpec(tuple(sorted(entries, key=lambda entry: entry.name)))


def _new(architecture: Architecture, stored: dict[str, Stored], folder: Path) -> list[Entry]:
    """The layer below the last, as far as the base's files lack it."""
    entries = []
    for name, shape in architecture.below_head().items():
        held = stored.get(name.removeprefix(architecture.prefix))
        if held is not None and held.shape != shape and not name.startswith("classifier."):
            raise other_shape(folder)
        if held is None or held.shape != shape:
            entries.append(Entry(name, shape, Role.NEW))
    return entries
