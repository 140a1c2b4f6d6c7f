"""Finding the API server as kubectl does, and one clear line when it cannot be found."""

import base64
import json
import stat
import sys

import pytest
import yaml

from tangram import errors
from tangram.cluster import kubeconfig as module
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """A home without a kubeconfig, outside of any pod, without proxies."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "_SERVICE_ACCOUNT", tmp_path / "account")


def config(server="http://127.0.0.1:1", *, context="main", cluster=None, user=None, namespace=None):
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "contexts": [
            {
                "name": context,
                "context": {"cluster": "c", "user": "u", **({"namespace": namespace} if namespace else {})},
            }
        ],
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }


@pytest.fixture
def write(tmp_path):
    def write(content, name="config"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


async def header(access):
    return (await access.credentials.authorization()).header


async def test_a_token(write):
    access = load_access(write(config("http://host:1/prefix/", user={"token": "t"}, namespace="team")))
    assert (access.server, access.namespace) == ("http://host:1/prefix", "team")
    assert await header(access) == "Bearer t"


async def test_a_token_file_beside_the_kubeconfig_is_read_again(write):
    token = write("one", "secret/token")
    access = load_access(write(config(user={"tokenFile": "secret/token", "token": "stale"})), token_refresh=7.0)
    assert await header(access) == "Bearer one"
    token.write_text("two")
    answer = await access.credentials.authorization()
    assert (answer.header, answer.valid_for) == ("Bearer two", 7.0)


async def test_a_name_and_a_password(write):
    access = load_access(write(config(user={"username": "me", "password": "pass"})))
    assert await header(access) == "Basic " + base64.b64encode(b"me:pass").decode()


async def test_impersonation(write):
    access = load_access(write(config(user={"token": "t", "as": "other", "as-groups": ["team"]})))
    assert access.impersonation == {"Impersonate-User": "other", "Impersonate-Group": "team"}


def test_impersonation_that_cannot_be_expressed_is_refused_rather_than_dropped(write):
    with pytest.raises(errors.InvalidInput, match="as-groups"):
        load_access(write(config(user={"as": "other", "as-groups": ["a", "b"]})))


def test_several_files_are_merged_and_the_first_word_counts(write, monkeypatch):
    first = write({"current-context": "two", "users": [{"name": "u", "user": {"token": "first"}}]}, "one")
    second = write(config("http://second:1", context="two", user={"token": "second"}), "two")
    monkeypatch.setenv("KUBECONFIG", f"{first}:/does/not/exist:{second}")
    access = load_access()
    assert access.server == "http://second:1"
    assert access.credentials.header == "Bearer first"


def test_the_home_s_kubeconfig_is_found(write, tmp_path):
    write(config("http://home:1"), "home/.kube/config")
    assert load_access().server == "http://home:1"


def test_a_context_can_be_chosen(write):
    content = config("http://one:1")
    content["contexts"].append({"name": "other", "context": {"cluster": "d"}})
    content["clusters"].append({"name": "d", "cluster": {"server": "http://two:1"}})
    assert load_access(write(content), "other").server == "http://two:1"


def test_a_proxy_of_the_cluster_and_of_the_environment(write, monkeypatch):
    assert load_access(write(config(cluster={"proxy-url": "http://p:3128"}))).proxy == "http://p:3128"
    assert load_access(write(config())).proxy is None
    monkeypatch.setenv("https_proxy", "http://env:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert load_access(write(config("https://far:6443"))).proxy == "http://env:3128"
    assert load_access(write(config("https://127.0.0.1:6443"))).proxy is None


async def test_a_pod_s_service_account(tmp_path, monkeypatch, sandbox):
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(sandbox.admin_token)
    (account / "ca.crt").write_bytes(sandbox.ca_file.read_bytes())
    (account / "namespace").write_text("tangram-system")
    host, port = sandbox.server.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    access = load_access()
    assert (access.server, access.namespace) == (sandbox.server, "tangram-system")
    async with Client(access) as client:
        assert b"gitVersion" in await client.request("GET", "/version")
    with pytest.raises(errors.InvalidInput, match="no kubeconfig"):
        load_access(context="x")


@pytest.fixture
def program(tmp_path):
    """A program that prints an ExecCredential, and the ``exec`` entry that names it."""

    def make(status, code=0):
        path = tmp_path / "login"
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps({credential!r}))\nsys.exit({code})\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "args": []}}

    return make


async def test_a_login_program_gives_a_token(write, program):
    access = load_access(write(config(user=program({"token": "t", "expirationTimestamp": "2999-01-01T00:00:00Z"}))))
    answer = await access.credentials.authorization()
    assert answer.header == "Bearer t"
    assert 1e9 < answer.valid_for < float("inf")


async def test_a_login_program_that_fails_is_one_clear_line(write, program):
    access = load_access(write(config(user=program({}, code=3))))
    with pytest.raises(errors.NotReachable, match=r"user u: .*login: .*returned 3"):
        await access.credentials.authorization()
    access = load_access(write(config(user=program({}))))
    with pytest.raises(errors.NotReachable, match="neither a token nor a client certificate"):
        await access.credentials.authorization()


async def test_a_login_program_that_is_not_there_says_how_to_get_it(write, program):
    entry = program({})
    entry["exec"] |= {"command": "no-such-login", "installHint": "Install it with care."}
    access = load_access(write(config(user=entry)))
    with pytest.raises(errors.NotReachable, match=r"no-such-login: No such file or directory\. Install it with care"):
        await access.credentials.authorization()


async def who_am_i(access):
    async with Client(access) as client:
        review = b'{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}'
        answer = await client.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)
    return json.loads(answer)["status"]["userInfo"]["username"]


@pytest.mark.parametrize("how", ["files", "data", "login program"])
async def test_a_client_certificate(write, program, sandbox, how):
    files = [sandbox.ca_file.parent / f"kubelet-client.{ending}" for ending in ("crt", "key")]
    pems = [file.read_text() for file in files]
    data = [base64.b64encode(pem.encode()).decode() for pem in pems]
    users = {
        "files": {"client-certificate": str(files[0]), "client-key": str(files[1])},
        "data": {"client-certificate-data": data[0], "client-key-data": data[1]},
        "login program": program({"clientCertificateData": pems[0], "clientKeyData": pems[1]}),
    }
    access = load_access(
        write(config(sandbox.server, cluster={"certificate-authority": str(sandbox.ca_file)}, user=users[how]))
    )
    assert await who_am_i(access) not in ("system:anonymous", "")


async def test_an_identity_provider_gives_its_token(write):
    def part(content):
        return base64.urlsafe_b64encode(yaml.safe_dump(content).encode()).decode().rstrip("=")

    token = f"{part({})}.{base64.urlsafe_b64encode(b'{}').decode().rstrip('=')}.x"
    user = {"auth-provider": {"name": "oidc", "config": {"id-token": token}}}
    assert await header(load_access(write(config(user=user)))) == f"Bearer {token}"
    user = {"auth-provider": {"name": "oidc", "config": {}}}
    with pytest.raises(errors.NotReachable, match="user u: oidc: No valid id-token"):
        await header(load_access(write(config(user=user))))


async def test_the_sandbox_s_kubeconfig_works_and_the_wrong_name_does_not(sandbox, write):
    async with Client(load_access(sandbox.kubeconfig)) as client:
        assert b"gitVersion" in await client.request("GET", "/version")
    own = yaml.safe_load(sandbox.kubeconfig.read_text())
    own["clusters"][0]["cluster"]["tls-server-name"] = "elsewhere.example.com"
    async with Client(load_access(write(own))) as client:
        with pytest.raises(errors.NotReachable, match="not trusted"):
            await client.request("GET", "/version")
    own["clusters"][0]["cluster"] = {"server": sandbox.server, "insecure-skip-tls-verify": True}
    async with Client(load_access(write(own))) as client:
        assert b"gitVersion" in await client.request("GET", "/version")


def wrong(**changes):
    return {**config(), **changes}


BAD = "eHg="  # base64 of something that is no certificate
HTTPS = "https://h"


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        ("a: [", errors.InvalidInput, "content"),
        ("just text", errors.InvalidInput, "kubeconfig object"),
        (wrong(**{"current-context": ""}), errors.InvalidInput, "allowed: main"),
        (wrong(**{"current-context": "x"}), errors.InvalidInput, "context: 'x' is not allowed; allowed: main"),
        (wrong(clusters=[]), errors.InvalidInput, "cluster: 'c' is not allowed; allowed: none is defined"),
        (wrong(users=[]), errors.InvalidInput, "user: 'u'"),
        (wrong(users=[{"user": {}}]), errors.InvalidInput, "users"),
        (wrong(users=[{"name": "u", "user": "x"}]), errors.InvalidInput, "users: u"),
        (wrong(clusters=[{"name": "c", "cluster": {"server": 3}}]), errors.InvalidInput, r"Expected `str`, got `int`"),
        (config("ftp://x"), errors.InvalidInput, "https://HOST"),
        (config(HTTPS, cluster={"certificate-authority-data": "%%"}), errors.InvalidInput, "base64"),
        (config(HTTPS, cluster={"certificate-authority-data": BAD}), errors.InvalidInput, "PEM"),
        (config(HTTPS, cluster={"certificate-authority": "nowhere.crt"}), errors.NotReachable, "nowhere.crt cannot"),
        (config(HTTPS, user={"client-certificate-data": BAD}), errors.InvalidInput, "client-key"),
        (config(HTTPS, user={"client-certificate-data": BAD, "client-key-data": BAD}), errors.InvalidInput, "PEM"),
        (config(cluster={"proxy-url": "socks5://p"}), errors.InvalidInput, "proxy-url"),
        (config(user={"exec": {"apiVersion": "v1"}}), errors.InvalidInput, "exec: command"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(write, content, kind, text):
    with pytest.raises(kind, match=text.replace("(", r"\(")) as caught:
        load_access(write(content))
    assert "\n" not in str(caught.value)
    assert "config" in str(caught.value) or "nowhere" in str(caught.value)


def test_secrets_are_not_in_the_error(write):
    with pytest.raises(errors.InvalidInput) as caught:
        load_access(write(config(user={"token": "very-secret", "password": 7})))
    assert "very-secret" not in str(caught.value)


def test_no_kubeconfig_anywhere(tmp_path, monkeypatch):
    with pytest.raises(errors.NotReachable, match="no cluster is known"):
        load_access()
    with pytest.raises(errors.NotReachable, match="absent: no such file"):
        load_access(tmp_path / "absent")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(errors.NotReachable, match="KUBECONFIG: no such file"):
        load_access()
