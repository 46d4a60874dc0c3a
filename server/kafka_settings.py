"""The settings of Kafka: where brokers are, what topics are called, and how connections are secured.

Invariants: a setting of encryption or log-in without the protocol that uses it is refused, as whoever set it
believes that it is in force; files are read when connections are made, not here; the password is in no error and no
`repr`.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from streams.kafka.security import KafkaSecurity, SaslMechanism, SecurityError, SecurityProtocol
from streams.topics import TopicNames

_OF_SSL = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
_OF_SASL = ("sasl_mechanism", "sasl_username", "sasl_password", "sasl_password_file")


class KafkaGroup(BaseModel):
    """Kafka mode: set `bootstrap`, and feedback goes to the topics and parameters come from the workers.

    How connections are secured is for every client of ours, those of workers and of commands too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: str | None = Field(default=None, description="host:port of brokers, separated by commas; None = off")
    prefix: str = Field(default="freshet", min_length=1, max_length=200, description="first part of topic names")
    events_prefix: str = Field(default="", max_length=200, description="that of impressions, clicks and items")
    security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT", description="what the brokers' listener speaks"
    )
    ssl_cafile: Path | None = Field(default=None, description="PEM; who vouches for brokers; None = the system's")
    ssl_certfile: Path | None = Field(default=None, description="PEM; our own, where brokers ask for one")
    ssl_keyfile: Path | None = Field(default=None, description="its key, PEM without a passphrase")
    sasl_mechanism: SaslMechanism | None = Field(default=None, description="how to log in")
    sasl_username: str | None = Field(default=None, min_length=1, description="as whom")
    sasl_password: SecretStr | None = Field(default=None, min_length=1, description="from the environment alone")
    sasl_password_file: Path | None = Field(default=None, description="or the file that holds it")

    @model_validator(mode="after")
    def _are_names(self) -> Self:
        self.names()
        return self

    @model_validator(mode="after")
    def _security_is_whole(self) -> Self:
        protocol = self.security_protocol
        for names, users in ((_OF_SSL, ("SSL", "SASL_SSL")), (_OF_SASL, ("SASL_PLAINTEXT", "SASL_SSL"))):
            given = [name for name in names if getattr(self, name) is not None]
            if given and protocol not in users:
                raise ValueError(
                    f"security_protocol: expected {' or '.join(users)} with kafka.{given[0]}, got {protocol}"
                )
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("ssl_certfile: expected it with kafka.ssl_keyfile, got none")
        if protocol.startswith("SASL"):
            for name in ("sasl_mechanism", "sasl_username"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name}: expected it with kafka.security_protocol {protocol}, got none")
            if (self.sasl_password is None) == (self.sasl_password_file is None):
                found = "none" if self.sasl_password is None else "both"
                raise ValueError(f"sasl_password: expected it or kafka.sasl_password_file, got {found}")
        return self

    def names(self) -> TopicNames:
        """Names of the topics."""
        return TopicNames(self.prefix, self.events_prefix)

    def security(self) -> KafkaSecurity:
        """What connections are made with; every file has been read.

        Raises:
            SecurityError: a file cannot be used; the message names the setting.
        """
        security = KafkaSecurity(
            protocol=self.security_protocol,
            cafile=self.ssl_cafile,
            certfile=self.ssl_certfile,
            keyfile=self.ssl_keyfile,
            mechanism=self.sasl_mechanism,
            username=self.sasl_username,
            password=self._password(),
        )
        _ = security.context
        return security

    def _password(self) -> str | None:
        if self.sasl_password is not None:
            return self.sasl_password.get_secret_value()
        if self.sasl_password_file is None:
            return None
        where = f"kafka.sasl_password_file: expected a file with a password, got {self.sasl_password_file}"
        try:
            password = self.sasl_password_file.read_text("utf-8").rstrip("\r\n")  # as editors and `echo` end a line
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SecurityError(f"{where}: {why}") from None
        if not password:
            raise SecurityError(f"{where}: it is empty")
        return password
