"""A real broker that also listens encrypted and to those who log in, each way on a port of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka_broker import LocalBroker, free_port

from streams.kafka.security import KafkaSecurity
from tests.certificates import Authority

USER, PASSWORD = "freshet", "correct horse, battery = staple"
_PROTOCOLS = {
    "SSL": "SSL",
    "MUTUAL": "SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SASL_SSL": "SASL_SSL",
    "ELSEWHERE": "SSL",
}


@dataclass
class Secured:
    """The broker.

    Attributes:
        broker: its process.
        authority: that its certificate is of, and clients' certificates may be.
        stranger: an authority that nobody trusts.
        client: certificate and key of a client.
    """

    broker: LocalBroker
    authority: Authority
    stranger: Authority
    client: tuple[Path, Path]
    ports: dict[str, int]

    def at(self, listener: str) -> str:
        """host:port of a listener; "ELSEWHERE" shows the certificate of another host, "MUTUAL" asks for one."""
        return f"127.0.0.1:{self.ports[listener]}"

    def login(self, **other: object) -> KafkaSecurity:
        """What the listener SASL_SSL takes."""
        given = {
            "protocol": "SASL_SSL",
            "cafile": self.authority.certificate,
            "mechanism": "SCRAM-SHA-512",
            "username": USER,
            "password": PASSWORD,
        }
        return KafkaSecurity(**(given | other))  # type: ignore[arg-type]


@contextmanager
def secured_broker(folder: Path) -> Iterator[Secured]:
    """Not started; its users are made by `make_users` once it runs."""
    authority, stranger = Authority(folder / "tls"), Authority(folder / "tls", "stranger")
    stores = {}
    for name, hosts in (("broker", "IP:127.0.0.1,DNS:localhost"), ("elsewhere", "DNS:elsewhere.example")):
        certificate, key = authority.issue(name, hosts=hosts)
        stores[name] = folder / "tls" / f"{name}.store.pem"
        stores[name].write_text(key.read_text() + certificate.read_text())
    ports: dict[str, int] = {}
    while len(set(ports.values())) < len(_PROTOCOLS) + 1:
        ports = {name: free_port() for name in (*_PROTOCOLS, "PLAINTEXT")}
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(stores["broker"]),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.elsewhere.ssl.keystore.type": "PEM",
        "listener.name.elsewhere.ssl.keystore.location": str(stores["elsewhere"]),
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": plain,
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
    }
    broker = LocalBroker(
        folder / "broker",
        port=ports["PLAINTEXT"],
        settings=settings,
        listeners={name: (protocol, ports[name]) for name, protocol in _PROTOCOLS.items()},
        ends_with_caller=True,
    )
    try:
        yield Secured(broker, authority, stranger, authority.issue("client"), ports)
    finally:
        broker.kill9()


# What docs/kafka.md says that the user needs, and nothing else.
RIGHTS = {
    (ResourceType.TOPIC, "freshet.", ACLResourcePatternType.PREFIXED): (
        "READ",
        "WRITE",
        "CREATE",
        "DESCRIBE_CONFIGS",
    ),
    (ResourceType.GROUP, "freshet.worker", ACLResourcePatternType.LITERAL): ("READ",),
}


def make_users(secured: Secured) -> None:
    """Have the broker know its user and the user's rights; by way of the listener that is open to all."""
    rights = [
        ACL(f"User:{USER}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, ResourcePattern(*resource))
        for resource, operations in RIGHTS.items()
        for operation in operations
    ]
    user = [
        UserScramCredentialUpsertion(USER, mechanism, PASSWORD)
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
    ]
    with KafkaAdminClient(bootstrap_servers=secured.broker.bootstrap) as admin:
        for one in user:
            assert admin.alter_user_scram_credentials([one]) == {USER: None}
        assert not admin.create_acls(rights)["failed"]
