"""Live statistics of the horde: status, usage and workers of its models, merged by model.

`live` indexes the documents that the upstream loads, `merger` merges them, `listing`, `statistics`
and `audit` select and count, and `service` makes JSON answers. All modules but `live`, `service`,
`hydration` and `reference_loading` are pure. `history` keeps hourly facts. Nothing here knows HTTP
or makes a call.
"""
