"""Compiles what most tests call, before they run side by side and each compiles it: tests.compile_once, by Make."""

from bandits.backend import choose_backend
from bandits.first_use import compile_learning
from bandits.join_rule import JoinRule
from server.compile_beside import CompilingBeside
from server.lane.warm_up import compile_calls
from streams.kafka.source_codec import click_decoder, impression_decoder

_RULES = (JoinRule(), JoinRule(resolution="at_close", half_life_ms=3_600_000))


def main() -> None:
    """Compile it, in two processes where there are two processors."""
    backend = choose_backend("numba")
    beside = CompilingBeside(backend)
    for rule in _RULES:
        compile_learning(rule, backend)
        impression_decoder(rule)
        click_decoder(rule)
    compile_calls(backend, beside)


if __name__ == "__main__":
    main()
