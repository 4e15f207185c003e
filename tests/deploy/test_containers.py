"""Image, compose file and chart: valid for the tools that read them, true to the commands and settings there are."""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.cli import COMMANDS
from stream.settings import reference

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "lurm-stream"
KNOWN = {leaf.variable for leaf in reference()}
PORTS = {"worker": 9108, "exporter": 9109}
SECURED = {
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


def compose() -> dict[str, Any]:
    """The compose file with its variables' defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return yaml.safe_load(text)


def ran(*command: object, stdin: str | None = None) -> str:
    """What a tool prints; it must succeed."""
    done = subprocess.run([str(each) for each in command], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=["defaults", "secured"])
def manifests(request: pytest.FixtureRequest, deploy_tools: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """What helm makes of the chart."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(SECURED if request.param == "secured" else {}))
    ran(deploy_tools / "helm", "lint", "--strict", "--values", values, CHART)
    text = ran(deploy_tools / "helm", "template", "lurm", CHART, "--values", values)
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
    assert "--constraint requirements.lock" in text
    assert set(re.findall(r"LURM_\w+", text)) <= KNOWN
    assert json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])[0] in COMMANDS
    shown = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert {f"!{name}" for name in source.split()} <= set(shown)


def test_the_compose_file_is_valid_for_the_specification(deploy_tools: Path) -> None:
    check = "import sys; from compose_spec import PyCompose; PyCompose.from_json(sys.stdin.read()).validate()"
    ran(deploy_tools / "python", "-c", check, stdin=json.dumps(compose()))


def test_the_compose_file_names_settings_commands_files_and_images_that_exist() -> None:
    services = compose()["services"]
    ours = {name: each for name, each in services.items() if each["image"].startswith("lurm-stream:")}
    assert {"worker-1", "worker-2", "exporter", "producer", "topics", "model"} <= set(ours)
    for name, each in ours.items():
        assert {key for key in each["environment"] if key.startswith("LURM_")} <= KNOWN
        assert "entrypoint" in each or each["command"][0] in COMMANDS, name
    for each in services.values():
        assert re.search(r":\w*[\d.]*\w+$", each["image"])
        assert not each["image"].endswith(":latest")
        mounted = [volume.split(":")[0] for volume in each.get("volumes", [])]
        assert all((DEPLOY / path).exists() for path in mounted if path.startswith("."))
        assert {path for path in mounted if not path.startswith(".")} <= set(compose()["volumes"])
        assert all(port.startswith("127.0.0.1:") for port in each.get("ports", []))
    targets = {
        target
        for job in yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text())["scrape_configs"]
        for target in job["static_configs"][0]["targets"]
    }
    assert targets == {"worker-1:9108", "worker-2:9108", "exporter:9109"}


def test_the_chart_makes_objects_that_kubernetes_takes(
    manifests: list[dict[str, Any]], deploy_tools: Path, tmp_path: Path
) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all([each for each in manifests if each["kind"] not in CUSTOM]))
    said = ran(deploy_tools / "kubernetes-validate", "--strict", "-k", "1.37", file)
    assert said.count(" passed ") == sum(each["kind"] not in CUSTOM for each in manifests)


def test_the_chart_sets_what_exists_and_probes_what_is_served(manifests: list[dict[str, Any]]) -> None:
    for pod, container in containers(manifests):
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names))
        assert set(names) <= KNOWN
        assert container["args"][0] in COMMANDS
        assert pod["securityContext"]["runAsNonRoot"]
        # A Service's variables begin with its name, LURM_..., and no such setting exists.
        assert pod["enableServiceLinks"] is False
        secrets = [each for each in container["env"] if each["name"] in SECURED["secrets"]]
        assert all("value" not in each for each in secrets)
        for kind, probe in container.items():
            if kind.endswith("Probe"):
                assert probe["httpGet"]["path"] == ("/readyz" if kind.startswith("readiness") else "/livez")
                assert probe["httpGet"]["port"] == container["ports"][0]["name"]
        if "ports" in container:
            assert container["ports"][0]["containerPort"] == PORTS[container["name"]]


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


def test_the_chart_carries_the_rules_and_scrapes_a_pod_under_its_name(manifests: list[dict[str, Any]]) -> None:
    source = (DEPLOY / "prometheus" / "lurm.rules.yaml").read_text(encoding="utf-8")
    assert (CHART / "files" / "lurm.rules.yaml").read_text(encoding="utf-8") == source
    for each in manifests:
        if each["kind"] == "PrometheusRule":
            runbook = SECURED["monitoring"]["runbookUrl"]
            assert each["spec"] == yaml.safe_load(source.replace("deploy/README.md", runbook))
        if each["kind"] == "ServiceMonitor":
            (endpoint,) = each["spec"]["endpoints"]
            assert endpoint["authorization"]["credentials"] == {"name": "lurm-metrics", "key": "token"}
            (pod,) = endpoint["relabelings"]
            assert pod == {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}


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
