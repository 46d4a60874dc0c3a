"""Channels of our own clients to a running server, in plain text or encrypted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc


class ChannelError(ValueError):
    """A file that an option names cannot be read; the message names the option."""


@dataclass(frozen=True)
class ClientTls:
    """PEM texts that a caller connects with.

    Attributes:
        ca: authorities that the server's certificate is trusted from.
        certificate, key: of the caller; None = it shows none.
    """

    ca: bytes
    certificate: bytes | None = None
    key: bytes | None = None


def read_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ClientTls | None:
    """What the options `--tls-ca`, `--tls-certificate` and `--tls-key` name; None = plain text.

    Raises:
        ChannelError: a file cannot be read, or an option lacks another.
    """
    if (certificate is None) != (key is None):
        raise ChannelError("--tls-certificate: expected it together with --tls-key, got one of them")
    if ca is None:
        if certificate is not None:
            raise ChannelError("--tls-ca: expected it with --tls-certificate, got none")
        return None
    return ClientTls(_text("ca", ca), _text("certificate", certificate), _text("key", key))


def open_channel(address: str, tls: ClientTls | None, *, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
    """A channel to a server.

    Args:
        address: host:port; with TLS the host must be one of the certificate's.
        tls: what to connect with; None = plain text.
        options: of the channel.
    """
    if tls is None:
        return grpc.insecure_channel(address, options)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    return grpc.secure_channel(address, credentials, options)


def _text(option: str, path: Path | None) -> Any:
    if path is None:
        return None
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ChannelError(f"--tls-{option}: expected a readable PEM file, got {path}: {error.strerror}") from None
    if b"-----BEGIN " not in text:
        raise ChannelError(f"--tls-{option}: expected PEM, got {path} without it")
    return text
