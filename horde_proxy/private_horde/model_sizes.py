"""Which models a private horde knows, and their sizes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class ModelSizes:
    """Sizes in billions of parameters, by the name under which workers advertise a model."""

    def __init__(self, sizes: Mapping[str, float]) -> None:
        self._sizes = dict(sizes)

    def of(self, model: str) -> float | None:
        """The size of a model, "::user#1" at its end or not; None for an unknown one."""
        return self._sizes.get(model, self._sizes.get(model.partition("::")[0]))

    def knows(self, model: str) -> bool:
        """Whether the model is one of the "known" of GET status/models."""
        return self.of(model) is not None

    def largest(self, models: Iterable[str]) -> float | None:
        """The size of the largest of the models that are known, or None."""
        sizes = (self.of(model) for model in models)
        return max((size for size in sizes if size is not None), default=None)
