"""The simulated EIGER of tickit-devices, an independent producer, armed over REST and received over ZMQ."""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from braggd.compression import decompress
from braggd.data import Event, Frame, SeriesEnd, SeriesStart
from braggd.sources.messages import decode
from braggd.sources.stream import FrameStream

FRAMES = 300
SHAPE = (4362, 4148)
REQUIREMENTS = ("tickit-devices==0.4.1", "cbor2<6")

# The simulator connects its own stream to itself, and so swallows half of its messages: here it only binds.
LAUNCHER = """
import asyncio, json, os, sys
import aiozmq, zmq
from tickit.adapters.io import ZeroMqPushIo
from tickit.core.management.event_router import InverseWiring
from tickit.core.management.schedulers.master import MasterScheduler
from tickit.core.simulation import TickitSimulation
from tickit.core.state_interfaces.state_interface import get_interface
from tickit_devices.eiger import Eiger

endpoints = {}

async def bind_only(host, port):
    stream = await aiozmq.create_zmq_stream(zmq.PUSH, bind="tcp://127.0.0.1:*")
    endpoints[port] = stream.transport.getsockopt(zmq.LAST_ENDPOINT)
    if len(endpoints) == 2:
        with open(sys.argv[2] + ".part", "w") as file:
            json.dump({"legacy": endpoints[1], "cbor": endpoints[2]}, file)
        os.rename(sys.argv[2] + ".part", sys.argv[2])
    return stream

config = Eiger(name="eiger", inputs={}, host="127.0.0.1", port=int(sys.argv[1]),
               stream_legacy_port=1, stream_cbor_port=2)
component = config()
for adapter in component.adapters:
    if isinstance(adapter.io, ZeroMqPushIo):
        adapter.io._socket_factory = bind_only
scheduler = MasterScheduler(InverseWiring.from_component_configs([config]), *get_interface("internal"))
asyncio.run(TickitSimulation("internal", scheduler, {"eiger": component}).run())
"""


@dataclass(frozen=True)
class Eiger:
    rest: str
    streams: dict[str, str]

    def put(self, path: str, value: object = None) -> None:
        body = b"" if value is None else json.dumps({"value": value}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.rest}/{path}", body, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()


@pytest.fixture(scope="session")
def tickit_python() -> Path:
    """An environment of its own, since the simulator's requirements clash with braggd's."""
    folder = Path(os.environ.get("BRAGGD_TICKIT_VENV", Path(tempfile.gettempdir(), "braggd-tickit-0.4.1")))
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", *REQUIREMENTS]
        result = subprocess.run(install, capture_output=True, text=True, timeout=280, check=False)
        if result.returncode:
            pytest.skip(f"tickit-devices cannot be installed: {result.stderr.strip().splitlines()[-1:]}")
        done.touch()
    return python


@pytest.fixture
def eiger(tickit_python: Path, tmp_path: Path) -> Iterator[Eiger]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script, log, endpoints = (tmp_path / name for name in ("eiger.py", "eiger.log", "endpoints.json"))
    script.write_text(LAUNCHER)
    command = [tickit_python, script, str(port), endpoints]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            rest = f"http://127.0.0.1:{port}"
            _wait_for(rest, endpoints, log)
            yield Eiger(rest, json.loads(endpoints.read_text()))
        finally:
            process.kill()


@pytest.mark.parametrize("stream_format", ["legacy", "cbor"])
@pytest.mark.parametrize("header_detail", ["basic", "all"])
def test_every_frame_of_a_series_arrives(eiger: Eiger, stream_format: str, header_detail: str) -> None:
    frames = FRAMES if header_detail == "basic" else 10
    with FrameStream(eiger.streams[stream_format], queue_frames=1000) as stream:
        _acquire(eiger, stream_format, header_detail, frames)
        events = list(_events(stream))

    start, *images, end = events
    assert isinstance(start, SeriesStart)
    assert isinstance(end, SeriesEnd)
    assert start.frames_expected == frames
    assert start.shape == SHAPE
    assert [image.index for image in images if isinstance(image, Frame)] == list(range(frames))
    assert {event.series for event in events} == {start.series}
    sums = {int(decompress(image).sum()) for image in images[::30] if isinstance(image, Frame)}
    assert len(sums) == 1, "the simulator sends the same picture again and again"


@pytest.mark.parametrize("stream_format", ["legacy", "cbor"])
def test_the_simulator_and_hdf5_agree_on_the_pixels(eiger: Eiger, stream_format: str) -> None:
    with FrameStream(eiger.streams[stream_format]) as stream:
        _acquire(eiger, stream_format, "basic", 1)
        frame = next(event for event in _events(stream) if isinstance(event, Frame))

    with h5py.File("peer", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset(
            "data", frame.shape, frame.dtype, chunks=frame.shape, compression=hdf5plugin.Bitshuffle(cname="lz4")
        )
        dataset.id.write_direct_chunk((0, 0), bytes(frame.payload))
        expected: Any = dataset[...]
    np.testing.assert_array_equal(decompress(frame), expected)
    assert expected.max() > 0


def test_the_header_of_the_captured_stream_is_understood(eiger: Eiger) -> None:
    """The simulator's v2 header was captured from a real EIGER2 16M."""
    with FrameStream(eiger.streams["cbor"]) as stream:
        _acquire(eiger, "cbor", "all", 4)
        start = next(event for event in _events(stream) if isinstance(event, SeriesStart))

    assert start.detector == "Dectris EIGER2 Si 16M"
    assert start.saturation == 21517
    assert start.geometry.energy_kev == pytest.approx(13.5002998)
    assert start.geometry.distance_m == pytest.approx(0.2371592)
    assert start.geometry.pixel_size_m == (75e-6, 75e-6)
    assert start.geometry.rocking_motor == "omega"
    assert start.geometry.rocking_deg == pytest.approx((0.0, 0.1, 0.2, 0.3))
    assert start.geometry.angles_deg["chi"] == 30.0
    assert start.pixel_mask is None
    assert "pixel mask cannot be read" in start.warnings[0]


def _acquire(eiger: Eiger, stream_format: str, header_detail: str, frames: int) -> None:
    eiger.put("detector/api/1.8.0/command/initialize")
    eiger.put("stream/api/1.8.0/config/format", stream_format)
    eiger.put("stream/api/1.8.0/config/header_detail", header_detail)
    eiger.put("detector/api/1.8.0/config/trigger_mode", "ints")
    eiger.put("detector/api/1.8.0/config/nimages", frames)
    eiger.put("detector/api/1.8.0/config/frame_time", 0.001)
    eiger.put("detector/api/1.8.0/command/arm")
    eiger.put("detector/api/1.8.0/command/trigger")


def _events(stream: FrameStream) -> Iterator[Event]:
    while (parts := stream.receive(10)) is not None:
        for event in decode(parts):
            yield event
            if isinstance(event, SeriesEnd):
                return


def _wait_for(rest: str, endpoints: Path, log: Path, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{rest}/detector/api/1.8.0/status/state", timeout=5) as answer:
                answer.read()
            if endpoints.exists():
                return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the simulator did not start: {log.read_text()[-2000:]}")
