"""`mount`: blobs as files of the host."""

import click

from blobstore.cli.condition import warnings_of
from blobstore.cli.options import PathType, StoreOptions, store_command
from blobstore.cli.output import print_result, printable


@store_command("mount", changes=True, reads_content=True)
@click.argument("directory", type=PathType(file_okay=False))
@click.option("--rw", "writable", is_flag=True, help="Let files be written to.")
@click.option("--allow-other", is_flag=True, help="Let other users read, by the files' modes.")
def command(options: StoreOptions, *, directory: str, writable: bool, allow_other: bool) -> int:
    """Show a store's blobs as files, until SIGINT, SIGTERM or umount; then unload it clean.

    A file has the name of its blob or volume, or 0x... and the id. Files are sparse; fsync
    makes what was written durable. Snapshots are read-only. A blob's attributes are the
    file's, as user.NAME.
    """
    from blobstore.fuse.blob_files import BlobFiles
    from blobstore.fuse.file_names import file_names
    from blobstore.fuse.mounting import Mounted, option_text

    given: dict[str, str | bool] = {"fsname": option_text(options.address), "ro": not writable}
    given |= {"default_permissions": True, "allow_other": allow_other, "auto_unmount": True}
    try:
        with options.open(read_only=not writable) as store:
            for warning in warnings_of(store, to_change=writable):
                click.echo(printable(warning), err=True)
            files = BlobFiles(store, file_names(store), writable=not store.read_only)
            with Mounted(files, directory, given) as mounted:
                fields = {"directory": directory, "files": sorted(files.files)}
                print_result(fields, "", as_json=options.as_json)
                click.echo(f"mounted at {directory}", err=True)
                mounted.wait()
    except KeyboardInterrupt:  # SIGTERM too
        return 0
    return 0
