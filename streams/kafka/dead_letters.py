"""Dead letters: the refused bytes, with the reason and where they came from in headers.

Invariant: a letter names the record (topic, partition, offset) and, for one event of a batch, its index, so that
repeats are known and the event can be sent again alone.
"""

from collections.abc import Iterable

from streams.kafka.sender import Outgoing
from streams.kafka.source_codec import Refused
from streams.topics import TopicNames

REASON = "freshet-reason"
TOPIC = "freshet-topic"
PARTITION = "freshet-partition"
OFFSET = "freshet-offset"
INDEX = "freshet-index"
CONTENT_TYPE = "content-type"

_MAX_REASON_BYTES = 1024
_MAX_HEADER_BYTES = 32_768
PROTOBUF = b"application/x-protobuf"


def letters(names: TopicNames, topic: str, partition: int, refused: Iterable[Refused]) -> list[Outgoing]:
    """A letter for each refused record or event, to the partition of the same number."""
    return [_letter(names, topic, partition, one) for one in refused]


def _letter(names: TopicNames, topic: str, partition: int, refused: Refused) -> Outgoing:
    record = refused.record
    headers: list[tuple[str, bytes]] = [
        (REASON, refused.reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES]),
        (TOPIC, topic.encode()),
        (PARTITION, str(partition).encode()),
        (OFFSET, str(record.offset).encode()),
    ]
    if refused.index is None:
        own = [(name, value) for name, value in record.headers if not name.startswith("freshet-") and value]
        kept = own if sum(len(name) + len(value) for name, value in own) <= _MAX_HEADER_BYTES else []
    else:
        headers.append((INDEX, str(refused.index).encode()))
        kept = [(CONTENT_TYPE, PROTOBUF)]  # one event of a batch is sent on as protobuf, whatever the batch was
    return Outgoing(names.dead_letters(topic), partition, record.key, refused.value, [*headers, *kept])
