"""What an instance is told at its launch: its SSH keys, and the lease that ends it when nobody renews.

cloud-init reads it (https://cloudinit.readthedocs.io/en/latest/reference/modules.html). `bootcmd` runs early and at
every boot, so that the lease holds before anything else can fail; `runcmd` runs last, after the site's own script.
"""

from __future__ import annotations

import json
from email.message import EmailMessage
from pathlib import Path

from jobmill.systems.ec2_host_key import HostKeys

FOLDER = "/run/jobmill"  # on the instance: the lease's script, and `lease/`, which belongs to the user
# It is gone after a reboot, and with it the word that the instance is ready, which is written once: one that was
# booted anew gets no job any more, and is ended.
MOST = 16384  # bytes of user data that EC2 takes
LEASE_SCRIPT = Path(__file__).with_name("ec2_lease.sh").read_text()

# A unit that is started again when killed; without systemd a session of its own. `--no-block`, no default dependencies:
# this is a part of the boot that such a unit would wait for.
START = """\
mkdir -p "$1/lease" && printf %s "$2" >"$1/lease.sh" || exit 1
systemd-run --no-block --unit=jobmill-lease --property=DefaultDependencies=no --property=Restart=always \
  --property=OOMScoreAdjust=-1000 /bin/sh "$1/lease.sh" "$1" "$3" "$4" ||
  setsid /bin/sh "$1/lease.sh" "$1" "$3" "$4" </dev/null >>"$1/lease.log" 2>&1 &
"""


def user_data(
    keys: HostKeys, launch: str, *, user: str, lease: int, script: str | None = None, folder: str = FOLDER
) -> str:
    """Return the user data of a launch; the same arguments give the same text, byte by byte.

    ``lease``: seconds; ``script``: the site's own, run once as root before the first job; its first line is ``#!…``.
    """
    config = {
        "bootcmd": [["/bin/sh", "-c", START, "jobmill", folder, LEASE_SCRIPT, str(lease), user]],
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": keys.private(launch), "ed25519_public": keys.public(launch)},
        "ssh_authorized_keys": [keys.login],
        "runcmd": [["touch", f"{folder}/lease/ready"]],
    }
    text = "#cloud-config\n" + json.dumps(config, sort_keys=True, indent=0)  # JSON is YAML
    if script is None:
        return text
    whole = EmailMessage()
    whole["Content-Type"] = 'multipart/mixed; boundary="==jobmill=="'  # cloud-init's way to take several things
    whole["MIME-Version"] = "1.0"
    for part, kind in ((text, "cloud-config"), (script, "x-shellscript")):
        one = EmailMessage()
        one.set_content(part, subtype=kind, cte="8bit" if part.isascii() else "base64")
        whole.attach(one)
    return whole.as_string()


def renew_command(folder: str = FOLDER) -> str:
    """Return the shell command that renews the lease and succeeds once the instance is ready for jobs."""
    return f": >{folder}/lease/renew && {ready_command(folder)}"


def ready_command(folder: str = FOLDER) -> str:
    """Return the shell command that succeeds once the instance is ready for jobs."""
    return f"test -e {folder}/lease/ready"
