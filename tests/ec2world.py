"""EC2 for tests: moto's server, a proxy in front of it for what moto leaves out, and machines that boot for real.

The proxy keeps client tokens as EC2 documents it
(https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html) and answers with EC2's own errors when told.
A machine is a mount and process namespace with an sshd on the instance's private address. It is booted from the user
data alone: its host key, who may log in and the lease are what the request said. Ending the instance kills all in it.
"""

from __future__ import annotations

import contextlib
import email
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

import boto3
import pytest
from farm import PROGRAMS, Missing, need

REGION = "eu-west-1"
IMAGE = "ami-12c6146b"
PORT = 2222
WITH_US = ("setpriv", "--pdeathsig", "KILL")  # nothing is left when the tests are killed
UNSHARE = (*WITH_US, "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>
<RequestID>59dbff89-35bd-4eac-99ed-be587EXAMPLE</RequestID></Response>"""
NOTHING = b"""<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>8f7724cf</requestId>
<reservationSet/></DescribeInstancesResponse>"""
# What EC2 says, word by word, where a test needs it.
WORDS = {
    "InsufficientInstanceCapacity": (
        500,
        "We currently do not have sufficient t3.micro capacity in the Availability Zone you requested (eu-west-1a). "
        "Our system will be working on provisioning additional capacity.",
    ),
    "InstanceLimitExceeded": (
        400,
        "You have requested more instances (2) than your current instance limit of 1 allows.",
    ),
    "RequestLimitExceeded": (503, "Request limit exceeded."),
    "RequestExpired": (400, "Request has expired."),
    "InternalError": (500, "An internal error has occurred"),
    "UnauthorizedOperation": (403, "You are not authorized to perform this operation."),
    "IdempotentInstanceTerminated": (400, "The client token you have provided belongs to a terminated instance."),
    "IdempotentParameterMismatch": (
        400,
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
    ),
}


def needed(what: object, words: str) -> None:
    """Skip where a component is missing; fail in CI, which has to have it."""
    if not what:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has to have it: {words}", pytrace=False)
        pytest.skip(words)


def installed(programs: dict[str, str]) -> None:
    """Have these programs (and their packages) here, by apt where root may; else as `needed`."""
    try:
        need(programs)
    except Missing as error:
        needed(False, str(error))


class Cloud:
    """moto and the proxy; ``url`` is what a configuration names as endpoint_url."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, Mapping[str, list[str]]]] = []  # what came, in order: action and parameters
        self.fails: dict[str, list[str]] = {}  # action -> codes of the errors that come next
        self.cuts: dict[str, int] = {}  # action -> so many replies to come are lost, after the deed
        self.on: dict[str, Callable[[], None]] = {}  # "before RunInstances", "after …": done once, then
        self.key = ""  # the only access key that is known; empty: any
        self.nonsense: dict[str, int] = {}  # action -> so many answers to come are a proxy's page
        self.blind = 0  # so many looks to come show nothing: what was launched just now is seen late
        self.copies = 1  # so many instances are shown for each
        self.record = ""  # of the test
        self.taken: set[str] = set()  # spot instances that EC2 took back
        self._tokens: dict[str, tuple[Mapping[str, list[str]], bytes, str]] = {}  # token -> request, reply, instance
        self._lock = threading.Lock()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._log = (folder / "moto.log").open("wb")
        self._moto = subprocess.Popen(
            [*WITH_US, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._behind = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _open(port), 60)
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
            self._server.daemon_threads = True
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
            self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
            self.ec2: Any = boto3.client(
                "ec2",
                endpoint_url=self._behind,
                region_name=REGION,
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
            # A network of loopback addresses of its own: private addresses lead to this machine and nowhere else.
            self.net = f"127.{10 + os.getpid() % 200}"
            vpc = self.ec2.create_vpc(CidrBlock=f"{self.net}.0.0/16")["Vpc"]["VpcId"]
            made = self.ec2.create_subnet(VpcId=vpc, CidrBlock=f"{self.net}.16.0/20")
            self.subnet: str = made["Subnet"]["SubnetId"]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End proxy and moto."""
        if hasattr(self, "_server"):
            self._server.shutdown()
            self._server.server_close()
        self._moto.terminate()
        try:
            self._moto.wait(5)
        except subprocess.TimeoutExpired:
            self._moto.kill()
            self._moto.wait()
        self._log.close()

    def forget(self) -> None:
        """Between two tests: end all instances, no faults, no calls."""
        ids = [it["InstanceId"] for it in self.all() if it["State"]["Name"] != "terminated"]
        if ids:
            self.ec2.terminate_instances(InstanceIds=ids)
        self.calls.clear()
        self.fails.clear()
        self.cuts.clear()
        self.on.clear()
        self.nonsense.clear()
        self.key = ""
        self.blind = 0
        self.copies = 1
        self.record = os.urandom(6).hex()

    def all(self) -> list[dict[str, Any]]:
        """Return all instances of the account, behind the proxy."""
        pages = self.ec2.get_paginator("describe_instances").paginate()
        return [it for page in pages for one in page["Reservations"] for it in one["Instances"]]

    def live(self, **tags: str) -> list[str]:
        """Return the ids of what is pending or running and has these tags (``system``: jobmill:system)."""
        wanted = {f"jobmill:{key}": value for key, value in tags.items()}
        return [
            it["InstanceId"]
            for it in self.all()
            if it["State"]["Name"] in ("pending", "running")
            and wanted.items() <= {tag["Key"]: tag["Value"] for tag in it.get("Tags", ())}.items()
        ]

    def count(self, action: str) -> int:
        """Return how often an action was asked for."""
        return sum(name == action for name, _ in self.calls)

    def take_away(self, instance: str) -> None:
        """Take a spot instance back, as EC2 does."""
        self.taken.add(instance)
        self.ec2.terminate_instances(InstanceIds=[instance])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = cloud._answer(body, dict(self.headers))
                if status == 0:  # the reply is lost
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                self.send_header("Content-Type", "text/xml;charset=UTF-8")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *words: Any) -> None:
                pass

        return Handler

    def _answer(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        asked = parse_qs(body.decode(), keep_blank_values=True)
        action = asked["Action"][0]
        with self._lock:  # one at a time: two calls with one token are one launch
            self.calls.append((action, asked))
            if self.fails.get(action):
                return _error(self.fails[action].pop(0))
            if f"Credential={self.key}" not in headers.get("Authorization", ""):
                return _error("RequestExpired")
            self.on.pop(f"before {action}", _nothing)()
            if action == "DescribeInstances" and self.blind:
                self.blind -= 1
                return 200, NOTHING
            if self.copies > 1:
                body = re.sub(rb"&NextToken=[^&]*", b"", body)  # the pages are ours
            token = asked.get("ClientToken", [""])[0] if action == "RunInstances" else ""
            status, answer = self._repeated(token, asked) if token in self._tokens else self._forward(body, headers)
            if token and status == 200 and token not in self._tokens:
                (found,) = re.findall(rb"<instanceId>(i-[0-9a-f]+)</instanceId>", answer)
                self._tokens[token] = (asked, answer, found.decode())
            self.on.pop(f"after {action}", _nothing)()
            if self.nonsense.get(action):
                self.nonsense[action] -= 1
                return 200, b"<html><p>Please log in to this network.</html>"
            if self.cuts.get(action):
                self.cuts[action] -= 1
                return 0, b""
        if action == "DescribeInstances" and self.copies > 1:
            return status, self._copied(answer, asked)
        return status, self._as_taken(answer) if action == "DescribeInstances" and self.taken else answer

    def _repeated(self, token: str, asked: Mapping[str, list[str]]) -> tuple[int, bytes]:
        before, answer, instance = self._tokens[token]
        if before != asked:
            return _error("IdempotentParameterMismatch")
        if instance not in self.live():
            return _error("IdempotentInstanceTerminated")
        return 200, answer

    def _forward(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        kept = {k: v for k, v in headers.items() if k.lower() not in ("host", "content-length", "connection", "expect")}
        try:
            with urllib.request.urlopen(urllib.request.Request(self._behind, body, kept), timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _copied(self, answer: bytes, asked: Mapping[str, list[str]]) -> bytes:
        """Show each instance many times, page by page: moto takes minutes to launch a thousand."""
        tree = _tree(answer)
        space = tree.tag.partition("}")[0] + "}"
        first, size = int(asked.get("NextToken", ["0"])[0]), int(asked["MaxResults"][0])
        shown = range(first, min(first + size, self.copies))
        listed = tree.find(f"{space}reservationSet")
        assert listed is not None
        (one,) = listed
        listed.remove(one)
        for n in shown:
            copied = deepcopy(one)
            for id_ in copied.iter(f"{space}instanceId"):
                id_.text = f"i-{n:017x}"
            listed.append(copied)
        if shown.stop < self.copies:
            ElementTree.SubElement(tree, f"{space}nextToken").text = str(shown.stop)
        return ElementTree.tostring(tree)

    def _as_taken(self, answer: bytes) -> bytes:
        """Say of the instances that EC2 took what EC2 says of them; moto ends them as if we had."""
        tree = _tree(answer)
        space = tree.tag.partition("}")[0] + "}"
        for item in tree.iter(f"{space}item"):
            if (found := item.find(f"{space}instanceId")) is not None and found.text in self.taken:
                reason = item.find(f"{space}stateReason")
                if reason is None:
                    reason = ElementTree.SubElement(item, f"{space}stateReason")
                for part in list(reason):
                    reason.remove(part)
                words = "Server.SpotInstanceTermination: Spot instance termination"
                for name, text in (("code", "Server.SpotInstanceTermination"), ("message", words)):
                    ElementTree.SubElement(reason, f"{space}{name}").text = text
        return ElementTree.tostring(tree)


class Machines:
    """Boots what the cloud launches, and ends what it ended, until it is closed."""

    def __init__(self, cloud: Cloud, folder: Path, lease_folder: Path) -> None:
        """``lease_folder``: the option ``folder``; a mount point, each machine has its own there."""
        needed(os.getuid() == 0, "machines of their own need root (mount and process namespaces)")
        installed(PROGRAMS)
        self._cloud, self._folder, self._lease = cloud, folder, lease_folder
        lease_folder.mkdir(parents=True, exist_ok=True)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.up: dict[str, subprocess.Popen[bytes]] = {}
        self.host_key = ""  # that they show instead of the one that they were given
        self.boots = True  # False: instances run, and nothing answers there
        self._seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def folder(self, instance: str) -> Path:
        """Return what stands for an instance's disk."""
        return self._folder / instance

    def close(self) -> None:
        """End all."""
        self._stop.set()
        self._thread.join(20)
        for process in self.up.values():
            _kill(process)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            with contextlib.suppress(Exception):  # the cloud is being closed
                self._turn()

    def _turn(self) -> None:
        for it in self._cloud.all():
            id_, state = it["InstanceId"], it["State"]["Name"]
            process = self.up.get(id_)
            if state == "running" and self.boots and id_ not in self._seen:
                self._seen.add(id_)
                found = self._cloud.ec2.describe_instance_attribute(InstanceId=id_, Attribute="userData")
                if text := found["UserData"].get("Value"):
                    self.up[id_] = self._boot(id_, it["PrivateIpAddress"], b64decode(text).decode())
            elif process is not None and state in ("terminated", "shutting-down", "stopped"):
                _kill(self.up.pop(id_))
            elif process is not None and (self.folder(id_) / "shutdown").exists():  # from inside
                self._cloud.ec2.terminate_instances(InstanceIds=[id_])

    def _boot(self, id_: str, address: str, user_data: str) -> subprocess.Popen[bytes]:
        """Do what cloud-init does with the parts of user data that we use."""
        disk = self.folder(id_)
        for name in ("home", "lib", "bin", "etc"):
            (disk / name).mkdir(parents=True)
        config, script = cloud_config(user_data)
        (disk / "etc" / "key").write_text(self.host_key or config["ssh_keys"]["ed25519_private"])
        (disk / "etc" / "key").chmod(0o600)
        (disk / "etc" / "authorized_keys").write_text("\n".join(config["ssh_authorized_keys"]) + "\n")
        shutdown = disk / "bin" / "shutdown"
        shutdown.write_text(f'#!/bin/sh\necho shutdown "$@" >>{disk}/shutdown\n')
        shutdown.chmod(0o755)
        for name in ("poweroff", "systemd-run"):
            (disk / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
            (disk / "bin" / name).chmod(0o755)
        (disk / "etc" / "sshd_config").write_text(
            f"Port {PORT}\nListenAddress {address}\nHostKey {disk}/etc/key\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {disk}/etc/authorized_keys\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
            "MaxStartups 100\nMaxSessions 100\n"
        )
        (disk / "etc" / "site").write_text(script or "#!/bin/sh\n")
        lines = [f"mount --bind {disk}/home {Path.home()} && mount --bind {disk}/lib {self._lease} || exit 1"]
        lines += [f"PATH={disk}/bin:/usr/bin:/bin", "export PATH"]
        lines += [_quoted(command) for command in config["bootcmd"]]
        lines += [f"/usr/sbin/sshd -D -f {disk}/etc/sshd_config -E {disk}/sshd.log &"]
        lines += [f"/bin/sh {disk}/etc/site", *(_quoted(command) for command in config["runcmd"])]
        lines += ["while :; do wait; sleep 1; done"]
        with (disk / "log").open("wb") as log:
            return subprocess.Popen(
                [*UNSHARE, "/bin/sh", "-c", "\n".join(lines)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def cloud_config(user_data: str) -> tuple[dict[str, Any], str | None]:
    """Return the configuration and the script in user data, as cloud-init finds them."""
    if user_data.startswith("#cloud-config\n"):
        return json.loads(user_data.partition("\n")[2]), None
    parts: dict[str, str] = {}
    for part in email.message_from_string(user_data).walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            parts[part.get_content_type()] = payload.decode()
    return cloud_config(parts["text/cloud-config"])[0], parts["text/x-shellscript"]


def until(true: Any, seconds: float = 20.0, every: float = 0.05) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(every)


@contextlib.contextmanager
def cloud_in(folder: Path) -> Iterator[Cloud]:
    """Give a cloud for as long as it is used."""
    pytest.importorskip("moto.server", reason="pip install 'moto[ec2,server]'")
    cloud = Cloud(folder)
    try:
        yield cloud
    finally:
        cloud.close()


def _nothing() -> None:
    pass


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def _error(code: str) -> tuple[int, bytes]:
    status, message = WORDS.get(code, (400, f"{code}."))
    return status, ERROR.format(code=code, message=message).encode()


def _tree(answer: bytes) -> ElementTree.Element:
    """Return an answer as a tree that is written again with the same name space."""
    tree = ElementTree.fromstring(answer)
    ElementTree.register_namespace("", tree.tag.partition("}")[0].strip("{"))
    return tree


def _quoted(command: list[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a machine at once: its first process takes all others with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def remove(folder: Path) -> None:
    """Remove what the machines left."""
    shutil.rmtree(folder, ignore_errors=True)
