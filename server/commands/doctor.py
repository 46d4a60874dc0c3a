"""`freshet doctor`: is this machine ready, and do the settings fit it."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from server.commands.output import DOES_NOT_HOLD, json_option, print_json

if TYPE_CHECKING:
    from server.commands.machine_checks import Check, Finding
    from server.settings import Settings

_STYLE = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; else the one FRESHET_CONFIG names.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the store is, or will be, kept.")
@click.option("--graph", type=click.Path(path_type=Path), help="Graph artifact to check.")
@click.option("--kafka", metavar="HOST:PORT", help="Brokers to check.  [default: those of the settings]")
@json_option
def doctor(
    config: Path | None, data_dir: Path | None, graph: Path | None, kafka: str | None, as_json: bool
) -> None:
    """Check this machine and the settings that `freshet serve` would use, and say how to put right what is wrong.

    Exit codes: 0 nothing has failed (warnings may be shown), 1 a check has failed.
    """
    from server.commands import machine_checks as machine
    from server.settings import SettingsError, load_settings

    overrides = {name: value for name, value in (("data_dir", data_dir), ("graph", graph)) if value is not None}
    settings: Settings | None = None
    try:
        settings = load_settings(config, **overrides)
        found = [machine.Finding("settings", "ok", "valid")]
    except SettingsError as error:
        fix = "correct them; the checks of addresses, graph and store were left out"
        found = [machine.Finding("settings", "fail", str(error).replace("\n", "; "), fix)]
    checks = _checks(settings, kafka)
    for name, check in checks.items():
        found.append(machine.guarded(name, check))
    healthy = all(finding.status != "fail" for finding in found)
    if as_json:
        print_json({"ok": healthy, "checks": [asdict(finding) for finding in found]})
    else:
        _show(found)
    if not healthy:
        raise SystemExit(DOES_NOT_HOLD)


def _checks(settings: "Settings | None", kafka: str | None) -> "dict[str, Check]":
    from server.commands import machine_checks as machine
    from server.commands import settings_checks
    from server.kafka_settings import KafkaGroup

    checks: dict[str, Check] = {
        "python": machine.python,
        "numba": machine.numba,
        "blas threads": machine.blas,
        "gpu": machine.gpu,
        "memory": machine.memory,
        "open files": machine.open_files,
        "clock": machine.clock,
    }
    if settings is not None:
        checks["disk"] = partial(machine.disk, settings.data_dir)
        checks["synced writes"] = partial(machine.synced_writes, settings.data_dir)
        for name in ("address", "operations_address", "http_address"):
            checks[name] = partial(settings_checks.port, name, getattr(settings, name))
        checks["graph"] = partial(settings_checks.graph, settings)
        checks["store"] = partial(settings_checks.store, settings)
        checks["forgetting"] = partial(settings_checks.forgetting, settings)
        checks["tls"] = partial(settings_checks.certificates, settings)
    group = settings.kafka if settings else KafkaGroup()
    if (bootstrap := kafka or group.bootstrap) is not None:
        checks["kafka"] = partial(settings_checks.kafka, bootstrap, group)
    return checks


def _show(found: "list[Finding]") -> None:
    for finding in found:
        mark = click.style(f"{finding.status:<5}", fg=_STYLE[finding.status], bold=finding.status != "ok")
        click.echo(f"{mark} {finding.name:<19} {finding.found}")
        if finding.fix:
            click.echo(f"{'':<25} fix: {finding.fix}")
