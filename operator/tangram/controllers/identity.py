"""Hashes by which a controller knows whether a pod is what it would make now.

The rules of this file:

- A hash is of what was written, and never of a default: a field that a later version adds leaves every hash as it is.
- It begins with the version of its form. A hash of another version says nothing: such a pod is compared by value
  (``sameness``), so that an upgrade, or a rollback, of the controller starts nothing again.
- Whoever changes a form gives it another version; a test holds the hashes of known objects.
"""

import hashlib
import json
from typing import Any

from tangram.api.inference import InferenceService, Revision
from tangram.api.training import TrainingJob
from tangram.controllers.amounts import replica_milli

VERSION = "v1"
"""Form of the hashes that this controller writes."""


def hash_of(value: Any) -> str:
    """A short stable hash of a JSON value with the version of its form, fit for a label."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return f"{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def is_foreign(text: str) -> bool:
    """Whether a hash is of another version, and says nothing."""
    return not text.startswith(f"{VERSION}-")


def template_hash(service: InferenceService, revision: Revision) -> str:
    """Hash of what the replicas of a revision are made from; another hash of this version means other pods."""
    gpus, written = revision.gpus, {"port", "queue", "priority_class"}
    return hash_of(
        {
            **service.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=written),
            "template": revision.template,
            "gpus": None if gpus is None else gpus.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        }
    )


def gang_shape(job: TrainingJob) -> str:
    """Hash of what all members must agree on; when it changes, the gang starts again."""
    spec, elastic = job.spec, job.spec.elastic
    return hash_of(
        {
            "roles": [
                [
                    role.name,
                    None if elastic is not None and elastic.role == role.name else role.replicas,
                    replica_milli(role.template, role.gpus),
                ]
                for role in spec.roles
            ],
            "elastic": None if elastic is None else [elastic.role, elastic.min_replicas, elastic.max_replicas],
        }
    )
