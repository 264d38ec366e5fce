"""The page at /: its views, logging in, and what it shows.

`history` counts what has happened, `tables` and `charts` put it into words and paths (pure), the
templates draw it, and static/page.js replaces the parts that have changed. Exports nothing: `api`
imports `page_state` before the views exist.
"""
