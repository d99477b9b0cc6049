"""federation.toml: the plan, and what of it is the server's alone or a simulation's."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from privet.common.config.loopback import Loopback
from privet.common.config.plan import Plan
from privet.common.config.table import LabelSeparator, Table


class PublicData(Table):
    """A labelled file that may be shown to anyone; the server judges each round on it."""

    source: Path
    """A CSV, TSV, JSON lines or Parquet file."""
    encoding: str = "utf-8"
    """Of a text file: any codec that Python knows."""
    text: str = "text"
    """Column with the text."""
    label: str = "label"
    """Column with the label."""
    label_map: dict[str, str] = Field(default_factory=dict)
    """The file's words for the plan's labels, where they differ."""
    label_separator: LabelSeparator = ";"  # between several labels in one cell
    limit: Annotated[int, Field(ge=1)] = 5000  # rows, the first ones


class ServerSpec(Table):
    """The server's own keys: not part of the plan. Paths are relative to federation.toml."""

    address: str = "0.0.0.0:9092"
    """Bound here; the sites call the address in `invite.toml`."""
    certificate: Path = Path("keys/server.crt")
    """The server's TLS certificate, PEM."""
    key: Path = Path("keys/server.key")
    """Its private key, mode 0600."""
    ca: Path = Path("keys/ca.crt")
    """Certificate of the authority that signed it; it goes into the invitation."""
    sites: Path = Path("sites")  # one public file per enrolled site
    state: Path = Path("state")
    """Folder of what outlives a run: who was there, the newest head of each site's ledger."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    wait: Annotated[float, Field(gt=0)] = 3600.0  # seconds to wait for min_sites before giving up
    init: Path | None = None  # the run folder, or its adapter/, of which method.init is the digest
    init_labels: dict[str, str] = Field(default_factory=dict)  # new label -> the earlier one, or "" for a row of zeros
    public: PublicData | None = None
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}$")] | None = None  # of the adapter, for its card
    metrics: Loopback | None = None  # where this machine's Prometheus finds numbers of the server


class SimulationSpec(Table):
    """How `privet simulate` reads one file as many virtual sites. Not part of the plan."""

    data: Path | None = None  # unset: text that privet generates, where the plan's labels are those
    encoding: str = "utf-8"
    """Of a text file."""
    text: str = "text"
    """Column with the text."""
    label: str = "label"
    """Column with the label."""
    label_map: dict[str, str] = Field(default_factory=dict)
    """The file's words for the plan's labels, where they differ."""
    label_separator: LabelSeparator = ";"  # between several labels in one cell
    unit: str = "record"
    """Whom the simulated guarantee is about: a column, or the word `record`."""
    max_records: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Of one unit, in one step."""
    split: str | None = None  # a column whose value "test" marks public rows; unset: a fifth of the units
    partition: str = "iid"
    """How rows become sites: `iid`, `dirichlet:ALPHA` or `column:NAME`."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Part of a site's units in a step, where the plan says `expected_batch = "site"`."""
    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    """δ of each site."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of draws, noise, partition and cohorts."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a site of the cohort does not do a round
    straggler: Annotated[float, Field(ge=0, lt=1)] = 0.0  # that another does it, and its reply comes too late
    engine: Literal["auto", "opacus", "fused"] = "auto"  # of gradients; auto: fused where it computes the plan
    precision: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # of the frozen base; auto: bfloat16 with hardware for it
    )
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """Where the workers compute; `auto`: a GPU where there is one."""


class Federation(Plan):
    """federation.toml: the plan, the server's table and the simulation's."""

    server: ServerSpec = ServerSpec()
    simulation: SimulationSpec = SimulationSpec()

    @property
    def plan(self) -> Plan:
        """The plan alone, as sites see it."""
        return Plan.model_validate(self.model_dump(exclude={"server", "simulation"}))
