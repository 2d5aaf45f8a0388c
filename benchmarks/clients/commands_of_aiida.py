"""Runs N commands over one AiiDA transport (core.ssh, which is paramiko); run by the Python that has aiida-core.

python commands_of_aiida.py ADDRESS PORT USER KEY KNOWN_HOSTS COUNT COMMAND
"""

from __future__ import annotations

import json
import sys
import time

from aiida.transports.plugins.ssh import SshTransport


def main() -> None:
    """Print {seconds, right}: the connection is open before the clock, each command is waited for."""
    address, port, user, key, known_hosts, count, command = sys.argv[1:]
    transport = SshTransport(
        machine=address,
        port=int(port),
        username=user,
        key_filename=key,
        look_for_keys=False,
        allow_agent=False,
        load_system_host_keys=False,
        key_policy="RejectPolicy",
        use_login_shell=False,
        safe_interval=0,
    )
    transport._client.load_host_keys(known_hosts)
    right = 0
    with transport:
        transport.exec_command_wait(command)
        begin = time.perf_counter()
        for _ in range(int(count)):
            right += transport.exec_command_wait(command)[0] == 0
        seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "right": right}))


if __name__ == "__main__":
    main()
