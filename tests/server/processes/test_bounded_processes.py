"""The life cycle of items holds for several processes as for one."""

from pathlib import Path

from freshet.v1 import events_pb2, recommender_pb2
from server.processes.supervisor import Supervisor
from tests.server.messages import one_hot, score_request
from tests.server.processes.pages import scraped, total
from tests.server.processes.servers import (
    PATIENCE_S,
    Callers,
    feed,
    kill,
    server_of_processes,
    until,
    wait_for_another,
)

IDS = ("item-3", "item-4", "item-5")
BUDGET = 60


def modes(callers: Callers, surface: str) -> list[int]:
    """Of slates of three items, one through each connection."""
    asked = score_request(*IDS, surface=surface)
    return [stub.Score(asked, timeout=PATIENCE_S, wait_for_ready=True).mode for stub in callers.recommenders]


def states(callers: Callers, item_id: str, cluster: int = 0) -> set[str]:
    """What Explain says of an item through each connection."""
    asked = recommender_pb2.ExplainRequest(item_id=item_id, cluster_weights=one_hot(cluster))
    return {
        stub.Explain(asked, timeout=PATIENCE_S, wait_for_ready=True).exploration for stub in callers.recommenders
    }


def test_a_budget_is_that_of_all_processes(tmp_path: Path) -> None:
    """Calls one by one explore no more than those of one process would; one that is killed gives none back."""
    bounds = {"budgets": {"home": BUDGET, "*": 10_000}}
    with server_of_processes(tmp_path, life_cycle=bounds) as (server, callers):
        found: list[int] = []
        while len(found) < 2 * BUDGET // len(IDS):
            found += modes(callers, "home")
        explored = BUDGET // len(IDS)
        exploits = [mode == events_pb2.MODE_EXPLOIT for mode in found]
        assert exploits == [False] * explored + [True] * (len(found) - explored)
        assert set(modes(callers, "search")) == {events_pb2.MODE_UCB}
        until(lambda: counted(server) == (BUDGET, 0))

        pid = kill(server, "reader-0")
        wait_for_another(server, "reader-0", pid)
        assert set(modes(callers, "home")) == {events_pb2.MODE_EXPLOIT}
        assert counted(server) == (BUDGET, 0)


def counted(server: Supervisor) -> tuple[float, float]:
    """Items explored on the page, and what it says is left."""
    series = scraped(server)
    explored = total(series, "freshet_exploration_items_explored_total", surface="home")
    return explored, total(series, "freshet_exploration_budget_left_items", surface="home")


def test_items_and_clusters_leave_the_lane_in_all_processes(tmp_path: Path) -> None:
    """By rewards that any process was told of, and by a cap that the writer finds reached; both are on the page."""
    bounds = {"graduate_rewards": 3, "max_cluster_impressions": 10}
    with server_of_processes(tmp_path, life_cycle=bounds) as (server, callers):
        assert states(callers, "item-1") == {"in_lane"}
        feed(callers, "first")  # of item-1 and item-2 in cluster 0; item-1 is clicked
        assert states(callers, "item-1") == {"graduated"}
        until(lambda: states(callers, "item-7") == {"cluster_cap"})
        assert states(callers, "item-0", cluster=3) == {"in_lane"}
        until(lambda: total(scraped(server), "freshet_exploration_closed_clusters") == 1)
        until(lambda: total(scraped(server), "freshet_exploration_items", state="graduated") == 1)
        asked = score_request("item-1", "item-7", seed=1, request_id="r")
        answers = [stub.Score(asked, timeout=PATIENCE_S) for stub in callers.recommenders]
        assert all(answer == answers[0] for answer in answers)
