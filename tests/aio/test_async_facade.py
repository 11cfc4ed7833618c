"""The asyncio facade at work: what a program sees of it."""

import asyncio
import gc
import random
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import (
    AsyncBlob,
    AsyncBlobstore,
    AsyncVolume,
    AsyncVolumeStore,
    Blobstore,
    BusyError,
    ClosedError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    MemoryDevice,
    NotFoundError,
    PoisonedError,
    VolumeStore,
)
from blobstore.units import KIB, MIB
from tests.aio.loops import LOOPS, run

CLUSTER: Final = 4 * KIB
TASKS: Final = 10_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


@pytest.mark.parametrize("loop", LOOPS)
def test_volumes_snapshots_and_clones_are_those_that_a_blocking_program_sees(
    path: Path, loop: str
) -> None:
    async def main() -> None:
        async with AsyncVolumeStore.create(path, name="vms", size="64MiB") as vms:
            debian = await vms.create_volume("debian", size="8MiB", thin=True)
            await debian.write(b"hello", offset=0)
            monday = await debian.snapshot("debian@monday")
            await monday.clone("web")
        async with AsyncVolumeStore.open(path) as vms:
            assert await (await vms.volume("web")).read(5, offset=0) == b"hello"
            assert [info.name for info in vms] == ["debian", "debian@monday", "web"]

    run(main(), loop)
    with VolumeStore.open(path) as vms:
        assert vms["web"].read(5) == b"hello"
        assert vms["web"].info.parent == vms["debian@monday"].id


def test_what_opens_is_awaited_or_used_in_async_with(path: Path) -> None:
    async def main() -> None:
        store = await AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER)
        blob = await store.create_blob(CLUSTER, name="one")
        async with store.open_blob(name="one") as again:
            assert again.id == blob.id
        assert again.closed
        assert not blob.closed
        with pytest.raises(BusyError):
            await store.unload()
        await blob.close()
        await store.unload()
        assert store.closed
        with pytest.raises(ClosedError):
            await blob.read(1)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_everything_that_opens_can_be_a_task_of_its_own(path: Path, loop: str) -> None:
    async def main() -> None:
        task = asyncio.create_task
        vms = await task(AsyncVolumeStore.create(path, name="vms", size="64MiB", cluster_size=MIB))
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(vms.create_volume(f"v{n}", size=CLUSTER)) for n in range(9)]
        web = made[0].result()
        monday = await task(web.snapshot("web@monday"))
        clone = await task(monday.clone("clone"))
        opened = [
            await task(vms.open_volume("web@monday")),
            await task(vms.open_blob(monday.id)),
            await task(vms.volume("clone")),
        ]
        assert [each.id for each in opened] == [monday.id, monday.id, clone.id]
        await vms.close()
        again = await task(AsyncVolumeStore.open(path))
        assert len([info.name for info in again]) == 11
        await again.close()

        store = await task(AsyncBlobstore.create(MemoryDevice(4 * MIB), cluster_size=CLUSTER))
        blob = await task(store.create_blob(CLUSTER, name="one"))
        snapshot = await task(blob.snapshot("two"))
        await task(snapshot.clone("three"))
        assert (await task(store.open_blob(name="two"))).id == snapshot.id
        await store.close()
        await (await task(AsyncBlobstore.open(path))).close()

    run(main(), loop)


def test_a_cancelled_task_that_opens_leaves_nothing_open(path: Path) -> None:
    async def main() -> None:
        async with AsyncVolumeStore.create(path, name="vms", size="64MiB", cluster_size=MIB) as vms:
            tasks = [
                asyncio.create_task(vms.create_volume(f"v{n}", size=CLUSTER)) for n in range(9)
            ]
            await asyncio.sleep(0)
            for task in tasks:
                assert "_opened_volume" in repr(task)
                task.cancel()
            assert all(
                isinstance(each, asyncio.CancelledError)
                for each in await asyncio.gather(*tasks, return_exceptions=True)
            )
            await vms.unload()  # refuses while a volume is open

    run(main(), "asyncio")


def test_an_opening_that_nobody_awaits_is_ended_by_close(path: Path) -> None:
    async def main() -> None:
        AsyncVolumeStore.create(path, name="vms", size="64MiB").close()
        assert not path.exists()

    run(main(), "asyncio")


@pytest.mark.parametrize("loop", LOOPS)
def test_ten_thousand_tasks_share_a_store(path: Path, loop: str) -> None:
    """Each writes, reads and flushes a piece of its own, some of it thin."""

    async def one(blob: AsyncBlob, number: int) -> None:
        data = number.to_bytes(4, "big") * 16
        await blob.write(data, number * 64)
        if number % 1000 == 0:
            await blob.flush()
        assert await blob.read(64, number * 64) == data

    async def main() -> None:
        async with AsyncBlobstore.create(path, size="16MiB", cluster_size=CLUSTER) as store:
            blob = await store.create_blob(TASKS * 64, thin=True)
            async with asyncio.TaskGroup() as tasks:
                for number in range(TASKS):
                    tasks.create_task(one(blob, number))

    run(main(), loop)
    with Blobstore.open(path) as store:
        content = store.open_blob(store.blob_ids()[0]).read(TASKS * 64)
    assert content == b"".join(number.to_bytes(4, "big") * 16 for number in range(TASKS))


def test_a_task_that_reads_cached_data_lets_others_run(path: Path) -> None:
    async def main() -> None:
        async with AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER) as store:
            blob = await store.create_blob(CLUSTER)
            await blob.write(b"x" * CLUSTER)
            ran = asyncio.Event()
            asyncio.get_running_loop().call_soon(ran.set)
            for _ in range(1000):
                await blob.read(1)
                if ran.is_set():
                    return
            pytest.fail("1,000 reads, and nothing else has run")

    run(main())


def test_a_store_of_another_event_loop_is_refused(path: Path) -> None:
    async def make() -> tuple[AsyncBlobstore, AsyncBlob]:
        store = await AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER)
        return store, await store.create_blob(CLUSTER)

    async def use() -> None:
        for call in (blob.read(1), blob.write(b"x"), blob.flush(), store.flush()):
            with pytest.raises(RuntimeError, match="another event loop"):
                await call
        with pytest.raises(RuntimeError, match="another event loop"):
            store.blob_ids()

    with asyncio.Runner() as runner:
        store, blob = runner.run(make())
        thread = threading.Thread(target=run, args=(use(),))
        thread.start()
        thread.join()
        assert runner.run(blob.read(1)) == b"\0"
        runner.run(store.close())


def test_two_tasks_that_want_a_volume_get_the_same_one(path: Path) -> None:
    async def main() -> None:
        async with AsyncVolumeStore.create(path, name="vms", size="64MiB") as vms:
            async with vms.create_volume("web", size="4MiB"):
                pass
            first, second = await asyncio.gather(vms.volume("web"), vms.volume("web"))
            assert first is second
            await vms.delete_volume("web")
            assert "web" not in vms
            with pytest.raises(NotFoundError):
                await vms.volume("web")

    run(main())


def test_a_name_is_given_once_although_many_tasks_want_it(path: Path) -> None:
    async def main() -> None:
        async with AsyncVolumeStore.create(path, name="vms", size="64MiB") as vms:
            wanted = [vms.create_volume("web").__aenter__() for _ in range(20)]
            found = await asyncio.gather(*wanted, return_exceptions=True)
            assert sum(isinstance(one, AsyncVolume) for one in found) == 1
            assert sum(isinstance(one, ExistsError) for one in found) == 19

    run(main())


def test_an_external_snapshot_is_a_blob_of_another_store_on_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        golden = AsyncBlobstore.create(tmp_path / "golden.img", size="4MiB", cluster_size=CLUSTER)
        disks = AsyncBlobstore.create(tmp_path / "disks.img", size="4MiB", cluster_size=CLUSTER)
        async with golden as golden_store, disks as store:
            image = await golden_store.create_blob(2 * CLUSTER)
            await image.write(b"golden" * 1000)
            await store.register_external(b"image", image)
            clone = await store.create_blob(2 * CLUSTER, external_snapshot=b"image")
            assert clone.external is image
            assert await clone.read(6000) == b"golden" * 1000
            await clone.write(b"mine", 3)
            assert await clone.read(10) == b"golmineold"
            await clone.inflate()
            await store.register_external(b"image", None)
            assert (await clone.read(6000))[7:] == (b"golden" * 1000)[7:]

    run(main())


def test_an_external_snapshot_is_a_path_or_a_blocking_blob(tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(b"base" * 1024)

    async def main() -> None:
        disks = AsyncBlobstore.create(tmp_path / "disks.img", size="4MiB", cluster_size=CLUSTER)
        with Blobstore.create("memory:4MiB", cluster_size=CLUSTER) as other:
            blob = other.create_blob(CLUSTER)
            blob.write(b"other")
            async with disks as store:
                await store.register_external(b"base", tmp_path / "base.raw")
                await store.register_external(b"other", blob)
                first = await store.create_blob(CLUSTER, external_snapshot=b"base")
                second = await store.create_blob(CLUSTER, external_snapshot=b"other")
                assert await first.read(8) == b"basebase"
                assert await second.read(5) == b"other"

    run(main())


def test_a_blocking_store_refuses_a_blob_of_asyncio(path: Path) -> None:
    async def main() -> None:
        async with AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER) as store:
            blob: Any = await store.create_blob(CLUSTER)
            with (
                Blobstore.create("memory:4MiB", cluster_size=CLUSTER) as other,
                pytest.raises(TypeError, match="what: expected"),
            ):
                other.register_external(b"name", blob)

    run(main())


def test_every_blob_is_shown_while_a_store_opens(path: Path) -> None:
    seen = []

    async def see(blob: AsyncBlob) -> None:
        seen.append(await blob.read(3))

    async def main() -> None:
        async with AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER) as store:
            for data in (b"one", b"two"):
                async with store.create_blob(CLUSTER) as blob:
                    await blob.write(data)
        async with AsyncBlobstore.open(path, on_blob=see) as store:
            await store.unload()

    run(main())
    assert seen == [b"one", b"two"]


def test_an_error_names_the_store_and_the_blob(path: Path) -> None:
    async def main() -> None:
        async with AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER) as store:
            blob = await store.create_blob(CLUSTER)
            with pytest.raises(InvalidArgumentError) as caught:
                await blob.read(1, CLUSTER)
            assert caught.value.filename == str(path)
            assert caught.value.blob == blob.id
            with pytest.raises(NotFoundError) as missing:
                await store.open_blob(5)
            assert missing.value.blob == 5

    run(main())


@pytest.mark.slow
def test_requests_in_flight_end_before_their_cluster_is_reused(path: Path) -> None:
    """Readers see their blob's bytes or zeroes, never another blob's."""
    values = (1, 2, 3)
    foreign: list[bytes] = []

    async def reader(blob: AsyncBlob, value: int) -> None:
        allowed = {0, value}
        for _ in range(150):
            try:
                data = await blob.read(CLUSTER, 0)
            except InvalidArgumentError:
                await asyncio.sleep(0)  # it is shrunk
                continue
            if set(data) - allowed:
                foreign.append(data)

    async def churn(blob: AsyncBlob, value: int, rng: random.Random) -> None:
        for _ in range(40):
            await blob.resize(rng.randint(0, 3) * CLUSTER)
            if blob.size:
                await blob.write(bytes([value]) * blob.size)
            await blob.flush()

    async def main() -> None:
        store = AsyncBlobstore.create(
            path, size="512KiB", cluster_size=CLUSTER, md_pages=32, direct=True
        )
        async with store as opened, asyncio.TaskGroup() as tasks:
            for value in values:
                blob = await opened.create_blob(CLUSTER, thin=True, clear_method=1)
                tasks.create_task(churn(blob, value, random.Random(value)))
                for _ in range(4):
                    tasks.create_task(reader(blob, value))

    run(main())
    assert not foreign


class UnflushableMemory(MemoryDevice):
    """Memory that fails to flush when it is told so."""

    never_waits = False
    fails = False

    def flush(self) -> None:
        if self.fails:
            raise DeviceError("told to fail")
        super().flush()


def test_a_failed_flush_poisons_the_store_and_reads_go_on() -> None:
    async def main() -> None:
        device = UnflushableMemory(4 * MIB)
        store = await AsyncBlobstore.create(device, cluster_size=CLUSTER)
        blob = await store.create_blob(CLUSTER)
        await blob.write(b"data")
        await blob.set_xattr("key", b"value")
        device.fails = True
        with pytest.raises(DeviceError):
            await blob.flush()
        with pytest.raises(PoisonedError):
            await blob.write(b"x")
        assert await blob.read(4) == b"data"
        with pytest.raises(PoisonedError):
            await store.close()
        assert store.closed

    run(main())


def test_a_store_that_is_dropped_leaves_no_thread(path: Path) -> None:
    async def main() -> None:
        async with AsyncBlobstore.create(path, size=MIB, cluster_size=CLUSTER) as store:
            blob = await store.create_blob(CLUSTER)
            await blob.write(b"x")

    before = threading.active_count()
    run(main())
    gc.collect()
    assert threading.active_count() == before


def test_a_mapped_store_shows_views_without_awaiting(tmp_path: Path) -> None:
    async def look() -> bytes:
        path = tmp_path / "mapped.img"
        async with await AsyncBlobstore.create(path, size="4MiB", cluster_size="16KiB") as store:
            blob = await store.create_blob("16KiB", name="vol")
            await blob.write(b"bytes")
        async with await AsyncBlobstore.open(path, read_only=True, mapped=True) as store:
            return bytes((await store.open_blob(name="vol")).view(0, 5))

    assert asyncio.run(look()) == b"bytes"
