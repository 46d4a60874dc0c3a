"""Random source records as JSON: mostly valid events in every form that producers write, and some gone wrong.

Invariant: everything is drawn from the generator that is passed in.
"""

import json
import random

from tests.streams.wire.odd_records import IDS, NOW_MS, SURFACES, TIMES, pick

_NUMBERS = (
    "0",
    "1",
    "0.0",
    "-0.0",
    "1.0",
    "1e-3",
    "2.5E-1",
    "1E0",
    "5e-324",
    "1e-400",
    "1e400",
    "0.1234567890123456789",
)
_ODD_NUMBERS = (
    *_NUMBERS,
    "01",
    "1.",
    ".5",
    "+1",
    "-1",
    "NaN",
    "1e",
    "1e+",
    '"0.5"',
    "null",
    "true",
    "1.5",
    "[]",
    "{}",
)
_DECIMALS = ("0.10000000149011612", "0.30000000000000004", "1.0000000000000000", "0.999999999999999999", "1e-7")
_WHOLE = (
    "0",
    "3",
    '"4"',
    "5.0",
    "5e0",
    "-1",
    "4999",
    "5000",
    "4294967296",
    "99999999999999999999",
    "007",
    '" 4"',
    "null",
)
_SPELLINGS = {
    "request_id": "requestId",
    "occurred_at_ms": "occurredAtMs",
    "cluster_ids": "clusterIds",
    "item_id": "itemId",
    "graph_version": "graphVersion",
    "user_key": "userKey",
    "event_id": "eventId",
}
_MODES = ('"MODE_UCB"', "3", '"3"', '"MODE_NONE"', "9", "null", '""', '"MODE_EXPLOIT"')
_EXTRA = ('"x"', "1", "-2.5e3", "true", "false", "null", "{}", "[1]", '"\\ud800"', "tru", '{"impressions":[]}')
_TEXTS = ("1", "null", '"\\ud83d\\ude00"', '"\\ud83d"', '"\\u00e9\\n\\/"', '"\\x"', '"a\tb"', '"\\u0000"', '"\x7f"')


class JsonWriter:
    """Writes objects with their members in any order, in both spellings, with blanks and members nobody knows."""

    def __init__(self, rng: random.Random, oddness: float) -> None:
        self.rng, self.oddness = rng, oddness
        self.spelling = rng.random() < 0.3
        self.ascii = rng.random() < 0.5
        self.blanks = rng.random() < 0.3

    def odd(self, share: float = 1.0) -> bool:
        return self.rng.random() < self.oddness * share

    def blank(self) -> str:
        return self.rng.choice(("", "", " ", "\n\t", "\r ")) if self.blanks else ""

    def text(self, value: str) -> str:
        if self.odd(0.2):
            return self.rng.choice(_TEXTS)
        written = json.dumps(value, ensure_ascii=self.ascii)
        return written.replace("/", "\\/") if self.rng.random() < 0.1 else written

    def number(self, value: float, odd: tuple[str, ...] = _ODD_NUMBERS) -> str:
        if self.odd(0.1):
            return self.rng.choice(odd)
        if self.rng.random() < 0.05:
            return self.rng.choice(_DECIMALS)
        if not self.oddness:
            return self.rng.choice((repr(value + 1e-5), f"{value + 1e-5:.6f}", f"{value:.17e}"))
        digits = self.rng.randint(1, 20)
        return self.rng.choice((repr(value), f"{value:.{digits}f}", f"{value:.{digits}e}", f"{value:.6f}"))

    def whole(self, value: int) -> str:
        return self.rng.choice(_WHOLE) if self.odd(0.1) else str(value)

    def array(self, values: list[str]) -> str:
        comma = f"{self.blank()},{self.blank()}"
        closing = ",]" if self.odd(0.02) else "]"
        return f"[{self.blank()}{comma.join(values)}{self.blank()}{closing}"

    def object(self, members: dict[str, str]) -> str:
        written = [
            (_SPELLINGS[name] if self.spelling and name in _SPELLINGS else name, value)
            for name, value in members.items()
        ]
        if self.odd(0.1) and written:
            name, value = self.rng.choice(written)
            written.append((_SPELLINGS.get(name, name), value))
        if self.rng.random() < 0.05 + self.oddness / 8:
            written.append((self.rng.choice(("colour", "é", "", "itemid")), self.rng.choice(_EXTRA[:6])))
        if self.odd(0.1):
            written.append((self.rng.choice(("[a.b]", "impressions", "clicks", "x")), self.rng.choice(_EXTRA)))
        if self.rng.random() < 0.3:
            self.rng.shuffle(written)
        comma, colon = f"{self.blank()},{self.blank()}", f"{self.blank()}:{self.blank()}"
        pairs = (json.dumps(name, ensure_ascii=self.ascii) + colon + value for name, value in written)
        return f"{{{self.blank()}{comma.join(pairs)}{self.blank()}}}"


def _context(writer: JsonWriter) -> str:
    rng = writer.rng
    size = int(pick(rng, rng.randint(1, 12), (0, 64, 65), writer.oddness / 8))
    ids = rng.sample(range(1000), size)
    if writer.odd(0.1):
        ids = [*ids[1:], rng.choice((0, 2**31 - 1, 2**31, 7))]
    weights = [writer.number(rng.random() * 0.999 + 1e-7) for _ in ids]
    if writer.odd(0.1):
        weights = weights[:-1]
    return writer.object(
        {"cluster_ids": writer.array([writer.whole(i) for i in ids]), "weights": writer.array(weights)}
    )


def _item(writer: JsonWriter, position: int) -> str:
    rng = writer.rng
    usual = rng.choice(("item", "é", "漢", "😀/")) + f"-{rng.randint(0, 99)}-{position}"
    members = {"item_id": writer.text(str(pick(rng, usual, IDS, writer.oddness / 4)))}
    if position or rng.random() < 0.3:
        members["position"] = writer.whole(position)
    if rng.random() < 0.7:
        members["propensity"] = writer.number(rng.random() * 0.999)
    return writer.object(members)


def impression(rng: random.Random, oddness: float) -> bytes:
    """Impression; with oddness 0 one that every rule lets pass and that is written in a usual way."""
    writer = JsonWriter(rng, oddness)
    members = {"request_id": writer.text(str(pick(rng, f"request-{rng.randint(0, 10**6)}", IDS, oddness / 2)))}
    if rng.random() < 0.7:
        time_ms = str(pick(rng, NOW_MS - rng.randint(0, 10**6), TIMES, oddness / 2))
        members["occurred_at_ms"] = f'"{time_ms}"' if rng.random() < 0.5 else time_ms
    members["context"] = _context(writer)
    n_items = int(pick(rng, rng.randint(1, 6), (0, 40), oddness / 4))
    members["items"] = writer.array([_item(writer, position) for position in range(n_items)])
    for name in ("policy", "graph_version", "user_key"):
        if rng.random() < 0.3:
            members[name] = writer.text(str(pick(rng, "some", IDS, oddness)))
    if rng.random() < 0.6:
        surface = pick(rng, rng.choice(SURFACES), (*IDS, *SURFACES), oddness / 2)
        members["surface"] = writer.text(str(surface))
    if rng.random() < 0.3:
        members["mode"] = str(pick(rng, rng.choice(_MODES[:2]), _MODES, oddness))
    if writer.odd(0.1):
        del members[rng.choice(list(members))]
    return writer.object(members).encode(errors="surrogatepass")


def click(rng: random.Random, oddness: float) -> bytes:
    """Click; with oddness 0 as above."""
    writer = JsonWriter(rng, oddness)
    members = {
        "request_id": writer.text(str(pick(rng, f"request-{rng.randint(0, 10**6)}", IDS, oddness / 2))),
        "item_id": writer.text(str(pick(rng, f"é-{rng.randint(0, 300)}", IDS, oddness / 2))),
    }
    if rng.random() < 0.5:
        members["reward"] = writer.number(rng.random() * 3)
    if rng.random() < 0.7:
        kinds = ("click", "dwell", "é", "")
        members["kind"] = writer.text(str(pick(rng, rng.choice(kinds), ("nope", "x" * 300), oddness / 4)))
    if rng.random() < 0.7:
        members["occurred_at_ms"] = str(pick(rng, NOW_MS - rng.randint(0, 10**6), TIMES, oddness / 2))
    if rng.random() < 0.3:
        members["event_id"] = writer.text(str(pick(rng, "event", IDS, oddness)))
    return writer.object(members).encode(errors="surrogatepass")


def batch(rng: random.Random, event: object, oddness: float) -> bytes:
    """A list of such events, alone or in an object."""
    name = b"impressions" if event is impression else b"clicks"
    events = [event(rng, oddness / 4) for _ in range(int(pick(rng, rng.randint(1, 4), (0, 12), oddness / 4)))]
    listed = b"[" + b" , ".join(events) + b"]"
    forms = [b" " + listed, b'{"%s":%s}' % (name, listed), b' { "%s" : %s } ' % (name, listed)]
    odd = [b'{"%s":%s,"more":1}', b'{"more":1,"%s":%s}', b'{"%s":%s}}', b'{"%s":%s]', b'{"%s":%s} x']
    if rng.random() < oddness:
        forms = [form % (name, listed) for form in odd] + [listed + b"}", listed + b","]
    return rng.choice(forms)
