"""What every table of a file is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
LabelSeparator = Annotated[str, Field(min_length=1, max_length=8)]


class Table(BaseModel):
    """One table of a file: frozen, no key beyond the named ones, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
