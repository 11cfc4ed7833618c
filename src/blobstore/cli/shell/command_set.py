"""The commands as the shell has them: without STORE, which is open, and without some."""

from typing import Final

import click

from blobstore.cli.group import COMMANDS, PROGRAM, group, similar
from blobstore.cli.options import StoreCommand
from blobstore.cli.output import print_result

_LEFT_OUT: Final = (
    "init",
    "recover",
    "undo",
    "serve",
    "rpc",
    "top",
    "mount",
    "attach",
    "detach",
    "shell",
    "completion",
    "demo",
)
_OWN: Final = {"help": "List the commands, or describe one.", "exit": "Leave."}

SHELL_COMMANDS: Final = {
    **{name: text for name, text in COMMANDS.items() if name not in _LEFT_OUT},
    **_OWN,
}
"""Every command of the shell and its help in one line."""


_OTHER_SHELLS_EXIT: Final = ("quit", "q")


class EndOfShellError(Exception):
    """The user typed `exit`."""


class _ShellGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SHELL_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN:
            return self.commands[cmd_name]
        if cmd_name not in SHELL_COMMANDS:
            return None
        command = group.get_command(ctx, cmd_name)
        return None if command is None else _in_shell(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of an unknown one, say what could be meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = _meant_by(args[0])
            raise click.UsageError(f"{error.message} {hint}".rstrip(), ctx) from error

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write how a line looks: no program's name precedes a command here."""
        formatter.write_usage("COMMAND", "[ARGS]...")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SHELL_COMMANDS.items()))


def _meant_by(word: str) -> str:
    """Say what could be meant by a word that is no command of the shell; empty if nothing is."""
    if word == PROGRAM:
        return f"Leave out {PROGRAM!r} and STORE."
    if word in COMMANDS:
        return f"The command line has it: `{PROGRAM} {word}`."
    return similar("exit" if word in _OTHER_SHELLS_EXIT else word, SHELL_COMMANDS)


def _in_shell(command: click.Command) -> click.Command:
    if isinstance(command, StoreCommand):
        return command.in_shell()
    assert isinstance(command, click.Group)
    below = {name: _in_shell(each) for name, each in command.commands.items()}
    return click.Group(command.name, commands=below, help=command.help, no_args_is_help=False)


@click.group(
    cls=_ShellGroup,
    options_metavar="",
    add_help_option=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def shell_group() -> None:
    """Commands are as on the command line, without STORE. What follows # is a comment."""


@shell_group.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def show_help(ctx: click.Context, words: tuple[str, ...]) -> None:
    """List the commands, or describe one."""
    assert ctx.parent is not None
    described, command = ctx.parent, ctx.parent.command
    for word in words:
        found = command.get_command(described, word) if isinstance(command, click.Group) else None
        if found is None:
            hint = _meant_by(word) if word == words[0] else similar(word, _names(command))
            message = f"No such command {' '.join(words)!r}. {hint}"
            raise click.UsageError(message.rstrip())
        command = found
        described = click.Context(command, info_name=word, parent=described)
    text = described.get_help()
    print_result({"help": text}, text, as_json=ctx.obj.as_json)


def _names(command: click.Command) -> list[str]:
    return list(command.commands) if isinstance(command, click.Group) else []


@shell_group.command("exit")
def leave() -> None:
    """Leave; the end of the input does the same."""
    raise EndOfShellError
