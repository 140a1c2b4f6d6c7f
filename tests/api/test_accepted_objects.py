"""What may be written: accepted by the API server, read by the models, with the same defaults in both."""

import json
from pathlib import Path

import pytest
import yaml
from tests.api.cluster import create
from tests.api.samples import PARSERS, sample

from tangram.api.common import to_object

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*.yaml") if path.parent.name != "gpu-mock")
"""Manifests; the files that tell the mock of NVML about GPUs are none."""

TEMPLATE = "{spec: {containers: [{name: c}]}}"
FRACTION = "{spec: {containers: {0: {resources: {limits: {scheduling.example.com/gpu: '200'}}}}}}"
NONE = f"{{name: a, weight: 0, template: {TEMPLATE}}}"
ALL = f"{{name: b, weight: 100, template: {TEMPLATE}}}"
SILENT = f"{{name: c, template: {TEMPLATE}}}"
VARIANTS = [
    ("HybridPolicy", "spec: {priorityClasses: []}"),
    (
        "HybridPolicy",
        "spec: {priorityClasses: REMOVED, queues: [{name: a}, {name: b, parent: a}, {name: c, parent: b}]}",
    ),
    ("HybridPolicy", "spec: {queues: [{name: child, parent: late}, {name: late}]}"),
    ("HybridPolicy", "spec: {queues: [{name: a, guarantee: {gpu: 4, cpu: 1500m}, limit: {gpu: '4.0', cpu: 2}}]}"),
    ("HybridPolicy", "spec: {queues: [{name: a, guarantee: {gpuModels: {A100: 2}}, limit: {gpuModels: {T4: 1}}}]}"),
    ("HybridPolicy", "spec: {rescheduling: {schedule: '0,30 8-18/2 1-15 * 1-5'}}"),
    ("HybridPolicy", "spec: {prices: {perHour: {A100: 2.5, T4: 1}}}"),
    ("HybridPolicy", "spec: {priorityClasses: [{name: a, nodeSelector: {nvidia.com/gpu.present: 'true', empty: ''}}]}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: REMOVED}}}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: {count: REMOVED, share: 400}}}}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: {count: REMOVED, memory: 8Gi, models: [A100, T4]}}}}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: {resource: amd.com/gpu}}}}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: {count: REMOVED, share: 30, isolation: [mps, mig]}}}}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: {count: REMOVED, memory: 8Gi, isolation: [time-slice]}}}}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: {isolation: [exclusive]}}}}"),
    ("TrainingJob", "spec: {roles: {0: {gpus: {count: REMOVED, share: 100, isolation: [mig]}}}}"),
    ("TrainingJob", "spec: {roles: {0: {template: {spec: {containers: {0: {resources: {limits: {cpu: 0.5}}}}}}}}}"),
    ("TrainingJob", f"spec: {{roles: {{0: {{template: {FRACTION}}}}}}}"),
    ("TrainingJob", "spec: {elastic: {role: worker, replicas: 2, maxReplicas: 2}}"),
    ("TrainingJob", "spec: {runPolicy: {suspend: true, backoffLimit: 0}, estimatedDuration: 1d2h3m4s}"),
    ("TrainingJob", "metadata: {name: " + 50 * "a" + "}"),
    ("InferenceService", "spec: {autoscale: {metric: cpu_utilization, target: 70, min: 2, max: 10}}"),
    ("InferenceService", "spec: {autoscale: {metric: prometheus, query: 'sum(up)', target: 1, min: 0, max: 1}}"),
    ("InferenceService", "spec: {autoscale: {metric: gpu_utilization, target: 100, max: 1}, warmStandbys: 3}"),
    ("InferenceService", "spec: {replicas: 0, sla: {availability: 99.95}, from: {trainingJob: llama}}"),
    ("InferenceService", f"spec: {{revisions: [{NONE}, {ALL}, {SILENT}]}}"),
    ("InferenceService", "spec: {strategy: {maxSurge: 2, maxUnavailable: 25%}, paused: true, progressDeadline: 1h}"),
    ("GPUNode", ""),
]


@pytest.mark.parametrize(("kind", "patch"), VARIANTS)
def test_defaults_of_models_and_api_server_are_the_same(kind: str, patch: str, definitions) -> None:
    """What the API server fills in is what the models would have filled in: no process decides on other values."""
    written = sample(kind, patch)
    answer = create(definitions, written)
    stored = PARSERS[kind](answer, unknown="forbid")
    read = PARSERS[kind](written, unknown="forbid")
    assert getattr(stored, "spec", None) == getattr(read, "spec", None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_examples_are_accepted(path: Path, definitions) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    for document in documents:
        if document["kind"] in PARSERS:
            PARSERS[document["kind"]](document, unknown="forbid")
    for namespace in {document["metadata"].get("namespace", "default") for document in documents}:
        definitions.kubectl("create", "namespace", namespace, check=False)
        # pods are accepted once the controller manager has made the namespace's service account
        definitions.kubectl("wait", "-n", namespace, "--for=create", "serviceaccount/default", "--timeout=60s")
    answer = definitions.kubectl("apply", "--dry-run=server", "-f", str(path))
    assert "dry run" in answer.stdout


def test_the_status_that_the_models_write_is_kept_whole(definitions) -> None:
    """Nothing that a status model can say is pruned by the API server."""
    device = (
        "{uuid: GPU-a, index: 0, model: T4, memoryMiB: 15360, health: Healthy, allocated: 30, isolation: mps,"
        " allocations: [{namespace: n, pod: p, podUID: u, container: c, share: 30, memoryMiB: 4608}],"
        " links: [{peer: GPU-b, type: NVLink, lanes: 4}], utilizationPercent: 7, temperatureCelsius: 40}"
    )
    status = f"status: {{gpus: 1, devices: [{device}], free: '0.7', health: Healthy}}"
    written = sample("GPUNode", "metadata: {name: whole}\n" + status)
    node = PARSERS["GPUNode"](written, unknown="forbid")
    definitions.kubectl("apply", "-f", "-", input=json.dumps(written))
    patch = json.dumps({"status": to_object(node.status)})
    definitions.kubectl("patch", "gpunode", "whole", "--subresource=status", "--type=merge", "--patch", patch)
    stored = json.loads(definitions.kubectl("get", "gpunode", "whole", "-o", "json").stdout)
    assert stored["status"] == to_object(node.status)
