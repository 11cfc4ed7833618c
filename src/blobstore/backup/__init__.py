"""What is built on snapshots: streams, copies, retention, and how much space each takes.

The names are imported when they are first used: a command that needs one starts without the others.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from blobstore.backup.receiving import receive
    from blobstore.backup.sending import send
    from blobstore.backup.snapshot_identity import take_snapshot
    from blobstore.backup.space_usage import SpaceUsage, space_usage

__all__ = ["SpaceUsage", "receive", "send", "space_usage", "take_snapshot"]

_HOME_OF = {
    "SpaceUsage": "space_usage",
    "receive": "receiving",
    "send": "sending",
    "space_usage": "space_usage",
    "take_snapshot": "snapshot_identity",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
