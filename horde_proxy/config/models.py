"""[models] and [aliases]: how clients see the models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from horde_proxy.config.values import Section
from horde_proxy.places import EndpointPlace


class ModelsSettings(Section):
    """How clients see the models."""

    ids: Literal["full", "short"] = "full"
    """How models are listed: `full` ids such as `koboldcpp/org/Foo-8B`, or `short` ones without a
    slash, such as `Foo-8B`, for clients that read `a/b` as provider and model. Both are
    understood."""


class AliasSettings(Section):
    """Another name for models. Write `NAME = "MODEL"`, or a table."""

    model: str
    """The model; a glob, a list, `auto` or another alias as well."""
    places: Annotated[list[EndpointPlace], Field(min_length=1)] | None = None
    """The places that requests for it may reach, with all of its fallbacks. Not set: all."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"model": given} if isinstance(given, str) else given
