"""The job whose host is another than ours, and may share no files with us: its paths are that host's then."""

from __future__ import annotations

from collections.abc import Mapping

from jobmill.jobs.job import Job


class ElsewhereJob(Job):
    """A job on another host.

    Where that host shares no files with us (`apart`) a path that stands below a folder of the system's `paths` is
    translated. The folder in which `submit` was typed is nobody's wish, so the job runs there only where it is seen;
    else in its run folder. ``~`` is the home folder there.
    """

    @property
    def apart(self) -> bool:
        """True where its system shares no files with us."""
        return self.system.stages

    def workdir(self) -> str | None:
        """Return where it runs there; None: in its run folder."""
        wanted = self.spec.workdir
        if wanted is None or (self.apart and wanted == self.spec.submit_dir and self._translated(wanted) is None):
            return None
        return self.absolute(wanted, self.folder)

    def absolute(self, path: str, base: str) -> str:
        """Return a path as the host there knows it; what is not absolute stays so: it is relative to the run folder."""
        if not self.apart:
            return super().absolute(path, base)
        if path.startswith("/"):
            return self._translated(path) or path
        if path.startswith("~") or base == self.folder:
            return path
        return f"{base}/{path}"

    def argv(self) -> tuple[str, ...]:
        """Return the words to execute; the stepper is the one that was sent there."""
        if self.spec.steps:
            return ("/bin/sh", "-c", 'exec "$JOBMILL_STEPPER_PYTHON" -I -S "$JOBMILL_STEPPER" "$JOBMILL_RUN_FOLDER"')
        return super().argv()

    def files(self) -> Mapping[str, str]:
        """Return as well where it runs, for whoever looks for its outputs afterwards."""
        workdir = self.workdir() if self.apart else None
        return {**super().files(), **({} if workdir is None else {"workdir": f"{workdir}\n"})}

    def _translated(self, path: str) -> str | None:
        paths: Mapping[str, str] = getattr(self.system, "paths", {})
        for here in sorted(paths, key=len, reverse=True):
            if path == here or path.startswith(f"{here.rstrip('/')}/"):
                return f"{paths[here]}/{path[len(here) :].lstrip('/')}".rstrip("/") or "/"
        return None
