"""The settings that the admin's pages may change, by section.

A new setting is not among them until it is written here. What the file of settings alone decides
stays out: databases, files that are read or written, the proxy that requests go through, commands.
With one of these, somebody who has an administrator's key could read the machine's files, or send
all that is kept here to another database.
"""

from __future__ import annotations

_BY_SECTION = {
    "server": (
        "bind places max_body max_upload timeout stream_timeout keepalive keepalive_interval grace "
        "reattach reattach_window cancel_grace loop_limit inspect log_format trusted_proxies hosts "
        "origins public_url strict first_run max_n"
    ),
    "access": "mode admins usage_days",
    "horde": (
        "url api_key contact connect_timeout read_timeout default_max_tokens "
        "default_completion_tokens segments first_segment retries tool_retries guided_leaves "
        "chat_jobs describe_images describe_seconds images max_kudos_per_request placeholders "
        "validated_backends trusted_workers slow_workers least_speed allow_workers deny_workers "
        "address_limits key_limits webhook_url cache_ttl"
    ),
    "private_horde": (
        "enabled strict webhooks kudos api_key registration anonymous anonymous_concurrency "
        "anonymous_max_length ledger_days picture_bytes terms privacy sponsors"
    ),
    "stats": (
        "horde_api_cache_ttl horde_api_timeout hydrate hydrate_interval hydrate_delay "
        "hydrate_jitter reference_ttl history_days"
    ),
    "store": "days jobs background_timeout",
    "webhooks": "url secret events private",
    "notices": ("webhook secret ntfy ntfy_token private after endpoints kudos_below favourites"),
    "routing": (
        "cooldown longest_cooldown max_wait hedge hedge_stall models_ttl sticky default_embedding"
    ),
    "models": "ids",
}
EDITABLE = frozenset(
    f"{section}.{name}" for section, names in _BY_SECTION.items() for name in names.split()
)
"""Their names with a dot, such as "server.bind"."""
