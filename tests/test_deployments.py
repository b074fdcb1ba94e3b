"""The compose and Kubernetes files: valid by their schemas, and of one mind with the Containerfile and the settings."""

from __future__ import annotations

import copy
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from tests.conftest import program
from tvarr.config import COMMANDS, CoordinatorConfig, FfmpegdConfig, load, settings

ROOT = Path(__file__).parents[1]
COMPOSE = sorted((ROOT / "examples/compose").glob("*.yaml"))
KUBERNETES = ROOT / "examples/kubernetes"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
ROLE_OF = {"tvarr-coordinator": CoordinatorConfig, "tvarr-ffmpegd": FfmpegdConfig, "tvarr": None}
OF_THE_CONTAINER = {"TVARR_ROLE", "PUID", "PGID", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
VARIABLES = {
    command: {name for item in settings(config) for name in variables(item.variable, item.secret)}
    for command, config in COMMANDS.items()
    for variables in [lambda name, secret: (name, f"{name}_FILE") if secret else (name,)]
}
CHOSEN = {  # what a person would put for `${NAME:?...}`
    "TVARR_AUTH_TOKEN": "a-token",
    "TVARR_COORDINATOR_URL": "grpc://a-token@coordinator.example:9090",
    "RENDER_GID": "109",
}


def variables_of(image: str) -> set[str]:
    roles = {"tvarr-coordinator": ["coordinator"], "tvarr-ffmpegd": ["ffmpegd"], "tvarr": ["coordinator", "ffmpegd"]}
    return OF_THE_CONTAINER.union(*(VARIABLES[role] for role in roles[image]))


def filled_in(text: str) -> str:
    """Compose's `${NAME}`, `${NAME:-default}` and `${NAME:?what is missing}`, as it puts values for them."""

    def value(match: re.Match[str]) -> str:
        return str(CHOSEN[match["name"]] if match["name"] in CHOSEN else match["default"])

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]+)?\}", value, text)


def services(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from yaml.safe_load(filled_in(path.read_text()))["services"].items()


def test_there_is_a_compose_file_for_each_use() -> None:
    assert {path.stem for path in COMPOSE} == {"all-in-one", "workers", "nvidia", "intel-amd"}


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.stem)
class TestCompose:
    def test_valid(self, path: Path) -> None:
        compose_spec.PyCompose.from_yaml(filled_in(path.read_text())).validate()

    def test_each_service_is_one_of_our_images(self, path: Path) -> None:
        for name, service in services(path):
            build = service["build"]
            folder = path.parent / build["context"]
            assert (folder / build["dockerfile"]).resolve() == ROOT / "Containerfile", name
            assert service["image"] == build["target"] in ROLE_OF, name
            assert re.search(rf"^FROM \S+ AS {build['target']}$", CONTAINERFILE, re.MULTILINE)

    def test_each_variable_is_a_setting_of_the_image_and_takes_the_value(self, path: Path) -> None:
        for name, service in services(path):
            environ = {key: str(value) for key, value in service.get("environment", {}).items()}
            assert set(environ) <= variables_of(service["image"]), name
            if config := ROLE_OF[service["image"]]:
                load(config, {}, {"HOME": "/data", **environ})

    def test_ports_are_those_of_the_image(self, path: Path) -> None:
        exposed = set(re.findall(r"\d+", next(re.finditer(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE))[1]))
        for _, service in services(path):
            assert {port.split(":")[-1] for port in service.get("ports", [])} <= exposed

    def test_what_the_container_keeps_is_in_a_volume(self, path: Path) -> None:
        named = set(yaml.safe_load(path.read_text()).get("volumes", {}))
        for _, service in services(path):
            mounts = [volume.split(":") for volume in service.get("volumes", [])]
            assert {name for name, _ in mounts} <= named
            assert {where for _, where in mounts} <= {"/data"}

    def test_there_is_time_to_stop(self, path: Path) -> None:
        for _, service in services(path):
            assert int(service["stop_grace_period"].removesuffix("s")) > 10  # what a role may take


@pytest.mark.parametrize(
    "wrong",
    ["depends-on: {}", "restart: sometimes", "ports: 8080", "stop_grace_period: soon"],
)
def test_what_is_no_compose_file_is_found_out(wrong: str) -> None:
    text = f"services:\n  tvarr:\n    image: tvarr\n    {wrong}\n"
    with pytest.raises(ValueError, match=r"at line \d"):
        compose_spec.PyCompose.from_yaml(text).validate()


def test_two_workers_join_with_one_variable() -> None:
    found = dict(services(ROOT / "examples/compose/workers.yaml"))
    worker = found["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert list(worker["environment"]) == ["TVARR_COORDINATOR_URL"]
    joined = load(FfmpegdConfig, {}, {"HOME": "/data", **worker["environment"]})
    coordinator = load(CoordinatorConfig, {}, {"HOME": "/data", **found["coordinator"]["environment"]})
    assert joined.coordinator_url == f"coordinator:{coordinator.grpc_port}"
    assert joined.auth_token == coordinator.auth_token == CHOSEN["TVARR_AUTH_TOKEN"]


def test_gpus_are_handed_in() -> None:
    nvidia = dict(services(ROOT / "examples/compose/nvidia.yaml"))["worker"]
    (device,) = nvidia["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert {"gpu", "video", "compute", "utility"} <= set(device["capabilities"])
    other = dict(services(ROOT / "examples/compose/intel-amd.yaml"))["worker"]
    assert other["devices"] == ["/dev/dri:/dev/dri"]
    assert all(group.isdigit() for group in other["group_add"])


# ---------------------------------------------------------------------------------------------------------- Kubernetes


def kustomization(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert (loaded["apiVersion"], loaded["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    return loaded


def files(folder: Path) -> Iterator[Path]:
    """What a kustomization takes in, through the ones that it names."""
    for name in kustomization(folder)["resources"]:
        path = folder / name
        if path.is_dir():
            yield from files(path)
        else:
            yield path


@functools.cache
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """Everything, the base that is left to the user too: (kind, name) to object."""
    paths = [*files(KUBERNETES), *files(KUBERNETES / "worker-gpu")]
    found = [item for path in paths for item in yaml.safe_load_all(path.read_text())]
    made = {(item["kind"], item["metadata"]["name"]): item for item in found}
    assert len(made) == len(found), "two of one name"
    return made


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [item for (its, _), item in objects().items() if its == kind]


def containers() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each Deployment's pod and the one container in it."""
    pods = [deployment["spec"]["template"] for deployment in of_kind("Deployment")]
    assert len(pods) == 3
    return [(pod, container) for pod in pods for container in pod["spec"]["containers"]]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item.get("value", "from-elsewhere") for item in container["env"]}


def test_every_file_is_taken_in() -> None:
    taken = {*files(KUBERNETES), *files(KUBERNETES / "worker-gpu")}
    assert taken == {path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"}


def test_valid_by_the_schemas_of_kubernetes() -> None:
    kinds = ("Deployment", "Service", "PersistentVolumeClaim", "HorizontalPodAutoscaler", "PodDisruptionBudget")
    assert {*kinds, "Namespace"} == {kind for kind, _ in objects()}
    for item in objects().values():
        for version in ("1.33", "1.37"):
            kubernetes_validate.validate(item, version, strict=True)


def test_what_is_no_object_of_kubernetes_is_found_out() -> None:
    item = copy.deepcopy(objects()["Deployment", "tvarr-worker"])
    item["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(item, "1.37", strict=True)


def test_selectors_meet_the_labels_of_pods() -> None:
    labels = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in of_kind("Deployment")]
    for deployment in of_kind("Deployment"):
        assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [service["spec"]["selector"] for service in of_kind("Service")]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in of_kind("PodDisruptionBudget")]
    for selector in selectors:
        assert sum(selector.items() <= pod.items() for pod in labels) == 1, selector


def test_ports_and_probes_meet_what_the_roles_listen_on() -> None:
    for pod, container in containers():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        config = ROLE_OF[container["image"]]
        assert config
        loaded = load(config, {}, {"HOME": "/data", **environment(container)})
        if isinstance(loaded, CoordinatorConfig):
            assert ports == {"http": loaded.http_port, "grpc": loaded.grpc_port}
        else:
            assert isinstance(loaded, FfmpegdConfig)
            assert loaded.metrics_listen == ("0.0.0.0", ports["metrics"])
            service = objects()["Service", loaded.coordinator_url.split(":")[0]]
            assert f":{service['spec']['ports'][1]['port']}" == loaded.coordinator_url[-5:]
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {probe["port"] for probe in probes.values()} <= set(ports)
        assert probes["liveness"]["path"] == probes["startup"]["path"] == "/livez"
        assert probes["readiness"]["path"] == "/readyz"
        assert int(pod["metadata"]["annotations"]["prometheus.io/port"]) in ports.values()
    for service in of_kind("Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} == {"http", "grpc"}


def test_each_variable_is_a_setting_of_the_role() -> None:
    for pod, container in containers():
        assert set(environment(container)) <= variables_of(container["image"])
        assert pod["spec"]["enableServiceLinks"] is False, "a Service's variables could be taken for settings"


def test_secrets_come_from_the_generated_one() -> None:
    top = kustomization(KUBERNETES)
    (generated,) = top["secretGenerator"]
    keys = {line.split("=")[0] for line in (KUBERNETES / "secret.example.env").read_text().splitlines() if "=" in line}
    assert generated["envs"] == ["secret.env"]
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "/examples/kubernetes/secret.env" in ignored
    used = [
        item["valueFrom"]["secretKeyRef"]
        for _, c in containers()
        for item in c["env"]
        if "valueFrom" in item and "secretKeyRef" in item["valueFrom"]
    ]
    assert {reference["name"] for reference in used} == {generated["name"]}
    assert {reference["key"] for reference in used} == keys
    secret = {
        item.variable for config in (CoordinatorConfig, FfmpegdConfig) for item in settings(config) if item.secret
    }
    for _, container in containers():
        for item in container["env"]:
            if item["name"] in secret - {"TVARR_COORDINATOR_URL"}:
                assert "value" not in item, f"{item['name']} stands in the file"


def test_images_are_ours_and_named_in_the_kustomization() -> None:
    used = {container["image"] for _, container in containers()}
    assert (
        used
        == {image["name"] for image in kustomization(KUBERNETES)["images"]}
        == {"tvarr-coordinator", "tvarr-ffmpegd"}
    )


def test_pods_run_without_privileges_and_write_where_they_may() -> None:
    for pod, container in containers():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp", "/run/tvarr"}
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}


def test_a_worker_drains_before_it_ends_and_has_the_time_for_it() -> None:
    for pod, container in containers():
        grace_s = pod["spec"]["terminationGracePeriodSeconds"]
        if container["image"] == "tvarr-ffmpegd":
            command = container["lifecycle"]["preStop"]["exec"]["command"]
            assert command[:2] == ["sh", "-c"]
            drain = re.fullmatch(r"kill -USR1 1; sleep (\d+)", command[2])
            assert drain
            grace_s -= int(drain[1])
        assert grace_s > 10


def test_the_autoscaler_follows_a_metric_that_workers_serve() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    deployment = objects()[target["kind"], target["name"]]
    assert "replicas" not in deployment["spec"], "applying it again would undo the autoscaler's number"
    (metric,) = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name.removeprefix("tvarr_") in (ROOT / "tvarr/ffmpegd/monitor.py").read_text()
    assert name in (KUBERNETES / "README.md").read_text()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert float(metric["pods"]["target"]["averageValue"]) < int(environment(container)["TVARR_MAX_JOBS"])


def test_gpu_workers_have_a_gpu_each() -> None:
    (container,) = objects()["Deployment", "tvarr-worker-gpu"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert environment(container)["TVARR_MAX_CPU_JOBS"] == "0"


class TestSystemd:
    UNIT = ROOT / "examples/systemd/tvarr.service"

    def test_systemd_takes_it(self, tmp_path: Path) -> None:
        unit = tmp_path / self.UNIT.name
        unit.write_text(self.UNIT.read_text().replace("/opt/tvarr/", f"{ROOT}/"))
        command = [program("systemd-analyze"), "verify", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_each_variable_is_a_setting(self) -> None:
        named = set(re.findall(r"TVARR_\w+", self.UNIT.read_text()))
        assert "TVARR_DATA_DIR" in named
        assert named <= variables_of("tvarr")

    def test_it_has_the_time_that_the_roles_need_to_end(self) -> None:
        longest_s = int(re.search(r"^KILL_AFTER_S=(\d+)", (ROOT / "run-roles.sh").read_text(), re.MULTILINE)[1])
        given_s = int(re.search(r"^TimeoutStopSec=(\d+)", self.UNIT.read_text(), re.MULTILINE)[1])
        assert given_s > longest_s
