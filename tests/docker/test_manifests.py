"""The manifests are what their schemas say, and promise what docs/reference/security.md says of them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from jobs.options.arguments import parse
from jobs.options.compose import compose_runs
from pipeline import __version__
from pipeline.work.config import GenerateConfig
from tests.docker.kuberay_schema import SCHEMAS
from tests.docker.manifests import DOCKER, KUBERAY, Object, compose, objects, pods, ray_jobs, shell_words

KUBERNETES = "1.33"
OBJECTS, PODS, RAY_JOBS = dict(objects()), dict(pods()), dict(ray_jobs())
SECRET_NAME = re.compile(r"token|secret|password|passwd|credential|access_?key|api_?key", re.IGNORECASE)
USER = 10001


def night() -> str:
    return (datetime.now() - timedelta(hours=12)).date().isoformat()


def of_night(value: Object) -> Object:
    """As `sed s/NIGHT/…/` makes it."""
    made: Object = json.loads(json.dumps(value).replace("NIGHT", night()))
    return made


def containers() -> list[tuple[str, Object]]:
    return [
        (f"{name}:{container['name']}", container)
        for name, pod in PODS.items()
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
    ]


def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {"argvalues": [value for _, value in pairs], "ids": [name for name, _ in pairs]}


class TestSchemas:
    def test_compose_is_of_the_compose_specification(self) -> None:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
        done = subprocess.run(
            [*command, DOCKER / "compose.yaml"], capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout

    def test_kubernetes_objects_are_of_kubernetes_schemas(self) -> None:
        found = [value for value in OBJECTS.values() if not value["apiVersion"].startswith("ray.io/")]
        assert {value["kind"] for value in found} >= {
            "CronJob",
            "Role",
            "RoleBinding",
            "ServiceAccount",
            "NetworkPolicy",
        }
        for value in found:
            kubernetes_validate.validate(value, KUBERNETES, strict=True)

    @pytest.mark.parametrize("pod", **named([*PODS.items()]))
    def test_pod_templates_are_pods(self, pod: Object) -> None:
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"], "spec": pod["spec"]}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)

    def test_a_misspelt_field_of_a_pod_is_found(self) -> None:
        pod = copy.deepcopy(PODS["rayjob.yaml:RayJob:head"])
        pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"], "spec": pod["spec"]}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(whole, KUBERNETES, strict=True)

    @pytest.mark.parametrize("name", ["rayjob.yaml:RayJob", "raycronjob.yaml:RayCronJob"])
    def test_ray_objects_have_kuberays_fields(self, name: str) -> None:
        value = of_night(OBJECTS[name])
        jsonschema.validate(value, SCHEMAS[value["kind"]])
        value["spec"]["backOffLimit"] = 3
        with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
            jsonschema.validate(value, SCHEMAS[value["kind"]])

    def test_a_ray_job_whose_night_was_not_put_in_is_refused(self) -> None:
        with pytest.raises(jsonschema.ValidationError, match="promptmill-NIGHT"):
            jsonschema.validate(OBJECTS["rayjob.yaml:RayJob"], SCHEMAS["RayJob"])


class TestPods:
    @pytest.mark.parametrize("pod", **named([*PODS.items()]))
    def test_a_pod_runs_as_nobody_in_particular(self, pod: Object) -> None:
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == USER
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
        assert not [volume for volume in pod["spec"].get("volumes", []) if "hostPath" in volume]

    @pytest.mark.parametrize("container", **named(containers()))
    def test_a_container_may_write_to_its_volumes_alone(self, container: Object) -> None:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        for kind in ("requests", "limits"):
            assert set(container["resources"][kind]) == {"cpu", "memory"}

    @pytest.mark.parametrize("container", **named(containers()))
    def test_no_secret_has_a_value_here(self, container: Object) -> None:
        assert not [e for e in container.get("env", []) if "value" in e and SECRET_NAME.search(e["name"])]

    @pytest.mark.parametrize("name", [name for name in PODS if name.split(":")[2:] in (["head"], ["workers"])])
    def test_a_node_has_what_ray_writes_to_and_says_how_it_is(self, name: str) -> None:
        node = PODS[name]["spec"]["containers"][0]
        assert {"/tmp", "/cache"} <= {mount["mountPath"] for mount in node["volumeMounts"]}
        assert node["readinessProbe"]["exec"] == node["livenessProbe"]["exec"] == {"command": ["healthy"]}

    def test_a_job_has_time_to_say_goodbye(self) -> None:
        loops = re.search(r"for _ in \{1\.\.(\d+)\}.*?sleep ([\d.]+)", (DOCKER / "stop_jobs.sh").read_text(), re.DOTALL)
        assert loops is not None
        waits = int(loops[1]) * float(loops[2])
        assert waits > 10
        for name in (name for name in PODS if name.endswith(":head")):
            head = PODS[name]["spec"]
            assert head["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["stop-jobs"]
            assert head["terminationGracePeriodSeconds"] >= waits + 10
        assert int(re.findall(r"\d+", compose()["services"]["head"]["stop_grace_period"])[0]) >= 20

    @pytest.mark.parametrize("job", **named([*RAY_JOBS.items()]))
    def test_a_cluster_wants_a_token_and_a_failed_job_is_tried_again(self, job: Object) -> None:
        assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
        assert job["rayClusterSpec"]["enableInTreeAutoscaling"] is True
        assert job["backoffLimit"] >= 1
        assert job["shutdownAfterJobFinishes"] is True
        pinned = re.search(r"^ray==(.+)$", (DOCKER.parent / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned is not None
        assert job["rayClusterSpec"]["rayVersion"] == pinned[1]


class TestCompose:
    @pytest.mark.parametrize("name", ["head", "worker"])
    def test_a_node_is_as_closed_as_a_pod(self, name: str) -> None:
        node = compose()["services"][name]
        assert node["read_only"] is True
        assert node["cap_drop"] == ["ALL"]
        assert node["security_opt"] == ["no-new-privileges:true"]
        assert node["user"] == f"{USER}:{USER}"
        assert "privileged" not in node
        assert all(port.startswith("127.0.0.1:") for port in node.get("ports", []))
        assert node["environment"]["RAY_AUTH_MODE"] == "token"
        (secret,) = node["secrets"]
        assert (secret["uid"], secret["mode"]) == (str(USER), 0o400)
        assert node["environment"]["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{secret['target']}"
        for setting in ("cpus", "mem_limit"):
            assert re.fullmatch(r"\$\{PROMPTMILL_\w+:-\w+\}", node[setting]), setting

    def test_the_token_is_a_file_of_the_machine(self) -> None:
        assert {tuple(secret) for secret in compose()["secrets"].values()} == {("file",)}
        text = (DOCKER / "compose.yaml").read_text()
        assert not re.search(r"RAY_AUTH_TOKEN\b", text)

    def test_workers_may_be_several(self) -> None:
        assert not {"container_name", "ports", "hostname"} & set(compose()["services"]["worker"])


def images() -> list[str]:
    named = [container["image"] for name, container in containers() if not name.endswith(":autoscaler")]
    named += [re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", node["image"]) for node in compose()["services"].values()]
    named += re.findall(r"^ARG BASE=(\S+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    return named


def test_images_have_a_version_and_ours_is_this_one() -> None:
    assert len(images()) > 5
    for image in images():
        tag = image.rpartition("/")[2].partition(":")[2]
        assert tag, image
        assert tag != "latest"
        assert "promptmill" not in image or tag == __version__


class TestNights:
    @pytest.mark.parametrize("job", **named([*RAY_JOBS.items()]))
    def test_an_entrypoint_composes_with_the_nights_date(self, job: Object) -> None:
        command, *words = shell_words(of_night({"entrypoint": job["entrypoint"]})["entrypoint"])
        assert command == "promptmill"
        assert words[0] == "generate"
        (run,) = compose_runs("generate", GenerateConfig, parse(words[1:]))
        assert run.config is not None
        assert run.config.output.path.endswith(f"/{night()}")
        assert run.config.cluster.name == "existing"
        workers = job["rayClusterSpec"]["workerGroupSpecs"][0]
        assert int(run.config.cluster.replicas) <= workers["maxReplicas"]
        cpus = workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        assert run.config.cluster.cpus_per_replica == cpus

    def test_the_ray_cron_job_is_the_ray_job(self) -> None:
        once = json.dumps(OBJECTS["rayjob.yaml:RayJob"]["spec"])
        every = json.dumps(OBJECTS["raycronjob.yaml:RayCronJob"]["spec"]["jobTemplate"])
        assert once.replace("NIGHT", "$(date -d '12 hours ago' +%F)") == every

    def test_the_cron_job_may_make_ray_jobs_and_no_more(self) -> None:
        role = OBJECTS["cronjob.yaml:Role"]
        assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
        binding, cron = OBJECTS["cronjob.yaml:RoleBinding"], OBJECTS["cronjob.yaml:CronJob"]
        account = OBJECTS["cronjob.yaml:ServiceAccount"]["metadata"]["name"]
        assert [(s["kind"], s["name"]) for s in binding["subjects"]] == [("ServiceAccount", account)]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"] == account

    def test_the_ray_job_can_be_read_again_from_what_the_cron_job_puts(self) -> None:
        text = (KUBERAY / "rayjob.yaml").read_text().replace("NIGHT", night())
        assert yaml.safe_load(text) == of_night(OBJECTS["rayjob.yaml:RayJob"])
