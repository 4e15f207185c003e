"""Apache Kafka with TLS and logins for tests: certificates of the test's own, and every way in that we support.

Every secret holds the same word, so that a test finds any of them wherever it must not stand.
"""

import base64
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from stream.settings import Kafka
from stream.trial.embedded_broker import HOST, ApacheKafka, free_ports
from tests.brokers import FAST

CANARY = "canary7Kq"
USER, PASSWORD, KEY_PASSWORD = "lurm", f"{CANARY}-password", f"{CANARY}-key"
WAYS_IN = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", "OAUTHBEARER", "certificate")
_DAYS = "3"
_OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"


class SecuredKafka:
    """A broker whose clients must log in, or show a certificate; its plain listener is for itself alone."""

    def __init__(self, kafka_home: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("ca", "other-ca"):
            make_ca(folder, name)
        _make_certificate(folder, "server", f"subjectAltName=IP:{HOST}")
        _make_certificate(folder, "client", "extendedKeyUsage=clientAuth")
        _encrypt_key(folder)
        (folder / "token").write_text(token() + "\n")
        self._login_port, self._certificate_port = free_ports(2)
        self.broker = ApacheKafka(kafka_home, folder / "broker")
        self.broker.properties.update(self._properties())

    def start(self) -> None:
        """Start it, with the users of SCRAM."""
        self.broker.start()
        admin = KafkaAdminClient(bootstrap_servers=self.broker.brokers)
        try:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                answer = admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, mechanism, PASSWORD)])
                assert answer == {USER: None}, answer
        finally:
            admin.close()

    def settings(self, way_in: str = WAYS_IN[0], **changed: Any) -> Kafka:
        """Settings of a client that comes in this way."""
        found: dict[str, Any] = {"ssl_ca_file": self.folder / "ca.pem", "brokers": f"{HOST}:{self._login_port}"}
        found |= {"security_protocol": "SASL_SSL", "sasl_mechanism": way_in}
        if way_in == "OAUTHBEARER":
            found |= {"oauth_token_file": self.folder / "token"}
        elif way_in == "certificate":
            found |= {"brokers": f"{HOST}:{self._certificate_port}", "security_protocol": "SSL", "sasl_mechanism": None}
            found |= {"ssl_cert_file": self.folder / "client.pem", "ssl_key_file": self.folder / "client-encrypted.key"}
            found |= {"ssl_key_password": KEY_PASSWORD}
        else:
            found |= {"sasl_username": USER, "sasl_password": PASSWORD}
        return Kafka(**(FAST | found | changed))

    def _properties(self) -> dict[str, str]:
        listeners = {
            "PLAINTEXT": self.broker.brokers,
            "LOGIN": f"{HOST}:{self._login_port}",
            "CERTIFICATE": f"{HOST}:{self._certificate_port}",
        }
        advertised = ",".join(f"{name}://{address}" for name, address in listeners.items())
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return {
            "listeners": f"{advertised},CONTROLLER://{HOST}:{self.broker.controllers[0]}",
            "advertised.listeners": advertised,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,CERTIFICATE:SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.folder / "ca.pem"),
            "listener.name.certificate.ssl.client.auth": "required",
            "listener.name.login.sasl.enabled.mechanisms": ",".join(WAYS_IN[:-1]),
            "listener.name.login.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.login.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.login.plain.sasl.jaas.config": f'{plain} required user_{USER}="{PASSWORD}";',
            "listener.name.login.oauthbearer.sasl.jaas.config": (
                f'{_OAUTH} required unsecuredLoginStringClaim_sub="{USER}";'
            ),
        }


def token(lasts_s: int = 3600) -> str:
    """An unsigned token, which Kafka takes where nobody configured a signer, until it has run out."""
    claims = {"sub": USER, "iat": int(time.time()), "exp": int(time.time()) + lasts_s, "note": CANARY}
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def make_ca(folder: Path, name: str) -> None:
    """A certificate that signs others, with its key beside it."""
    extensions = ["-addext", "keyUsage=critical,keyCertSign", "-addext", "basicConstraints=critical,CA:true"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    _openssl(folder, "req", "-x509", *_new_key(name), *files, "-days", _DAYS, *extensions)


def _make_certificate(folder: Path, name: str, extension: str) -> None:
    """A certificate of the CA with its key, both in one file."""
    _openssl(folder, "req", *_new_key(name), "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (folder / "extensions").write_text(f"keyUsage=critical,digitalSignature\n{extension}\n")
    ca = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    files = ["-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "extensions"]
    _openssl(folder, "x509", "-req", *ca, *files, "-days", _DAYS)
    both = (folder / f"{name}.key").read_text() + (folder / f"{name}.pem").read_text()
    (folder / f"{name}.pem").write_text(both)


def _encrypt_key(folder: Path) -> None:
    files = ["-in", "client.key", "-out", "client-encrypted.key"]
    _openssl(folder, "pkcs8", "-topk8", *files, "-passout", f"pass:{KEY_PASSWORD}")


def _new_key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
