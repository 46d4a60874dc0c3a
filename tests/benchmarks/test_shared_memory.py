"""The benchmark of shared memory runs, at sizes so small that nothing is learned from its numbers."""

from benchmarks.shared_memory import run


def test_slates_and_changes_are_timed_in_both_memories() -> None:
    """Each is timed in one's own memory and in shared memory, and as a ratio of the same rounds."""
    results = run(items=1_500, clusters=16, calls=5, rounds=2)
    assert len(results) == 9
    for result in results:
        assert 0 < result.low <= result.value <= result.high
    assert [result.unit for result in results] == ["us", "us", "x"] * 3
