"""A small log with two tastes, in the format of one's own tables."""

import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def same_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 users of two tastes, 60 items of two genres, 27 likes a user; items 0 and 30 appear at the very end."""
    folder = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(0)
    user_lines = [f"u{user},{'x' if user % 2 else 'y'}\n" for user in range(120)]
    item_lines = [f"i{item},{'red' if item < 30 else 'blue'}|all,{item % 7}\n" for item in range(60)]
    (folder / "users.csv").write_text("user_id,taste\n" + "".join(user_lines))
    (folder / "items.csv").write_text("item_id,genre_tags,length_number\n" + "".join(item_lines))
    events = []
    for user in range(120):
        own = 30 * (user % 2)
        items = np.append(own + 1 + rng.permutation(29)[:26], own)
        times = np.append(np.sort(rng.integers(0, 9_000, 26)), 9_900 + user % 90)
        events += [f"u{user},i{item},{time},1\n" for item, time in zip(items, times, strict=True)]
        events.append(f"u{user},i{(own + 31) % 60},{user},0\n")
    (folder / "events.csv").write_text("user_id,item_id,time_ms,liked\n" + "".join(events))
    return folder


@pytest.fixture
def tables(same_tables: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(same_tables, tmp_path / "log")
