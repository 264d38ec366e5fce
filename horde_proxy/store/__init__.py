"""What clients may fetch later: responses, conversations, files, batches and pictures.

Everything but pictures is in one database, which a machine shares between its processes and
several hosts between them. What goes on without a client is a stored job (`jobs`, `job_runner`).
"""

from horde_proxy.store.answer_store import AnswerStore
from horde_proxy.store.pictures import PictureStore

__all__ = ["AnswerStore", "PictureStore"]
