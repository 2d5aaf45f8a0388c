"""Environment modules that a job loads where it runs, before it starts: Environment Modules, and Lmod.

Sources: module(1) of Environment Modules 5.2; https://lmod.readthedocs.io. The shell function `module` comes from the
host's own start-up files, or from the file that JOBMILL_MODULES_INIT names.
"""

from __future__ import annotations

from collections.abc import Sequence

FAILED = 127  # exit code of a job whose modules cannot be loaded: as of a program that is not found
INIT = (
    "/etc/profile.d/modules.sh",
    "/etc/profile.d/lmod.sh",
    "/etc/profile.d/00-modulepath.sh",
    "/etc/profile.d/z00_lmod.sh",
    "/usr/share/modules/init/sh",
    "/usr/share/Modules/init/sh",
    "/usr/share/lmod/lmod/init/sh",
    "/opt/lmod/lmod/init/sh",
)
# Older versions tell an error in words alone, and return 0: what loads nothing new has failed, too.
_SCRIPT = f"""\
jobmill_fail() {{
  [ -s "$JOBMILL_ERROR_FILE" ] || echo "$1" > "$JOBMILL_ERROR_FILE"
  cat "$JOBMILL_ERROR_FILE" >&2
  exit {FAILED}
}}
jobmill_define() {{
  for jobmill_init in "${{JOBMILL_MODULES_INIT:-}}" "${{MODULESHOME:-/nowhere}}/init/sh" {" ".join(INIT)}; do
    type module >/dev/null 2>&1 && return
    if [ -r "$jobmill_init" ]; then . "$jobmill_init" >/dev/null 2>&1; fi
  done
  type module >/dev/null 2>&1
}}
jobmill_load() {{
  jobmill_before=${{LOADEDMODULES:-}}
  module load "$1" 2> "$JOBMILL_ERROR_FILE" || jobmill_fail "module load $1 failed"
  case ":$jobmill_before:" in
    *":$1:"* | *":$1/"*) ;;
    *) [ "$jobmill_before" != "${{LOADEDMODULES:-}}" ] || jobmill_fail "module load $1 loaded nothing" ;;
  esac
  cat "$JOBMILL_ERROR_FILE" >&2
  rm -f "$JOBMILL_ERROR_FILE"
}}
jobmill_define || jobmill_fail \
  "there are no environment modules on $(uname -n): set JOBMILL_MODULES_INIT to the file that defines them"
jobmill_count=$1
shift
while [ "$jobmill_count" -gt 0 ]; do
  jobmill_load "$1"
  shift
  jobmill_count=$((jobmill_count - 1))
done
exec "$@"
"""


def loading(names: Sequence[str], argv: Sequence[str]) -> tuple[str, ...]:
    """Return the words that load these modules, in order, and become ``argv``.

    Where one cannot be loaded the job ends with `FAILED`, and the words for it are its error message.
    """
    return ("/bin/sh", "-c", _SCRIPT, "modules", str(len(names)), *names, *argv)
