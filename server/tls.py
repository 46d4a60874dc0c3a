"""Certificates of the gRPC addresses: read from disk, and read anew when they are replaced there.

Invariants: what is served is always a certificate and the key that belongs to it; a replacement that cannot be used
changes nothing and is logged once; connections keep the certificate that they were made with.
"""

import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from structlog.typing import FilteringBoundLogger

from server.settings import ServerGroup

Stamp = tuple[tuple[int, int, int], ...]


class TlsError(OSError):
    """A certificate or key cannot be used; the message names the setting."""


@dataclass(frozen=True)
class Certificates:
    """PEM texts of one moment.

    Attributes:
        certificate: of the server, and those between it and its authority.
        key: that belongs to it.
        client_ca: authorities of callers; None = callers need no certificate.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """As gRPC takes them."""
        pairs = [(self.key, self.certificate)]
        return grpc.ssl_server_certificate_configuration(pairs, root_certificates=self.client_ca)


def read_certificates(group: ServerGroup) -> Certificates:
    """What the settings name, as it is on disk now; there must be a certificate.

    Raises:
        TlsError: a file cannot be read, or key and certificate do not belong together.
    """
    texts: list[bytes] = []
    names = ("tls_certificate", "tls_key", "tls_client_ca")
    for name in names:
        path: Path | None = getattr(group, name)
        try:
            texts.append(b"" if path is None else path.read_bytes())
        except OSError as error:
            raise TlsError(f"server.{name}: expected a readable PEM file, got {path}: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(group.tls_certificate or "", group.tls_key, password=_no_passphrase)
    except OSError as error:
        raise TlsError(
            "server.tls_certificate, server.tls_key: expected a PEM certificate and its key without a passphrase, "
            f"got {group.tls_certificate}, {group.tls_key}: {error.strerror or error}"
        ) from None
    if group.tls_client_ca is not None:
        try:
            context.load_verify_locations(group.tls_client_ca)
        except OSError as error:
            why = error.strerror or error
            raise TlsError(
                f"server.tls_client_ca: expected PEM certificates, got {group.tls_client_ca}: {why}"
            ) from None
    return Certificates(texts[0], texts[1], texts[2] or None)


def server_credentials(group: ServerGroup, log: FilteringBoundLogger) -> grpc.ServerCredentials | None:
    """What a listener encrypts with; None = it does not.

    Raises:
        TlsError: the files cannot be used.
    """
    if group.tls_certificate is None:
        return None
    watch = _Watch(group, log)
    replacement: Any = watch.replacement  # None = no change, which the stubs do not know
    return grpc.dynamic_ssl_server_credentials(
        watch.first, replacement, require_client_authentication=group.tls_client_ca is not None
    )


class _Watch:
    """Looks at the files for each new connection."""

    def __init__(self, group: ServerGroup, log: FilteringBoundLogger) -> None:
        self._group = group
        self._log = log
        self._lock = threading.Lock()
        paths = (group.tls_certificate, group.tls_key, group.tls_client_ca)
        self._paths = [path for path in paths if path is not None]
        self._seen = self._stamp()
        self.first = read_certificates(group).configuration()

    def replacement(self) -> grpc.ServerCertificateConfiguration | None:
        """What has been put in place of the certificates; None = nothing, or nothing that can be used."""
        with self._lock:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            self._seen = stamp  # before they are read: what is written meanwhile is seen next time
            try:
                found = read_certificates(self._group).configuration()
            except TlsError as error:
                self._log.error("certificate not replaced, the one before is served on", reason=str(error))
                return None
            self._log.info("certificate replaced", certificate=str(self._group.tls_certificate))
            return found

    def _stamp(self) -> Stamp:
        """What changes when a file is replaced; () while one is missing."""
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return ()
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def _no_passphrase() -> str:
    return ""  # the library would ask on the terminal
