"""The built-in model runner: a llama GGUF file run by numpy alone (extra `local`).

It knows nothing of hordes; `Llama.load(path)` and `generate(payload)` are all there is to it.
"""

import os

# A second thread gains a third at most, and the proxy wants it; read when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from horde_proxy.worker.llama.gguf_file import UnusableModel
from horde_proxy.worker.llama.model import Llama

__all__ = ["Llama", "UnusableModel"]
