"""A simple program that says what must have been learned: it adds the source log up, one event at a time.

It shares no code with the loop: dictionaries and Python integers only. It knows the producers of these tests, which
say in a header what a record is.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from freshet.v1 import events_pb2, parameters_pb2

UNIT = 1 << 15
Edges = dict[tuple[str, int], list[int]]
Items = dict[str, list[int]]


@dataclass
class Learned:
    """Sums by (item, cluster): a, d, b; and by item: n, s. Zero rows are left out."""

    edges: Edges = field(default_factory=dict)
    items: Items = field(default_factory=dict)

    def difference(self, other: "Learned") -> str:
        """Empty if both are equal."""
        edges = [key for key in {*self.edges, *other.edges} if self.edges.get(key) != other.edges.get(key)]
        items = [key for key in {*self.items, *other.items} if self.items.get(key) != other.items.get(key)]
        if not edges and not items:
            return ""
        shown = [(key, self.items.get(key), other.items.get(key)) for key in sorted(items)[:5]]
        n = sum(v[0] for v in self.items.values()), sum(v[0] for v in other.items.values())
        return f"{len(edges)} edges and {len(items)} items differ, n {n}, first items {shown}"


def read_topic(bootstrap: str, topic: str) -> dict[int, list]:
    """All records of a topic by partition, in order."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(tps)
        ends = consumer.end_offsets(tps)
        consumer.seek_to_beginning(*tps)
        records = defaultdict(list)
        while any(consumer.position(tp) < ends[tp] for tp in tps):
            for tp, piece in consumer.poll(timeout_ms=500).items():
                records[tp.partition] += piece
        return records
    finally:
        consumer.close()


def fold_sources(
    bootstrap: str, impressions_topic: str, clicks_topic: str, edges_of: dict[str, set[int]]
) -> Learned:
    """What every edge must have learned from the source log; every event is taken to be inside its window."""
    shown = read_topic(bootstrap, impressions_topic)
    clicked = read_topic(bootstrap, clicks_topic)
    edges: Edges = defaultdict(lambda: [0, 0, 0])
    items: Items = defaultdict(lambda: [0, 0])
    for partition in {*shown, *clicked}:
        contexts = {}
        for record in shown[partition]:
            for impression in events_of(record, events_pb2.Impression, events_pb2.ImpressionBatch, "impressions"):
                _show(impression, contexts, edges, items, edges_of)
        rewarded = set()
        for record in clicked[partition]:
            for click in events_of(record, events_pb2.Click, events_pb2.ClickBatch, "clicks"):
                key = (click.request_id, click.item_id)
                if key in contexts and key not in rewarded:
                    rewarded.add(key)
                    count_click(click, contexts[key], edges, items, edges_of)
    return Learned({k: v for k, v in edges.items() if any(v)}, {k: v for k, v in items.items() if any(v)})


def read_parameters(bootstrap: str, topic: str) -> Learned:
    """What the parameters topic says now, the last row of each item."""
    learned = Learned()
    rows = {}
    for records in read_topic(bootstrap, topic).values():
        for record in records:
            if record.key[:1] != b"\xff":
                rows[record.key.decode()] = parameters_pb2.ItemParameters.FromString(record.value)
    for item, row in rows.items():
        for cluster, a, d, b in zip(row.cluster_ids, row.a, row.d, row.b, strict=True):
            if a or d or b:
                learned.edges[item, cluster] = [a, d, b]
        if row.n or row.s:
            learned.items[item] = [row.n, row.s]
    return learned


def group_offsets(bootstrap: str, group: str) -> dict[tuple[str, int], int]:
    """What a group has committed, by topic and partition."""
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        stored = admin.list_group_offsets(group)[group]
        return {(tp.topic, tp.partition): place.offset for tp, place in stored.items()}


def _show(impression, contexts, edges, items, edges_of):
    for item in impression.items:
        key = (impression.request_id, item.item_id)
        if key in contexts:
            continue
        contexts[key] = list(zip(impression.context.cluster_ids, impression.context.weights, strict=True))
        count_shown(item.item_id, contexts[key], edges, items, edges_of)


def count_shown(item_id, context, edges, items, edges_of):
    """Add one impression of an item."""
    if item_id not in edges_of:
        return
    items[item_id][0] += 1
    for cluster, weight in context:
        if cluster in edges_of[item_id]:
            x = round(weight * UNIT)
            edges[item_id, cluster][0] += x
            edges[item_id, cluster][1] += x * x


def count_click(click, context, edges, items, edges_of):
    """Add the reward of one click."""
    if click.item_id not in edges_of:
        return
    reward = round(min(click.reward if click.HasField("reward") else 1.0, 1.0) * UNIT)
    items[click.item_id][1] += reward
    for cluster, weight in context:
        if cluster in edges_of[click.item_id]:
            edges[click.item_id, cluster][2] += round(weight * UNIT) * reward


def events_of(record, single, batch, field_name):
    kind = dict(record.headers).get("test-kind", b"").decode()
    if kind == "bad":
        return []
    if kind == "batch":
        return getattr(batch.FromString(record.value), field_name)
    if kind == "json":
        return [_from_json(single, json.loads(record.value))]
    if kind == "json-batch":
        return [_from_json(single, one) for one in json.loads(record.value)[field_name]]
    return [single.FromString(record.value)]


def _from_json(single, value):
    if single is events_pb2.Click:
        return events_pb2.Click(**value)
    items = [events_pb2.ShownItem(**item) for item in value["items"]]
    context = events_pb2.ClusterWeights(**value["context"])
    rest = {name: value[name] for name in ("request_id", "occurred_at_ms", "surface") if name in value}
    return events_pb2.Impression(context=context, items=items, **rest)
