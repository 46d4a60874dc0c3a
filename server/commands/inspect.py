"""`freshet inspect`: a look into a data directory, while its server runs or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.commands.output import BAD_INPUT, NOT_RUNNING, fail, json_option, print_json

if TYPE_CHECKING:
    from server.commands.store_views import StoreViews

_FROM = click.IntRange(0)


@click.command()
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), help="Data directory of a server.")
@click.option("--item", "item_id", help="Show one item with all its edges.")
@click.option("--dead", "dead_from", type=_FROM, help="Show dead letters from this number on.")
@click.option("--ledger", "ledger_from", type=_FROM, help="Show ledger records from this offset on.")
@click.option(
    "--by",
    "order",
    default="impressions",
    show_default=True,
    type=click.Choice(["impressions", "mean", "uncertainty"]),
    help="Order of the items.",
)
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 1_000), help="Rows to show.")
@json_option
def inspect(
    data_dir: Path,
    item_id: str | None,
    dead_from: int | None,
    ledger_from: int | None,
    order: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show positions, counts and items of a data directory, or a part of it.

    The store is only read, as it was when opened; its server may go on writing.

    Exit codes: 0 done, 2 bad input or no such item, 3 the store cannot be read.
    """
    from server.commands.store_views import opened
    from streams.store import StoreError

    if sum(part is not None for part in (item_id, dead_from, ledger_from)) > 1:
        fail("--item, --dead, --ledger: expected at most one of them", code=BAD_INPUT)
    result: Any
    try:
        with opened(data_dir) as views:
            if item_id is not None:
                result = views.item(item_id)
            elif dead_from is not None:
                result = views.dead(dead_from, limit)
            elif ledger_from is not None:
                result = views.ledger(ledger_from, limit)
            else:
                result = _whole(views, order, limit)
    except (StoreError, ValueError) as error:  # ValueError: a record that cannot be decoded
        fail(str(error), code=NOT_RUNNING)
    if result is None:
        fail(f"--item: expected an item of the graph, got {item_id!r}", code=BAD_INPUT)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _whole(views: "StoreViews", order: str, limit: int) -> dict[str, Any]:
    return {**views.overview(), "items": views.top(order, limit), "items_by": order}


def _show(result: dict[str, Any] | list[dict[str, Any]]) -> None:
    if isinstance(result, list):
        _show_rows(result)
        return
    for name, value in result.items():
        if isinstance(value, Mapping):
            click.echo(f"{name}")
            for inner, part in value.items():
                click.echo(f"  {inner:<24}{_text(part)}")
        elif not isinstance(value, list):
            click.echo(f"{name:<26}{_text(value)}")
    for name, value in result.items():
        if isinstance(value, list):
            click.echo(f"\n{name}")
            _show_rows(value)


def _show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as columns; numbers to the right."""
    if not rows:
        click.echo("none")
        return
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = [isinstance(value, int | float) for value in rows[0].values()]
    for row in cells:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "unseen" if value >= 1e9 else f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
