"""What fifteen hundred mixed requests leave behind: bench/soak sends twenty thousand."""

from __future__ import annotations

import pytest

from bench.soaking import growth, soak

_COUNT = 1_500


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mixed_requests_leave_next_to_nothing_behind() -> None:
    result = soak(_COUNT, clients=8, seconds=900, steps=4)
    assert result.unexpected == {}
    middle, end = result.middle, result.levels[-1]
    assert growth(middle.memory, end.memory) < 1.2
    # A pool of threads grows until as many have been busy at once as ever will be.
    assert end.threads - middle.threads <= 10
    assert end.descriptors - middle.descriptors <= 12
    # Stored answers, usage and history: kilobytes for each of the requests.
    assert (end.database - middle.database) * 1024 / (end.requests - middle.requests) < 30
