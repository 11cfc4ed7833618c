"""What a command's JSON looks like: its names, in order, and their kinds."""

from typing import Any, Final

ID: Final = int
OPTIONAL_ID: Final = (int, type(None))
HEX_OR_NULL: Final = (str, type(None))

PARENT: Final = {
    "id": ID,
    "thin": bool,
    "allocated_clusters": int,
    "parent": OPTIONAL_ID,
    "external_snapshot": HEX_OR_NULL,
}
DIFF: Final = {"ranges": [[int]]}
USAGE: Final = {
    "blobs": [{
        "id": ID, "name": (str, type(None)), "size": int, "refer": int, "own": int, "shared": int,
        "freed": (int, type(None)), "by_snapshots": (int, type(None)),
    }],
}  # fmt: skip
PRUNED: Final = {
    "id": ID, "dry_run": bool,
    "kept": [{"id": ID, "name": str, "taken_at": (int, type(None)), "reasons": [str]}],
    "deleted": [{"id": ID, "name": str, "taken_at": int}],
}  # fmt: skip
COPIED: Final = {"blobs": [{"source": ID, "id": ID}]}
SENT: Final = {"id": ID, "data": int, "stream": int}
UNFINISHED: Final = {"unfinished": [{"id": ID, "offset": int, "token": str}]}
UNFINISHED_BLOBS: Final = [{"id": ID, "command": str}]
RANGE: Final = {"id": ID, "offset": int, "length": int}
IMPORTED_CHAIN: Final = {"id": ID, "snapshots": [{"id": ID}]}
IMPORTED_CHAIN_OF_VOLUMES: Final = {
    "id": ID, "name": str, "uuid": str, "snapshots": [{"id": ID, "name": str, "uuid": str}],
}  # fmt: skip
EXPORTED_CHAIN: Final = {"id": ID, "files": [str]}
VERIFIED_IMPORT: Final = {"id": ID, "sha256": str}
VERIFIED_EXPORT: Final = {"id": ID, "length": int, "sha256": str}
BENCH: Final = {
    "size": int, "direct": bool,
    "rows": [{"work": str, "requests": int, "microseconds": float, "bytes_per_second": int}],
}  # fmt: skip
STORE: Final = {
    "version": int, "clean": bool, "size": int, "cluster_size": int, "page_size": int,
    "io_unit_size": int, "total_clusters": int, "data_clusters": int, "free_clusters": int,
    "md_start": int, "md_len": int, "free_md_pages": int, "bstype": str,
    "super_blob": OPTIONAL_ID, "blobs": int, "max_growable_size": int,
}  # fmt: skip
MAP: Final = {
    "total_clusters": int,
    "cluster_size": int,
    "runs": [{"first": int, "count": int, "owner": (int, str)}],
    "tree": [{"id": ID, "depth": int, "name": (str, type(None)), "parent": OPTIONAL_ID}],
}


def conforms(value: Any, schema: Any) -> bool:
    """Say whether a value has a shape: names and theirs, a list of one, or kinds."""
    if isinstance(schema, dict):
        return (
            isinstance(value, dict)
            and list(value) == list(schema)
            and all(conforms(value[name], below) for name, below in schema.items())
        )
    if isinstance(schema, list):
        return isinstance(value, list) and all(conforms(each, schema[0]) for each in value)
    kinds = schema if isinstance(schema, tuple) else (schema,)
    return type(value) in kinds  # True is no number here
