"""The built-in model runner: it runs llama models from GGUF files with numpy (extra `local`).

It knows nothing of hordes. `Llama.load(path)` and `generate(payload)` are its whole interface. From
bottom to top: `gguf_file` reads the file, `network` computes logits from token ids, `vocabulary` is
the tokenizer, `sampling` draws tokens, and `model` puts them together.
"""

import os

# numpy reads this variable when it is imported. A second thread makes the model at most a third
# faster, and takes the core that the proxy needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from horde_proxy.worker.llama.gguf_file import UnusableModel
from horde_proxy.worker.llama.model import Llama

__all__ = ["Llama", "UnusableModel"]
