"""The built-in model runner: it runs a llama model of a GGUF file with numpy alone (extra `local`).

It knows nothing of hordes: `Llama.load(path)` and `generate(payload)` are its whole interface. From
the file upwards: `gguf_file` reads the container, `network` computes logits from token ids,
`vocabulary` is the tokenizer, `sampling` draws tokens, and `model` joins them.
"""

import os

# numpy reads it when it is imported. A second thread makes the model a third faster at most, and
# takes the core that the proxy needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from horde_proxy.worker.llama.gguf_file import UnusableModel
from horde_proxy.worker.llama.model import Llama

__all__ = ["Llama", "UnusableModel"]
