"""Frames come out as they went in, and damaged ones are refused without a crash."""

import struct
import time

import h5py
import hdf5plugin
import numpy as np
import pytest

from braggd.compression import compress, decompress, is_known
from braggd.data import Frame
from braggd.errors import CorruptFrame

BS32 = "bs32-lz4<"
ENCODINGS = ["none", "<", ">", "lz4", "bslz4", "lz4<", "lz4>", "bs8-lz4<", "bs16-lz4<", "bs16-lz4>", BS32]
SHAPES = [(1, 1), (3, 5), (67, 129), (256, 256)]


def counts(shape, dtype="u4", seed=0):
    return np.random.default_rng(seed).poisson(3, shape).astype(dtype)


def frame(payload, shape, dtype="u4", encoding="bslz4"):
    dtype = np.dtype(dtype)
    if encoding[-1] in "<>":
        dtype = dtype.newbyteorder(encoding[-1])
    return Frame(series="7", index=3, shape=shape, dtype=dtype, encoding=encoding, payload=payload)


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [(encoding, dtype) for encoding in ENCODINGS for dtype in ("u2", "u4", "i4") if (encoding, dtype) != (BS32, "u2")],
)
def test_every_encoding_gives_the_pixels_back(encoding, dtype):
    for shape in SHAPES:
        pixels = counts(shape, dtype)
        decoded = decompress(frame(compress(pixels, encoding), shape, dtype, encoding))
        np.testing.assert_array_equal(decoded, pixels)
        assert decoded.dtype == np.dtype(dtype)
        assert decoded.dtype.isnative


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_noise_that_cannot_be_compressed_comes_back(encoding):
    pixels = np.random.default_rng(1).integers(0, 2**32, (64, 64), "u4")
    np.testing.assert_array_equal(decompress(frame(compress(pixels, encoding), (64, 64), "u4", encoding)), pixels)


@pytest.mark.parametrize(
    ("encoding", "peer"), [("bslz4", hdf5plugin.Bitshuffle(cname="lz4")), ("lz4", hdf5plugin.LZ4())]
)
def test_hdf5_reads_what_was_compressed(encoding, peer):
    pixels = counts((67, 129))
    with h5py.File("peer", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("data", pixels.shape, pixels.dtype, chunks=pixels.shape, compression=peer)
        dataset.id.write_direct_chunk((0, 0), compress(pixels, encoding))
        np.testing.assert_array_equal(dataset[...], pixels)


def test_an_lz4_block_written_by_hand_is_read():
    # one literal, a match of 4 + 7 at offset 1, then the last 8 literals
    block = bytes([0x17]) + b"A" + struct.pack("<H", 1) + bytes([0x80]) + b"BCDEFGHI"
    assert decompress(frame(block, (4, 5), "u1", "lz4<")).tobytes() == b"A" * 12 + b"BCDEFGHI"


def test_a_compressed_block_as_long_as_its_pixels_is_still_decoded():
    # one literal, a match of 4, then 11 literals: 16 bytes that decode to 16 others
    block = bytes([0x10]) + b"A" + struct.pack("<H", 1) + bytes([0xB0]) + b"BCDEFGHIJKL"
    assert len(block) == 16
    assert decompress(frame(block, (4, 4), "u1", "lz4<")).tobytes() == b"AAAAABCDEFGHIJKL"


def test_big_endian_pixels_are_turned_into_native_ones():
    pixels = np.arange(6, dtype=">u2").reshape(2, 3)
    decoded = decompress(frame(pixels.tobytes(), (2, 3), ">u2", "none"))
    assert decoded.dtype.isnative
    np.testing.assert_array_equal(decoded, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_truncated_frame_is_refused(encoding):
    payload = compress(counts((67, 129)), encoding)
    for length in {0, 1, 11, 12, 16, len(payload) // 2, len(payload) - 1}:
        with pytest.raises(CorruptFrame, match="frame 3 of series 7"):
            decompress(frame(payload[:length], (67, 129), "u4", encoding))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_frame_of_another_size_is_refused(encoding):
    payload = compress(counts((64, 64)), encoding)
    for shape in ((64, 63), (65, 64), (0, 64), (-1, -4096)):
        with pytest.raises(CorruptFrame):
            decompress(frame(payload, shape, "u4", encoding))


@pytest.mark.parametrize("encoding", ["lz4", "bslz4", "lz4<", "bs32-lz4<"])
def test_absurd_sizes_are_refused_before_memory_is_taken(encoding):
    payload = struct.pack(">QII", 4 * 60000 * 60000, 8192, 100) + bytes(100)
    began = time.monotonic()
    with pytest.raises(CorruptFrame, match="too few to become"):
        decompress(frame(payload, (60000, 60000), "u4", encoding))
    assert time.monotonic() - began < 0.1


def test_an_unknown_encoding_is_refused():
    assert not is_known("bs32-zstd<")
    with pytest.raises(CorruptFrame, match="unknown encoding"):
        decompress(frame(struct.pack(">QI", 16, 0) + bytes(16), (2, 2), "u4", "bs32-zstd<"))
    with pytest.raises(ValueError, match="unknown"):
        compress(counts((2, 2)), "zip")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_damage_never_crashes(encoding):
    """Bits flipped within a block may decode to other counts; the shape is right, or the frame is refused."""
    random = np.random.default_rng(5)
    payload = compress(counts((67, 129)), encoding)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(payload[: random.integers(1, len(payload) + 1)] if random.random() < 0.3 else payload)
        for _ in range(random.integers(1, 20)):
            span = 40 if random.random() < 0.5 else len(damaged)
            damaged[random.integers(min(span, len(damaged)))] ^= 1 << int(random.integers(8))
        try:
            assert decompress(frame(bytes(damaged), (67, 129), "u4", encoding)).shape == (67, 129)
        except CorruptFrame:
            refused += 1
    assert refused > 100
