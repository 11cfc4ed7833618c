"""Write the man pages: one of the program and one of each command, from what --help prints.

python scripts/man_pages.py build/man
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from blobstore import __version__
from blobstore.cli.group import COMMANDS, PROGRAM, group
from blobstore.cli.options import COMMON

_STATUSES: Final = (
    ("0", "Done."),
    ("1", "The command failed; one line on standard error says what and why."),
    ("2", "The command line is wrong."),
    ("130, 143", "A SIGINT or a SIGTERM ended the command, and what it had begun was removed."),
)
_CHECK_STATUSES: Final = (
    ("0", "No problems."),
    ("1", "Problems were repaired."),
    ("4", "Problems are left."),
    ("8", "The store could not be checked."),
    ("16", "The command line is wrong."),
)
_WITH_STATUSES_OF_FSCK: Final = ("check", "repair")


def pages() -> Iterator[tuple[str, str]]:
    """Yield (file name, text) of every page."""
    with click.Context(group, info_name=PROGRAM) as context:
        yield f"{PROGRAM}.1", _page(PROGRAM, context, "\n".join(_command_list()))
        for name, summary in COMMANDS.items():
            command = group.get_command(context, name)
            assert command is not None
            with click.Context(command, info_name=name, parent=context) as below:
                yield f"{PROGRAM}-{name}.1", _page(f"{PROGRAM}-{name}", below, "", summary)


def _page(title: str, context: click.Context, more: str, summary: str = "") -> str:
    help_text = inspect.cleandoc(context.command.help or "")
    first = summary or help_text.split("\n\n")[0].splitlines()[0]
    name = context.info_name or PROGRAM
    statuses = _CHECK_STATUSES if name in _WITH_STATUSES_OF_FSCK else _STATUSES
    parts = [
        f'.TH "{_escape(title.upper())}" "1" "" "{PROGRAM} {_escape(__version__)}"',
        f".SH NAME\n{_escape(title)} \\- {_escape(first.rstrip('.'))}",
        f".SH SYNOPSIS\n{_synopsis(context)}",
        f".SH DESCRIPTION\n{_paragraphs(help_text)}",
        *_subcommands(context),
        ".SH OPTIONS",
        *_options(context),
        *([more] if more else []),
        ".SH EXIT STATUS",
        *(f".TP\n{_escape(status)}\n{_escape(meaning)}" for status, meaning in statuses),
        f".SH SEE ALSO\n{_see_also(name)}",
    ]
    return "\n".join(parts) + "\n"


def _synopsis(context: click.Context) -> str:
    pieces = context.command.collect_usage_pieces(context)
    return f".B {_escape(context.command_path)}\n{_escape(' '.join(pieces))}"


def _subcommands(context: click.Context) -> Iterator[str]:
    """Yield what a command such as `xattr` has below it, with the options of each."""
    if not isinstance(context.command, click.Group) or context.command is group:
        return
    yield ".SH COMMANDS"
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=context) as below:
            yield f".SS {_escape(' '.join([name, *command.collect_usage_pieces(below)]))}"
            yield _paragraphs(inspect.cleandoc(command.help or ""))
            yield from _options(below)


def _options(context: click.Context) -> Iterator[str]:
    for param in sorted(context.command.get_params(context), key=_is_common):
        record = param.get_help_record(context) if isinstance(param, click.Option) else None
        if record is not None:
            yield f".TP\n\\fB{_escape(record[0])}\\fR\n{_escape(record[1]) or '.'}"


def _is_common(param: click.Parameter) -> bool:
    """Say whether all commands have it; those come last."""
    return not COMMON.isdisjoint(param.opts)


def _command_list() -> Iterator[str]:
    yield ".SH COMMANDS"
    for name, summary in COMMANDS.items():
        yield f".TP\n.BR {PROGRAM}\\-{_escape(name)} (1)\n{_escape(summary)}"


def _see_also(name: str) -> str:
    if name == PROGRAM:
        return f".BR {PROGRAM}\\-init (1)"
    return f".BR {PROGRAM} (1)"


def _paragraphs(text: str) -> str:
    """Return paragraphs; `\b` says that the lines of one stay as they are."""
    shown = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        if lines[0] == "\b":
            shown.append(".nf\n" + "\n".join(map(_escape, lines[1:])) + "\n.fi")
        else:
            shown.append(_escape(" ".join(lines)))
    return "\n.PP\n".join(shown)


def _escape(text: str) -> str:
    """Return text as roff shows it unchanged: a dash is what can be typed."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return re.sub(r"^([.'])", r"\\&\1", escaped)


def main(directory: str) -> None:
    """Write all pages to a directory, and remove those of other commands."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    written = set()
    for name, text in pages():
        (target / name).write_text(text, encoding="utf-8")
        written.add(name)
    for path in target.glob(f"{PROGRAM}*.1"):
        if path.name not in written:
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1])
