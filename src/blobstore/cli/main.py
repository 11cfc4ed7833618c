"""The way in. `--version` is answered before anything else is imported."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from blobstore import __version__

        sys.stdout.write(f"blobstore {__version__}\n")
        return 0
    from blobstore.cli.group import run

    return run(arguments)
