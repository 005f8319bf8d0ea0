"""Whatever arrives, decoding gives events and never raises, crashes or takes memory."""

import json
import resource

import cbor2
import numpy as np
import pytest

from braggd.compression import decompress
from braggd.data import Corrupt, Frame, Geometry, SeriesEnd, SeriesStart
from braggd.errors import CorruptFrame
from braggd.sources.messages import decode
from braggd.sources.replay import prepare

ROUNDS = 4000
EVENTS = (Corrupt, Frame, SeriesEnd, SeriesStart)
ODD = [None, True, -1, 0, 2**63, 2**200, 1e308, float("nan"), "", "x" * 1000, [], {}, [[]], [10**9, 10**9], b"", [1, 0]]


def recorded(protocol):
    counts = np.random.default_rng(0).poisson(2, (2, 31, 17)).astype(np.int32)
    geometry = Geometry(energy_kev=9, rocking_motor="theta", rocking_deg=(1.0, 1.1), angles_deg={"phi": 2})
    return prepare(counts, geometry, protocol=protocol)


def take(parts):
    """Decode as the daemon does; returns how many frames were readable."""
    events = decode(parts)
    assert all(isinstance(event, EVENTS) for event in events)
    for event in events:
        if isinstance(event, Corrupt):
            assert 0 < len(event.reason) < 500
        if isinstance(event, Frame):
            try:
                assert decompress(event).shape == event.shape
            except CorruptFrame:
                continue
    return events


@pytest.fixture(autouse=True)
def _memory_is_not_taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("protocol", ["simplon-v1", "simplon-v2", "array-1.0"])
def test_damaged_bytes_never_raise(protocol):
    random = np.random.default_rng(1)
    messages = recorded(protocol)
    for _ in range(ROUNDS):
        parts = list(messages[random.integers(len(messages))])
        which = int(random.integers(len(parts)))
        damaged = bytearray(parts[which])
        if random.random() < 0.4:
            del damaged[random.integers(len(damaged) + 1) :]
        for _ in range(random.integers(0, 6)):
            if damaged:
                damaged[random.integers(min(len(damaged), 400))] = random.integers(256)
        parts[which] = bytes(damaged)
        take(parts)


@pytest.mark.parametrize("protocol", ["simplon-v1", "simplon-v2", "array-1.0"])
def test_parts_lost_doubled_or_in_disorder_never_raise(protocol):
    random = np.random.default_rng(2)
    everything = [part for message in recorded(protocol) for part in message]
    for _ in range(ROUNDS // 4):
        take([everything[index] for index in random.integers(len(everything), size=random.integers(12))])


def test_noise_never_raises():
    random = np.random.default_rng(3)
    for _ in range(ROUNDS):
        lead = [b"", b"{", b"{}", b"\xa3", b"\xd9\xd9\xf7\xa4", b'{"htype":"dimage-1.0",'][random.integers(6)]
        take([lead + random.bytes(random.integers(300)) for _ in range(random.integers(1, 5))])


def test_a_wrong_value_in_any_field_of_v2_never_raises():
    for (message,) in recorded("simplon-v2"):
        fields = cbor2.loads(message)
        for name in fields:
            for value in ODD:
                for event in take([cbor2.dumps({**fields, name: value})]):
                    if name not in ("type", "series_id") and isinstance(event, Corrupt):
                        assert event.series == "1"


def test_a_wrong_value_in_any_field_of_v1_never_raises():
    for message in recorded("simplon-v1"):
        for position, part in enumerate(message):
            if not part.startswith(b"{"):
                continue
            fields = json.loads(part)
            for name in fields:
                for value in ODD:
                    if isinstance(value, bytes):
                        continue
                    changed = json.dumps({**fields, name: value}).encode()
                    take([*message[:position], changed, *message[position + 1 :]])
