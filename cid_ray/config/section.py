"""The base class of every section of a configuration, and the types that sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A frozen mapping of known keys: a mistyped key is an error, and NaN or inf is no value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
