"""What Home Assistant demands of the messages by which it finds devices."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from lcr_edge.runtimes.live.discovery import Topics, configs
from lcr_edge.runtimes.live.messages import Messages
from tests.runtimes.test_sinks import NAMES, event


def config_messages(source: str) -> dict[str, dict[str, Any]]:
    found = configs("homeassistant", Topics("lcr_edge"), [source], ["wave", 'thumb "up"'], "lcr_nano")
    return {topic: json.loads(payload) for topic, payload in found.items()}


@pytest.mark.parametrize("source", NAMES)
def test_discovery_is_what_home_assistant_demands(source: str) -> None:
    """https://www.home-assistant.io/integrations/mqtt/ and the pages of event, sensor and binary_sensor."""
    found = config_messages(source)
    assert [topic.split("/")[1] for topic in found] == ["event", "sensor", "binary_sensor", "binary_sensor"]
    for topic, config in found.items():
        assert re.fullmatch(r"homeassistant/\w+/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config", topic)
        assert config["state_topic"]
        assert not set("+#") & set(config["state_topic"])
        assert config["availability_topic"] == "lcr_edge/status"  # its default payloads are online and offline
        assert config["device"]["identifiers"]
        assert config["origin"]["name"]
        assert config["name"]
    ids = [config["unique_id"] for config in found.values()]
    assert len(set(ids)) == len(ids)
    assert all(config["device"] == found[topic]["device"] for topic in found)
    event_config = next(iter(found.values()))
    assert event_config["event_types"] == ["wave", 'thumb "up"']


def test_devices_of_different_sources_and_runs_are_different() -> None:
    ids = [
        config["unique_id"]
        for prefix in ("lcr_edge", "lcr_edge/yard", "lcr_edge_yard")
        for payload in configs("homeassistant", Topics(prefix), NAMES, ["wave"], "x").values()
        for config in [json.loads(payload)]
    ]
    assert len(set(ids)) == len(ids)


def test_the_templates_of_discovery() -> None:
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment()
    messages = Messages("run")
    start, end = messages.event("door", event(1, label='thumb "up"')), messages.event("door", event(1, ended=True))
    connected, lost = messages.state("door", "live", "x"), messages.state("door", "waiting", "x")
    event_config, last, _, connection = config_messages("door").values()

    def rendered(config: dict[str, Any], message: Any) -> str:
        text: str = environment.from_string(config["value_template"]).render(
            value_json=json.loads(message.to_json()), value=message.to_json().decode()
        )
        return text

    fired = json.loads(rendered(event_config, start))
    assert fired.pop("event_type") in event_config["event_types"]
    assert fired == start.content
    assert rendered(event_config, end) == ""  # Home Assistant ignores an empty one
    assert rendered(last, start) == 'thumb "up"'
    assert [rendered(connection, message) for message in (connected, lost)] == ["ON", "OFF"]
