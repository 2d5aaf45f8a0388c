"""The commands in Torque's form that Slurm has (Debian's slurm-wlm-torque), over a Slurm of the tests.

Installing that package would remove Grid Engine, which has commands of the same names: it is fetched and unpacked, with
what it needs, into a folder of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from farm import PATH, Missing
from slurm_farm import provide as provide_slurm

PACKAGES = ("slurm-wlm-torque", "libslurm-perl", "libslurmdb-perl", "libswitch-perl", "libslurm38")
SLURM = ("sbatch", "salloc", "srun", "squeue", "scontrol", "scancel")  # are looked for beside the scripts


def provide() -> Path:
    """Return the folder with the unpacked packages, fetched on the first call; raise Missing where that cannot be."""
    provide_slurm()
    place = Path(tempfile.gettempdir()) / f"jobmill-slurm-torque.{os.geteuid()}"
    if shutil.which("apt-get") is None:
        raise Missing(f"not on this machine; fetch and unpack: apt-get download {' '.join(PACKAGES)}")
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "bin" / "qsub").exists():
            own = Path(tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name}."))
            try:
                _unpack(own)
                shutil.rmtree(place, ignore_errors=True)
                own.rename(place)
            except subprocess.SubprocessError as error:
                shutil.rmtree(own, ignore_errors=True)
                raise Missing(f"cannot be fetched: apt-get update; apt-get download {' '.join(PACKAGES)}") from error
    return place


def _unpack(folder: Path) -> None:
    folder.chmod(0o755)

    def run(*words: str) -> None:
        subprocess.run(words, cwd=folder, capture_output=True, timeout=300, check=True)

    try:
        run("apt-get", "download", "-q", *PACKAGES)
    except subprocess.CalledProcessError:  # lists that are not there, or too old
        run("apt-get", "update", "-q")
        run("apt-get", "download", "-q", *PACKAGES)
    for package in folder.glob("*.deb"):
        run("dpkg", "-x", str(package), str(folder))
        package.unlink()
    bin_ = folder / "bin"
    bin_.mkdir()
    for name in ("qsub", "qstat", "qdel", "qrls", "qhold"):  # by what they are called, they find Slurm's
        shutil.copy(folder / "usr/bin" / name, bin_ / name)
    for name in SLURM:
        if found := shutil.which(name, path=PATH):
            (bin_ / name).symlink_to(found)


def environment(place: Path) -> dict[str, str]:
    """Return what the commands need to find their libraries."""
    libraries = [str(it.parent) for it in place.glob("usr/lib/*/libslurm.so.*")]
    perl = [str(it.parent) for it in place.glob("usr/lib/*/perl5/*/Slurm.pm")] + [str(place / "usr/share/perl5")]
    return {"LD_LIBRARY_PATH": libraries[0] if libraries else "", "PERL5LIB": ":".join(perl)}


def main() -> int:
    """Fetch what is missing; say what is there, and exit with 1 when CI lacks it."""
    try:
        place = provide()
    except (Missing, subprocess.SubprocessError) as error:
        print(f"torque   missing: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    print(f"torque   {place / 'bin' / 'qsub'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
