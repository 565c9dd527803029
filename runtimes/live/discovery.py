"""The topics of a run at an MQTT broker, and the messages by which Home Assistant finds its sources.

Below the prefix (``--mqtt-topic``): ``status`` is online or offline; each source has ``SOURCE/event`` (every message
about an event, not retained) and, retained, ``SOURCE/last_event``, ``SOURCE/active`` (ON while an event lasts) and
``SOURCE/state``. Home Assistant gets a device for each source with four entities:
https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lcr_edge import __version__
from lcr_edge.errors import UsageError
from lcr_edge.runtimes.live.messages import Message, slug

_LONGEST_PREFIX = 200
# What begins is the event, with the message's other entries as its attributes; the end of one is none.
_EVENT = "{% if value_json.event == 'start' %}{{ dict(value_json, event_type=value_json.label) | tojson }}{% endif %}"


@dataclass(frozen=True)
class Topics:
    """Names of topics below a prefix."""

    prefix: str

    @property
    def status(self) -> str:
        return f"{self.prefix}/status"

    def of(self, source: str, what: str) -> str:
        """what: event, last_event, active or state."""
        return f"{self.prefix}/{slug(source)}/{what}"

    def retained(self, message: Message) -> dict[str, bytes]:
        """What a message changes in the retained topics."""
        if not message.is_event:
            return {self.of(message.source, "state"): message.to_json()}
        active = b"ON" if message.content["event"] == "start" else b"OFF"
        return {
            self.of(message.source, "last_event"): message.to_json(),
            self.of(message.source, "active"): active,
        }


def check_prefix(prefix: str, option: str) -> str:
    """The prefix of topics, if it can be one. Raises UsageError."""
    parts = prefix.split("/")
    if not prefix or len(prefix.encode("utf-8", "replace")) > _LONGEST_PREFIX or not prefix.isprintable():
        raise UsageError(f"{option} must have 1 to {_LONGEST_PREFIX} printable letters")
    if prefix.startswith("$") or not all(parts) or re.search(r"[+#]", prefix):
        raise UsageError(
            f"{option} {prefix!r} cannot be the start of a topic: no + and #, no $ or / in front, no / behind"
        )
    return prefix


def configs(
    discovery: str, topics: Topics, sources: Sequence[str], labels: Sequence[str], model: str
) -> dict[str, bytes]:
    """The retained messages of discovery by topic.

    discovery: the prefix that Home Assistant listens to. labels: the types of events. model: what the device is.
    """
    found = {}
    for source in sources:
        node = f"{slug(topics.prefix)}-{slug(source)}"  # a slug has no hyphen
        device = {
            "identifiers": [node],
            "name": source,
            "manufacturer": "lcr_edge",
            "model": model,
            "sw_version": __version__,
        }
        for component, name, entity in _entities(topics, source, labels):
            config = {
                **entity,
                "unique_id": f"{node}-{name}",
                "availability_topic": topics.status,
                "qos": 1,
                "device": device,
                "origin": {"name": "lcr_edge", "sw_version": __version__},
            }
            found[f"{discovery}/{component}/{node}/{name}/config"] = json.dumps(config).encode()
    return found


def _entities(topics: Topics, source: str, labels: Sequence[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """(component, object id, what is particular to it) of each entity of a source."""
    last, state = topics.of(source, "last_event"), topics.of(source, "state")
    return [
        (
            "event",
            "event",
            {
                "name": "Event",
                "state_topic": topics.of(source, "event"),
                "event_types": list(labels),
                "value_template": _EVENT,
                "icon": "mdi:gesture",
            },
        ),
        (
            "sensor",
            "last_event",
            {
                "name": "Last event",
                "state_topic": last,
                "value_template": "{{ value_json.label }}",
                "json_attributes_topic": last,
                "icon": "mdi:history",
            },
        ),
        (
            "binary_sensor",
            "active",
            {"name": "Event active", "state_topic": topics.of(source, "active"), "icon": "mdi:motion-sensor"},
        ),
        (
            "binary_sensor",
            "connection",
            {
                "name": "Connection",
                "state_topic": state,
                "value_template": "{{ 'ON' if value_json.state == 'live' else 'OFF' }}",
                "json_attributes_topic": state,
                "device_class": "connectivity",
                "entity_category": "diagnostic",
            },
        ),
    ]
