"""A producer that knows only the schema: `python docs/kafka_producer_example.py HOST:PORT PREFIX`."""

import json
import sys

from kafka import KafkaProducer

bootstrap, prefix = sys.argv[1:3]
producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", value_serializer=lambda v: json.dumps(v).encode())
context = {"cluster_ids": [3, 8], "weights": [0.75, 0.25]}
shown = {
    "request_id": "r-1",
    "context": context,
    "items": [{"item_id": "item-1", "position": 0, "propensity": 0.5}],
}
click = {"request_id": "r-1", "item_id": "item-1", "kind": "click"}
producer.send(f"{prefix}.impressions.v1", shown, key=b"r-1")  # the key is the request_id, so that both sides meet
producer.send(f"{prefix}.clicks.v1", click, key=b"r-1")
producer.flush()
