"""Settings come from the environment, then from the file, and wrong ones are named."""

from pathlib import Path

import pytest

from stream.errors import ConfigInvalid
from stream.settings import App, Settings, State, load, reference


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
        App().id = "other"
