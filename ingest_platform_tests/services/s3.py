"""A real S3 server, versitygw over a local folder, by http or https. As AWS in what we rely on: conditional
writes, ranges, multipart ETags, pagination. Anonymous reads need a bucket policy, as the public buckets have.
"""

import json
import os
import ssl
import urllib.request
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from ingest_platform_tests.services.install import VERSITYGW, binary
from ingest_platform_tests.services.processes import free_port, launch

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from mypy_boto3_s3 import S3Client

ACCESS_KEY, SECRET_KEY, REGION = "ingest-test", "ingest-test-secret", "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where the server is and who may write. `ca_path` is the certificate to trust, for https only."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str
    ca_path: Path | None = None

    def client(self) -> "S3Client":
        """A boto3 client with the rights of the owner."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            verify=str(self.ca_path) if self.ca_path else None,
            config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
        )

    def fresh_bucket(self, *, public: bool = False) -> str:
        """The name of a new empty bucket; `public`: anyone may list and read it, as the open-data buckets."""
        bucket = f"test-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=bucket)
        if public:
            allow_anonymous_read(self.client(), bucket)
        return bucket

    def environment(self) -> dict[str, str]:
        """The same facts under AWS's own names, as our settings and every S3 client read them."""
        trust = {"AWS_CA_BUNDLE": str(self.ca_path)} if self.ca_path else {}
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            **trust,
        }


def start_s3(folder: Path, *, https: bool = False) -> S3Server:
    """Start a server with its buckets in `folder`/s3, or `folder`/s3-https with a certificate of its own."""
    name = "s3-https" if https else "s3"
    root, port = folder / name, free_port()
    root.mkdir()
    ca_path = write_certificate(folder / "tls") if https else None
    tls: list[str | Path] = (
        ["--cert", ca_path.with_name("cert.pem"), "--key", ca_path.with_name("key.pem")] if ca_path else []
    )
    listening = ["--port", f"127.0.0.1:{port}", "--quiet", "--health", "/health"]
    endpoint = f"{'https' if https else 'http'}://127.0.0.1:{port}"
    launch(
        name,
        # Without keep-alive every request pays for a connection, and timings mean nothing.
        [binary(VERSITYGW), *listening, "--keep-alive", *tls, "posix", *_metadata_options(root), root],
        folder=folder,
        environ={"ROOT_ACCESS_KEY_ID": ACCESS_KEY, "ROOT_SECRET_ACCESS_KEY": SECRET_KEY},
        ready=lambda: answers(f"{endpoint}/health", ca_path),
    )
    return S3Server(endpoint, ACCESS_KEY, SECRET_KEY, REGION, ca_path)


def allow_anonymous_read(client: "S3Client", bucket: str) -> None:
    """Open a bucket to unsigned GET and LIST: what makes a bucket a mirror of a public one."""
    actions = [("s3:GetObject", f"arn:aws:s3:::{bucket}/*"), ("s3:ListBucket", f"arn:aws:s3:::{bucket}")]
    statement = [
        {"Effect": "Allow", "Principal": "*", "Action": action, "Resource": resource}
        for action, resource in actions
    ]
    policy = {"Version": "2012-10-17", "Statement": statement}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def answers(url: str, ca_path: Path | None = None) -> bool:
    """Whether an HTTP server at `url` says 200."""
    context = ssl.create_default_context(cafile=ca_path) if ca_path else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


def write_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1, valid a day: cert.pem and key.pem beside ca.pem, which is returned.

    The authority is a certificate of its own: rustls refuses one that is both anchor and server.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(exist_ok=True)
    encoding, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("ingest tests", authority_key, None, authority_key)
    certificate = _certificate("127.0.0.1", key, authority, authority_key)
    pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, unencrypted)
    (folder / "key.pem").write_bytes(pem)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "ca.pem").write_bytes(authority.public_bytes(encoding))
    return folder / "ca.pem"


def _certificate(
    name: str,
    key: "ec.EllipticCurvePrivateKey",
    authority: "x509.Certificate | None",
    authority_key: "ec.EllipticCurvePrivateKey",
) -> "x509.Certificate":
    """A certificate of loopback signed by `authority`; an authority itself where there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    loopback = x509.SubjectAlternativeName(
        [x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")]
    )
    today = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(hours=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(loopback, critical=False)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )


def _metadata_options(root: Path) -> list[str | Path]:
    """versitygw keeps ETags in extended attributes; where there are none it needs another folder."""
    try:
        os.setxattr(root, "user.probe", b"1")
        os.removexattr(root, "user.probe")
    except OSError:
        sidecar = root.with_name(f"{root.name}-metadata")
        sidecar.mkdir()
        return ["--sidecar", sidecar]
    return []
