"""What is known of the rows that do not always reach what they must, by how their name begins.

Times are from profiles on the two-core machine that PERFORMANCE names, taken
while others ran their tests on it; whoever changes what a row measures looks
here, and takes the paragraph out when it is no longer true.
"""

from typing import Final

from benchmarks.measure import Row

_INTERPRETER: Final = (
    " The interpreter here was compiled without a profile of itself; one that was, as most"
    " distributions have it, takes a fifth to a third less for all that is Python."
)

_DURABLE: Final = (
    "The Python of the call is what is missing, and was before: an early version takes as long in"
    " the same run. Without its flushes, in a loop, in microseconds by layer:"
    " create 149 (metadata 59, store 17, driver 17, format 15, api 15, alloc 10, device 5, locks"
    " and epochs 7), set_xattr 22 to 30 (metadata 7, blob 5, format 4, driver and api 4), sync_md"
    " 80 (metadata 48, of them persist.py 31, driver 12, format 12, device 3, locks 3). These are"
    " 416 and 344 calls of functions, none with more than 4 %. After each sleep in fdatasync, when"
    " the caches are cold, it is a sixth to a third more; the must leaves 17. Tried: fewer steps"
    " for an attribute, which already takes one page, one write and one flush; named tuples where"
    " dataclasses were, 5 % less; one coroutine for a shared flush instead of two, and a round's"
    " leaves looked at once, no less. Where fdatasync takes 3 ms, the rows reach 1.0 and 0.9."
    + _INTERPRETER
)

_COLD: Final = (
    "The same Python takes more CPU after each system call that sleeps or does much: then the"
    " processor's caches hold the kernel's code and data. Layers, in us of CPU: the bare call"
    " 8.6; the device's checks of blocks and memory 1.0 more; the lookup, the pin and the"
    " arguments 2.6 more; in all 12.2. With a call that does nothing the two layers take 1.9 in"
    " a loop of their own, but 3.7 when a bare read of the device comes before each; 40 empty"
    " iterations of a loop take 0.5 and 1.0. So there is no slower path, only colder code."
)

_DIRECT: Final = (
    f"The disk takes 15 us of each request, and the bare call 8.6 us of CPU. {_COLD} Tried: one"
    " system call on the caller's own memory when it is aligned, without a copy."
)

_DIRECT_BATCH: Final = (
    "The queue runs empty at the end of each batch, while fio keeps 32 requests in flight all the"
    " time. In us for each request: 7.5 for 64 at once, 5.5 for 256, 5.1 for 1,024, 5.0 for 4,096;"
    " of writes 8.5, 7.0, 5.8, 5.6. Of 256 at once, 2.1 are CPU, fio's 3.1. So 256 lose 0.15 us"
    " to Python and about 0.3 us to the first and the last request. 1,024 need 0.92 of the time of"
    " 256, which is about fio's."
)

_BATCH: Final = (
    "Of a batch about 37 us and 5 ns for each request are Python and NumPy. The rest is the"
    " kernel's: 0.72 us for each of 256 or 1,024 requests when the rows stay in the processor's"
    " cache, 0.9 us for 4,096. In a quiet minute 1,024 at once took 0.80 us each, and fio 1.31."
    " Tried: registered files, 2 % less; registered memory, more; queues of 64 and 1,024 entries,"
    " no less."
)
_COPY: Final = (
    "The commands use 1.3 to 1.9 s of CPU for 1 GiB, cp 0.5 s, as cp copies inside the kernel."
    " While others kept both cores busy, single runs of import reached 0.3 to 1.0 of cp, and of"
    " export 0.4 to 0.8. Tried: one buffer for all parts and a search for runs of zeroes, which"
    " halved the time in user mode; having portions of 64 MiB written out early, so that the"
    " flush at the end takes 0.1 s instead of 1.4 s. In quiet minutes import of 512 MiB reached"
    " 0.90 and 0.95 of cp, and export 0.99. Without the notes every 256 MiB that --resume needs"
    " import reached 0.93, with notes every 64 MiB 0.72."
)

FINDINGS: Final[dict[str, str]] = {
    "read_many, 1024 of 4 KiB at once, cached": _BATCH,
    "read_many, 256 of 4 KiB at once, mapped": (
        "The memory is the limit: one numpy.take of 256 random rows of 256 MiB does nothing but"
        " copy, and needs 0.50 to 0.60 us for each. So 1.5 to 1.8 is all that one processor can"
        " reach here. Of 0.66 us, 0.12 are the 30 us of Python and NumPy for each batch. Rows that"
        " are in the processor's cache take 0.09 us, rows in order 0.33 to 0.39. It is not the page"
        " tables: memory in huge pages takes as long as memory in pages of 4 KiB. It is not page"
        " faults: all pages were touched before. Tried: touching the first lines of all rows"
        " first, 0 to 8 % less; 32 rows at a time, units of 512 bytes, a slice or a memmove for"
        " each row, all slower."
    ),
    "read_many, 256 of 4 KiB at once, direct": _DIRECT_BATCH,
    "write_many, 256 of 4 KiB at once, direct": _DIRECT_BATCH,
    "read_many, 16 of 1 MiB in order, direct": _DIRECT_BATCH,
    "import of": _COPY,
    "export of": _COPY,
    "random 4 KiB read_into, cached": (
        "A loop of bare os.preadv is itself only 0.85 to 0.97 as fast as fio here: that is what a"
        " call from Python costs. Layers, in us of CPU for one page, 1.47 in all: os.preadv 0.61;"
        " a method around it 0.06; the call's arguments from attributes 0.15; the buffer's length"
        " 0.10; the number of the cluster 0.08; bounds and map 0.23; the thread's pin and its"
        " epoch 0.14; a call of the lookup that is shared 0.03; the rest 0.07. Random pages add"
        " 0.35 to all. Each is a few bytecodes of about 8 ns. A CPython that"
        " was compiled with a profile of itself, as Debian's, needs 0.70 us where this one needs"
        " 0.90 beyond the bare call. Tried: without the pin 0.14 us less,"
        " but a snapshot needs it to know what is in flight; one flat list for the map 0.08 us"
        " less; divmod for // and % 0.02 us more; shifts and masks for clusters of a power of two"
        " no less; a copy of the lookup in each method 0.03 us less."
    ),
    "random 4 KiB read_into, cached, in a clone": (
        "The look into what the clone has inherited, after that into its own map, takes 0.2 us of"
        " CPU. Single rounds differ by more, by what else runs on the machine."
    ),
    "open and close of each of": (
        "71 us of CPU, in microseconds by layer: reading the two pages and making the state of"
        " them 29 (metadata 17, format 12), the place in the store and the comparison with masks"
        " and open blobs 16 (store 12, alloc 4), two steps of the driver 11, the handle and its"
        " arguments 8, locks and epochs 3, the device 1. These are 154 calls of functions, none"
        " with more than 8 %. Tried: windows of 16 and 32 pages instead of 8, no less; no garbage"
        " collector, 1 us less; fewer calls for each page, 2 us less. With an interpreter that was"
        " compiled with a profile of itself it is 56; 25 are out of reach without a second parser."
        " A list of 10,000 blobs takes 0.70 s for the same reasons, and 0.56 s there."
    ),
    "random 4 KiB write, allocated, cached": (
        "In a loop of its own, the fast path of a write takes 0.7 us, also with a call that does"
        " nothing: 0.86 beside a pwrite of 1.45 us into pages that are dirty already. After a"
        " pwrite of 6 us, which goes through the file system, the same Python takes 1.7 us, as its"
        " code has left the processor's caches. Rounds differ by more, by when the kernel writes"
        " dirty pages back."
    ),
    "random 4 KiB read_into, direct": _DIRECT,
    "random 4 KiB write, allocated, direct": _DIRECT,
    "random 4 KiB read_into, cached, 32 tasks": (
        "A bare os.preadv takes 1.2 us of CPU here, as much as a whole request of fio on a ring,"
        " and awaiting a method 0.15 us; the rest, 0.9 us, is the lookup and the caller's loop."
        " Tried: the length of a memoryview without a call, 0.1 us less, which is in; the lookup"
        " and the system call as functions of their own, 0.25 us more."
    ),
    "random 4 KiB read_into, direct, 32 tasks": (
        "The event loop's one thread is the limit: all of the time is CPU. The floor is 7.9 us,"
        " 0.58 of fio: a bare loop of 32 tasks that await futures, an eventfd and a ring, without a"
        " store. Layers, in us of CPU, 14.4 in all: the floor 7.9, of it 3 to 5 in the kernel;"
        " arguments, the lookup and three coroutines 2.3; the epoch 0.4; the device's checks, the"
        " memory's address and the request itself 2.1; the rest 1.7: the table of requests, more"
        " turns of the loop, colder caches. Tried: the ring resumes the task itself, 1.3 us less,"
        " which is in; sixteen requests enter the kernel at once while other tasks run, so that the"
        " disk does not wait: 21.6 us became 16.5 in one profile, and is in; eight and four at"
        " once, more; a subclass of asyncio's future, 1.1 us more; asyncio's own future, 0.3 us"
        " more, on uvloop 0.8 less, and a cancelled task needs a second one. A"
        " CPython that was compiled with a profile of itself needs 7.5 us outside of the kernel"
        " where this one needs 10.3."
    ),
    "first write to thin clusters": (
        "A cluster's first write claims it, promises metadata pages and enters the map, about 12 us"
        " of CPU beside the pwrite's 20; the flush at the end writes the extent pages too, and is"
        " two where the yardstick has one."
    ),
    "copy-on-write of 1 MiB": (
        "Buffers are kept from one copy to the next, so only the first copies of a process pay for"
        " new memory, about 1 ms of page faults for each MiB: the least of the rounds is theirs."
    ),
    "create_blob, thin": _DURABLE,
    "set_xattr + sync_md": _DURABLE,
    "snapshot of 1 GiB": (
        "Without the flushes, in a loop, a snapshot of a blob without clusters takes 320 us"
        " (metadata 165, format 50, store 26, driver 25, alloc 13, locks and epochs 15, device 10,"
        " api 5): 976 calls of functions, none with more than 4 %. Three roots are persisted one"
        " after the other (the snapshot half-made, the blob, the snapshot complete), with six"
        " writes. In this row it is 530 to 700 us: between two snapshots one is deleted, which"
        " goes through 16,384 clusters and leaves the caches cold. The row is ok where a flush"
        " takes longer than the 80 us it takes here. Tried: leaving the last flush to the next"
        " change, which saves as much from the yardstick as from the work; encoding an extent"
        " table or runs as one array, 10 % less with 16,384 runs." + _INTERPRETER
    ),
    "RPC: create + delete": (
        "Two round trips of the socket to a server in Python that does nothing take 0.11 ms, 0.05"
        " of them the client's own Python, and the three flushes 0.34 ms: so 0.75 is the most that"
        " any server in Python can reach. Where three flushes take 12 ms, the row reaches 0.66, and"
        " 0.72 with eight clients. This server adds 0.7 ms of CPU: 0.4 for making and"
        " deleting the blob, 0.1 for parsing two requests, 0.2 for names, the device, locks and"
        " the log. Each connection's thread does its calls itself, so no call is handed from one"
        " thread to another. Tried: one expression for a token, and plain strings without"
        " json.loads, 0.16 ms less; no search for a store on a volume that was just made, 0.1 less;"
        " the description of the volume twice instead of five times, 0.05 less. Eight clients get"
        " no more: a call holds the store's mutex from the lookup of a name to its last flush, so"
        " calls that change a store run one after the other and no two share a flush. The core"
        " shares flushes of data only; to share these, it would have to persist several changes in"
        " one round."
    ),
    "full stream of a snapshot": (
        "Beyond reading, a record of 1 MiB takes 52 to 62 us for its checksum, which runs at the"
        " processor's 20 GB/s, also over 64 KiB that were just read; and 5 us for the rest: 3 to"
        " encode the head, 2 for two writes. A record is read cluster by cluster, each by the fast"
        " path: 103 us for 16 reads of 64 KiB, 117 us for the one of 1 MiB, which takes the full"
        " path. That made the row 0.73 where it was 0.68. Tried: a thread that reads ahead into a"
        " second buffer, 0.53 where the row was 0.63, though the checksum and the read both leave"
        " the GIL; reads of 128 to 512 KiB, 0.45 to 0.62, as each of them takes the full path."
    ),
    "opening after a dirty stop": (
        "The ratio depends on how long the device takes for one read of 4 KiB: 20 us where this"
        " run had 4.6; 60 us where an earlier one had 11. Opening takes 105 ms, 92 of them for"
        " reading 100 MiB at what this device gives, whatever the size of the reads and however"
        " many are in flight."
    ),
}
"""The paragraph of a row."""

_UNKNOWN: Final = "The cause is not known yet; on a shared machine the first thing is to repeat."


def finding_of(row: Row) -> str:
    """Return the paragraph whose name is the longest that the row's begins with."""
    names = [name for name in FINDINGS if row.work.startswith(name)]
    return FINDINGS[max(names, key=len)] if names else _UNKNOWN
