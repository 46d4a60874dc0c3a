"""`freshet simulate --world`: users of the later part of a log against a running server.

Invariants: the run is bounded by a number of slates; what is drawn are the numbers that `--json` prints.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.commands.output import BAD_INPUT, NOT_RUNNING, fail, note

if TYPE_CHECKING:
    from server.channels import ClientTls
    from server.demo.held_out_scene import HeldOutScene
    from server.demo.scene import ClickModelName
    from server.demo.tally import Tally
    from server.demo.users import Habits


@dataclass(frozen=True, kw_only=True)
class WorldRun:
    """What to run.

    Attributes:
        world: folder of the held-out users.
        address: of the server.
        operations_address: where new items are published; None = they are not.
        slates: how many to show.
        click_model: how users look at a slate.
        quiet: show nothing.
        tls: what to connect with; None = plain text.
    """

    world: Path
    address: str
    operations_address: str | None
    slates: int
    click_model: "ClickModelName"
    quiet: bool
    tls: "ClientTls | None" = None


def make_scene(run: WorldRun) -> "HeldOutScene":
    """Read the users."""
    from server.demo.held_out_scene import HeldOutScene
    from streams.corpus.errors import CorpusError
    from streams.corpus.held_out import load_held_out

    try:
        return HeldOutScene(load_held_out(run.world), clicks=run.click_model, slates=run.slates)
    except CorpusError as error:
        fail(f"--world: {error}", code=BAD_INPUT)


def use_server(run: WorldRun, scene: "HeldOutScene", habits: "Habits") -> "tuple[Tally, float, int]":
    """Let the users use the server, and publish new items meanwhile."""
    from server.demo.publisher import NotPublished, Publisher
    from server.demo.run import UsersGaveUp, run_users

    publisher = None
    if run.operations_address is not None:
        publisher = Publisher(run.operations_address, scene, slates=run.slates, tls=run.tls)
    try:
        return run_users(
            run.address,
            scene,
            habits,
            seconds=4 * run.slates / habits.slates_per_s + 10,  # a slower server shows fewer
            slates=run.slates,
            title=f"freshet simulate: {len(scene.world.users):,} held-out users of {run.address}",
            quiet=run.quiet,
            check=publisher.publish_due if publisher else lambda: None,
            tls=run.tls,
        )
    except UsersGaveUp as error:
        fail(f"{run.address}: {error}", code=NOT_RUNNING)
    except NotPublished as error:
        fail(f"{run.operations_address}: {error}", code=NOT_RUNNING)
    finally:
        if publisher:
            publisher.close()


def read_beside(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Earlier results by the names of their files."""
    found = {}
    for path in files:
        try:
            body = json.loads(path.read_text("utf-8"))
            if not (body["curve"] and body["exposure"]["curve"] and body["same_for_all"]):
                raise ValueError("no curve")
        except (OSError, ValueError, KeyError, TypeError) as error:
            fail(f"--beside: {path}: expected the result of simulate --world --json, got {error!r}", code=BAD_INPUT)
        found[path.stem] = body
    return found


def draw(path: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Draw the runs; a missing matplotlib costs the picture alone."""
    from server.demo.curves import draw_runs
    from streams.corpus.errors import MissingLibrary

    try:
        draw_runs(runs, path)
    except MissingLibrary as error:
        note(str(error))
    except (OSError, ValueError) as error:
        fail(f"--picture: {path}: {getattr(error, 'strerror', None) or error}", code=BAD_INPUT)


def told(result: dict[str, Any]) -> list[str]:
    """What users got to see, for a person."""
    exposure = result["exposure"]
    at_least = ", ".join(f"{count:,} {level} times" for level, count in exposure["shown_at_least"].items())
    lines = [f"the best-liked items, shown to everybody: {result['same_for_all']:.3f} expected clicks a slate"]
    lines += [f"of {exposure['items']:,} items shown at least: {at_least}"]
    if exposure["new_items"]:
        at_least = ", ".join(f"{count:,} {level} times" for level, count in exposure["new_shown_at_least"].items())
        lines.append(f"of {exposure['new_items']:,} new items: {at_least}")
        for level, wait in exposure["new_slates_until"].items():
            if wait:
                median, high = f"{wait['p50']:,.0f}", f"{wait['p90']:,.0f}"
                lines.append(f"from publication to impression {level}: {median} slates (median), {high} (90 %)")
    return lines
