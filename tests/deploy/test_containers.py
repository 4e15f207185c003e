"""Image, compose file and chart: valid for the tools that read them, true to the commands and settings there are."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from lurm_model.bundle import Bundle
from stream.cli import run
from stream.settings import Metrics, reference
from tests.brokers import Broker
from tests.workers import LURM

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "lurm-stream"
KNOWN = {leaf.variable for leaf in reference()}
PORTS = {"worker": Metrics().port, "exporter": 9109}
PROBES = {
    "worker": {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"},
    "exporter": {"livenessProbe": "/livez", "readinessProbe": "/readyz"},
    "topics": {},
}
SECURED: dict[str, Any] = {
    "workers": 3,
    "settings": {
        "kafka": {
            "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "lurm",
            "ssl_ca_file": "/etc/lurm/kafka/ca.crt",
        },
        "state": {"cache_bytes": 512 << 20, "scales": "day,month"},
    },
    "secrets": {
        "LURM_KAFKA__SASL_PASSWORD": {"name": "lurm-kafka", "key": "password"},
        "LURM_METRICS__TOKEN": {"name": "lurm-metrics", "key": "token"},
    },
    "kafkaFilesSecret": "lurm-kafka-ca",
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}, "runbookUrl": "https://example.com/runbook"},
}  # fmt: skip
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
VARIANTS = {"cpu", "cuda"}


def compose(variant: str = "") -> dict[str, Any]:
    """The compose file with its variables' defaults, or for this variant of the image."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) == {"VARIANT"}
    return yaml.safe_load(re.sub(r"\$\{VARIANT:-([^}]*)\}", variant or r"\1", text))


def compose_with_gpus() -> dict[str, Any]:
    """What compose makes of the file and the one for GPUs: the second adds to services of the first."""
    made = compose("cuda")
    for name, added in yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text(encoding="utf-8"))["services"].items():
        assert set(added) == {"deploy"}
        made["services"][name]["deploy"] = made["services"][name]["deploy"] | added["deploy"]
    return made


def ran(*command: object, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What a tool prints; it must succeed."""
    line = [str(each) for each in command]
    done = subprocess.run(line, input=stdin, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_known(command: Sequence[str]) -> bool:
    """Whether lurm has this command with these options."""
    return run([*command, "--help"]) == 0


@pytest.fixture(params=["defaults", "secured"])
def manifests(request: pytest.FixtureRequest, deploy_tools: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """What helm makes of the chart."""
    return templated(deploy_tools, tmp_path, SECURED if request.param == "secured" else {})


def templated(deploy_tools: Path, folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What helm makes of the chart with these values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    ran(deploy_tools / "helm", "lint", "--strict", "--values", file, CHART)
    text = ran(deploy_tools / "helm", "template", "lurm", CHART, "--values", file)
    return [each for each in yaml.safe_load_all(text) if each]


def containers(manifests: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each pod's specification and its container."""
    for each in manifests:
        if each["kind"] in {"StatefulSet", "Deployment", "Job"}:
            pod = each["spec"]["template"]["spec"]
            for container in pod["containers"]:
                yield pod, container


def test_the_dockerfile_passes_hadolint(deploy_tools: Path) -> None:
    ran(deploy_tools / "hadolint", DEPLOY / "Dockerfile")


def test_the_dockerfile_is_pinned_runs_as_nobody_special_and_sets_what_exists() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert set(re.findall(r"LURM_\w+", text)) <= KNOWN
    assert is_known(json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0]))
    shown = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert {f"!{name}" for name in source.split()} <= set(shown)


def test_all_that_the_dockerfile_installs_and_builds_with_is_pinned() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    before, constrained, after = text.partition('ENV PIP_CONSTRAINT="/src/requirements.lock /src/cuda.lock"\n')
    assert constrained
    assert "pip install" not in before
    # The index of CPU builds has other versions of what torch needs.
    assert re.search(r"--no-deps --index-url \S+/whl/cpu ", after)
    files = (ROOT / "requirements.lock", DEPLOY / "cuda.lock")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert backend in lines
    names = [line.partition("==")[0] for line in lines]
    assert {
        "hatchling",
        "packaging",
        "pathspec",
        "pluggy",
        "trove-classifiers",
        "setuptools",
        "torch",
        "triton",
    } <= set(names)
    assert len(names) == len(set(names))


def test_image_compose_file_chart_and_documents_agree_on_what_the_image_is_called(deploy_tools: Path) -> None:
    files = [ROOT / "README.md", *(path for path in DEPLOY.rglob("*") if path.suffix in {".md", ".yaml", ".tpl"})]
    texts = [file.read_text(encoding="utf-8") for file in (*files, DEPLOY / "Dockerfile")]
    found = {name for text in texts for name in re.findall(r"lurm-stream:(?!\s)([^\s`\"]+)", text)}
    wanted = {f"{VERSION}-{variant}" for variant in VARIANTS}
    assert found == {*wanted, f"{VERSION}-${{VARIANT:-cpu}}"}
    for variant in VARIANTS:
        ours = {each["image"] for each in compose(variant)["services"].values() if "lurm-stream" in each["image"]}
        text = ran(deploy_tools / "helm", "template", "lurm", CHART, "--set", f"image.variant={variant}")
        ours |= {container["image"] for _, container in containers([*yaml.safe_load_all(text)])}
        assert ours == {f"lurm-stream:{VERSION}-{variant}"}


@pytest.mark.parametrize("made", [compose, compose_with_gpus])
def test_the_compose_file_is_valid_for_the_specification(
    made: Callable[[], dict[str, Any]], deploy_tools: Path
) -> None:
    check = "import sys; from compose_spec import PyCompose; PyCompose.from_json(sys.stdin.read()).validate()"
    ran(deploy_tools / "python", "-c", check, stdin=json.dumps(made()))


def test_with_gpus_every_worker_gets_one_and_nobody_else(deploy_tools: Path, tmp_path: Path) -> None:
    services = compose_with_gpus()["services"]
    reserving = {name for name, each in services.items() if "resources" in each.get("deploy", {})}
    assert reserving == {"worker-1", "worker-2"}
    (device,) = services["worker-1"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    found = list(containers(templated(deploy_tools, tmp_path, {"image": {"variant": "cuda"}})))
    limits = {each["name"]: each["resources"]["limits"].get("nvidia.com/gpu") for _, each in found}
    assert limits == {"worker": 1, "exporter": None, "topics": None}


def test_the_compose_file_never_runs_out_of_events_and_does_not_restart_for_ever() -> None:
    services = compose()["services"]
    assert services["producer"]["restart"] == "unless-stopped", "the file is sent again"
    for name in ("worker-1", "worker-2", "exporter"):
        policy = services[name]["deploy"]["restart_policy"]
        assert (policy["condition"], policy["max_attempts"]) == ("on-failure", 10), "exit 2 is for good"


def test_the_compose_file_names_settings_commands_files_and_images_that_exist() -> None:
    services = compose()["services"]
    ours = {name: each for name, each in services.items() if each["image"].startswith("lurm-stream:")}
    assert {"worker-1", "worker-2", "exporter", "producer", "topics", "model"} <= set(ours)
    for name, each in ours.items():
        assert {key for key in each["environment"] if key.startswith("LURM_")} <= KNOWN
        assert "entrypoint" in each or is_known(each["command"]), name
    for each in services.values():
        assert re.search(r":[\w.-]*\d[\w.-]*$", each["image"])
        assert not each["image"].endswith(":latest")
        mounted = [volume.split(":")[0] for volume in each.get("volumes", [])]
        assert all((DEPLOY / path).exists() for path in mounted if path.startswith("."))
        assert {path for path in mounted if not path.startswith(".")} <= set(compose()["volumes"])
        assert all(port.startswith("127.0.0.1:") for port in each.get("ports", []))
    worker, exporter = PORTS["worker"], PORTS["exporter"]
    assert targets("compose/prometheus.yaml") == {f"worker-1:{worker}", f"worker-2:{worker}", f"exporter:{exporter}"}
    assert targets("prometheus/prometheus.yaml") == {f"127.0.0.1:{worker}", f"127.0.0.1:{exporter}"}
    assert f"127.0.0.1:{worker}/livez" in str(services["worker-1"]["healthcheck"]["test"])
    assert [str(exporter)] == services["exporter"]["command"][2:]


def targets(config: str) -> set[str]:
    """What a Prometheus with this configuration scrapes."""
    jobs = yaml.safe_load((DEPLOY / config).read_text(encoding="utf-8"))["scrape_configs"]
    return {target for job in jobs for target in job["static_configs"][0]["targets"]}


def test_the_compose_file_sets_properties_that_a_broker_has(kafka_broker: Broker) -> None:
    variables = compose()["services"]["kafka"]["environment"]
    names = {name.removeprefix("KAFKA_").lower().replace("_", ".") for name in variables}
    broker = ConfigResource(ConfigResourceType.BROKER, "1")
    with closing(KafkaAdminClient(bootstrap_servers=kafka_broker.brokers)) as client:
        (known,) = client.describe_configs([broker], config_filter="all")["broker"].values()
    assert names <= set(known)


def test_the_compose_file_makes_the_events_that_it_sends_and_a_model_of_them(tmp_path: Path) -> None:
    """Its script, with less to train."""
    services = compose()["services"]
    (script,), shell = services["model"]["command"], services["model"]["entrypoint"]
    for made, smaller in (
        ("n_users=2_000", "n_users=150"),
        ("n_items=1_000", "n_items=150"),
        ("lurm train", "lurm train --epochs 1"),
    ):
        assert made in script
        script = script.replace(made, smaller)
    path = f"{LURM.parent}:{os.environ['PATH']}"
    ran(*shell, script.replace("/data/", f"{tmp_path}/"), environment=os.environ | {"PATH": path})
    bundle = Path(services["worker-1"]["environment"]["LURM_MODEL__BUNDLE"])
    assert Bundle.load(tmp_path / bundle.relative_to("/data")).codebook.interest_of
    events = Path(services["producer"]["command"][1])
    assert (tmp_path / events.relative_to("/data")).exists()


def test_the_volume_of_the_model_is_the_one_that_the_chart_names(deploy_tools: Path, tmp_path: Path) -> None:
    file = DEPLOY / "helm" / "model-volume.yaml"
    assert ran(deploy_tools / "kubernetes-validate", "--strict", "-k", "1.37", file).count(" passed ") == 2
    claim, pod = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    (workers,) = [each for each in templated(deploy_tools, tmp_path, {}) if each["kind"] == "StatefulSet"]
    spec = workers["spec"]["template"]["spec"]
    (volume,) = [each for each in spec["volumes"] if each["name"] == "model"]
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "model"]
    (source,), (target,) = pod["spec"]["volumes"], pod["spec"]["containers"][0]["volumeMounts"]
    name = claim["metadata"]["name"]
    assert {volume["persistentVolumeClaim"]["claimName"], source["persistentVolumeClaim"]["claimName"]} == {name}
    copied = f"{pod['metadata']['name']}:{target['mountPath']}/{mount['subPath']}"
    for text in (file, DEPLOY / "README.md"):
        assert f"kubectl cp bundle {copied}" in text.read_text(encoding="utf-8")
    (bundle,) = [each for each in spec["containers"][0]["env"] if each["name"] == "LURM_MODEL__BUNDLE"]
    assert bundle["value"] == mount["mountPath"]
    image = {"model": {"volume": {"image": {"reference": "registry.example/model:7"}}}}
    objects = tmp_path / "objects.yaml"
    objects.write_text(yaml.safe_dump_all(templated(deploy_tools, tmp_path, image)))
    ran(deploy_tools / "kubernetes-validate", "--strict", "-k", "1.37", objects)


def test_the_chart_makes_objects_that_kubernetes_takes(
    manifests: list[dict[str, Any]], deploy_tools: Path, tmp_path: Path
) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all([each for each in manifests if each["kind"] not in CUSTOM]))
    said = ran(deploy_tools / "kubernetes-validate", "--strict", "-k", "1.37", file)
    assert said.count(" passed ") == sum(each["kind"] not in CUSTOM for each in manifests)


def test_the_chart_sets_what_exists_and_probes_what_is_served(manifests: list[dict[str, Any]]) -> None:
    assert sorted(container["name"] for _, container in containers(manifests)) == sorted(PROBES)
    for pod, container in containers(manifests):
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names))
        assert set(names) <= KNOWN
        assert is_known(container["args"])
        assert pod["securityContext"]["runAsNonRoot"]
        # A Service's variables begin with its name, LURM_..., and no such setting exists.
        assert pod["enableServiceLinks"] is False
        secrets = [each for each in container["env"] if each["name"] in SECURED["secrets"]]
        assert all("value" not in each for each in secrets)
        probes = {kind: probe["httpGet"] for kind, probe in container.items() if kind.endswith("Probe")}
        assert {kind: probe["path"] for kind, probe in probes.items()} == PROBES[container["name"]]
        ports = [(port["name"], port["containerPort"]) for port in container.get("ports", [])]
        assert ports == ([("metrics", PORTS[container["name"]])] if probes else [])
        assert {probe["port"] for probe in probes.values()} <= {"metrics"}


def test_a_worker_of_the_chart_keeps_its_name_and_disk_and_gets_time_to_drain(
    manifests: list[dict[str, Any]],
) -> None:
    (workers,) = [each for each in manifests if each["kind"] == "StatefulSet"]
    pod = workers["spec"]["template"]["spec"]
    variables = {each["name"]: each for each in pod["containers"][0]["env"]}
    assert variables["LURM_WORKER__INSTANCE"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    (claim,) = workers["spec"]["volumeClaimTemplates"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert variables["LURM_STATE__DIR"]["value"].startswith(mounts[claim["metadata"]["name"]])
    assert pod["terminationGracePeriodSeconds"] >= 30
    (budget,) = [each for each in manifests if each["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["selector"] == workers["spec"]["selector"]


def test_the_chart_carries_the_rules_with_their_runbook_and_only_when_asked(deploy_tools: Path, tmp_path: Path) -> None:
    source = (DEPLOY / "prometheus" / "lurm.rules.yaml").read_text(encoding="utf-8")
    assert (CHART / "files" / "lurm.rules.yaml").read_text(encoding="utf-8") == source
    (rule,) = [each for each in templated(deploy_tools, tmp_path, SECURED) if each["kind"] == "PrometheusRule"]
    runbook = SECURED["monitoring"]["runbookUrl"]
    assert rule["spec"] == yaml.safe_load(source.replace("deploy/README.md", runbook))
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert not [each for each in templated(deploy_tools, tmp_path, {}) if each["kind"] in CUSTOM]


def test_prometheus_is_told_of_services_token_and_pod_names(deploy_tools: Path, tmp_path: Path) -> None:
    made = templated(deploy_tools, tmp_path, SECURED)
    monitors = [each for each in made if each["kind"] == "ServiceMonitor"]
    services = [each for each in made if each["kind"] == "Service"]
    watched = {}
    for monitor in monitors:
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        (endpoint,) = monitor["spec"]["endpoints"]
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [each for each in services if wanted <= each["metadata"]["labels"].items()]
        assert endpoint["authorization"]["credentials"] == {"name": "lurm-metrics", "key": "token"}
        assert endpoint["path"] == "/metrics"
        (pod,) = endpoint["relabelings"]
        assert pod == {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
        (port,) = [each["port"] for each in service["spec"]["ports"] if each["name"] == endpoint["port"]]
        watched[service["metadata"]["name"]] = port
    assert watched == {"lurm-worker": 9108, "lurm-exporter": 9109}


@pytest.mark.parametrize(
    "wrong",
    [
        "workers=0", "terminationGracePeriodSeconds=5", "settings.kafka.sasl_password=x", "settings.nowhere.key=1",
        "settings.state.dir=/x", "secrets.PASSWORD.name=x", "worker=3",
    ],
)  # fmt: skip
def test_the_chart_refuses_values_that_cannot_be_meant(wrong: str, deploy_tools: Path) -> None:
    command = [str(deploy_tools / "helm"), "template", "lurm", str(CHART), "--set", wrong]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "schema" in done.stderr
