"""What KubeRay 1.6 takes in a RayJob and a RayCronJob, as a JSON Schema: the fields by name and type.

Pod templates are left to Kubernetes' own schemas. A field that is not in the list is refused, since the API server drops
it without a word.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
KUBERNETES: Schema = {"type": "object"}
LIST: Schema = {"type": "array"}


def fields(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


AUTHENTICATION = fields(
    ("mode",), mode={"enum": ["disabled", "token"]}, secretName=STRING, enableK8sTokenAuth=BOOLEAN
)  # fmt: skip
AUTOSCALER = fields(
    (), resources=KUBERNETES, image=STRING, imagePullPolicy=STRING, env=LIST, envFrom=LIST, volumeMounts=LIST,
    securityContext=KUBERNETES, idleTimeoutSeconds=COUNT, version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
)  # fmt: skip
HEAD = fields(
    ("template",), serviceType=STRING, headService=KUBERNETES, enableIngress=BOOLEAN, rayStartParams=STRINGS,
    resources=STRINGS, labels=STRINGS, template=KUBERNETES,
)  # fmt: skip
WORKERS = fields(
    ("groupName", "minReplicas", "maxReplicas", "template"), groupName=STRING, replicas=COUNT, minReplicas=COUNT,
    maxReplicas=COUNT, numOfHosts=COUNT, idleTimeoutSeconds=COUNT, suspend=BOOLEAN, rayStartParams=STRINGS,
    resources=STRINGS, labels=STRINGS, scaleStrategy=KUBERNETES, template=KUBERNETES,
)  # fmt: skip
CLUSTER = fields(
    ("headGroupSpec", "rayVersion"), headGroupSpec=HEAD, workerGroupSpecs={"type": "array", "items": WORKERS},
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}, enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=AUTOSCALER, authOptions=AUTHENTICATION, headServiceAnnotations=STRINGS, suspend=BOOLEAN,
    managedBy=STRING, gcsFaultToleranceOptions=KUBERNETES,
)  # fmt: skip
RAY_JOB = fields(
    ("entrypoint", "rayClusterSpec"), activeDeadlineSeconds={"type": "integer", "minimum": 1}, backoffLimit=COUNT,
    rayClusterSpec=CLUSTER, submitterPodTemplate=KUBERNETES, metadata=STRINGS, clusterSelector=STRINGS,
    submitterConfig=fields((), backoffLimit=COUNT), managedBy=STRING, deletionStrategy=KUBERNETES, entrypoint=STRING,
    runtimeEnvYAML=STRING, jobId=STRING, entrypointResources=STRING, entrypointNumCpus=NUMBER, entrypointNumGpus=NUMBER,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    ttlSecondsAfterFinished=COUNT, shutdownAfterJobFinishes=BOOLEAN, suspend=BOOLEAN,
)  # fmt: skip
RAY_CRON_JOB = fields(("schedule", "jobTemplate"), schedule=STRING, suspend=BOOLEAN, jobTemplate=RAY_JOB)


def whole(kind: str, spec: Schema) -> Schema:
    """The schema of an object of this kind. A name has 47 characters at most, as KubeRay checks."""
    name = {"type": "string", "maxLength": 47, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}
    return fields(
        ("apiVersion", "kind", "metadata", "spec"), apiVersion={"const": "ray.io/v1"}, kind={"const": kind},
        metadata=fields(("name",), name=name, labels=STRINGS, annotations=STRINGS, namespace=STRING), spec=spec,
    )  # fmt: skip


SCHEMAS = {"RayJob": whole("RayJob", RAY_JOB), "RayCronJob": whole("RayCronJob", RAY_CRON_JOB)}
