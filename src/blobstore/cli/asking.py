"""Questions before something is destroyed."""

import sys

import click

from blobstore.errors import BlobstoreError, ReadOnlyError


def is_interactive() -> bool:
    """Say whether there is a user who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def refuse_unasked(what: str, *, yes: bool, refusal: BlobstoreError | None = None) -> None:
    """Refuse at once what `confirm` would refuse later, when the store is open.

    Raises:
        BlobstoreError: There is no user to ask, and `yes` was not given (`refusal`, or EPERM).
    """
    if not yes and not is_interactive():
        raise refusal or ReadOnlyError(f"{what}: not on a terminal, --yes is needed")


def confirm(what: str, *, yes: bool, refusal: BlobstoreError | None = None) -> None:
    """Ask before something is destroyed; `what` is what would happen, such as "delete it".

    Raises:
        BlobstoreError: As `refuse_unasked`.
        click.Abort: The answer was no.
    """
    refuse_unasked(what, yes=yes, refusal=refusal)
    if not yes:
        click.confirm(f"{what}?", abort=True, err=True)
