"""The kubelet's two gRPC interfaces: device plugins v1beta1 and pod resources v1, as messages and stubs.

The ``*_pb2`` modules are generated from the ``.proto`` files beside them when the package is built or installed.
"""
