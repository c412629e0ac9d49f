"""What every section of a recipe is: strict about its keys and numbers."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.config import JsonDict

# Of a field whose choices a user makes and later versions add to (docs/adr/0006): an old service refuses the new ones
# by their names, as it would refuse a typing error.
MAY_GROW: JsonDict = {"x-may-grow": True}
_MOST = 2**31 - 1


class Section(BaseModel):
    """A part of a recipe: frozen, and strict about keys and numbers."""

    # A misspelt key must be an error at the door, not a silent default.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, defer_build=True
    )

    @model_validator(mode="after")
    def _no_number_is_absurd(self) -> Self:
        # A validator and no bound of the schema's: bounds of a released event may not change.
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > _MOST:
                raise ValueError(f"{name} is {value:.3g}, and no training has more than {_MOST:,}")
        return self
