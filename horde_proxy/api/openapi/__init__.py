"""The OpenAPI document of all routes: what each takes, answers and refuses, and who may call it.

A route is one entry in a module of `*_operations`; answers are in `schemas` and `horde_schemas`,
and bodies of clients are the models of protocol/. The tests check their answers against it.
"""
