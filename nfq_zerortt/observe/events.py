"""The events of the log and their levels. Their fields are in docs/reference/events.md."""

from __future__ import annotations

LEVELS = {
    "service.ready": "info",
    "service.stopped": "info",
    "service.data_path": "info",
    "service.flows_adopted": "info",
    "service.kernel_full": "warning",
    "service.worker_lost": "error",
    "service.rules_lost": "warning",
    "service.warning": "warning",
    "service.learned_restored": "info",
    "service.learned_cleared": "info",
    "service.log_level": "info",
    "service.reloaded": "info",
    "service.reload_failed": "error",
    "service.fault": "error",
    "service.not_sent": "warning",
    "log.suppressed": "warning",
    "flow.syn_received": "info",
    "flow.synack_spoofed": "info",
    "flow.syn_forwarded": "info",
    "flow.data_held": "info",
    "flow.data_released": "info",
    "flow.synack_captured": "info",
    "flow.established": "info",
    "flow.bypassed": "info",
    "flow.reset": "warning",
    "flow.closed": "info",
    "packet.malformed": "warning",
    "packet.rewritten": "debug",
    "packet.forwarded": "debug",
    "packet.dropped": "debug",
    "packet.injected": "debug",
}

CAPPED = frozenset({"flow.bypassed", "packet.malformed", "service.fault", "service.not_sent"})
"""Events that a stranger can cause at will: of each, so many a second are written at most."""
