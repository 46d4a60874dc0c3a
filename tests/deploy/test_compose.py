"""The container broker stays the twin of the local one."""

import re
from pathlib import Path

from kafka_broker import LocalBroker
from kafka_jars import kafka_version

# Where the two must differ: addresses and paths inside a container.
_OWN = {
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "inter.broker.listener.name",
    "controller.quorum.voters",
    "log.dirs",
    "heap.opts",
}


def test_image_is_the_pinned_kafka(deploy_dir):
    """Raising the version in pom.xml without compose.yaml, or the reverse, is noticed."""
    assert f"image: apache/kafka:{kafka_version()}\n" in (deploy_dir / "compose.yaml").read_text()


def test_settings_are_those_of_the_local_broker(deploy_dir):
    """Both brokers are configured alike, setting by setting, except for addresses and paths."""
    text = (deploy_dir / "compose.yaml").read_text()
    container = {
        name.lower().replace("_", "."): value for name, value in re.findall(r'KAFKA_([A-Z_]+): "([^"]*)"', text)
    }
    properties = LocalBroker(Path("unused"), port=9092)._server_properties(controller_port=9093)
    local = dict(line.split("=", 1) for line in properties.splitlines())
    for settings in (container, local):
        for key in _OWN:
            settings.pop(key, None)
    assert container == local


def test_ports_are_published_on_loopback_only(deploy_dir):
    """Starting it on a laptop does not offer an unauthenticated broker to the network."""
    ports = re.findall(r"^ +ports:\n((?: +- .*\n)+)", (deploy_dir / "compose.yaml").read_text(), re.MULTILINE)
    published = re.findall(r'- "(.+)"', "".join(ports))
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
