"""A certificate authority for the tests: good certificates, and every kind of bad one.

The private /etc of tests/e2e/run trusts this authority, so a certificate from `issue()` is verifiable
by any program there; `ca=other_authority()` is one that nobody trusts.
"""

import base64
import datetime
import ipaddress
import os
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def _pem_key(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Certificate:
    """One issued certificate: `cert` (with its chain) and `key` are PEM files."""

    def __init__(self, directory, stem, certificate, key, issuer_pem):
        self.x509 = certificate
        self.cert = pathlib.Path(directory) / f"{stem}.crt"
        self.key = pathlib.Path(directory) / f"{stem}.key"
        self.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + issuer_pem)
        self.key.write_bytes(_pem_key(key))
        self.key.chmod(0o600)

    def pin(self):
        """As a smarthost's `pin=` wants it: the SHA-256 of its public key."""
        return "sha256:" + base64.b64encode(bytes.fromhex(self.tlsa().split()[-1])).decode()

    def tlsa(self, usage=3, selector=1, matching=1):
        """The data of a TLSA record for it, as zone files write it."""
        if selector == 1:
            der = self.x509.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        else:
            der = self.x509.public_bytes(serialization.Encoding.DER)
        if matching:
            digest = hashes.Hash(hashes.SHA256() if matching == 1 else hashes.SHA512())
            digest.update(der)
            der = digest.finalize()
        return f"{usage} {selector} {matching} {der.hex()}"


class Authority:
    def __init__(self, directory, key, certificate):
        self.directory = pathlib.Path(directory)
        self.key = key
        self.x509 = certificate
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.count = 0

    @classmethod
    def new(cls, directory, name="postchute test authority"):
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=40))
            .not_valid_after(now + datetime.timedelta(days=40))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        (directory / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (directory / "ca.key").write_bytes(_pem_key(key))
        return cls(directory, key, certificate)

    @classmethod
    def load(cls, directory):
        directory = pathlib.Path(directory)
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        return cls(directory, key, certificate)

    def issue(self, names, expired=False, not_yet=False, self_signed=False, key_type="ec", key=None):
        """A certificate for host names and addresses; the first name is also the subject's."""
        if isinstance(names, str):
            names = [names]
        if key is None:
            key = (
                rsa.generate_private_key(public_exponent=65537, key_size=2048)
                if key_type == "rsa"
                else ec.generate_private_key(ec.SECP256R1())
            )
        now = datetime.datetime.now(datetime.timezone.utc)
        start, end = now - datetime.timedelta(days=30), now + datetime.timedelta(days=30)
        if expired:
            end = now - datetime.timedelta(days=1)
        if not_yet:
            start = now + datetime.timedelta(days=1)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        alternatives = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self.x509.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key((key if self_signed else self.key).public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(key if self_signed else self.key, hashes.SHA256())
        )
        self.count += 1
        stem = f"{os.getpid()}-{self.count}-{names[0].replace('*', '_').replace(':', '_')}"
        return Certificate(self.directory, stem, certificate, key, b"" if self_signed else self.pem)


def trusted_authority():
    """The authority that every program in the private world trusts."""
    return Authority.load(pathlib.Path(os.environ["E2E_DIR"]) / "ca")


if __name__ == "__main__":
    Authority.new(sys.argv[1])
