"""What `jobmill submit` prints: ids, or what would become of each job."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jobmill.client import Client
from jobmill.config import Config
from jobmill.jobs.spec import JobSpec
from jobmill.ledger.membership import missing_roles
from jobmill.screen import terminal
from jobmill.screen.session import note_earlier


def submit(client: Client, specs: Sequence[JobSpec], *, as_json: bool) -> int:
    """Submit and print the ids; say so when nobody is there to take them."""
    specs = [client.complete(spec) for spec in specs]
    note_earlier(client, specs)
    for job_id in client.send(specs):
        if as_json:
            terminal.say_json({"id": job_id})
        else:
            terminal.say(job_id)
    if gone := missing_roles(client.record):
        terminal.note(f"no {', no '.join(gone)} is alive: the jobs wait until one is (jobmill up)")
    return 0


def dry_run(client: Client, config: Config, specs: Sequence[JobSpec], *, as_json: bool) -> int:
    """Print each job in its canonical form, the system that the rules choose, and why; 2 when one would be refused."""
    from jobmill.jobs.quantity import format_duration
    from jobmill.manager.sites import Sites
    from jobmill.rules.site import load_site_plugins

    load_site_plugins(config.source)
    dispatcher = Sites(config).dispatcher()
    refused = 0
    for spec in specs:
        whole = client.complete(spec) if spec.id is not None else client.complete(spec).with_(id=None)
        choice = dispatcher.choose(whole)
        refused += choice.system is None
        values = json.loads(whole.canonical())
        if as_json:
            terminal.say_json(
                {"spec": values, "system": choice.system, "route": choice.route, "refusals": list(choice.refusals)}
            )
            continue
        import yaml

        terminal.say(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000).rstrip())
        if spec.resources.walltime:
            terminal.say(f"# walltime: {format_duration(spec.resources.walltime)}")
        if choice.system is None:
            terminal.say(f"# refused: {choice.message}")
        else:
            named = "the job names it" if spec.system else "there is only one that it can run on"
            terminal.say(f"# system: {choice.system} ({f'route {choice.route}' if choice.route else named})")
            for reason in choice.refusals:
                terminal.say(f"# not by {reason}")
        terminal.say("---")
    return 2 if refused else 0
