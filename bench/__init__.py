"""Measurements of the proxy: see README.md. Not part of the installed package."""
