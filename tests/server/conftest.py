"""Real servers over real stores on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.app import App
from server.settings import Settings
from tests.server.serving import Client, make_settings

Start = Callable[..., tuple[App, Client]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers, with settings or with what is to differ from `make_settings`; stops them after the test."""
    running: list[tuple[App, Client]] = []

    def start_app(settings: Settings | None = None, **overrides: Any) -> tuple[App, Client]:
        app = App(settings or make_settings(tmp_path, **overrides))
        app.start()
        running.append((app, Client(app)))
        return running[-1]

    yield start_app
    for app, client in running:
        client.close()
        app.stop(1.0)


@pytest.fixture(scope="session")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server that no test teaches anything, shared by those that only ask."""
    app = App(make_settings(tmp_path_factory.mktemp("untaught")))
    app.start()
    client = Client(app)
    yield client
    client.close()
    app.stop(1.0)
