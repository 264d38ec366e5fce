"""`python -m horde_proxy` is the same as the command `horde-proxy`."""

from horde_proxy.commands.cli import main

main()
