"""What the agent reads of its node's pods: which containers run."""

from collections.abc import Iterable

from tangram.api.nodes import NodePod


def containers_by_id(pods: Iterable[NodePod]) -> dict[str, str]:
    """Names of the pods' containers by their ids, which are those of control groups."""
    return {
        container.container_id.rpartition("/")[2]: container.name
        for pod in pods
        for container in (*pod.status.container_statuses, *pod.status.init_container_statuses)
        if container.container_id
    }
