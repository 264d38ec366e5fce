"""JSON schemas that clients send: to validate values by them, and to fill them in leaf by leaf.

A schema is foreign text. References are resolved within it and never fetched; depth, size and
number of steps are bounded; regular expressions that could run for ever are left out.

references  what a `$ref` points to             shapes    the values that can be filled in
inlining    a schema without `$ref` and allOf   fillable  from a schema to such a shape
validation  is the value right, and if not why  slimming  a schema as short as a prompt wants it
"""
