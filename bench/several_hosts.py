"""Two hosts behind nginx are killed and cut off in turn, under a steady load of chats.

Usage: python -m bench.several_hosts [--seconds 300] [--rate 20]

It needs root, iproute2, nginx, PostgreSQL and Redis: each host is a network namespace. What is
measured is in bench/README.md. The exit code is 1 where a chat was lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.lab import print_table, row
from tests.live import network, several_hosts
from tests.live.steady_load import Counts, SteadyLoad

LONGEST, MOST = 3600, 100
"""Seconds and chats a second, at most: all of it runs on one machine."""


def measured(seconds: float, rate: float) -> tuple[Counts, int]:
    """The counts of the chats, and the requests that the horde has taken for them."""
    with tempfile.TemporaryDirectory() as folder:
        # The proxy writes into it as root, nginx' workers as well.
        hosts = several_hosts.SeveralHosts(Path(folder))
        try:
            load = SteadyLoad(hosts.front, several_hosts.KEY, rate=rate)
            before = hosts.horde_calls().get("POST", 0)
            with hosts.client.pool(int(rate * 15)) as pool:
                load.run(pool, seconds, lambda: losses(hosts, seconds))
            return load.counts, hosts.horde_calls().get("POST", 0) - before
        finally:
            hosts.close()


def losses(hosts: several_hosts.SeveralHosts, seconds: float) -> None:
    """Each host is lost for a tenth of the time, one after the other: killed, and cut off."""
    steps = (
        ("host a is killed", hosts.a.kill, "host a is started", hosts.a.start),
        ("host b is killed", hosts.b.kill, "host b is started", hosts.b.start),
        ("host a is cut off", hosts.a.machine.cut, "host a is back", hosts.a.machine.mend),
        ("host b is cut off", hosts.b.machine.cut, "host b is back", hosts.b.machine.mend),
        ("host a is killed", hosts.a.kill, "host a is started", hosts.a.start),
    )
    began = time.monotonic()
    for loss, lose, recovery, recover in steps:
        hosts.until_both_serve()
        for what, step in ((loss, lose), (recovery, recover)):
            print(f"{time.monotonic() - began:.0f} s: {what}", file=sys.stderr, flush=True)
            step()
            time.sleep(seconds / 12)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300, help="at most 3600")
    parser.add_argument("--rate", type=float, default=20, help="chats a second, at most 100")
    options = parser.parse_args()
    obstacle = network.obstacle() or several_hosts.obstacle()
    if obstacle:
        parser.error(obstacle)
    row("load average of the machine at the start", f"{os.getloadavg()[0]:.1f}")
    counts, submits = measured(min(options.seconds, LONGEST), min(options.rate, MOST))
    row("chats sent, half of them streamed", str(counts.sent))
    row("answered", str(counts.answered), "all", is_met=counts.answered == counts.sent)
    row("lost", str(counts.lost), "0", is_met=counts.lost == 0)
    row("answered after more than one try", str(counts.retried))
    for end, count in sorted(counts.ends.items()):
        row(f"tries that ended with: {end}", str(count))
    row("slowest chat, all of its tries", f"{counts.slowest:.1f} s")
    failed = counts.tries - counts.answered
    row(
        "requests submitted to the horde; more than chats",
        f"{submits}; {submits - counts.sent}",
        f"one for each try that failed at most: {failed}",
        is_met=submits - counts.sent <= failed,
    )
    return print_table()


if __name__ == "__main__":
    sys.exit(main())
