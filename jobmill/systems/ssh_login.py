"""Logs in to a host: over its jumps, by known host keys only, by key or agent, each step with a deadline.

Whatever goes wrong is a LoginFailed with the words for the user. Passwords are never asked for nor sent.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko

from jobmill.systems import known_hosts
from jobmill.systems.known_hosts import HostNotTrusted
from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_wire import Wire, dial, spawn_proxy

TRIES_MOST = 6  # keys offered: sshd's MaxAuthTries, after which it hangs up and fail2ban counts


class LoginFailed(Exception):
    """No way in; ``permanent``: not before somebody changes something; ``refused``: the host said no to all keys."""

    def __init__(self, words: str, *, permanent: bool = False, refused: bool = False) -> None:
        super().__init__(words)
        self.permanent = permanent
        self.refused = refused


class Login:
    """One connection to a host, with those to the hosts on the way; `close` may be called from any thread."""

    def __init__(self, host: SshHost) -> None:
        """Nothing is connected yet: `run` does that, and blocks."""
        self.host = host
        self._legs: list[tuple[paramiko.Transport, Wire]] = []
        self._closed = False
        self.since = time.monotonic()

    @property
    def transport(self) -> paramiko.Transport:
        """The transport to the host itself."""
        return self._legs[-1][0]

    @property
    def wire(self) -> Wire:
        """What that transport writes to."""
        return self._legs[-1][1]

    @property
    def alive(self) -> bool:
        """False once any part of the way is gone."""
        return not self._closed and all(transport.is_active() for transport, _ in self._legs)

    def run(self) -> None:
        """Connect and log in, host by host; raise LoginFailed."""
        try:
            for host in self.host.way:
                self._enter(host, self._reach(host))
        except BaseException:
            self.close()
            raise
        for transport, wire in self._legs:
            _keep_alive(transport, wire, self.host.keepalive)
        self.since = time.monotonic()

    def close(self) -> None:
        """Drop everything, the farthest first."""
        self._closed = True
        for transport, wire in reversed(self._legs):
            transport.close()
            wire.close()

    def _reach(self, host: SshHost) -> Wire:
        try:
            if self._legs:
                target = (host.address, host.port)
                before = self._legs[-1][0]
                return Wire(before.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=host.connect_timeout))
            return spawn_proxy(host) if host.proxy_command else dial(host)
        except socket.gaierror as error:
            raise LoginFailed(f"{host.address}: {error.strerror}; look at the host's name and at DNS") from error
        except TimeoutError as error:
            raise LoginFailed(f"{host.label}: no answer within {host.connect_timeout:g} s") from error
        except OSError as error:
            raise LoginFailed(f"{host.label}: {error.strerror or error}") from error
        except (paramiko.SSHException, EOFError) as error:
            way = self.host.proxy_jump[len(self._legs) - 1].label
            raise LoginFailed(f"{way} does not let us through to {host.address}:{host.port}: {error}") from error

    def _enter(self, host: SshHost, wire: Wire) -> None:
        transport = paramiko.Transport(wire)  # type: ignore[arg-type]  # all that it uses of a socket is there
        transport.daemon = True
        self._legs.append((transport, wire))
        if self._closed:
            raise LoginFailed(f"{host.label}: given up")
        limit = host.connect_timeout
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = limit
        transport.channel_timeout = limit
        known = known_hosts.find(host.known_hosts, host.known_as)
        options = transport.get_security_options()
        kinds = [kind for it in known for kind in _algorithms(it.kind) if kind in options.key_types]
        # the kinds that we know first, so that a host with several keys shows one that can be compared
        options.key_types = tuple(dict.fromkeys([*kinds, *options.key_types]))
        try:
            transport.start_client(timeout=limit)
            known_hosts.judge(known, host.known_as, transport.get_remote_server_key(), host.known_hosts)
        except HostNotTrusted as error:
            raise LoginFailed(str(error), permanent=True) from error
        except paramiko.ssh_exception.IncompatiblePeer as error:
            raise LoginFailed(f"{host.label}: no common algorithm: {error}", permanent=True) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            words = str(error) or "the connection was closed"
            raise LoginFailed(f"{host.label}: no SSH connection within {limit:g} s: {words}") from error
        self._authenticate(host, transport)

    def _authenticate(self, host: SshHost, transport: paramiko.Transport) -> None:
        notes: list[str] = []
        offered = 0
        for key, source in _keys(host, notes):
            if offered == TRIES_MOST:
                notes.append(f"more than {TRIES_MOST} keys: name the right one with `keys`")
                break
            offered += 1
            try:
                further = transport.auth_publickey(host.user, key)
            except paramiko.BadAuthenticationType as error:
                notes.append(f"the host takes no keys, only {', '.join(error.allowed_types)}")
                break
            except paramiko.AuthenticationException as error:
                if "timeout" in str(error).lower():
                    words = f"{host.label}: no answer to the login within {host.connect_timeout:g} s"
                    raise LoginFailed(words) from error
                notes.append(f"{source} was refused")
            except (paramiko.SSHException, EOFError, OSError) as error:
                if not transport.is_active():
                    if offered > 1:  # it hangs up after its MaxAuthTries
                        notes.append("and the host hung up")
                        break
                    raise LoginFailed(f"{host.label}: the connection broke at the login: {error}") from error
                notes.append(f"{source}: {error}")
            else:
                if not further:
                    return
                fix = "log in by hand with ssh -M and name its socket with `control_path`"
                words = f"{host.label} wants {' and '.join(further)} after the key: {fix}"
                raise LoginFailed(words, permanent=True, refused=True)
        why = "; ".join(notes) or "there is no key, neither in ~/.ssh nor in an agent: name one with `keys`"
        raise LoginFailed(f"{host.label} does not let us in: {why}", permanent=True, refused=offered > 0)


def _algorithms(kind: str) -> tuple[str, ...]:
    return ("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,)


def _keys(host: SshHost, notes: list[str]) -> Iterator[tuple[paramiko.PKey, str]]:
    """Yield the keys to offer: each file's own, by the agent where that holds it, then the agent's others."""
    agent = paramiko.Agent()
    try:
        held = {key.asbytes(): key for key in agent.get_keys()}
    except (paramiko.SSHException, OSError):
        held = {}
    try:
        for file in host.keys:
            mine = held.pop(_public(file), None)
            if mine is not None:
                yield mine, f"{file} by the agent"
                continue
            try:
                key = paramiko.PKey.from_path(file)
            except FileNotFoundError:
                notes.append(f"there is no key {file}")
            except TypeError:
                notes.append(f"{file} has a passphrase and the agent does not hold it: ssh-add {file}")
            except OSError as error:
                notes.append(f"{file}: {error.strerror}")
            except (paramiko.SSHException, ValueError) as error:
                notes.append(f"{file} is no private key that can be read: {str(error) or type(error).__name__}")
            except paramiko.pkey.UnknownKeyType:
                notes.append(f"{file} is of a type that is not known here")
            else:
                yield key, file
        if host.agent:
            yield from ((key, f"the agent's key {known_hosts.fingerprint(blob)}") for blob, key in held.items())
    finally:
        agent.close()


def _public(file: str) -> bytes:
    """Return the public key beside a private one, b"" where there is none."""
    try:
        return base64.b64decode(Path(f"{file}.pub").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return b""


def _keep_alive(transport: paramiko.Transport, wire: Wire, silence: float) -> None:
    """Ask for a sign of life, and close the transport after ``silence`` seconds without any: a pulled cable,
    a host that froze (its kernel goes on to acknowledge), a network address translator that forgot us.

    Two threads: the one that asks is stuck exactly when the other one is needed.
    """

    def ask() -> None:
        while transport.is_active():
            time.sleep(silence / 3)
            try:
                transport.global_request("keepalive@openssh.com", wait=True)
            except (paramiko.SSHException, EOFError, OSError):
                return

    def watch() -> None:
        while transport.is_active():
            time.sleep(min(1.0, silence / 10))
            if time.monotonic() - wire.heard > silence:
                transport.close()
                wire.close()

    for target in (ask, watch):
        threading.Thread(target=target, daemon=True).start()
