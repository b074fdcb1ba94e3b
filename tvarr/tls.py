"""TLS: a server's certificate, which is read again when it is renewed, and what a client trusts."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from tvarr.errors import ConfigError, StartError

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1024 * 1024  # a bundle of every public authority is about 250 kB


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a client believes: the authorities of `pem` (PEM; empty: the machine's own).

    `name` is set where the file holds a server's own certificate: then that certificate is believed wherever it is
    met, and `name` is one that it carries.
    """

    pem: bytes = b""
    name: str = ""


def trust(path: Path | None) -> Trust:
    """What `--tls-ca` names. Raises `ConfigError`, one line, where it can't be read or holds no certificate."""
    if path is None:
        return Trust(_machines_authorities())
    try:
        pem = _read(path)
        first = x509.load_pem_x509_certificates(pem)[0]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--tls-ca {path} can't be used: {_reason(error)}") from None
    return Trust(pem, _own_name(first))


def client_context(believed: Trust) -> ssl.SSLContext:
    """For HTTP clients. Checks the certificate, and its name unless it is the believed one itself."""
    context = ssl.create_default_context(cadata=believed.pem.decode() if believed.pem else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = not believed.name
    return context


class ServerCertificate:
    """`--tls-cert` and `--tls-key`: PEM files, read again when one of them has changed.

    Where the new ones can't be used, the log says so once and the old ones stay.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._files = (cert, key)
        self._stamp = self._look()
        self.chain, self.key = _read(cert), _read(key)
        self.version = 0  # counts the times that they were replaced
        self._newest = self._served = _server_context(cert, key)
        self._served.sni_callback = self._hello

    def server_context(self) -> ssl.SSLContext:
        """For an HTTP server; each connection gets the newest certificate."""
        return self._served

    def refresh(self) -> int:
        """Reads files that were replaced; returns the `version` that `chain` and `key` are of.

        It is called by gRPC's threads too: two that find the same change read the same files.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return self.version
        self._stamp = stamp
        cert, key = self._files
        try:
            context = _server_context(cert, key)
            chain, secret = _read(cert), _read(key)
        except (OSError, ValueError) as error:
            log.error("the new TLS certificate %s can't be used, the old one stays: %s", cert, _reason(error))
            return self.version
        self.chain, self.key, self._newest = chain, secret, context
        self.version += 1
        log.info("the TLS certificate %s was read again", cert)
        return self.version

    def _hello(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        self.refresh()
        connection.context = self._newest

    def _look(self) -> tuple[tuple[int, int], ...]:
        """What tells one state of the files from another: when they were written, and which they are."""
        try:
            return tuple((found.st_mtime_ns, found.st_ino) for found in (path.stat() for path in self._files))
        except OSError:
            return ()


def server_certificate(cert: Path | None, key: Path | None) -> ServerCertificate | None:
    """None where neither is given. Raises `ConfigError` where one is missing, `StartError` where they can't be used."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError("--tls-cert and --tls-key go together: give both, or neither")
    try:
        return ServerCertificate(cert, key)
    except (OSError, ValueError) as error:
        raise StartError(f"--tls-cert {cert} with --tls-key {key} can't be used: {_reason(error)}") from None


def _server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Raises OSError, ssl.SSLError among them, and ValueError for a key that wants a passphrase."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted, which nobody could type the passphrase for at a restart")


def _own_name(certificate: x509.Certificate) -> str:
    """A name of a server's certificate; authorities have none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    found: list[str] = names.get_values_for_type(x509.DNSName)
    name = next(iter(found or map(str, names.get_values_for_type(x509.IPAddress))), "")
    return name.replace("*", "any")  # one that the wildcard covers


def _machines_authorities() -> bytes:
    """Those of the system's store; empty where it has no file of them, and each library's own count."""
    file = ssl.get_default_verify_paths().cafile
    try:
        return _read(Path(file)) if file else b""
    except (OSError, ValueError):
        return b""


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is longer than {MAX_FILE_BYTES} bytes")
    return content


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        known: dict[str, str] = {
            "KEY_VALUES_MISMATCH": "the key is not the certificate's",
            "NO_START_LINE": "not in PEM form",
        }
        return known.get(error.reason or "", "not in PEM form, or damaged")  # OpenSSL often says "PEM lib" alone
    return (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
