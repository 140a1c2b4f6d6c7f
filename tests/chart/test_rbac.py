"""What no account may do, whatever its work: nothing that would let it harm a tenant. ``test_rights`` has the rest."""

import json
from typing import Any

import pytest
from tests.cli.conftest import Api, api  # noqa: F401 - a fixture
from tests.waiting import eventually

from tangram.cluster.paths import PODS, RESOURCES

SCHEDULER = "system:serviceaccount:tangram-system:tangram-scheduler"
CONTROLLER = "system:serviceaccount:tangram-system:tangram-controller"
NODE = "system:serviceaccount:tangram-system:tangram-node"

DENIED = [
    *[
        (account, verb, "secrets", "")
        for account in (SCHEDULER, CONTROLLER, NODE)
        for verb in ("get", "list", "create")
    ],
    *[(account, "get", "configmaps", "") for account in (SCHEDULER, CONTROLLER, NODE)],
    *[(account, "create", "pods/exec", "") for account in (SCHEDULER, CONTROLLER, NODE)],
    *[(account, "impersonate", "users", "") for account in (SCHEDULER, CONTROLLER, NODE)],
    *[(account, "patch", "nodes", "") for account in (SCHEDULER, CONTROLLER, NODE)],
    *[
        (account, "create", "clusterrolebindings.rbac.authorization.k8s.io", "")
        for account in (SCHEDULER, CONTROLLER, NODE)
    ],
    *[
        (account, "delete", "validatingadmissionpolicies.admissionregistration.k8s.io", "")
        for account in (SCHEDULER, CONTROLLER, NODE)
    ],
    *[(NODE, verb, "pods", "") for verb in ("create", "delete", "update", "patch")],
    (NODE, "patch", "pods/status", ""),
    (NODE, "create", "pods/binding", ""),
    (NODE, "create", "pods/eviction", ""),
    (NODE, "watch", "gpunodes.scheduling.example.com", ""),
    (NODE, "delete", "gpunodes.scheduling.example.com", ""),
    (NODE, "create", "leases.coordination.k8s.io", "tangram-system"),
    *[(SCHEDULER, verb, "pods", "") for verb in ("create", "delete", "update", "patch")],
    (SCHEDULER, "patch", "hybridpolicies.scheduling.example.com", ""),
    (SCHEDULER, "get", "trainingjobs.scheduling.example.com", ""),
    (SCHEDULER, "patch", "leases.coordination.k8s.io:tangram-controller", "tangram-system"),
    (SCHEDULER, "patch", "leases.coordination.k8s.io:tangram-scheduler", "kube-system"),
    (SCHEDULER, "create", "leases.coordination.k8s.io", "kube-system"),
    (CONTROLLER, "create", "pods/binding", ""),
    (CONTROLLER, "patch", "pods", ""),
    (CONTROLLER, "patch", "pods/status", ""),
    (CONTROLLER, "update", "poddisruptionbudgets.policy", ""),
    (CONTROLLER, "delete", "inferenceservices.scheduling.example.com", ""),
    (CONTROLLER, "patch", "gpunodes.scheduling.example.com/status", ""),
    (CONTROLLER, "patch", "leases.coordination.k8s.io:tangram-scheduler", "tangram-system"),
]


def rules(objects: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (o["metadata"]["name"], rule) for o in objects if o["kind"] in ("ClusterRole", "Role") for rule in o["rules"]
    ]


@pytest.mark.slow  # asks by five commands
def test_the_role_for_asking_grants_what_the_asking_commands_read(render, api: Api):  # noqa: F811
    """Each reads whole collections, of all namespaces: to watch, or to read one object by its name, would fail here."""
    api.put(
        PODS, {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "main"}]}, "status": {"phase": "Pending"}}
    )
    for command in (["explain", "x"], ["explain", "-A"], ["queues"], ["top", "nodes"], ["top", "workloads", "-A"]):
        done = api.run(*command)
        assert done.exit_code == 0, done.output
    read = {resource for resource in RESOURCES for path in api.read if path == resource.collection()}
    others = set(api.read) - {resource.collection() for resource in RESOURCES} - {"/version"}
    assert others == set()
    (role,) = [one for one in render() if one["metadata"]["name"] == "tangram-explain"]
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(resource.group, resource.plural, "list") for resource in read}


def test_no_wildcards_no_secrets_no_ways_to_more(render):
    for name, rule in rules(render()):
        words = {word for field in rule.values() for word in field}
        assert "*" not in words, name
        assert (
            not {"secrets", "escalate", "bind", "impersonate", "pods/exec", "nodes/proxy", "serviceaccounts/token"}
            & words
        )


def test_every_role_is_bound_to_one_account_only(render):
    objects = render()
    for o in objects:
        if o["kind"] in ("ClusterRoleBinding", "RoleBinding"):
            (subject,) = o["subjects"]
            assert subject["kind"] == "ServiceAccount"
            assert subject["namespace"] == "tangram-system"
            assert subject["name"] == o["roleRef"]["name"]


def review(account: str, verb: str, resource: str, namespace: str) -> dict[str, Any]:
    """The question whether the account may: ``pods``, ``pods/status``, ``leases.coordination.k8s.io:NAME``."""
    kind, _, name = resource.partition(":")
    kind, _, subresource = kind.partition("/")
    plural, _, group = kind.partition(".")
    asked = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": asked | {"name": name, "namespace": namespace}},
    }


def granted(release, rows: list[tuple[str, str, str, str]]) -> dict[tuple[str, str, str, str], bool]:
    """What the API server's authorizer answers to each row."""
    question = {"apiVersion": "v1", "kind": "List", "items": [review(*row) for row in rows]}
    wanted = 'jsonpath={.status.allowed}{"\\n"}'
    answers = release.kubectl("create", "-f", "-", "-o", wanted, input=json.dumps(question)).stdout.split()
    return {row: answer == "true" for row, answer in zip(rows, answers, strict=True)}


def test_accounts_may_do_nothing_else_that_matters(release):
    assert granted(release, DENIED) == dict.fromkeys(DENIED, False)


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("view", ["list trainingjobs"], ["create trainingjobs", "patch inferenceservices/scale"]),
        ("edit", ["create trainingjobs", "delete inferenceservices"], ["patch trainingjobs/status"]),
        ("admin", ["create inferenceservices", "list trainingjobs"], ["patch hybridpolicies"]),
    ],
)
def test_the_clusters_own_roles_cover_the_kinds(release, role, may, may_not):
    """A tenant who holds one of the well-known roles in a namespace can use the kinds there."""
    user, namespace = f"tenant-{role}", f"team-{role}"
    release.kubectl("create", "namespace", namespace)
    release.kubectl("create", "rolebinding", "member", "-n", namespace, "--clusterrole", role, "--user", user)

    def answers(questions: list[str]) -> list[bool]:
        """``list trainingjobs``, ``patch trainingjobs/status``."""
        rows = []
        for question in questions:
            verb, kind = question.split()
            plural, slash, subresource = kind.partition("/")
            rows.append((user, verb, f"{plural}.scheduling.example.com{slash}{subresource}", namespace))
        return list(granted(release, rows).values())

    # The controller manager adds the rules a moment after the installation.
    eventually(lambda: all(answers(may)), f"the rules are added to the role {role}")
    assert not any(answers(may_not))
