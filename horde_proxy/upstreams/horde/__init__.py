"""upstreams.horde."""
