"""python -m horde_proxy is the command line."""

from horde_proxy.cli import main

main()
