"""`freshet evaluate`: what other policies would have earned on a log, and whether the log can say so."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.commands.backend_choice import backend_option, chosen_backend

if TYPE_CHECKING:
    from bandits.backend import Backend
    from bandits.ope import Interval
    from bandits.sums import Sums
    from streams.evaluation import EvaluationSettings, LoggedSlates, Report
    from streams.evaluation.reference import Comparison
    from streams.evaluation.report import PolicyReport, Row

_SHARE = click.FloatRange(0, 1, max_open=True)


@click.command()
@click.argument("source", required=False, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "store", "jsonl", "open-bandit", "kuairand"]),
    help="What SOURCE is.",
)
@click.option("--policy", "specs", multiple=True, help="mode or mode:name=value,name=value; may be repeated.")
@click.option(
    "--train-share",
    default=0.5,
    show_default=True,
    type=_SHARE,
    help="The first share of the log is learned from; the policies are evaluated on the rest.",
)
@click.option(
    "--parameters",
    type=click.Path(path_type=Path, exists=True),
    help="Data directory whose parameters the policies have, instead of learning them; then all of SOURCE counts.",
)
@click.option(
    "--graph", "graph_dir", type=click.Path(path_type=Path, exists=True), help="Graph artifact of a JSONL log."
)
@click.option(
    "--candidates",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "logged", "around", "all"]),
    help="What a policy chooses from: the logged candidates, the items around the user's clusters, or all items.",
)
@click.option("--limit", type=click.IntRange(4), help="Only so many slates, the first.")
@click.option(
    "--draws", default=400, show_default=True, type=click.IntRange(1, 10_000), help="Thompson draws a slate."
)
@click.option("--clip", default=10.0, show_default=True, type=click.FloatRange(0), help="Limit of clipped weights.")
@click.option(
    "--switch", default=10.0, show_default=True, type=click.FloatRange(0), help="Switch-DR trusts weights up to it."
)
@click.option("--folds", default=3, show_default=True, type=click.IntRange(1, 20), help="Of the reward model.")
@click.option(
    "--min-effective",
    default=100.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Smallest effective sample size that is not refused.",
)
@click.option(
    "--alpha",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="1 - coverage of intervals.",
)
@click.option("--resamples", default=2000, show_default=True, type=click.IntRange(100, 100_000), help="Bootstrap.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32))
@backend_option
@click.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True),
    help="Check the estimators instead: recompute the reference values of this folder (obd_ope, beside obd).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    source: Path | None,
    kind: str,
    specs: tuple[str, ...],
    train_share: float,
    parameters: Path | None,
    graph_dir: Path | None,
    candidates: str,
    limit: int | None,
    draws: int,
    clip: float,
    switch: float,
    folds: int,
    min_effective: float,
    alpha: float,
    resamples: int,
    seed: int,
    backend: str,
    reference: Path | None,
    as_json: bool,
) -> None:
    """Estimate what policies would have earned on the log SOURCE, beside what the logging policy did earn.

    SOURCE is a data directory, a JSONL file, an Open Bandit table or a KuaiRand folder. Exit codes: 0 all policies
    evaluated, 1 at least one was refused for lack of support (the reasons are told), 2 wrong usage or an unreadable
    log, 3 a store that cannot be read.
    """
    from streams.evaluation import EvaluationSettings
    from streams.evaluation.estimates import Limits

    if reference:
        _check_reference(reference, as_json=as_json)
        return
    if source is None or not specs:
        raise click.UsageError("expected SOURCE and at least one --policy, or --reference")
    settings = EvaluationSettings(
        limits=Limits(clip=clip, switch=switch, min_effective_rounds=min_effective, alpha=alpha),
        draws=draws,
        folds=folds,
        resamples=resamples,
        seed=seed,
    )
    report = _run(
        source,
        specs,
        settings,
        kind=kind,
        train_share=train_share,
        parameters=parameters,
        graph_dir=graph_dir,
        candidates=candidates,
        limit=limit,
        backend=backend,
        quiet=as_json,
    )
    if as_json:
        from server.commands.output import print_json

        print_json(_plain(asdict(report)) | {"refused": report.refused})
    else:
        _show(report, alpha)
    if report.refused:
        raise SystemExit(1)


def _run(
    source: Path,
    specs: tuple[str, ...],
    settings: "EvaluationSettings",
    *,
    kind: str,
    train_share: float,
    parameters: Path | None,
    graph_dir: Path | None,
    candidates: str,
    limit: int | None,
    backend: str,
    quiet: bool,
) -> "Report":
    from dataclasses import replace

    from bandits.artifact import load_graph
    from bandits.ope import NoSupport
    from server.commands.output import fail, rows_progress
    from streams.evaluation import evaluate, parse_target, read_source
    from streams.evaluation.parameters import stored_parameters
    from streams.evaluation.sources import kind_of
    from streams.logs import LogError
    from streams.outcome_codec import LedgerError
    from streams.store import StoreError

    try:
        targets = [parse_target(spec) for spec in specs]
        engine = chosen_backend(backend)
        stored = stored_parameters(parameters, engine) if parameters else None
        graph = stored[0] if stored else load_graph(graph_dir) if graph_dir else None
        with rows_progress(None, "reading", quiet=quiet) as progress:
            kind = kind_of(source) if kind == "auto" else kind
            if graph and kind not in ("store", "jsonl"):
                raise LogError(f"--parameters, --graph: expected a store or JSONL as SOURCE, got {kind}")
            log = read_source(source, kind=kind, graph=graph, progress=progress)
        log = log.first(limit) if limit else log
        log, sums = _parameters(log, stored[1] if stored else None, train_share, engine)
        choice = _candidates(log, candidates)
        with rows_progress(len(log) * len(targets), "evaluating", quiet=quiet) as progress:
            return evaluate(
                log,
                targets,
                sums=sums,
                backend=engine,
                settings=replace(settings, candidates=choice),
                progress=progress,
            )
    except (StoreError, LedgerError) as error:
        fail(str(error), code=3)
    except NoSupport as error:
        fail(str(error), code=1)
    except ValueError as error:
        fail(str(error), code=2)


def _parameters(
    log: "LoggedSlates", stored: "Sums | None", train_share: float, backend: "Backend"
) -> tuple["LoggedSlates", "Sums"]:
    from streams.evaluation.parameters import learn

    if stored is not None:
        return log.noted(
            "parameters of a store: if they were learned from these slates, estimates are too high"
        ), stored
    first, rest = log.split(train_share)
    return rest.noted(f"learned from the first {len(first):,} slates, evaluated on the {len(rest):,} after"), learn(
        first, backend
    )


def _candidates(log: "LoggedSlates", choice: str) -> str:
    from server.commands.output import fail

    logged = log.candidate_ends is not None
    if choice == "logged" and not logged:
        fail("--candidates logged: the log names no candidates", code=2)
    return ("logged" if logged else "around") if choice == "auto" else choice


def _check_reference(folder: Path, *, as_json: bool) -> None:
    from server.commands.output import fail, print_json
    from streams.evaluation.reference import TOLERANCE, check_reference
    from streams.logs import LogError

    try:
        found = check_reference(folder)
    except LogError as error:
        fail(str(error), code=2)
    wrong = [one for one in found if not one.ok]
    if as_json:
        print_json({"ok": not wrong, "tolerance": TOLERANCE, "compared": [asdict(one) for one in found]})
    else:
        for one in found:
            click.echo(_compared(one))
        click.echo(f"{len(found) - len(wrong)} of {len(found)} values agree to {TOLERANCE:g}")
    if wrong:
        raise SystemExit(1)


def _compared(one: "Comparison") -> str:
    mark = "ok  " if one.ok else "FAIL"
    return f"{mark}  {one.case:<24}{one.estimator:<24}{one.ours:>18.12f}{one.reference:>18.12f}"


def _plain(value: Any) -> Any:
    """Intervals as objects: a JSON reader should not have to know which end comes first."""
    from bandits.ope import Interval

    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _show(report: "Report", alpha: float) -> None:
    shown = "of one item" if report.items == report.slates else f"with {report.items:,} shown items"
    click.echo(
        f"{report.log}: {report.slates:,} slates {shown}; values are rewards a slate, intervals hold "
        f"{1 - alpha:g} of the time"
    )
    for text in report.notes:
        click.echo(f"  {text}")
    for policy in (report.logged, *report.policies):
        click.echo()
        _show_policy(policy)


def _show_policy(policy: "PolicyReport") -> None:
    click.echo(policy.policy)
    support = policy.support
    if support:
        click.echo(
            f"  effective sample size {support.effective_rounds:,.0f} of {support.rounds:,}, largest weight "
            f"{support.max_weight:,.4g}, mean weight {support.mean_weight:.4f} +- {support.mean_weight_error:.4f}"
        )
    for reason in policy.refused:
        click.echo(f"  REFUSED: {reason}")
    if policy.rows:
        head = ("estimator", "value", "bootstrap", "normal", "anytime", "over logged")
        click.echo("  {:<13}{:>10}  {:<22}{:<22}{:<22}{:<22}".format(*head).rstrip())
    for row in policy.rows:
        click.echo(_line(row))
    for name, text in policy.notes.items():
        click.echo(f"  {name}: {text}")


def _line(row: "Row") -> str:
    cells: list[Any] = [row.bootstrap, row.normal, row.anytime, row.over_logged]
    shown = "".join(f"{_interval(cell):<22}" for cell in cells)
    return f"  {row.estimator:<13}{row.value:>10.5f}  {shown}".rstrip()


def _interval(interval: "Interval | None") -> str:
    return f"{interval[0]:.5f} .. {interval[1]:.5f}" if interval else ""
