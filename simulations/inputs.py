"""What `simulate` takes: a plan or its file, and text as a file, a DataFrame or ready-made data."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from privet.common.columns import Rows, Table, as_text, joined_text, positions
from privet.common.config import Federation, Plan, SimulationSpec, load_federation
from privet.common.errors import ConfigError, DataError
from privet.simulations.data import SimulationData, from_table, load_data, wanted_columns

if TYPE_CHECKING:
    import pandas

PlanLike = Plan | Path | str


class Inputs(NamedTuple):
    """What is simulated: a plan, text, and how the text is dealt out."""

    plan: Plan
    data: SimulationData
    spec: SimulationSpec


def resolve(
    plan: PlanLike,
    data: "SimulationData | pandas.DataFrame | Path | str | None" = None,
    spec: SimulationSpec | None = None,
    **changes: object,
) -> Inputs:
    """Read what is named, and set the changes that are not None in `spec`.

    plan: a Plan; a Federation, whose [simulation] table is the default of `spec`; or the path of federation.toml.
    data: None reads what `spec` says, or generates text. A DataFrame has the columns that `spec` names: text, label and
    unit ("record": each row is one), split and that of a `column:NAME` partition where they are asked for.
    Raises: ConfigError, DataError.
    """
    plan, spec = read_plan(plan, spec)
    if isinstance(data, str | Path):
        changes["data"] = Path(data)
    spec = changed(spec, changes)
    if data is None or isinstance(data, str | Path):
        return Inputs(plan, load_data(spec, plan.task), spec)
    if isinstance(data, SimulationData):
        return Inputs(plan, data, spec)
    return Inputs(plan, from_frame(data, spec, plan), spec)


def read_plan(plan: PlanLike, spec: SimulationSpec | None = None) -> tuple[Plan, SimulationSpec]:
    """The plan alone, and `spec` or what its file says. Raises: ConfigError."""
    if isinstance(plan, str | Path):
        plan = load_federation(Path(plan))
    if isinstance(plan, Federation):
        return plan.plan, spec or plan.simulation
    return plan, spec or SimulationSpec()


def start_of(plan: PlanLike) -> dict[str, Any]:
    """What a file, or a Federation, says of the adapter to start from: `init` and `init_labels` of `simulate`."""
    if isinstance(plan, str | Path):
        plan = load_federation(Path(plan))
    if not isinstance(plan, Federation) or plan.method.init is None:
        return {}
    return {"init": plan.server.init, "init_labels": dict(plan.server.init_labels)}


def changed(spec: SimulationSpec, changes: dict[str, Any]) -> SimulationSpec:
    """`spec` with the changes that are not None. Raises: ConfigError."""
    from pydantic import ValidationError

    from privet.common.config.files import describe

    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return SimulationSpec.model_validate(spec.model_dump() | given)
    except ValidationError as error:
        fault = describe(error, "simulation")
    raise fault


def from_frame(frame: "pandas.DataFrame", spec: SimulationSpec, plan: Plan) -> SimulationData:
    """The rows of a DataFrame, read as those of a file are. Raises: DataError, ConfigError."""
    if not hasattr(frame, "columns"):
        raise ConfigError(
            f"got {type(frame).__name__}.", where="data", mend="give SimulationData, a pandas DataFrame or a path."
        )
    wanted = wanted_columns(spec)
    places = positions([str(name) for name in frame.columns], wanted, "data")
    columns = [
        _values(frame.iloc[:, place], name, spec.label_separator if name == spec.label else None)
        for name, place in zip(wanted, places, strict=True)
    ]
    rows = Rows(wanted)
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        rows.add(number, values)
    table: Table = rows.table()
    return from_table(table, spec, plan.task, "data")


def _values(column: Any, name: str, separator: str | None) -> list[str | None]:
    """As text; a list of values only where there is a separator for it."""

    def text(value: object) -> str | None:
        return as_text(value) if separator is None else joined_text(value, separator)

    try:
        missing = column.isna().tolist()
        return [None if gone else text(value) for value, gone in zip(column.tolist(), missing, strict=True)]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"has values that are no text ({error}).", where=f"data: {name}", mend="convert the column."
        ) from None
