"""The SSH keys of an instance, known before it exists.

The host key of a launch is derived (HKDF, RFC 5869) from the private key with which we log in and the launch's name.
So each launch has one of its own, the same request can be made again after a crash, and every process that has the
login key knows which host key to expect, without keeping anything. It cannot be turned round: who gets hold of a host
key, for instance a job that reads the user data of its own instance, learns neither the login key nor another's.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from jobmill.errors import ConfigError

MOST = 4096  # public keys that are kept in mind


class HostKeys:
    """Derives host keys from one login key."""

    def __init__(self, file: Path) -> None:
        """Read the private key file; raise ConfigError when there is none, or it wants a passphrase."""
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}; name a private key file that this user can read") from None
        load = load_ssh_private_key if b"BEGIN OPENSSH" in text else load_pem_private_key
        try:
            key = load(text, None)
            self._secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        except TypeError:
            raise ConfigError(f"{file} has a passphrase; nobody is there to type it: ssh-keygen -p -N ''") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{file} is no private key: {error}; make one: ssh-keygen -t ed25519 -N ''") from None
        self._public: dict[str, str] = {}
        self.login = public.decode()  # the login key's public half, as in authorized_keys

    def _key(self, launch: str) -> Ed25519PrivateKey:
        info = b"jobmill ec2 host key 1\0" + launch.encode()
        seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._secret)
        return Ed25519PrivateKey.from_private_bytes(seed)

    def public(self, launch: str) -> str:
        """Return ``ssh-ed25519 <base64>``, the key that the host of this launch has to show."""
        if (found := self._public.get(launch)) is None:  # asked for at every look at the fleet
            found = self._key(launch).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
            if len(self._public) >= MOST:
                self._public.clear()
            self._public[launch] = found
        return found

    def private(self, launch: str) -> str:
        """Return the host's private key for cloud-init, in OpenSSH's own format, which every sshd reads.

        The usual writers put random check bytes in; the same request made again has to be the same to the byte.
        """
        key = self._key(launch)
        seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        check = hashlib.sha256(b"check" + public).digest()[:4]
        secret = check + check + _strings(b"ssh-ed25519", public, seed + public, b"jobmill")
        secret += bytes(range(1, 1 + -len(secret) % 8))
        blob = b"openssh-key-v1\0" + _strings(b"none", b"none", b"") + struct.pack(">I", 1)
        blob += _strings(_strings(b"ssh-ed25519", public), secret)
        text = base64.b64encode(blob).decode()
        lines = [text[i : i + 70] for i in range(0, len(text), 70)]
        return "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""])


def _strings(*parts: bytes) -> bytes:
    """Return strings as the SSH protocol writes them (RFC 4251, section 5)."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
