"""python -m horde_proxy is the command line."""

from horde_proxy.commands.cli import main

main()
