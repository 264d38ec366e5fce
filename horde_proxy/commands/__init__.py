"""The command line: one module for each group of commands; cli.py gathers them.

Commands read the settings, and hand plain values on to the rooms that do the work. No other room
may import a command.
"""
