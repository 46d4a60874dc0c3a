"""A writer in a process of its own, which changes all rows as fast as it can. Arguments: board, socket, backend."""

import socket
import sys

import numpy as np

from bandits.graph import Graph
from bandits.graph_edit import edges_of
from bandits.policy_settings import PolicySettings
from server.processes.board import Board
from server.processes.publisher import Publisher
from server.processes.segment import Segment
from streams.change import Change
from tests.server.serving import small_graph

N_ITEMS = 2_000


def rows_of_value(graph: Graph, value: int, *, full: bool = False, items: object = None) -> Change:
    """All sums of some items are `value`, and so is the position."""
    numbers = np.arange(graph.n_items, dtype=np.int32) if items is None else np.asarray(items, np.int32)
    edge_rows = np.full((len(edges_of(graph, numbers)), 3), value, np.int64)
    return Change(graph, numbers, edge_rows, np.full((len(numbers), 2), value, np.int64), value, full)


def main(board: Board, peer: socket.socket, backend: str) -> None:
    def hand_over(segment: Segment) -> None:
        socket.send_fds(peer, [b"s"], [segment.fd])

    compiled = backend == "numba"
    publisher = Publisher(board, policy=PolicySettings, compiled=compiled, first_number=1, on_segment=hand_over)
    graph = small_graph(n_items=N_ITEMS)
    publisher.apply(rows_of_value(graph, 0, full=True))
    for value in range(1, 1_000_000):
        publisher.apply(rows_of_value(graph, value))
        publisher.copy_some_wished()


if __name__ == "__main__":
    main(Board(int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2])), sys.argv[3])
