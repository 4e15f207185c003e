"""Settings come from the environment, then from the file, and wrong ones are named."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from stream.cli import cli
from stream.errors import ConfigInvalid
from stream.settings import App, Settings, State, load, reference

LOGIN = "[kafka]\nsecurity_protocol = 'SASL_SSL'\n"

README = Path(__file__).parents[3] / "README.md"


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lurm.toml"
    file.write_text('[app]\nid = "file"\n[topics]\npartitions = 3\nevents = "clicks"\n[events.weights]\nbuy = 5\n')
    monkeypatch.setenv("LURM_APP__ID", "environment")
    monkeypatch.setenv("LURM_TOPICS__PARTITIONS", "6")
    settings = load(file)
    assert (settings.app.id, settings.topics.partitions, settings.topics.events) == ("environment", 6, "clicks")
    assert settings.events.weights == {"buy": 5}
    assert settings.changelog_topic == "environment-bags-changelog"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[app]\nid = 'a b'", "setting app.id"),
        ("[topics]\npartitions = 0", "setting topics.partitions"),
        ("[topics]\nevnets = 'x'", "setting topics.evnets"),
        ("[encode]\ninterval_s = 0.01", "setting encode.interval_s"),
        ("[kafka]\nsession_timeout_s = 31", "setting kafka.session_timeout_s"),
        ("[state]\nscales = 'month'", "setting state.scales.*'day' is missing"),
        ("[state]\nscales = 'day,moon'", "setting state.scales.*unknown scale"),
        ("[kafka]\nsecurity_protocol = 'TLS'", "setting kafka.security_protocol.*'SASL_SSL'"),
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'", "kafka.sasl_mechanism is wanted with"),
        ("[kafka]\nsasl_username = 'ann'", "kafka.sasl_username has no use with"),
        ("[kafka]\nssl_ca_file = 'ca'", "kafka.ssl_ca_file has no use with kafka.security_protocol=PLAINTEXT"),
        ("[kafka]\nssl_check_hostname = false", "kafka.ssl_check_hostname has no use with"),
        ("[kafka]\nsecurity_protocol = 'SSL'\nssl_key_file = 'key'", "kafka.ssl_key_file has no use.*cert_file=none"),
        (f"{LOGIN}sasl_mechanism = 'PLAIN'\nsasl_username = 'ann'", "kafka.sasl_password is wanted with"),
        (f"{LOGIN}sasl_mechanism = 'OAUTHBEARER'", "kafka.oauth_token_file is wanted with"),
        (f"{LOGIN}sasl_mechanism = 'OAUTHBEARER'\noauth_token_file = 'f'\nsasl_password = 'x'", "sasl_password has no"),
        ("[kafka]\nstart_deadline_s = inf", "setting kafka.start_deadline_s.*finite"),
        ("[kafka]\nfetch_bytes = 2_147_483_648", "setting kafka.fetch_bytes"),
        ("[state]\ncache_bytes = 1_000_000_000_000_000", "setting state.cache_bytes"),
        ("[state]\nopen_files_max = 2_000_000", "setting state.open_files_max"),
        ("colour = 1", "setting colour"),
        ("[app", "no TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_the_setting(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "lurm.toml"
    file.write_text(text)
    with pytest.raises(ConfigInvalid, match=f"(?i){message}") as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_variable_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigInvalid, match="cannot read the settings file"):
        load(tmp_path / "none.toml")
    with monkeypatch.context() as no_json:
        no_json.setenv("LURM_EVENTS__WEIGHTS", "foo")
        with pytest.raises(ConfigInvalid, match=r'"events".*Expecting value'):
            load()
    monkeypatch.setenv("LURM_KAFKA__BROKER", "x")
    with pytest.raises(ConfigInvalid, match="LURM_KAFKA__BROKER"):
        load()


def test_scales_are_put_in_order() -> None:
    assert State(scales="month, day").scales == "day,month"


def test_the_reference_names_every_setting_and_its_meaning() -> None:
    leaves = list(reference())
    assert {"LURM_APP__ID", "LURM_STATE__DIR", "LURM_METRICS__PORT"} <= {leaf.variable for leaf in leaves}
    assert all(leaf.meaning for leaf in leaves)
    assert len(leaves) == sum(len(type(section).model_fields) for _, section in Settings())


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        App().id = "other"  # type: ignore[misc]  # that is the point


def test_a_secret_is_shown_by_nothing_that_shows_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {leaf.variable for leaf in reference() if leaf.kind == "SecretStr"}
    kafka = {"LURM_KAFKA__SSL_KEY_PASSWORD", "LURM_KAFKA__SASL_PASSWORD"}
    assert secrets == kafka | {"LURM_METRICS__TOKEN", "LURM_CONSOLE__TOKEN"}
    for name in secrets:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("LURM_KAFKA__SASL_MECHANISM", "PLAIN")
    with pytest.raises(ConfigInvalid) as caught:
        load()
    assert "canary" not in str(caught.value)
    monkeypatch.setenv("LURM_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("LURM_KAFKA__SASL_USERNAME", "ann")
    monkeypatch.setenv("LURM_KAFKA__SSL_CERT_FILE", "client.pem")
    shown = CliRunner().invoke(cli, ["settings"])
    assert shown.exit_code == 0
    assert shown.output.count("value: **********") == len(secrets)
    assert "canary" not in shown.output + repr(load()) + str(load().model_dump()) + load().model_dump_json()


def test_the_settings_file_of_the_readme_is_one(tmp_path: Path) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "lurm.toml").write_text(toml)
    found = load(tmp_path / "lurm.toml")
    assert (found.model.bundle, found.state.standbys) == (Path("bundle"), 1)
