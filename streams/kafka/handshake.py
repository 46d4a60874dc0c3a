"""Asks brokers whether they take our connection, before a client that would try for ever is made.

Promises:
- What stands against it is said in one sentence that names the setting, within `timeout_s` for each address.
- One broker that takes the connection is enough: clients find the others through it.
- Nothing secret is sent to a broker whose certificate has not been verified, if one is asked for.
"""

import asyncio
import socket
import ssl
import struct
from typing import NoReturn

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest

from streams.kafka.security import KafkaSecurity
from streams.topics import broker_address

TIMEOUT_S = 5.0
_CLOSING_S = 0.5
_CLIENT = "freshet-check"
# KIP-511: ApiVersions is key 18, and version 0 is answered by every broker, before any log-in.
_QUESTION = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_LONGEST_ANSWER = 1 << 16
_OF_A_GROUP = 0
_OF_A_HOST = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


class Unreachable(ConnectionError):
    """No broker answers."""


class Refusal(ConnectionError):
    """A broker answers, but does not take this connection: a setting is wrong, here or there."""


def check_brokers(
    bootstrap: str, security: KafkaSecurity, *, timeout_s: float = TIMEOUT_S, group: str = ""
) -> None:
    """Connect to the brokers one after another, until one takes it.

    Args:
        bootstrap: host:port, several separated by commas.
        security: what connections are made with.
        timeout_s: how long each step at each address may take.
        group: consumer group that must be open to us, too; empty = none.

    Raises:
        Refusal: none takes it, and one says why.
        Unreachable: none answers.
        SecurityError: a certificate here cannot be used.
        ValueError: `bootstrap` is not of that form.
    """
    failures: list[ConnectionError] = []
    for host, port in [broker_address(part) for part in bootstrap.split(",")]:
        try:
            _greet(host, port, security, timeout_s)
            asyncio.run(_use(host, port, security, timeout_s, group))
        except (Refusal, Unreachable) as error:
            failures.append(error)
        else:
            return
    raise next((failure for failure in failures if isinstance(failure, Refusal)), failures[0])


def why_refused(bootstrap: str, security: KafkaSecurity, *, timeout_s: float) -> str:
    """What stands against a connection now, as `check_brokers` says it; empty = nothing.

    For when a client that has run has failed: the libraries do not always say why.
    """
    try:
        check_brokers(bootstrap, security, timeout_s=timeout_s)
    except OSError as error:
        return str(error)
    return ""


def _greet(host: str, port: int, security: KafkaSecurity, timeout_s: float) -> None:
    """Encrypt, if asked for, and have one question answered that needs no log-in."""
    where = f"the broker at {host}:{port}"
    context = security.context
    try:
        with _dial(host, port, timeout_s) as plain:
            if context is None:
                answered = _answers(plain)
            else:
                with context.wrap_socket(plain, server_hostname=host) as encrypted:
                    answered = _answers(encrypted)
    except ssl.SSLCertVerificationError as error:
        _say_unverified(where, security, error)
    except OSError as error:
        _say_why(host, port, security, timeout_s, error)
    else:
        if not answered:
            _say_why(host, port, security, timeout_s, None)


def _say_unverified(where: str, security: KafkaSecurity, error: ssl.SSLCertVerificationError) -> NoReturn:
    if error.verify_code in _OF_A_HOST:
        raise Refusal(f"kafka.bootstrap: the certificate of {where} is of another host: {error.verify_message}")
    trusted = security.cafile or "the system's authorities"
    raise Refusal(
        f"kafka.ssl_cafile: the certificate of {where} is not trusted by {trusted}: {error.verify_message}"
    ) from None


def _say_why(host: str, port: int, security: KafkaSecurity, timeout_s: float, error: OSError | None) -> NoReturn:
    """Find out what a broker that did not answer expects instead."""
    where, protocol = f"the broker at {host}:{port}", f"kafka.security_protocol: expected what {host}:{port} speaks"
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        # Said by the broker, of what we have shown it; with TLS 1.3 only after the handshake.
        shown = "none" if security.certfile is None else str(security.certfile)
        raise Refusal(
            f"kafka.ssl_certfile: expected a certificate that {where} takes, got {shown}: {error.reason}"
        ) from None
    if isinstance(error, TimeoutError):
        raise Unreachable(f"no Kafka broker answers at {host}:{port} within {timeout_s:g} s") from error
    if security.encrypts:
        if _speaks(host, port, None, timeout_s):
            raise Refusal(f"{protocol}, PLAINTEXT or SASL_PLAINTEXT, got {security.protocol}") from None
    elif _speaks(host, port, _unverified(), timeout_s):
        raise Refusal(f"{protocol}, SSL or SASL_SSL, got {security.protocol}") from None
    why = error.strerror or error if error else "the connection was closed"
    raise Unreachable(f"no Kafka broker answers at {host}:{port}: {why}") from error


def _speaks(host: str, port: int, context: ssl.SSLContext | None, timeout_s: float) -> bool:
    """Whether a broker answers in plain text, or encrypts at all; nothing but the question is sent."""
    try:
        with _dial(host, port, timeout_s) as plain:
            if context is None:
                return _answers(plain)
            with context.wrap_socket(plain, server_hostname=host):
                return True
    except OSError:
        return False


def _unverified() -> ssl.SSLContext:
    """To find out whether somebody encrypts: who it is does not matter, as nothing is told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _dial(host: str, port: int, timeout_s: float) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=timeout_s)
    connection.settimeout(timeout_s)
    return connection


def _answers(connection: socket.socket) -> bool:
    """Whether a question is answered in Kafka's words; whoever speaks TLS answers a plain one with an alert."""
    connection.sendall(_QUESTION)
    head = _read(connection, 10)
    if len(head) < 10:
        return False
    size, correlation, code = struct.unpack(">iih", head)
    return bool(0 < size <= _LONGEST_ANSWER and correlation == 1 and code == 0)


def _read(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count and (piece := connection.recv(count - len(read))):
        read += piece
    return read


async def _use(host: str, port: int, security: KafkaSecurity, timeout_s: float, group: str) -> None:
    """Log in, if asked for, and ask what only those are told who are let in, to the group as well."""
    where = f"the broker at {host}:{port}"
    user = f"{security.username!r} by {security.mechanism}" if security.logs_in else "who does not log in"
    try:
        connection = AIOKafkaConnection(
            host, port, client_id=_CLIENT, request_timeout_ms=round(timeout_s * 1e3), **security.keywords()
        )
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()
                await connection.send(MetadataRequest([], allow_auto_topic_creation=False))
                if group:
                    found = await connection.send(FindCoordinatorRequest(group, _OF_A_GROUP))
                    if errors.for_code(found.error_code) is errors.GroupAuthorizationFailedError:
                        raise Refusal(
                            f"{where} does not let {user} into the consumer group {group!r}: expected the right to "
                            "Read it"
                        )
        finally:
            # Its transport must not outlive the event loop; where nobody answers this is bounded.
            await asyncio.wait([connection.close()], timeout=_CLOSING_S)
    except Refusal:
        raise
    except errors.UnsupportedSaslMechanismError:
        raise Refusal(f"kafka.sasl_mechanism: {where} does not take {security.mechanism}") from None
    except errors.IllegalSaslStateError:
        without = "SSL" if security.encrypts else "PLAINTEXT"
        raise Refusal(
            f"kafka.security_protocol: {where} takes no log-in: expected {without}, got {security.protocol}"
        ) from None
    except (errors.SaslAuthenticationFailed, errors.AuthenticationFailedError):
        raise _not_let_in(where, user) from None
    except errors.KafkaError as error:
        if not security.logs_in:
            with_login = "SASL_SSL" if security.encrypts else "SASL_PLAINTEXT"
            raise Refusal(
                f"kafka.security_protocol: {where} hangs up on who does not log in: expected {with_login}, "
                f"got {security.protocol}"
            ) from None
        raise Unreachable(f"{where} does not answer a log-in: {error!r}") from None
    except TimeoutError as error:
        raise Unreachable(f"{where} does not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise Unreachable(f"{where} does not answer: {error}") from error
    except ValueError:  # the library's own check of what a broker answers to SCRAM
        raise _not_let_in(where, user) from None


def _not_let_in(where: str, user: str) -> Refusal:
    return Refusal(
        f"kafka.sasl_username, kafka.sasl_password: {where} does not let {user} in: authentication failed"
    )
