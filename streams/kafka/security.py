"""How our clients speak to the brokers: encrypted or not, logged in or not, and what each library calls that.

Invariants: this is the only place that turns the settings into a library's keywords, and both libraries and Faust
are given the same; a password is in no `repr` and no error; certificates are read once, so a replaced one is taken
up by the next start.
"""

import ssl
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class SecurityError(ValueError):
    """A file that a setting names cannot be used; the message names the setting."""


@dataclass(frozen=True, kw_only=True)
class KafkaSecurity:
    """What connections to brokers are made with.

    Attributes:
        protocol: encrypted or not, logged in or not.
        cafile: PEM certificates of the authorities that vouch for brokers; None = the system's.
        certfile: PEM certificate of this client, and those between it and its authority, where brokers ask for one.
        keyfile: its key, without a passphrase; None = it is in `certfile`.
        mechanism, username, password: of the log-in.
    """

    protocol: SecurityProtocol = "PLAINTEXT"
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    mechanism: SaslMechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def encrypts(self) -> bool:
        """Whether connections are encrypted."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def logs_in(self) -> bool:
        """Whether they log in."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    @cached_property
    def context(self) -> ssl.SSLContext | None:
        """What connections are encrypted with; None = they are not.

        Raises:
            SecurityError: a file cannot be used.
        """
        if not self.encrypts:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cafile)
        except OSError as error:  # ssl.SSLError is one
            raise _unusable("ssl_cafile", self.cafile, "PEM certificates", error) from None
        if self.certfile is not None:
            try:
                context.load_cert_chain(self.certfile, self.keyfile, password=_no_passphrase)
            except OSError as error:
                where = f"{self.certfile}, {self.keyfile}" if self.keyfile else self.certfile
                what = "a PEM certificate and its key without a passphrase"
                raise _unusable("ssl_certfile, kafka.ssl_keyfile", where, what, error) from None
        return context

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of the clients of aiokafka and of kafka-python, which have them in common."""
        given: dict[str, Any] = {"security_protocol": self.protocol}
        if self.encrypts:
            given["ssl_context"] = self.context
        if self.logs_in:
            given["sasl_mechanism"] = self.mechanism
            given["sasl_plain_username"] = self.username
            given["sasl_plain_password"] = self.password
        return given

    def faust_credentials(self) -> Any:
        """The same as Faust takes it, as `broker_credentials`; None = neither encrypted nor logged in."""
        import faust  # the server has this module without it

        if self.logs_in:
            return faust.SASLCredentials(
                username=self.username,
                password=self.password,
                mechanism=self.mechanism,
                ssl_context=self.context,
            )
        return faust.SSLCredentials(self.context) if self.encrypts else None


PLAINTEXT = KafkaSecurity()


def _no_passphrase() -> str:
    return ""  # the library would ask on the terminal


def _unusable(setting: str, path: Path | str | None, expected: str, error: OSError) -> SecurityError:
    found = "the system's" if path is None else str(path)
    return SecurityError(f"kafka.{setting}: expected {expected}, got {found}: {error.strerror or error}")
