"""How Faust's own clients log in: as all others, in its words."""

from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from stream.kafka.security import aiokafka_security
from stream.settings import Kafka


def credentials(kafka: Kafka) -> CredentialsT | None:
    """The credentials; none where nobody has to log in."""
    arguments = aiokafka_security(kafka)
    context = arguments["ssl_context"]
    if kafka.sasl_mechanism is None:
        return SSLCredentials(context) if context else None
    if kafka.oauth_token_file is not None:
        return OAuthCredentials(oauth_cb=arguments["sasl_oauth_token_provider"], ssl_context=context)
    return SASLCredentials(
        username=arguments["sasl_plain_username"],
        password=arguments["sasl_plain_password"],
        mechanism=kafka.sasl_mechanism,
        ssl_context=context,
    )
