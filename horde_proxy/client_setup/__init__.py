"""The configurations of clients for this proxy: one module a client, gathered in registry.py.

Text in, text out: a client takes the text of its configuration file and gives the new one. The
command reads and writes files, and keeps the old ones (commands/setup.py). Nothing is exported:
only that command needs the clients.
"""
