"""The models that a private horde knows, and their sizes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class ModelSizes:
    """Sizes in billions of parameters, by the name under which workers advertise a model."""

    def __init__(self, sizes: Mapping[str, float]) -> None:
        self._sizes = dict(sizes)

    def of(self, model: str) -> float | None:
        """The size of a model, with or without "::user#1" at its end; None if it is unknown."""
        return self._sizes.get(model, self._sizes.get(model.partition("::")[0]))

    def knows(self, model: str) -> bool:
        """Whether GET status/models calls the model "known"."""
        return self.of(model) is not None

    def largest(self, models: Iterable[str]) -> float | None:
        """The size of the largest known model; None if no model is known."""
        sizes = (self.of(model) for model in models)
        return max((size for size in sizes if size is not None), default=None)
