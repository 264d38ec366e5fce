"""What the horde can do right now: status, use and workers of its models, merged by model.

`live` indexes the documents that the upstream loads, `merger` merges them, `listing`, `statistics`
and `audit` select and count, `service` makes JSON answers of that. All but `live`, `service`,
`hydration` and `reference_loading` is pure. Nothing here knows HTTP or makes a call.
"""
