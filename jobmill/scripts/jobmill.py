"""jobmill: the command line. Exit codes: 0; 1 a job failed; 2 usage; 100 permanent; 111 temporary; 130 Ctrl-C."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

from jobmill import __version__
from jobmill.errors import JobmillError, ServerUnavailable, nearest

COMMANDS = {  # name -> (module of jobmill.scripts, its one line); a module is imported when its command is typed
    "run": ("run", "Run job files, all at once: server, workers, progress, results."),
    "up": ("up", "Keep the pipeline up in the foreground."),
    "submit": ("submit", "Submit job files; print the ids."),
    "list": ("list", "List jobs: the live ones and those that ended last."),
    "show": ("show", "Show everything that is known of jobs."),
    "explain": ("explain", "Say why jobs are where they are."),
    "logs": ("logs", "Show what a job wrote."),
    "wait": ("wait", "Wait until jobs have ended; exit with their result."),
    "cancel": ("cancel", "Cancel jobs."),
    "retry": ("retry", "Run ended jobs again."),
    "hold": ("hold", "Hold jobs that have not begun."),
    "release": ("hold", "Release held jobs."),
    "info": ("info", "Show depths, sets, processes, the server."),
    "watch": ("watch", "Watch the pipeline live."),
    "capacity": ("capacity", "Show or change the limits."),
    "dead": ("dead", "Look after refused entries."),
    "lint": ("lint", "Check job files and jobmill.yaml."),
    "alive": ("alive", "Tell whether a worker of this host beats."),
    "systems": ("systems", "List the execution systems and check them."),
    "doctor": ("doctor", "Find what is wrong with the pipeline, and the fix."),
    "redis": ("redis", "Pass a command to the Redis server in use."),
    "completion": ("completion", "Print the shell's completion script."),
}


class _Lazy(click.Group):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"jobmill.scripts.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no such command: {args[0]}{nearest(args[0], COMMANDS)}; see jobmill --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jobmill", message="%(prog)s %(version)s")
def cli() -> None:
    """Run YAML jobs from a Redis queue wherever they belong, never twice and never lost.

    First steps: `jobmill run hello.yaml`; for a pipeline that stays, `jobmill up` in one terminal and
    `jobmill submit hello.yaml` in another.

    \b
    Exit codes: 0 all well; 1 a job failed; 2 usage, or a job or configuration
    that cannot be; 100 permanent; 111 temporary, try again; 130 Ctrl-C.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never a traceback unless JOBMILL_DEBUG is set."""
    debug = bool(os.environ.get("JOBMILL_DEBUG"))
    try:
        if argv is None:
            gc.set_threshold(20_000)  # what a command imports stays: looking for garbage in it is 5 % of a short one
            for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows escapes, and nothing breaks
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            if completing():
                return 0
        code = _guarded(argv)
        sys.stdout.flush()
        if argv is None:
            gc.freeze()  # the interpreter's end looks for garbage too, several times: 15 % of a short command
        return code
    except BrokenPipeError:  # `jobmill list | head`
        _forget_output()
        return 128 + 13
    except ServerUnavailable as error:
        if debug:
            raise
        return _fail(_with_fix(str(error)), error.exit_code)
    except JobmillError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", 100)
    except Exception as error:
        if debug:
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error}; JOBMILL_DEBUG=1 shows where, please report it", 100
        )


def _guarded(argv: Sequence[str] | None) -> int:
    try:
        with cli.make_context("jobmill", list(sys.argv[1:] if argv is None else argv)) as ctx:
            result = cli.invoke(ctx)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as told:
        told.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    return result if isinstance(result, int) else 0


def _with_fix(words: str) -> str:
    head, colon, _ = words.partition(": ")
    if not head.startswith("no Redis server answers"):
        return words
    if "at unix" not in head:
        return f"{words}; start that server, or correct redis.url or JOBMILL_REDIS_URL"
    return f"{head}: start one with: jobmill up" if colon else words


def _fail(words: str, code: int) -> int:
    try:
        print(f"jobmill: {words}", file=sys.stderr)
    except OSError:
        _forget_output()
    return code


def _forget_output() -> None:
    """Let the interpreter's last flush of a broken pipe go nowhere, silently."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def completing() -> bool:
    """Serve the shell when it asks for completions; tell whether it did."""
    asked = os.environ.get("_JOBMILL_COMPLETE")
    if not asked:
        return False
    from click.shell_completion import shell_complete

    shell_complete(cli, {}, "jobmill", "_JOBMILL_COMPLETE", asked)
    return True


if __name__ == "__main__":
    sys.exit(main())
