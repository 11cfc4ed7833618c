"""`completion`: what makes a shell complete our commands."""

import click
from click.shell_completion import add_completion_class, get_completion_class

from blobstore.cli.bash_completion import BashComplete
from blobstore.cli.group import COMPLETION_VARIABLE, PROGRAM
from blobstore.cli.options import json_option
from blobstore.cli.output import print_result


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
def command(shell: str, as_json: bool) -> None:
    """Print the script that makes SHELL complete commands, options and blob ids.

    For bash: eval "$(blobstore completion bash)". The guide to the command line shows
    the line for each shell.
    """
    add_completion_class(BashComplete)
    completion = get_completion_class(shell)
    assert completion is not None
    text = completion(click.Command(PROGRAM), {}, PROGRAM, COMPLETION_VARIABLE).source()
    print_result({"shell": shell, "script": text}, text, as_json=as_json)
