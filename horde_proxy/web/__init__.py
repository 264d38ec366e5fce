"""The page at /: its views, logging in, and what it shows.

`history` counts requests, `tables` and `charts` turn data into texts and SVG paths (pure), the
templates draw these, and static/page.js replaces the parts that have changed; the other scripts are
modules that it imports. Exports nothing: `api` imports `page_state` before the views exist.
"""
