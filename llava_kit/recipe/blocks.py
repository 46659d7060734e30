"""What every block of a recipe is made of: the base of blocks, a plugin by name, and the small types. No torch here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _plain_name(value: str) -> str:
    if not value or value in (".", "..") or "/" in value or "\\" in value:
        raise ValueError("must be one plain folder name: the run's folder is named after it")
    return value


Name = Annotated[str, AfterValidator(_plain_name)]


class Block(BaseModel):
    """Base of all blocks: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Part(BaseModel):
    """A plugin by name (`type`), with its options beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="the plugin's name, as in `llava-kit plugins list`")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})
