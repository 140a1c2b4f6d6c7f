"""A device plugin that runs on this machine, outside of the node, is the real kubelet's like any other."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tangram.node.wire import deviceplugin_pb2, deviceplugin_pb2_grpc, podresources_pb2, podresources_pb2_grpc
from tangram.sandbox.image import IMAGE

RESOURCE = "sandbox.example.com/lamp"


class Lamps(deviceplugin_pb2_grpc.DevicePluginServicer):
    """Three devices of which nothing is known but their names."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def GetDevicePluginOptions(self, request, context):  # noqa: N802 - the interface's name
        return deviceplugin_pb2.DevicePluginOptions()

    def ListAndWatch(self, request, context):  # noqa: N802
        devices = [deviceplugin_pb2.Device(ID=f"lamp-{number}", health="Healthy") for number in range(3)]
        yield deviceplugin_pb2.ListAndWatchResponse(devices=devices)
        self.over.wait(60)

    def Allocate(self, request, context):  # noqa: N802
        answers = [{"envs": {"LAMPS": ",".join(sorted(each.devices_ids))}} for each in request.container_requests]
        return deviceplugin_pb2.AllocateResponse(container_responses=answers)


@pytest.fixture
def lamps(real_node):
    plugin = Lamps()
    server = grpc.server(ThreadPoolExecutor(4))
    deviceplugin_pb2_grpc.add_DevicePluginServicer_to_server(plugin, server)
    server.add_insecure_port(f"unix:{real_node.device_plugins}/lamps.sock")
    server.start()
    with grpc.insecure_channel(f"unix:{real_node.device_plugins}/kubelet.sock") as channel:
        request = deviceplugin_pb2.RegisterRequest(version="v1beta1", endpoint="lamps.sock", resource_name=RESOURCE)
        deviceplugin_pb2_grpc.RegistrationStub(channel).Register(request, timeout=10)
    yield plugin
    plugin.over.set()
    server.stop(None).wait(10)


def allocatable(cluster):
    node = json.loads(cluster.kubectl("get", "node", "real-node", "-o", "json").stdout)
    return node["status"]["allocatable"].get(RESOURCE)


def test_its_devices_are_allocatable_given_to_containers_and_listed(real_cluster, real_node, lamps, eventually):
    eventually(lambda: allocatable(real_cluster) == "3", "the node has three lamps")
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "echo $LAMPS; exec sleep 3600"],
        "resources": {"limits": {RESOURCE: 2}},
    }
    spec = {"nodeName": real_node.name, "containers": [container], "terminationGracePeriodSeconds": 0}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lit"}, "spec": spec}
    real_cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))
    try:
        real_cluster.kubectl("wait", "pod/lit", "--for=condition=Ready", "--timeout=60s")
        given = real_cluster.kubectl("logs", "lit").stdout.strip().split(",")
        with grpc.insecure_channel(f"unix:{real_node.pod_resources}") as channel:
            lister = podresources_pb2_grpc.PodResourcesListerStub(channel)
            listed = lister.List(podresources_pb2.ListPodResourcesRequest(), timeout=10)
    finally:
        real_cluster.kubectl("delete", "pod", "lit", "--timeout=60s")

    (held,) = (pod for pod in listed.pod_resources if pod.name == "lit")
    assert len(given) == 2
    assert sorted(one for each in held.containers[0].devices for one in each.device_ids) == given


def test_a_restarted_kubelet_has_forgotten_it(real_cluster, real_node, lamps, eventually):
    eventually(lambda: allocatable(real_cluster) == "3", "the node has three lamps")

    real_node.restart("kubelet")

    eventually(lambda: not (real_node.device_plugins / "lamps.sock").exists(), "the kubelet has cleared its folder")
    eventually(lambda: allocatable(real_cluster) in {"0", None}, "the node has no lamps")
