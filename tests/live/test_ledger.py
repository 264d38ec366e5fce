"""The usage that whole processes record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from horde_proxy.ledger.database import open_ledger
from horde_proxy.ledger.records import Usage

DAY, NOON = "2026-01-31", 1_769_860_800.0


def test_a_process_that_ends_writes_what_is_pending(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    program = (
        "import sys\n"
        "from horde_proxy.ledger.usage import UsageRecorder\n"
        "from horde_proxy.ledger.database import open_ledger\n"
        f"recorder = UsageRecorder(open_ledger(sys.argv[1]), now=lambda: {NOON}, interval=3600)\n"
        "recorder.add('ann', 'm', 'chat', prompt_tokens=10, completion_tokens=5, kudos=1.5)\n"
    )
    subprocess.run([sys.executable, "-c", program, url], check=True)
    store = open_ledger(url)
    assert store.usage(DAY, DAY) == [Usage(DAY, "ann", "m", "chat", 1, 0, 10, 5, 1.5)]
    store.close()


def test_a_recorder_without_a_store_does_without_sqlalchemy() -> None:
    program = (
        "import sys\n"
        "from horde_proxy.ledger import UsageRecorder\n"
        "UsageRecorder(None).add('ann', 'm', 'chat')\n"
        "assert 'sqlalchemy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
