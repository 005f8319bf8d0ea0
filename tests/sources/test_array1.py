"""PSI's array-1.0, also as older senders wrote it."""

import json

import numpy as np
import pytest

from braggd.compression import compress, decompress
from braggd.data import Corrupt, Frame
from braggd.sources.messages import decode

PIXELS = np.arange(12, dtype="<u2").reshape(3, 4)
HEADER = {
    "htype": "array-1.0",
    "shape": [3, 4],
    "type": "uint16",
    "frame": 7,
    "source": "eiger",
    "endianness": "little",
}


def message(payload=None, **changed):
    return [json.dumps(HEADER | changed).encode(), PIXELS.tobytes() if payload is None else payload]


def test_an_array_is_a_frame():
    (frame,) = decode(message())
    assert isinstance(frame, Frame)
    assert (frame.series, frame.index, frame.shape) == ("eiger", 7, (3, 4))
    np.testing.assert_array_equal(decompress(frame), PIXELS)


def test_older_senders_are_understood():
    (frame,) = decode(message(htype=["array-1.0"], shape=[4, 3]))
    np.testing.assert_array_equal(decompress(frame), PIXELS)


def test_big_endian_and_compressed_arrays_are_read():
    (frame,) = decode(message(PIXELS.astype(">u2").tobytes(), endianness="big"))
    np.testing.assert_array_equal(decompress(frame), PIXELS)
    (frame,) = decode(message(compress(PIXELS, "bslz4"), encoding="bitshuffle_lz4"))
    np.testing.assert_array_equal(decompress(frame), PIXELS)


@pytest.mark.parametrize(
    "changed", [{"shape": [10**9, 10**9]}, {"frame": -1}, {"type": "object"}, {"encoding": "zip"}, {"shape": None}]
)
def test_an_impossible_array_is_corrupt(changed):
    (event,) = decode(message(**changed))
    assert isinstance(event, Corrupt)
    assert event.series == "eiger"
    (event,) = decode(message()[:1])
    assert isinstance(event, Corrupt)
    assert event.index == 7
