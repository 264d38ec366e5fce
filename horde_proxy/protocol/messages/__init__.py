"""Anthropic's Messages API: its requests read, its answers and events written. Pure.

    request.py  the body -> a question with one neutral request
      blocks.py   its messages and system prompt: content blocks -> turns
      turns.py    in an order that templates can render
      tools.py    its tools and the choice between them
    shapes.py   the objects of an answer: message, usage, stop reasons
    events.py   chunks -> the message as a whole, or its server-sent events
    models.py, batches.py   the list of models, and batches, in Anthropic's words

Source: Anthropic's API reference; what real clients send beyond it is named at the lines for it.
"""

from horde_proxy.protocol.messages.events import MessageEvents, fold_message
from horde_proxy.protocol.messages.request import MessagesQuestion, read_messages_request

__all__ = ["MessageEvents", "MessagesQuestion", "fold_message", "read_messages_request"]
