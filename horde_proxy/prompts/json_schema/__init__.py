"""JSON schemas from clients: to validate values, and to fill in values leaf by leaf.

A schema is not trusted. References are resolved within it and never fetched; depth and size are
limited, and work has a budget; regular expressions that could take very long are not applied.

references  the target of a `$ref`              shapes    the values that can be filled in
inlining    a schema without `$ref` and allOf   fillable  from a schema to such a shape
validation  does a value fit, and if not, why   slimming  a shorter schema for a prompt
coercion    a model's value in the types of a schema
work        the budget of all of these
"""
