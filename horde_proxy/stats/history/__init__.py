"""Hourly facts: each horde's workers, queue and speed by model, and what the own endpoints did.

`hourly_facts` collects them in memory, from the horde's documents (`sampling`) and from requests
that end, and writes them once an hour. `schema` and `database` are the only modules that import
SQLAlchemy. `records` is pure, `answers` makes JSON of it. Nothing here knows HTTP.
"""
