"""jobmill completion"""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> int:
    """Print the completion script of a shell.

    \b
    bash: eval "$(jobmill completion bash)"       in ~/.bashrc
    zsh:  eval "$(jobmill completion zsh)"        in ~/.zshrc
    fish: jobmill completion fish > ~/.config/fish/completions/jobmill.fish
    """
    from click.shell_completion import get_completion_class

    from jobmill.scripts.jobmill import cli

    kind = get_completion_class(shell)
    assert kind is not None  # click has these three
    click.echo(kind(cli, {}, "jobmill", "_JOBMILL_COMPLETE").source())
    return 0
