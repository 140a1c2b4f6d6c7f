"""Small valid objects of each kind, and how a test varies them."""

import copy
from collections.abc import Callable
from typing import Any

import yaml

from tangram.api.gpunode import parse_gpu_node
from tangram.api.inference import parse_inference_service
from tangram.api.policy import parse_policy
from tangram.api.training import parse_training_job

PARSERS: dict[str, Callable[..., Any]] = {
    "HybridPolicy": parse_policy,
    "TrainingJob": parse_training_job,
    "InferenceService": parse_inference_service,
    "GPUNode": parse_gpu_node,
}

_BASES = {
    "HybridPolicy": """
        apiVersion: scheduling.example.com/v1
        kind: HybridPolicy
        metadata: {name: sample}
        spec:
          priorityClasses:
          - {name: gpu-intensive, weight: 3, nodeSelector: {accelerator: nvidia-tesla}}
          - {name: cpu-bound}
    """,
    "TrainingJob": """
        apiVersion: scheduling.example.com/v1
        kind: TrainingJob
        metadata: {name: sample}
        spec:
          framework: pytorch
          roles:
          - name: worker
            replicas: 2
            gpus: {count: 1}
            template: {spec: {containers: [{name: main, image: example.com/train}]}}
    """,
    "InferenceService": """
        apiVersion: scheduling.example.com/v1
        kind: InferenceService
        metadata: {name: sample}
        spec:
          revisions:
          - name: v1
            gpus: {share: 30}
            template: {spec: {containers: [{name: main, image: example.com/serve}]}}
    """,
    "GPUNode": """
        apiVersion: scheduling.example.com/v1
        kind: GPUNode
        metadata: {name: sample}
    """,
}


def merged(base: Any, patch: Any) -> Any:
    """``base`` with a merge patch applied; an item of a list is reached by its number as a key."""
    if isinstance(base, list) and isinstance(patch, dict):
        return [merged(item, patch[place]) if place in patch else item for place, item in enumerate(base)]
    if not isinstance(patch, dict):
        return patch
    out = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value == "REMOVED":
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), value)
    return out


def sample(kind: str, patch: str = "") -> dict[str, Any]:
    """A valid object of the kind, with a YAML patch applied to it."""
    base = yaml.safe_load(_BASES[kind])
    return merged(copy.deepcopy(base), yaml.safe_load(patch) or {})
