"""The language of models, pure: messages to a prompt, what fits, generated text to a message.

Nothing here does I/O, knows Flask or reads a clock.
"""
