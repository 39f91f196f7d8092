# Asks an export of 64 MiB for the impossible, with structured replies and without. Run by
# nbd_clients.rs: python3 - PORT EXPORT.
import errno
import sys

import nbd

PORT, EXPORT = sys.argv[1], sys.argv[2]
SIZE = 64 << 20
MAX = 32 << 20


def connect(structured):
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.set_request_structured_replies(structured)
    handle.add_meta_context("base:allocation")
    handle.set_export_name(EXPORT)
    handle.connect_tcp("127.0.0.1", PORT)
    return handle


def refused(what, expected, call):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == expected, (what, error.errno, error.string)
        return
    raise AssertionError(what + " was carried out")


for structured in (True, False):
    h = connect(structured)
    assert h.get_structured_replies_negotiated() == structured
    block = bytes([0x5A]) * 4096
    h.pwrite(block, 0)
    assert h.pread(4096, 0) == block

    refused("read at the end", errno.EINVAL, lambda: h.pread(4096, SIZE))
    refused("read across the end", errno.EINVAL, lambda: h.pread(8192, SIZE - 4096))
    refused("write at the end", errno.ENOSPC, lambda: h.pwrite(block, SIZE))
    refused("write across the end", errno.ENOSPC, lambda: h.pwrite(block * 2, SIZE - 4096))
    refused("zero across the end", errno.ENOSPC, lambda: h.zero(8192, SIZE - 4096))
    refused("trim across the end", errno.EINVAL, lambda: h.trim(8192, SIZE - 4096))
    refused("cache across the end", errno.EINVAL, lambda: h.cache(8192, SIZE - 4096))
    refused("far read", errno.EINVAL, lambda: h.pread(512, (1 << 63) - 512))

    refused("unaligned offset", errno.EINVAL, lambda: h.pread(512, 10))
    refused("unaligned length", errno.EINVAL, lambda: h.pwrite(b"x" * 100, 0))
    refused("empty read", errno.EINVAL, lambda: h.pread(0, 0))
    refused("foreign flag", errno.EINVAL, lambda: h.pread(512, 0, nbd.CMD_FLAG_NO_HOLE))

    too_long = errno.EOVERFLOW if structured else errno.EINVAL
    refused("long read", too_long, lambda: h.pread(MAX + 4096, 0))
    refused("long write", errno.EINVAL, lambda: h.pwrite(bytes(MAX + 4096), 0))
    h.pwrite(b"y" * MAX, 0)
    assert h.pread(MAX, 0) == b"y" * MAX

    fast = nbd.CMD_FLAG_FAST_ZERO
    h.zero(8192, 0, fast)
    refused("slow zero", errno.ENOTSUP, lambda: h.zero(512, 0, fast))
    refused("filled zero", errno.ENOTSUP, lambda: h.zero(8192, 0, fast | nbd.CMD_FLAG_NO_HOLE))
    h.zero(8192, 8192, nbd.CMD_FLAG_NO_HOLE)
    assert h.pread(16384, 0) == bytes(16384)
    h.zero(SIZE, 0, nbd.CMD_FLAG_FUA)
    h.trim(SIZE, 0)
    h.cache(65536, 0)
    h.pwrite(block, 4096, nbd.CMD_FLAG_FUA)
    h.flush()

    if structured:
        chunks = []
        h.pread_structured(131072, 0, lambda data, at, kind, err: chunks.append((at, kind)))
        assert (0, nbd.READ_DATA) in chunks or (4096, nbd.READ_DATA) in chunks, chunks
        assert any(kind == nbd.READ_HOLE for _, kind in chunks), chunks
        chunks.clear()
        note = lambda data, at, kind, err: chunks.append((at, kind))
        h.pread_structured(131072, 0, note, nbd.CMD_FLAG_DF)
        assert chunks == [(0, nbd.READ_DATA)], chunks
        extents = []
        h.block_status(SIZE, 0, lambda name, at, list, err: extents.extend(list))
        assert extents[1::2] == [3, 0, 3] and extents[0::2][:2] == [4096, 4096], extents
        extents.clear()
        collect = lambda name, at, list, err: extents.extend(list)
        h.block_status(SIZE - 512, 512, collect, nbd.CMD_FLAG_REQ_ONE)
        assert extents == [3584, 3], extents
    h.shutdown()

print("all as specified")
