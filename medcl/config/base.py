"""What all sections share: strictness, and the types of their values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medcl.errors import MedclError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

Name = Annotated[str, Field(pattern=NAME)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[Positive, Positive, Positive]
Voxels = tuple[Count, Count, Count]
UNDECIDING = {"save_every_s"}  # keys of a training that change nothing it writes
Modality = Literal["CT", "MR", "PET", "US", "other"]


class ConfigError(MedclError):
    """All problems of a configuration, one a line."""


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
