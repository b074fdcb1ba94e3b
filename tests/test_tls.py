"""Certificates: which can be used, and which words say why one can't."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.certificates import Authority
from tvarr.errors import ConfigError, StartError
from tvarr.tls import ServerCertificate, Trust, client_context, server_certificate, trust


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """One handshake in memory; the subject that the client saw. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ssl.DER_cert_to_PEM_cert(ours.getpeercert(binary_form=True) or b"")


def test_neither_is_no_tls_and_one_alone_is_refused(tmp_path: Path) -> None:
    assert server_certificate(None, None) is None
    for pair in ((tmp_path / "a", None), (None, tmp_path / "a")):
        with pytest.raises(ConfigError, match="--tls-cert and --tls-key go together"):
            server_certificate(*pair)


def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    cert, key = Authority.make(tmp_path).issue(tmp_path, "a.example")
    _, other = Authority.make(tmp_path / "other").issue(tmp_path / "other", "b.example")
    broken = tmp_path / "broken"
    broken.write_text("no certificate")
    for pair, words in (
        ((cert, other), "the key is not the certificate's"),
        ((broken, key), "not in PEM form"),
        ((cert, broken), "not in PEM form"),
        ((tmp_path / "absent", key), "No such file"),
    ):
        with pytest.raises(StartError, match=words) as caught:
            server_certificate(*pair)
        assert "\n" not in str(caught.value)
    for file in (broken, tmp_path / "absent", key):
        with pytest.raises(ConfigError, match=r"--tls-ca .* can't be used"):
            trust(file)


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key = Authority.make(tmp_path).issue(tmp_path, "a.example")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    with pytest.raises(StartError, match="the key is encrypted"):
        server_certificate(cert, key)


def test_an_authority_is_believed_for_the_right_name_alone(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    server = ServerCertificate(*authority.issue(tmp_path, "a.example", "127.0.0.1")).server_context()
    client = client_context(trust(authority.file))
    assert trust(authority.file).name == ""
    assert shake_hands(server, client, "a.example")
    assert shake_hands(server, client, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "b.example")
    stranger = client_context(trust(Authority.make(tmp_path / "other").file))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, stranger, "a.example")


@pytest.mark.parametrize(("names", "name"), [(("a.example",), "a.example"), (("*.b.example",), "any.b.example")])
def test_a_servers_own_certificate_is_believed_by_any_name(tmp_path: Path, names: tuple[str, ...], name: str) -> None:
    authority = Authority.make(tmp_path)
    cert, key = authority.issue(tmp_path, *names)
    own = trust(cert)
    assert own == Trust(cert.read_bytes(), name)
    assert shake_hands(ServerCertificate(cert, key).server_context(), client_context(own), "127.0.0.1")
    other = ServerCertificate(*authority.issue(tmp_path / "other", *names)).server_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(other, client_context(own), "127.0.0.1")


def test_a_renewed_certificate_is_shown_to_the_next_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority.make(tmp_path)
    files = authority.issue(tmp_path, "a.example")
    served = ServerCertificate(*files)
    client = client_context(trust(authority.file))
    first = shake_hands(served.server_context(), client, "a.example")
    assert (served.refresh(), served.version) == (0, 0)
    authority.issue(tmp_path, "a.example")
    second = shake_hands(served.server_context(), client, "a.example")
    assert second != first
    assert second.encode() == served.chain
    assert served.version == 1
    with caplog.at_level("ERROR", "tvarr"):
        files[0].write_text("half a certifica")
        assert shake_hands(served.server_context(), client, "a.example") == second
    assert "the old one stays" in caplog.text
    files[0].unlink()
    assert shake_hands(served.server_context(), client, "a.example") == second


def test_old_versions_of_the_protocol_are_refused(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    server = ServerCertificate(*authority.issue(tmp_path, "a.example")).server_context()
    client = client_context(trust(authority.file))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client, "a.example")
