"""Apache Kafka that asks its authorizer about every request: who logs in may do what a test granted, nothing else."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern
from kafka.admin import ResourcePatternFilter as Filter
from kafka.admin import ResourceType as Kind

from stream.settings import Kafka
from stream.trial.embedded_broker import HOST, ApacheKafka, free_ports
from tests.brokers import FAST
from tests.workers import wait_until

USER, PASSWORD = "restricted", "restricted-password"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_KINDS = {"topic": Kind.TOPIC, "group": Kind.GROUP, "transactional id": Kind.TRANSACTIONAL_ID, "cluster": Kind.CLUSTER}


class Permission(NamedTuple):
    """One operation on one thing; a name that ends with ``*`` is a prefix. ``operation`` as in ``DescribeConfigs``."""

    operation: str
    kind: str
    name: str

    @property
    def acl(self) -> ACL:
        """As Kafka takes it."""
        words = "".join(f"_{letter}" if letter.isupper() else letter for letter in self.operation).lstrip("_").upper()
        pattern = ACLResourcePatternType.PREFIXED if self.name.endswith("*") else ACLResourcePatternType.LITERAL
        resource = ResourcePattern(_KINDS[self.kind], self.name.rstrip("*"), pattern)
        return ACL(f"User:{USER}", "*", ACLOperation[words], ACLPermissionType.ALLOW, resource)


class AuthorizedKafka:
    """Who comes over its plain listener may do everything; who logs in, what was granted."""

    def __init__(self, kafka_home: Path, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self.broker = ApacheKafka(kafka_home, folder)
        listeners = f"PLAINTEXT://{self.broker.brokers},LOGIN://{HOST}:{self._port}"
        self.broker.properties.update({
            "listeners": f"{listeners},CONTROLLER://{HOST}:{self.broker.controllers[0]}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f'{_PLAIN} required user_{USER}="{PASSWORD}";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        })  # fmt: skip

    def settings(self, **changed: Any) -> Kafka:
        """Settings of a client that logs in."""
        login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": USER}
        return Kafka(**(FAST | {"brokers": f"{HOST}:{self._port}", "sasl_password": PASSWORD} | login | changed))

    @contextmanager
    def granted(self, permissions: Iterable[Permission]) -> Iterator[None]:
        """Exactly these, while the block runs; what was granted before and still is stays so without a gap."""
        admin = KafkaAdminClient(bootstrap_servers=self.broker.brokers)
        try:
            everything = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, _ANYTHING)
            acls = [each.acl for each in permissions]
            if acls:
                answer = admin.create_acls(acls)
                assert not answer["failed"], answer
            admin.delete_acls([each for each in admin.describe_acls(everything)[0] if each not in acls])
            # The broker learns of them from its log, a moment later.
            wait_until(lambda: _said(admin.describe_acls(everything)[0]) == _said(acls))
            yield
        finally:
            admin.close()


_ANYTHING = Filter(Kind.ANY, None, ACLResourcePatternType.ANY)


def _said(acls: Iterable[ACL]) -> set[tuple[str, str, str]]:
    return {(each.operation.name, each.resource_pattern.resource_type.name, each.resource_pattern.resource_name)
            for each in acls}  # fmt: skip
