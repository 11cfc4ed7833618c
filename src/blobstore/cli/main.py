"""The way in. `--version` is answered before anything else is imported."""

import gc
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    _open_standard_streams()
    if arguments == ["--version"]:
        return _print_version()
    gc.disable()  # a tenth of the start goes into looking at modules; a command enables it again
    from blobstore.cli.interruption import BROKEN_PIPE, install_handlers, message_of, status_of

    try:
        from blobstore.cli.group import import_command, run

        import_command(arguments)
        install_handlers()
        return run(arguments)
    except KeyboardInterrupt as interrupt:  # before or after the command itself
        sys.stderr.write(f"{message_of(interrupt)}\n")
        return status_of(interrupt)
    except BrokenPipeError:  # whoever would read the error has left
        return BROKEN_PIPE


def _open_standard_streams() -> None:
    """Let a standard stream that is closed be /dev/null; otherwise a store would get its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _print_version() -> int:
    from blobstore import __version__

    try:
        os.write(1, f"blobstore {__version__}\n".encode())
    except BrokenPipeError:
        return 141
    return 0
