"""The option `run_as`: the words that make a job run as the user who submitted it, and who that may be.

    run_as: [sudo, -n, -u, "{user}", -H, --]           # the workers' user has a sudoers line
    run_as: [setpriv, --reuid, "{user}", --regid, "{group}", --init-groups, --]     # the workers are root
    run_as_least_uid: 1000                              # smaller ones are system accounts
    run_as_users: [ann, bob]                            # left out: every account above that

What the words mean on a host, and whether it knows the user, is judged there (`identity`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmill.errors import ConfigError, StageFailed
from jobmill.systems import handover, identity
from jobmill.systems.switch import PATH, Switch
from jobmill.systems.system import Check, Submission
from jobmill.systems.user_place import UserPlace

OPTIONS = ("run_as", "run_as_least_uid", "run_as_users")


@dataclass(frozen=True, kw_only=True)
class RunAs:
    """How jobs of one system, or of one host of it, become their users'."""

    template: tuple[str, ...]  # what goes before a command; {user} {uid} {gid} {group} {home} are filled in
    least_uid: int = 1000
    users: tuple[str, ...] | None = None  # None: every user above least_uid

    @classmethod
    def of(cls, options: Mapping[str, Any], where: str) -> RunAs | None:
        """Read the `OPTIONS` of a mapping; None: jobs run as the workers' user. Raises ConfigError."""
        words = options.get("run_as")
        if words is None:
            for key in OPTIONS[1:]:
                if options.get(key) is not None:
                    raise ConfigError(f"{where}.{key}: there is no run_as beside it; add it, or take this out")
            return None
        if not isinstance(words, list | tuple) or not words or not all(isinstance(it, str) and it for it in words):
            raise ConfigError(f"{where}.run_as: write a list of words, as [sudo, -n, -u, '{{user}}', -H, --]")
        if any(sign in word for word in words for sign in "\0\n\r"):
            raise ConfigError(f"{where}.run_as: a word holds a line end or a null byte")
        found = {name for word in words for name in identity.FIELD.findall(word)}
        for name in sorted(found):
            if name not in identity.FIELDS:
                known = ", ".join(f"{{{it}}}" for it in identity.FIELDS)
                raise ConfigError(f"{where}.run_as: {{{name}}} is none of {known}")
        if not found & {"user", "uid"}:
            raise ConfigError(f"{where}.run_as: names neither {{user}} nor {{uid}}: all jobs would be of one user")
        if identity.FIELD.search(words[0]):
            raise ConfigError(f"{where}.run_as: its first word must be a program, not {words[0]!r}")
        least = options.get("run_as_least_uid", 1000)
        if type(least) is not int or not 1 <= least < 1 << 32:
            raise ConfigError(f"{where}.run_as_least_uid: {least!r} is not a whole number from 1")
        users = options.get("run_as_users")
        if users is not None:
            if not isinstance(users, list | tuple) or not all(isinstance(it, str) for it in users):
                raise ConfigError(f"{where}.run_as_users: write a list of names")
            for user in users:
                if identity.problem(user, None):
                    raise ConfigError(f"{where}.run_as_users: {identity.problem(user, None)}")
        return cls(template=tuple(words), least_uid=least, users=None if users is None else tuple(users))

    def refusal(self, it: Submission) -> str | None:
        """Return why no host can run this job as its user, or None."""
        wrong = identity.problem(it.user, self.users)
        return None if wrong is None else f"job {it.job_id}: {wrong}"

    def place(self, it: Submission) -> UserPlace:
        """Return this machine's files as the job's user has them; raise StageFailed where there is no such user."""
        try:
            switch, _ = Switch.of(self.order(it))
        except identity.Refused as error:
            raise StageFailed(f"inputs are read as the job's user: {error}") from error
        return UserPlace(switch.file)

    def check(self, spool: Path) -> Check:
        """Find out whether launches can be handed over here; tried out for the first of `run_as_users`, if any."""
        words = " ".join(self.template)
        if shutil.which(self.template[0], path=PATH.decode()) is None:
            return Check(
                name="run_as", ok=False, detail=f"{self.template[0]} is not in {PATH.decode()}", fix="install it"
            )
        closed = [path for path in spool.absolute().parents if path.exists() and not path.stat().st_mode & 0o001]
        if closed:
            fix = f"chmod o+x {' '.join(map(str, reversed(closed)))}, or set another spool:"
            return Check(name="run_as", ok=False, detail=f"users cannot pass {closed[-1]} to {spool}", fix=fix)
        probe = spool / f".check-as.{os.getpid()}"
        try:
            probe.mkdir(0o700)
            handover.give_folder(os.fsencode(probe), self.least_uid)
        except OSError as error:
            return Check(
                name="run_as", ok=False, detail=error.strerror or str(error), fix="see docs/systems.md, run_as"
            )
        finally:
            with contextlib.suppress(OSError):
                probe.rmdir()
        for user in (self.users or ())[:1]:
            try:
                switch, _ = Switch.of({"user": user, "template": list(self.template), "least": self.least_uid})
                switch.file("entry", {"path": "/", "follow": False})
            except (identity.Refused, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                fix = "add the line to sudoers, or run the workers as root"
                return Check(name="run_as", ok=False, detail=f"as {user}: {why}", fix=fix)
        return Check(name="run_as", ok=True, detail=f"{words}, uid {self.least_uid} and above")

    def order(self, it: Submission) -> dict[str, Any]:
        """Return what the host needs to know: plain values."""
        users = None if self.users is None else list(self.users)
        return {"user": it.user, "template": list(self.template), "least": self.least_uid, "users": users}
