"""A job's command put into a container by another program, where a system does not make containers itself.

The option ``container`` of a system: the name of a shipped template, or one of the site's own, as text (split into
words as a shell would) or as a list of words. Nothing goes through a shell. In it stand for

    {image}         the image that the job names
    {workdir}       its working directory       {folder}   its run folder: both are seen at their own places
    {uid} {gid}     of the worker's user
    {#variables}    the names of the job's variables, each after a word of its own: `--env {#variables}`
    {#command}      the command, word for word
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobmill.errors import ConfigError, PermanentError, nearest
from jobmill.systems.system import Submission

_SEEN = "--volume {folder}:{folder} --volume {workdir}:{workdir} --workdir {workdir}"
_RUN = (
    "run --rm --init --pull never --network none --security-opt no-new-privileges --user {uid}:{gid} --entrypoint= "
    "--env HOME={folder}"
)
TEMPLATES = {
    "apptainer": "apptainer exec --contain --pid --bind {folder} --bind {workdir} --pwd {workdir} {image} {#command}",
    "docker": f"docker {_RUN} {_SEEN} --env {{#variables}} {{image}} {{#command}}",
    "podman": f"podman {_RUN} --userns keep-id {_SEEN} --env {{#variables}} {{image}} {{#command}}",
}
OF_A_RUN = ("JOB_ID", "RUN", "CPUS", "WORKDIR", "RUN_FOLDER", "ERROR_FILE", "RETURN_FILE", "TOKEN")
_PLACE = re.compile(r"\{(#?\w*)\}")
_PLACES = ("image", "workdir", "folder", "uid", "gid")


@dataclass(frozen=True)
class ContainerTemplate:
    """Words around a command. ``engine``: the shipped template that it is, else None."""

    words: tuple[str, ...]
    engine: str | None = None

    @classmethod
    def of(cls, where: str, value: Any) -> ContainerTemplate | None:
        """Read the option of a system, None for none; raise ConfigError, which begins with ``where``."""
        if value is None:
            return None
        text = TEMPLATES.get(value, value) if isinstance(value, str) else value
        try:
            words = tuple(shlex.split(text) if isinstance(text, str) else text)
        except (ValueError, TypeError) as bad:
            raise ConfigError(f"{where}.container: cannot be split into words ({bad}); write a list of them") from None
        if not words or not all(isinstance(word, str) and word for word in words):
            raise ConfigError(f"{where}.container: must be one of {', '.join(TEMPLATES)}, or the words of a command")
        if len(words) == 1:
            hint = nearest(words[0], TEMPLATES)
            raise ConfigError(f"{where}.container: {words[0]!r} is no template{hint}; known: {', '.join(TEMPLATES)}")
        for word in words:
            for name in _PLACE.findall(word):
                if name not in _PLACES and word not in ("{#command}", "{#variables}"):
                    known = ", ".join(f"{{{place}}}" for place in (*_PLACES, "#variables", "#command"))
                    raise ConfigError(f"{where}.container: {{{name}}} in {word!r} stands for nothing; known: {known}")
        for place in ("{image}", "{#command}"):
            if not any(place in word for word in words):
                raise ConfigError(f"{where}.container: {place} is missing: the job's own would not be run")
        if words[0] == "{#variables}":
            raise ConfigError(f"{where}.container: {{#variables}} needs a word before it, such as --env")
        return cls(words, value if isinstance(value, str) and value in TEMPLATES else None)

    def applied(self, it: Submission, folder: str) -> Submission:
        """Return a launch whose command runs in its container; raise PermanentError for one that cannot.

        ``folder``: its run folder. The launch has no container left for the system to make.
        """
        asked = it.container or {}
        if not asked.get("image"):
            raise PermanentError(f"job {it.job_id}: container.image is missing; name the image that it runs in")
        if self.engine and asked.get("engine") not in (None, self.engine):
            raise PermanentError(f"job {it.job_id}: container.engine: this system runs containers by {self.engine}")
        for key in ("volumes", "network"):
            if asked.get(key):
                raise PermanentError(
                    f"job {it.job_id}: container.{key} is for the site to say, in this system's template `container`"
                )
        values = {"image": str(asked["image"]), "workdir": it.workdir or folder, "folder": folder}
        values |= {"uid": str(os.getuid()), "gid": str(os.getgid())}
        variables = [*(f"JOBMILL_{name}" for name in OF_A_RUN), *sorted(it.env)]
        return replace(it, argv=self._filled(values, variables, it.argv), container=None)

    def _filled(self, values: dict[str, str], variables: Sequence[str], command: Sequence[str]) -> tuple[str, ...]:
        argv: list[str] = []
        for word in self.words:
            if word == "{#command}":
                argv += command
            elif word == "{#variables}":
                option = argv.pop()
                argv += [part for name in variables for part in (option, name)]
            else:
                argv.append(_PLACE.sub(lambda place: values[place[1]], word))
        return tuple(argv)
