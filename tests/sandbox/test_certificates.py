"""Each sandbox has authorities of its own."""

import ssl

import pytest
from cryptography import x509

from tangram.sandbox.certificates import make_certificates


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def read(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_what_the_authorities_signed_can_be_verified(keys):
    read(keys.server).verify_directly_issued_by(read(keys.authority))
    read(keys.kubelet_client).verify_directly_issued_by(read(keys.authority))
    read(keys.etcd_server).verify_directly_issued_by(read(keys.etcd_authority))
    read(keys.etcd_client).verify_directly_issued_by(read(keys.etcd_authority))


def test_a_certificate_of_the_cluster_does_not_open_its_database(keys):
    with pytest.raises(ValueError, match="does not match certificate issuer"):
        read(keys.kubelet_client).verify_directly_issued_by(read(keys.etcd_authority))


def test_a_key_fits_its_certificate(keys):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys.server, keys.server_key)
    context.load_cert_chain(keys.etcd_client, keys.etcd_client_key)


def test_the_server_is_named_as_clients_call_it(keys):
    names = read(keys.server).extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert "127.0.0.1" in [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)


def test_nobody_else_can_read_the_files(keys):
    folder = keys.authority.parent

    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())


def test_another_sandbox_has_other_keys(keys, tmp_path):
    other = make_certificates(tmp_path)

    assert other.authority.read_bytes() != keys.authority.read_bytes()
    assert other.service_account_key.read_bytes() != keys.service_account_key.read_bytes()
