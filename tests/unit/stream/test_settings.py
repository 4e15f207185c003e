"""Settings come from the environment, then from the file, and wrong ones are named."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from stream.cli import cli
from stream.errors import ConfigInvalid
from stream.settings import App, Settings, State, load, reference, validated

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


def test_a_file_may_begin_with_the_mark_of_its_encoding(tmp_path: Path) -> None:
    file = tmp_path / "lurm.toml"
    file.write_text("[app]\nid = 'other'", encoding="utf-8-sig")
    assert load(file).app.id == "other"


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
        ("_env_prefix = 'OTHER_'", "setting _env_prefix: extra inputs"),
        ("_env_ignore_empty = true", "setting _env_ignore_empty: extra inputs"),
        ("[state]\ndir = ''", "setting state.dir: it is empty, which means the current folder"),
        ('[state]\ndir = "a\\u0000"', "setting state.dir: a NUL"),
        ("[model]\nbundle = ' '", "setting model.bundle: it is empty"),
        ("[kafka]\nsecurity_protocol = 'SSL'\nssl_ca_file = ''", "setting kafka.ssl_ca_file: it is empty"),
        ("[topics]\npartitions = true", "setting topics.partitions: a number is wanted, found true"),
        ("[encode]\ninterval_s = true", "setting encode.interval_s: a number is wanted, found true"),
        ("[events.weights]\nbuy = true", "setting events.weights.buy"),
        ("[kafka]\nbrokers = 'a:1,'", "setting kafka.brokers: host:port,host:port is wanted, without an empty part"),
        ("[kafka]\nbrokers = ','", "setting kafka.brokers: host:port,host:port is wanted"),
        ("[app]\nid = 'x-embeddings'", "setting app.id: its transactional ids are those of the application x:"),
        ("[metrics]\nhost = ''", "setting metrics.host"),
        ("[app", "no TOML"),
        ("a = " + 5_000 * "[" + 5_000 * "]", "no TOML"),
        ("[metrics]\nport = " + 5_000 * "9", "no TOML"),
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
        with pytest.raises(ConfigInvalid, match=r"setting events\.weights: no JSON: Expecting value"):
            load()
    monkeypatch.setenv("LURM_KAFKA__BROKER", "x")
    with pytest.raises(ConfigInvalid, match="LURM_KAFKA__BROKER"):
        load()


@pytest.mark.parametrize("name", ["lurm_app__id", "Lurm_State__Dir", "lurm_colour"])
def test_a_variable_in_lower_case_is_refused_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigInvalid, match=f"unknown setting {name} in the environment"):
        load()


@pytest.mark.parametrize("name", ["LURM_STATE__DIR", "LURM_MODEL__BUNDLE", "LURM_KAFKA__SSL_CA_FILE"])
def test_an_empty_variable_of_a_path_is_no_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LURM_KAFKA__SECURITY_PROTOCOL", "SSL")
    monkeypatch.setenv(name, "")
    setting = name.removeprefix("LURM_").lower().replace("__", ".")
    with pytest.raises(ConfigInvalid, match=f"setting {setting}: it is empty"):
        load()


ODD = st.one_of(
    st.sampled_from(["", " ", ",", "a:1,", "true", "\0", "1", "-1", "nan", "../..", "x-embeddings", "[1]", "{}"]),
    st.booleans(), st.integers(-2, 1 << 65), st.floats(), st.lists(st.integers(), max_size=1),
    st.dictionaries(st.sampled_from(["id", "dir", "a"]), st.booleans(), max_size=1), st.text(max_size=5), st.none(),
)  # fmt: skip
KNOWN = [leaf.name.split(".") for leaf in reference()]


@given(
    st.dictionaries(st.sampled_from([*Settings.model_fields, "_env_prefix", "_case_sensitive", "x"]), ODD, max_size=2),
    st.dictionaries(st.sampled_from(range(len(KNOWN))), ODD, max_size=3),
)
def test_whatever_stands_in_a_file_is_taken_as_written_or_refused_in_one_line(
    tree: dict[str, object], leaves: dict[int, object]
) -> None:
    for i, value in leaves.items():
        section, key = KNOWN[i]
        node = tree.setdefault(section, {})
        if isinstance(node, dict):
            node[key] = value
    try:
        found = validated(tree)
    except ConfigInvalid as error:
        refused = str(error)
    else:
        refused = ""
    assert refused.startswith("setting ") or not refused
    if refused:
        return
    for i, value in leaves.items():
        section, key = KNOWN[i]
        taken = getattr(getattr(found, section), key)
        assert not isinstance(taken, Path) or str(taken) == str(Path(str(value))) != "."
        assert not (isinstance(value, bool) and isinstance(taken, int) and not isinstance(taken, bool))
    assert found.app.id + "-embeddings" != Settings().app.id
    assert all(broker.strip() for broker in found.kafka.brokers.split(","))


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
