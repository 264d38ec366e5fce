"""The composition root: makes every object of a proxy from its settings, and connects them.

No other room builds another room's objects. `Runtime` is the only seam: tests replace the clock,
the sleep, the sessions and so on there, and otherwise run what users run.

It exports nothing: horde_proxy.create_app imports the factory when it is first used, because the
command line and gunicorn's master process run without it.
"""
