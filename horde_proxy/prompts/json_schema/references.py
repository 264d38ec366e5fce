"""Resolves a `$ref` within its schema. Nothing is ever fetched."""

from __future__ import annotations

import re
from typing import Any

from referencing import Registry, Resource
from referencing.exceptions import Unresolvable

# "#" is the whole schema, and "#/$defs/point" a percent-encoded JSON pointer (RFC 6901). Not
# resolved: "#point", an anchor, which no known client sends, and "https://example.com/s".
_POINTER = re.compile(r"#(?:/|\Z)")


def resolve_reference(root: Any, reference: Any) -> Any:
    """The part of the schema `root` to which a local reference points. Raises Unresolvable."""
    if not isinstance(reference, str) or not _POINTER.match(reference):
        raise Unresolvable(ref=str(reference))
    # An opaque resource is plain JSON: a `$id` in it does not change the base of a pointer.
    resource: Resource[Any] = Resource.opaque(root)
    resolver = Registry[Any]().with_resource("", resource).resolver()
    try:
        return resolver.lookup(reference).contents
    except (TypeError, ValueError):  # "/a" of a number, or of an array
        raise Unresolvable(ref=reference) from None
