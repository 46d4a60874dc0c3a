"""Random feedback, sent by a plain producer that knows nothing of the loop but the schema."""

import json
import random
import time
import zlib

import numpy as np
from kafka import KafkaProducer

from bandits.graph import build_graph
from freshet.v1 import events_pb2

N_CLUSTERS, N_ITEMS, DEGREE = 12, 60, 5


def make_graph():
    """A small graph, the same in every test."""
    rng = np.random.default_rng(7)
    clusters = [rng.choice(N_CLUSTERS, DEGREE, replace=False) for _ in range(N_ITEMS)]
    return build_graph(
        version="test-1",
        centroids=[],
        n_clusters=N_CLUSTERS,
        item_ids=[f"item-{i}" for i in range(N_ITEMS)],
        edge_item=np.repeat(np.arange(N_ITEMS), DEGREE),
        edge_cluster=np.concatenate(clusters),
    )


def edges_of(graph):
    """Clusters of each item, as plain sets."""
    ends = graph.item_ptr.tolist()
    clusters = graph.edge_cluster.tolist()
    return {name: set(clusters[ends[i] : ends[i + 1]]) for i, name in enumerate(graph.item_ids)}


class Feed:
    """Impressions and clicks from a seed: duplicates, clicks before their impression, every encoding.

    Args:
        bootstrap: of the broker.
        names: of the topics.
        partitions: of impressions and clicks.
        seed: of everything random.
        surfaces: that slates are shown on.
        ages_ms: how long ago slates were shown when they are sent, at random; 0 = they do not say.
    """

    def __init__(self, bootstrap, names, partitions, seed, *, surfaces=("",), ages_ms=0):
        self.names = names
        self.partitions = partitions
        self.rng = random.Random(seed)
        self.surfaces, self.ages_ms = surfaces, ages_ms
        self.requests = 0
        self.sent = {"impressions": 0, "clicks": 0}
        self._later = []
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            linger_ms=5,
            batch_size=1 << 18,
            request_timeout_ms=60_000,
            delivery_timeout_ms=300_000,
            max_block_ms=300_000,
        )

    def close(self):
        self._producer.close()

    def flush(self):
        self._producer.flush()

    def step(self, requests):
        """Send some requests with their clicks, in an order that is not the order in which they happened."""
        rng, out = self.rng, self._later
        self._later = []
        for _ in range(requests):
            self.requests += 1
            impression = self._impression(f"r{self.requests}")
            out.append(impression)
            if rng.random() < 0.2:
                out.append(impression)
            for item in impression.items:
                if rng.random() < 0.3:
                    click = events_pb2.Click(
                        request_id=impression.request_id, item_id=item.item_id, reward=rng.choice([0.25, 0.5, 1.0])
                    )
                    late = self._later if rng.random() < 0.1 else out
                    late += [click] * (2 if rng.random() < 0.2 else 1)
            if rng.random() < 0.05:
                out.append(events_pb2.Click(request_id=f"never-{self.requests}", item_id="item-1"))
        rng.shuffle(out)
        self._send(out)

    def finish(self):
        """Send what was held back."""
        out, self._later = self._later, []
        self._send(out)
        self.flush()

    def send_bad(self, count):
        """Records that nobody can use."""
        for i in range(count):
            value = self.rng.choice(
                [b"\xff\xfe garbage", b"{not json", b"{}", b"\x0a\x05ab", json.dumps({"request_id": i}).encode()]
            )
            topic = self.rng.choice([self.names.impressions, self.names.clicks])
            partition = self.rng.randrange(self.partitions)
            self._producer.send(topic, value, key=b"bad", partition=partition, headers=[("test-kind", b"bad")])
        self.flush()

    def _impression(self, request_id):
        rng = self.rng
        clusters = rng.sample(range(N_CLUSTERS), 3)
        items = rng.sample(range(N_ITEMS + 2), rng.randint(1, 4))  # two items are not in the graph
        now_ms = int(time.time() * 1000)
        return events_pb2.Impression(
            request_id=request_id,
            occurred_at_ms=now_ms - rng.randrange(self.ages_ms) if self.ages_ms else 0,
            surface=self.surfaces[0] if len(self.surfaces) == 1 else rng.choice(self.surfaces),
            context={"cluster_ids": clusters, "weights": [0.5, 0.25, 0.125]},
            items=[{"item_id": f"item-{item}", "position": at} for at, item in enumerate(items)],
        )

    def _send(self, events):
        together = {}
        for event in events:
            shown = isinstance(event, events_pb2.Impression)
            self.sent["impressions" if shown else "clicks"] += 1
            partition = zlib.crc32(event.request_id.encode()) % self.partitions
            if self.rng.random() < 0.3:
                together.setdefault((shown, partition), []).append(event)
                continue
            kind = self.rng.choice(["one", "json"])
            value = _as_json(event) if kind == "json" else event.SerializeToString()
            self._produce(shown, partition, event.request_id, value, kind)
        for (shown, partition), batch in together.items():
            name = "impressions" if shown else "clicks"
            if self.rng.random() < 0.5:
                value, kind = json.dumps({name: [json.loads(_as_json(e)) for e in batch]}).encode(), "json-batch"
            else:
                message = events_pb2.ImpressionBatch if shown else events_pb2.ClickBatch
                value, kind = message(**{name: batch}).SerializeToString(), "batch"
            self._produce(shown, partition, "batch", value, kind)

    def _produce(self, shown, partition, key, value, kind):
        topic = self.names.impressions if shown else self.names.clicks
        self._producer.send(
            topic, value, key=key.encode(), partition=partition, headers=[("test-kind", kind.encode())]
        )


def _as_json(event):
    if isinstance(event, events_pb2.Click):
        value = {"request_id": event.request_id, "item_id": event.item_id}
        if event.HasField("reward"):
            value["reward"] = event.reward
        return json.dumps(value).encode()
    return json.dumps(
        {
            "request_id": event.request_id,
            "occurred_at_ms": event.occurred_at_ms,
            "surface": event.surface,
            "context": {"cluster_ids": list(event.context.cluster_ids), "weights": list(event.context.weights)},
            "items": [{"item_id": item.item_id, "position": item.position} for item in event.items],
        }
    ).encode()
