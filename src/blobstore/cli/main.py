"""The way in. `--version` is answered before anything else is imported."""

import gc
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from blobstore import __version__

        sys.stdout.write(f"blobstore {__version__}\n")
        return 0
    gc.disable()  # a tenth of the start goes into looking at modules; a command enables it again
    from blobstore.cli.interruption import install_handlers, message_of, status_of

    try:
        from blobstore.cli.group import import_command, run

        import_command(arguments)
        install_handlers()
        return run(arguments)
    except KeyboardInterrupt as interrupt:  # before or after the command itself
        sys.stderr.write(f"{message_of(interrupt)}\n")
        return status_of(interrupt)
