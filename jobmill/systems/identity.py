"""As whom a job runs: a user whom this host knows, who is nobody special, and the words that switch to that user.

Standard library only, Python 3.6 and later. An *order* is ``{"user": …, "template": […], "least": 1000, "users": …}``:
the option `run_as` of a system and the user of one launch. It is judged on the host where the job runs.
"""

import grp
import os
import pwd
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Order = dict[str, Any]

# POSIX.1-2017, 3.437 and 3.282: the portable file name characters, the first no hyphen. Digits alone are a number to
# setpriv(1); "#0" is one to sudo(8).
NAME = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
FIELD = re.compile(r"\{([A-Za-z_]*)\}")
FIELDS = ("user", "uid", "gid", "group", "home")


class Refused(Exception):
    """No job may run as this user here; says why."""


class Identity:
    """One user of this host."""

    def __init__(self, name: str, uid: int, gid: int, home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home

    @property
    def group(self) -> str:
        """Return the name of the user's first group; raise Refused where it has none that can be a word."""
        try:
            name = grp.getgrgid(self.gid).gr_name
        except KeyError:
            name = ""
        if not NAME.match(name):
            raise Refused(
                "group %d of %s has no usable name on this host; write {gid} in run_as" % (self.gid, self.name)
            )
        return name


def problem(user: "str | None", users: "list[str] | tuple[str, ...] | None") -> "str | None":
    """Return why no host can run a job as ``user``, or None; ``users``: those that may be, None: all."""
    if not user:
        return "the job names no user, and this system runs each job as its own user; say user:"
    if not NAME.match(user):
        return (
            "%r is no name of a user that run_as takes: letters, digits, `.`, `_` and `-`, not a hyphen first, "
            "not digits alone" % user
        )
    if users is not None and user not in users:
        return "user %r is not among run_as_users of this system" % user
    return None


def find(order: "Order") -> Identity:
    """Return the user of an order by this host's database; raise Refused."""
    user = order["user"]
    wrong = problem(user, order.get("users"))
    if wrong:
        raise Refused(wrong)
    host = os.uname()[1]
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        raise Refused("there is no user %r on %s; add the account, or correct user:" % (user, host)) from None
    if known.pw_name != user:  # a directory service that finds other spellings, too
        raise Refused("user %r is %r on %s; write it so" % (user, known.pw_name, host))
    if known.pw_uid == 0 or known.pw_gid == 0:
        raise Refused("user %r is root, or of root's group, on %s: no job runs as root" % (user, host))
    least = max(1, int(order.get("least", 1000)))
    if known.pw_uid < least:
        raise Refused(
            "user %r has uid %d on %s, below run_as_least_uid (%d): system accounts run no jobs"
            % (user, known.pw_uid, host, least)
        )
    if known.pw_uid == os.geteuid():
        raise Refused("user %r runs the workers on %s: such a job could change the records of all" % (user, host))
    return Identity(user, known.pw_uid, known.pw_gid, known.pw_dir)


def prefix(template: "list[str]", who: Identity) -> "list[str]":
    """Return the words that go before a command; raise Refused."""

    def value(found: "Any") -> str:
        field = found.group(1)
        if field not in FIELDS:
            raise Refused("run_as: {%s} is none of %s" % (field, ", ".join("{%s}" % it for it in FIELDS)))
        if field == "home" and not who.home.startswith("/"):
            raise Refused("the home of user %s is %r on this host, no absolute path" % (who.name, who.home))
        return str(who.name if field == "user" else getattr(who, field))

    return [FIELD.sub(value, word) for word in template]
