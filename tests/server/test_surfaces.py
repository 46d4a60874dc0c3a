"""A server that learns from some surfaces alone: what it records, what it passes over, what it says of it."""

import pytest
from click.testing import CliRunner

from freshet.v1 import operations_pb2
from server.commands.verify import verify
from server.settings import SettingsError, load_settings
from tests.server.conftest import Start
from tests.server.messages import (
    DEADLINE_S,
    click,
    clicks,
    impression,
    impressions,
    recommend_request,
    score_request,
)
from tests.server.serving import Client


def counts(client: Client) -> dict[str, int]:
    status = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    return {name: count for name, count in status.counts.items() if count and name.split("_")[0] in _COUNTED}


_COUNTED = ("impressions", "clicks", "facts", "dead")


def test_a_logged_slate_names_the_surface_of_its_request(start: Start) -> None:
    """Recommend and Score alike: the surface that the server learns from counts, the other is passed over."""
    _, client = start(join={"surfaces": ["home"]})
    for surface in ("home", "search", ""):
        for call, request in (
            (client.recommender.Recommend, recommend_request),
            (client.recommender.Score, lambda **fields: score_request("item-0", "item-1", **fields)),
        ):
            slate = call(request(surface=surface, slate_size=2, log_impression=True), timeout=DEADLINE_S)
            client.feedback.LogClicks(clicks(click(slate.request_id, slate.items[0].item_id)), timeout=DEADLINE_S)
    assert counts(client) == {
        "impressions_accepted": 4,
        "clicks_joined": 2,
        "impressions_other_surface": 8,
        "clicks_other_surface": 4,
        "facts_applied": 6,
    }


def test_verify_knows_which_surfaces_were_learned_from(start: Start) -> None:
    """What callers log themselves is told apart too, and the store still is the fold of all of it."""
    app, client = start(join={"surfaces": ["home", ""], "resolution": "at_close"})
    for surface in ("home", "search", ""):
        logged = impressions(impression(f"r-{surface}", "item-0", surface=surface))
        client.feedback.LogImpressions(logged, timeout=DEADLINE_S)
        client.feedback.LogClicks(clicks(click(f"r-{surface}", "item-0")), timeout=DEADLINE_S)
    assert counts(client)["clicks_other_surface"] == counts(client)["impressions_other_surface"] == 1
    assert app.loop is not None
    assert app.loop.status().in_flight == 2
    result = CliRunner().invoke(verify, ["--data-dir", str(app.settings.data_dir), "--backend", "numpy"])
    assert result.exit_code == 0, result.output


def test_a_surface_that_is_too_long_is_refused(start: Start) -> None:
    """By its index, with the field, what was expected and what came; the others are taken."""
    _, client = start()
    logged = impressions(impression("r", "item-0", surface="x" * 64), impression("q", "item-0", surface="x" * 65))
    answer = client.feedback.LogImpressions(logged, timeout=DEADLINE_S)
    assert (answer.accepted, [one.index for one in answer.refused]) == (1, [1])
    assert "surface: expected at most 64 bytes, got 65 bytes" in answer.refused[0].status.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"join": {"surfaces": ["home", "home"]}}, "join.surfaces: expected at most 64 distinct names"),
        ({"join": {"surfaces": ["x" * 65]}}, "join.surfaces: expected names of at most 64 bytes, got 65 bytes"),
        ({"kafka": {"events_prefix": "a b"}}, "kafka.events prefix: expected 1-200 of"),
    ],
)
def test_a_setting_that_no_surface_could_match_names_its_field(settings: dict[str, object], message: str) -> None:
    """Field, what was expected, what came."""
    with pytest.raises(SettingsError, match=message):
        load_settings(**settings)
