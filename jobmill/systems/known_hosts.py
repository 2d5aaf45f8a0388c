"""The keys by which hosts are known (``known_hosts``): an unknown or changed one is refused, with file and line."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko


class HostNotTrusted(Exception):
    """The host's key is unknown, changed or revoked; the words say what to do."""


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    """One line that is about the host."""

    file: str
    line: int
    revoked: bool
    kind: str  # "ssh-ed25519" …
    key: bytes


def fingerprint(key: bytes) -> str:
    """Return ``SHA256:…`` as ssh prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def find(files: Iterable[str], name: str) -> list[KnownKey]:
    """Return the keys that the files have for ``name`` (``host`` or ``[host]:port``), in their order."""
    return [found for file in files for found in _read(file, name)]


def judge(known: list[KnownKey], name: str, key: paramiko.PKey, files: Iterable[str]) -> None:
    """Return when the key that the host shows is one of the known ones; raise HostNotTrusted."""
    shown, kind = key.asbytes(), key.get_name()
    for it in known:
        if it.revoked and it.key == shown:
            raise HostNotTrusted(f"the key that {name} shows, {fingerprint(shown)}, is revoked in {it.file}:{it.line}")
    trusted = [it for it in known if not it.revoked]
    if any(it.key == shown for it in trusted):
        return
    words = f"{kind} key {fingerprint(shown)}"
    if trusted:
        it = next((it for it in trusted if it.kind == kind), trusted[0])
        raise HostNotTrusted(
            f"the host key of {name} has changed: it shows the {words}, {it.file}:{it.line} has the {it.kind} key "
            f"{fingerprint(it.key)}. Either the host was installed anew, or somebody is in between. Ask its "
            f"administrator; if it is right: ssh-keygen -f {it.file} -R '{name}', then connect once by ssh"
        )
    where = " or ".join(files) or "any file"
    raise HostNotTrusted(
        f"{name} is not a known host: its {words} is not in {where}. Connect once by ssh and compare the fingerprint, "
        f"or add the line that its administrator gives you"
    )


def _read(file: str, name: str) -> Iterator[KnownKey]:
    try:
        lines = Path(file).read_text(errors="replace").splitlines()
    except OSError:  # a file that is not there knows nobody
        return
    for count, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
            continue  # certificate authorities of hosts are not used
        try:
            if _names(fields[0], name):
                key = base64.b64decode(fields[2], validate=True)
                yield KnownKey(file=file, line=count, revoked=bool(marker), kind=fields[1], key=key)
        except (binascii.Error, ValueError):
            continue  # ssh leaves out lines that it cannot read, too


def _names(patterns: str, name: str) -> bool:
    """Tell whether the first field of a line is about this host."""
    if patterns.startswith("|1|"):
        _, _, salt, digest = patterns.split("|")
        hashed = hmac.new(base64.b64decode(salt), name.lower().encode(), "sha1").digest()
        return hmac.compare_digest(hashed, base64.b64decode(digest))
    matched = False
    for pattern in patterns.split(","):
        # brackets are literal in known_hosts, a set of characters for fnmatch
        plain = pattern.removeprefix("!").lower().replace("[", "[[]")
        if fnmatch.fnmatchcase(name.lower(), plain):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched
