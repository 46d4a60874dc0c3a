"""Settings of the join over gRPC: what `Explain`, the status and the metrics say of impressions in flight."""

import math

import pytest
from click.testing import CliRunner

from freshet.v1 import recommender_pb2
from server.commands.verify import verify
from server.settings import SettingsError, load_settings
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, click, clicks, impression, impressions, one_hot
from tests.server.serving import Client


def explained(client: Client) -> recommender_pb2.ExplainResponse:
    request = recommender_pb2.ExplainRequest(
        item_id="item-0",
        cluster_weights=one_hot(),
        mode="MODE_UCB",  # type: ignore[arg-type]
    )
    return client.recommender.Explain(request, timeout=DEADLINE_S)


def test_explain_tells_what_is_in_flight(start: Start) -> None:
    """It narrows the width, d includes it, the mean waits for the window; verify agrees meanwhile."""
    app, client = start(join={"resolution": "at_close"})
    assert explained(client).width > 1e6
    client.feedback.LogImpressions(impressions(impression("r", "item-0")), timeout=DEADLINE_S)
    client.feedback.LogClicks(clicks(click("r", "item-0")), timeout=DEADLINE_S)
    told = explained(client)
    flying = [term for term in told.terms if term.in_flight]
    assert flying
    assert all(term.d == term.in_flight for term in flying)
    assert told.mean == 0
    assert told.width == pytest.approx(math.sqrt(sum(term.weight**2 / term.d for term in flying)))
    assert (told.n, told.s) == (0, 0)
    assert app.loop is not None
    assert app.loop.status().in_flight == 1
    result = CliRunner().invoke(verify, ["--data-dir", str(app.settings.data_dir), "--backend", "numpy"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("join", "message"),
    [
        ({"resolution": "late"}, "join.resolution"),
        ({"position_gammas": [1.0, 0.0]}, r"join.position_gammas\[1\]: expected 0 < gamma <= 1, got 0.0"),
        ({"half_life_ms": 5}, "join.half_life_ms: expected 0 or 60000 to"),
        ({"kind_aggregations": {"dwell": "sum"}}, "join.kind_aggregations: expected kinds of kind_weights"),
        ({"kind_caps": {"click": 3.0}}, r'join.kind_caps\["click"\]: expected 0 < cap <= reward_cap 1.0, got 3.0'),
    ],
)
def test_a_wrong_setting_of_the_join_names_its_field(join: dict[str, object], message: str) -> None:
    """Field, what was expected, what came."""
    with pytest.raises(SettingsError, match=message):
        load_settings(join=join)
