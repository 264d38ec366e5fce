"""[models]: how clients see the models."""

from __future__ import annotations

from typing import Literal

from horde_proxy.config.values import Section


class ModelsSettings(Section):
    """How clients see the models."""

    ids: Literal["full", "short"] = "full"
    """How models are listed: `full` ids such as `koboldcpp/org/Foo-8B`, or `short` ones without a
    slash, such as `Foo-8B`, for clients that read `a/b` as provider and model. Both are
    understood."""
