"""What every section of params.yaml is made of."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SQRT2 = math.sqrt(2.0)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# Unit vectors with non-negative entries (pooled after a ReLU) are at most sqrt(2) apart. Those of a net that is cut after a
# linear layer may be farther, but no margin should ask for more than orthogonal embeddings.
Distance = Annotated[float, Field(ge=0, le=SQRT2)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
TUNED = Literal["tuned"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
