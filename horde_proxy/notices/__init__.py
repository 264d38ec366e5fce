"""Notices for the operator: an endpoint is down, kudos are low, a favourite model is gone.

`watch` looks at the facts every half minute, `conditions` says what they mean, `sent_notices` what
was sent, `targets` send to a webhook or an ntfy topic. The room knows no HTTP framework.
"""
