"""A small Linux for a virtual machine: Debian's kernel, BusyBox, and an ext4 root file system.

The first program of the root file system counts the lines of its log, and says so on the console.
With `task=write` on the kernel's command line it goes on: it writes a line, makes it durable,
says so, again and again.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_META_PACKAGE: Final = "linux-image-cloud-amd64"
_BUSYBOX: Final = "busybox-static"
_PROGRAMS: Final = {  # with Debian's packages
    "apt-get": "apt", "dpkg-deb": "dpkg", "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
}  # fmt: skip
_MODULES: Final = (  # in the order of their dependencies; all else is built in
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "nbd",
)
_ROOT_SIZE: Final = "64M"
_PATH: Final = f"{os.environ['PATH']}:/usr/sbin:/sbin"

_FIRST_OF_ALL: Final = f"""#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in {" ".join(_MODULES)}; do insmod /modules/$module.ko; done
if grep -q task=write /proc/cmdline; then mode=rw; else mode=ro; fi
mount -t ext4 -o $mode /dev/vda /root || mount -t ext4 -o ro,noload /dev/vda /root
exec switch_root /root /sbin/init
"""
_INIT: Final = """#!/bin/sh
mount -t proc proc /proc
count=0
while read -r line; do
    count=$((count + 1))
    [ "$line" = "line $count" ] || echo "VM: line $count is wrong: $line"
done </log
echo "VM: booted with $count lines"
while grep -q task=write /proc/cmdline; do
    count=$((count + 1))
    echo "line $count" | dd of=/log oflag=append conv=notrunc,fsync 2>/dev/null || break
    echo "VM: line $count is durable"
done
poweroff -f
"""
_DIRECTORIES: Final = ("bin", "dev", "proc", "root", "sbin", "modules")


def make_small_linux(directory: Path) -> None:
    """Make `vmlinuz`, `initrd.img` and `root.img` in a directory.

    Raises:
        SystemExit: A program or a package is missing.
    """
    _make_root(directory, make_kernel(directory))


def make_kernel(directory: Path) -> Path:
    """Make `vmlinuz` and `initrd.img` in a directory; return the path of BusyBox.

    Raises:
        SystemExit: A program or a package is missing.
    """
    missing = [_PROGRAMS[name] for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        sys.exit(f"needs Debian's packages {', '.join(missing)}")
    unpacked = directory / "packages"
    unpacked.mkdir(parents=True)
    for package in (_kernel_package(), _BUSYBOX):
        _run(
            "apt-get",
            "download",
            "-qq",
            "-o",
            "APT::Sandbox::User=root",
            package,
            directory=directory,
        )
    for archive in directory.glob("*.deb"):
        _run("dpkg-deb", "-x", str(archive), str(unpacked))
    (kernel,) = unpacked.glob("boot/vmlinuz-*")
    kernel.rename(directory / "vmlinuz")
    busybox = unpacked / "bin/busybox"
    _make_initramfs(directory, busybox, unpacked)
    return busybox


def _kernel_package() -> str:
    """Return the newest kernel's package, which the package without a version depends on."""
    shown = _run("apt-cache", "depends", _META_PACKAGE)
    (name,) = [line.split()[1] for line in shown.splitlines() if "Depends: linux-image" in line]
    return name


def make_tree(directory: Path, busybox: Path, first: str, program: str) -> None:
    """Make the files of a root file system: BusyBox, and the program that runs first."""
    for name in _DIRECTORIES:
        (directory / name).mkdir(parents=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for applet in _run(str(busybox), "--list").split():
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("/bin/busybox")
    (directory / first).write_text(program)
    (directory / first).chmod(0o755)


def _make_initramfs(directory: Path, busybox: Path, unpacked: Path) -> None:
    tree = directory / "initramfs"
    make_tree(tree, busybox, "init", _FIRST_OF_ALL)
    for name in _MODULES:
        (module,) = unpacked.glob(f"lib/modules/*/kernel/drivers/**/{name}.ko")
        shutil.copy(module, tree / "modules")
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    command = [str(busybox), "cpio", "-o", "-H", "newc"]
    with open(directory / "initrd.img", "wb") as archive:
        subprocess.run(
            command, input=names.encode(), stdout=archive, stderr=subprocess.DEVNULL,
            cwd=tree, check=True,
        )  # fmt: skip


def _make_root(directory: Path, busybox: Path) -> None:
    tree = directory / "root"
    make_tree(tree, busybox, "sbin/init", _INIT)
    (tree / "log").touch()
    make_file_system(directory / "root.img", tree, _ROOT_SIZE)


def make_file_system(image: Path, tree: Path, size: str) -> None:
    """Make an image with the files of a tree."""
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image), size)


def _run(*command: str, directory: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, "PATH": _PATH}, stdout=subprocess.PIPE,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout
