"""Checks of the settings against this machine: addresses, graph, store, broker.

Invariant: a check changes nothing that lasts, and never raises.
"""

import fcntl
import socket
import time
from pathlib import Path

import numpy as np

from server.commands.machine_checks import MIB, Finding
from server.kafka_settings import KafkaGroup
from server.settings import Settings, split_address

_CONNECT_S = 3.0


def port(name: str, address: str) -> Finding:
    """An address can be listened on."""
    host, number = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
        except OSError as error:
            fix = f"stop what listens there, or set FRESHET_{name.upper()}"
            return Finding(name, "fail", f"{address}: {error.strerror}", fix)
    return Finding(name, "ok", f"{address} is free")


def graph(settings: Settings) -> Finding:
    """The graph artifact loads."""
    from bandits.artifact import DamagedGraph, load_graph

    if settings.graph is None:
        return Finding("graph", "ok", "none set: the store's own is used, or one is loaded later")
    try:
        loaded = load_graph(settings.graph)
    except (DamagedGraph, OSError) as error:
        return Finding("graph", "fail", str(error), "build it again, or restore it from a copy")
    sums_bytes = loaded.n_edges * 24 + loaded.n_items * 16
    return Finding(
        "graph",
        "ok",
        f"{loaded.version}: {loaded.n_clusters:,} clusters, {loaded.n_items:,} items, {loaded.n_edges:,} edges, "
        f"sums of {sums_bytes / MIB:,.1f} MiB",
    )


def store(settings: Settings) -> Finding:
    """The store opens, is of the format this release reads, and was not written by a clock ahead of this one."""
    from streams.restore import restore_joiner
    from streams.store import Store, StoreError

    folder = settings.data_dir / "store"
    if not (folder / "CURRENT").exists():
        return Finding("store", "ok", f"none yet in {settings.data_dir}")
    try:
        opened = Store(folder, read_only=True)
    except StoreError as error:
        return Finding("store", "fail", str(error), "use the release that wrote it, or another FRESHET_DATA_DIR")
    try:
        head = opened.head()
        ahead_ms = restore_joiner(opened, settings.join.rule()).clock_ms - time.time_ns() // 1_000_000
    except StoreError as error:
        return Finding("store", "fail", str(error), "restore the data directory from a copy")
    finally:
        opened.close()
    used = ", a server is using it" if _locked(folder / "LOCK") else ""
    found = (
        f"{settings.data_dir}: ledger of {head.ledger_end:,} records, graph {head.graph_version or 'none'}{used}"
    )
    if ahead_ms > settings.join.max_skew_ms:
        return Finding("store", "warn", f"{found}; written {ahead_ms / 1e3:,.0f} s in the future", "set the clock")
    return Finding("store", "ok", found)


def forgetting(settings: Settings) -> Finding:
    """A half-life holds enough impressions of an edge to learn from, by what the store has seen."""
    from bandits.forgetting import FEW_IMPRESSIONS, impressions_held
    from server.commands.store_views import opened
    from streams.store import StoreError

    name = "forgetting"
    if not settings.join.half_life_ms:
        return Finding(name, "ok", "none: join.half_life_ms is 0")
    if not (settings.data_dir / "store" / "CURRENT").exists():
        return Finding(name, "ok", "not known before something has been shown")
    try:
        with opened(settings.data_dir) as views:
            learner = views.learner
            sums = learner.sums if learner else None
            if learner is None or sums is None or sums.extra is None or sums.times is None:
                return Finding(name, "ok", "not known before something has been shown under the half-life")
            held = impressions_held(sums.edge, sums.extra, sums.times, np.diff(learner.graph.item_ptr))
    except StoreError as error:
        return Finding(name, "fail", str(error), "see the store")
    found = f"a half-life holds {held:,.0f} impressions of an edge that was shown, in the mean"
    if held < FEW_IMPRESSIONS:
        fix = f"raise join.half_life_ms, unless tastes change faster: under {FEW_IMPRESSIONS} it costs over 3 %"
        return Finding(name, "warn", found, fix)
    return Finding(name, "ok", found)


def kafka(bootstrap: str, group: KafkaGroup) -> Finding:
    """A broker takes a connection such as the settings make, log-in included."""
    from streams.kafka.handshake import Refusal, check_brokers
    from streams.kafka.security import SecurityError

    try:
        check_brokers(bootstrap, group.security(), timeout_s=_CONNECT_S)
    except (Refusal, SecurityError) as error:
        return Finding("kafka", "fail", str(error), "correct that setting, or the broker's")
    except (OSError, ValueError) as error:
        return Finding("kafka", "fail", f"{bootstrap}: {error}", "start the broker, or correct its address")
    how = "" if group.security_protocol == "PLAINTEXT" else f", as {group.security_protocol}"
    return Finding("kafka", "ok", f"{bootstrap} takes connections{how}")


def certificates(settings: Settings) -> Finding:
    """Certificate and key of the gRPC addresses can be used."""
    from server.tls import TlsError, read_certificates

    group = settings.server
    if group.tls_certificate is None:
        return Finding("tls", "ok", "none: gRPC is in plain text")
    try:
        read_certificates(group)
    except TlsError as error:
        return Finding("tls", "fail", str(error), "correct that file, or its name in the settings")
    callers = (
        "any caller" if group.tls_client_ca is None else f"callers with a certificate of {group.tls_client_ca}"
    )
    return Finding("tls", "ok", f"{group.tls_certificate}, for {callers}")


def _locked(file: Path) -> bool:
    """True if another process holds RocksDB's lock."""
    with file.open("r+b") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.lockf(handle, fcntl.LOCK_UN)
    return False
