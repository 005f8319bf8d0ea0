"""The Tango device in its own process, asked by real Tango clients."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tango

from braggd.config import TangoConfig
from braggd.data import NamedArray, Result, Stage, Status
from braggd.errors import OutletError
from braggd.outlets.tango import command_line
from braggd.outlets.zmq import ResultServer

ANY_PORT = "tcp://127.0.0.1:*"
DEVICE = "braggd/test/1"
SCALARS = (
    *("scan_id", "stage", "frames_received", "frames_expected", "frames_lost", "progress", "queue_depth", "latency_s"),
    *("provider", "llk", "free_llk", "resolution_nm", "strain_rms", "support_voxels"),
)
PICTURES = [f"{name}_{plane}" for name in ("modulus", "phase", "strain") for plane in ("xy", "xz", "yz")]
CONTRACT = [*SCALARS, "rocking_curve", "frame_sum", *PICTURES, "volume"]

VOLUME = np.random.default_rng(2).random((10, 12, 14), dtype=np.float32)
LIVE = Result(
    scan_id="S1",
    stage=Stage.LIVE,
    arrays=(
        NamedArray(name="rocking_curve", data=np.arange(5, dtype=np.float32), axes=("step",)),
        NamedArray(name="frame_sum", data=np.arange(12, dtype=np.float32).reshape(3, 4), axes=("row", "column")),
    ),
)
FINAL = Result(
    scan_id="S1",
    stage=Stage.FINAL,
    arrays=tuple(
        NamedArray(name=name, data=data, axes=("z", "y", "x"))
        for name, data in {
            "modulus": VOLUME,
            "phase": VOLUME - 0.5,
            "displacement": 2 * VOLUME,
            "strain": VOLUME / 1000,
            "support": np.ones(VOLUME.shape, np.uint8),
        }.items()
    ),
    metrics={
        "llk": 1.5,
        "free_llk": 2.5,
        "resolution_nm": 12.0,
        "strain_rms": 3e-4,
        "support_voxels": 1680.0,
    },
)
STATUS = Status(
    state="RUNNING",
    scan_id="S1",
    stage="live",
    frames_received=201,
    frames_expected=202,
    frames_lost=1,
    progress=0.5,
    queue_depth=2,
    latency_s=7.5,
    provider="CPUExecutionProvider",
    activity="phasing S1",
)


class Commands:
    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.heard.append((name, arguments))
        if name == "abort":
            raise OutletError("there is no scan to abort; start one")
        if name == "stop":
            time.sleep(4)
        return {"ok": True}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**extra: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != "TANGO_HOST"}, **extra}


@contextmanager
def running(
    server: ResultServer, port: int, name: str | None = None, **extra: str
) -> Iterator[tuple[subprocess.Popen[bytes], tango.DeviceProxy]]:
    config = TangoConfig(device=DEVICE, port=port)
    command = command_line(config, server.publish_endpoint, server.requests_endpoint)
    command[1:1] = ["-W", "error"]
    process = subprocess.Popen(command, env=environment(**extra), stdout=subprocess.DEVNULL)
    try:
        yield process, connected(name or f"tango://127.0.0.1:{port}/{DEVICE}#dbase=no", process)
    finally:
        process.terminate()
        process.wait(10)


def connected(name: str, process: subprocess.Popen[bytes]) -> tango.DeviceProxy:
    deadline = time.monotonic() + 20
    while True:
        try:
            proxy = tango.DeviceProxy(name)
            proxy.ping()
        except tango.DevFailed:
            assert process.poll() is None, "the device's process has ended"
            assert time.monotonic() < deadline, "the device does not answer"
            time.sleep(0.05)
        else:
            return proxy


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


def follows(proxy: tango.DeviceProxy, requests: str) -> bool:
    try:
        return bool(proxy.read_attribute("daemon").value == requests)
    except tango.DevFailed:
        return False


def quality(proxy: tango.DeviceProxy, name: str) -> tango.AttrQuality:
    return proxy.read_attribute(name).quality


@pytest.fixture(scope="module")
def commands() -> Commands:
    return Commands()


@pytest.fixture(scope="module")
def server(commands: Commands) -> Iterator[ResultServer]:
    with ResultServer(ANY_PORT, ANY_PORT, commands) as serving:
        yield serving


@pytest.fixture(scope="module")
def proxy(server: ResultServer) -> Iterator[tango.DeviceProxy]:
    with running(server, free_port()) as (_, connection):
        yield connection


def test_every_attribute_and_command_of_the_contract_is_there(proxy: tango.DeviceProxy) -> None:
    assert proxy.info().dev_class == "BraggDaemon"
    assert set(CONTRACT) <= set(proxy.get_attribute_list())
    commands = {"Start", "Stop", "Abort", "Reset", "PrepareScan", "Reprocess"}
    assert commands <= {command.cmd_name for command in proxy.command_list_query()}
    by_name = {info.name: info for info in proxy.attribute_list_query_ex()}
    assert all(by_name[name].data_format == tango.AttrDataFormat.SCALAR for name in SCALARS)
    assert by_name["rocking_curve"].data_format == tango.AttrDataFormat.SPECTRUM
    for name in ["frame_sum", *PICTURES]:
        assert by_name[name].data_format == tango.AttrDataFormat.IMAGE
        assert by_name[name].data_type == tango.CmdArgType.DevFloat
    assert by_name["volume"].data_type == tango.CmdArgType.DevEncoded
    assert by_name["stage"].data_type == tango.CmdArgType.DevEnum
    assert list(by_name["stage"].enum_labels) == ["live", "dl", "refined", "final"]


def test_what_is_not_known_is_invalid(server: ResultServer, proxy: tango.DeviceProxy) -> None:
    server.publish_status(Status(state="ON"))
    wait_for(lambda: proxy.state() == tango.DevState.ON)
    told = {"frames_received", "frames_expected", "frames_lost", "progress", "queue_depth"}
    for name in CONTRACT:
        valid = quality(proxy, name) == tango.AttrQuality.ATTR_VALID
        assert valid == (name in told), name


def test_events_of_every_attribute_reach_a_subscriber(server: ResultServer, proxy: tango.DeviceProxy) -> None:
    """Change and archive events, with the values that were published, and each attribute's own."""
    heard: dict[tuple[str, str], Any] = {}
    lock = threading.Lock()

    def hear(event: Any) -> None:
        if not event.err and event.attr_value.quality == tango.AttrQuality.ATTR_VALID:
            with lock:
                name = event.attr_name.rsplit("/", 1)[1].partition("#")[0]
                heard[name, event.event] = event.attr_value.value

    names = [*CONTRACT, "state", "status"]
    kinds = (tango.EventType.CHANGE_EVENT, tango.EventType.ARCHIVE_EVENT)
    tickets = [proxy.subscribe_event(name, kind, hear) for name in names for kind in kinds]
    try:
        server.publish_status(STATUS)
        server.publish(LIVE)
        server.publish(FINAL)
        expected = {(name, kind) for name in names for kind in ("change", "archive")}
        wait_for(lambda: heard.get(("stage", "archive")) == 3)
        time.sleep(0.2)
        assert set(heard) == expected
    finally:
        for ticket in tickets:
            proxy.unsubscribe_event(ticket)
    for kind in ("change", "archive"):
        assert heard["state", kind] == tango.DevState.RUNNING
        assert heard["status", kind] == "phasing S1"
        assert heard["scan_id", kind] == "S1"
        assert heard["frames_lost", kind] == 1
        assert heard["llk", kind] == 1.5
        np.testing.assert_array_equal(heard["rocking_curve", kind], np.arange(5))
        np.testing.assert_array_equal(heard["modulus_xy", kind], VOLUME[4])
        assert heard["volume", kind][0] == "DATA_ARRAY"


def test_a_late_reader_gets_the_last_values(server: ResultServer, proxy: tango.DeviceProxy) -> None:
    """Also one of a device that was started after everything had been published."""
    server.publish_status(STATUS)
    server.publish(LIVE)
    server.publish(FINAL)
    with running(server, free_port()) as (_, late):
        for device in (proxy, late):
            wait_for(lambda device=device: quality(device, "stage") == tango.AttrQuality.ATTR_VALID)
            assert (device.scan_id, device.stage.name, device.result) == ("S1", "final", "S1/final")
            assert (device.frames_received, device.frames_expected, device.frames_lost) == (201, 202, 1)
            assert (device.progress, device.queue_depth, device.latency_s) == (0.5, 2, 7.5)
            assert device.provider == "CPUExecutionProvider"
            assert (device.llk, device.free_llk, device.resolution_nm) == (1.5, 2.5, 12.0)
            assert (device.strain_rms, device.support_voxels) == (3e-4, 1680)
            assert device.frame_sum.dtype == np.float32
            np.testing.assert_array_equal(device.frame_sum, np.arange(12).reshape(3, 4))
            np.testing.assert_array_equal(device.modulus_xy, VOLUME[4])
            np.testing.assert_array_equal(device.phase_xz, VOLUME[:, 6] - np.float32(0.5))
            np.testing.assert_array_equal(device.strain_yz, (VOLUME / 1000)[:, :, 6])


def test_the_volume_is_the_one_that_was_chosen(server: ResultServer, proxy: tango.DeviceProxy) -> None:
    server.publish(FINAL)
    wait_for(lambda: quality(proxy, "volume") == tango.AttrQuality.ATTR_VALID)
    for name, expected in (("displacement", 2 * VOLUME), ("modulus", VOLUME)):
        proxy.volume_name = name
        assert proxy.volume_name == name
        encoding, data = proxy.volume
        assert encoding == "DATA_ARRAY"
        (size,) = struct.unpack_from("<H", data, 6)
        np.testing.assert_array_equal(np.frombuffer(data, "<f4", offset=size).reshape(VOLUME.shape), expected)
    with pytest.raises(tango.DevFailed, match="there is no volume 'density'"):
        proxy.volume_name = "density"


def test_metrics_and_pictures_are_never_of_two_results(server: ResultServer, proxy: tango.DeviceProxy) -> None:
    """A later result without geometry leaves no strain and no metrics of the one before."""
    server.publish(FINAL)
    wait_for(lambda: quality(proxy, "strain_xy") == tango.AttrQuality.ATTR_VALID)
    density = np.ones((4, 5, 6), np.complex64)
    array = NamedArray(name="density", data=density, axes=("z", "y", "x"))
    server.publish(Result(scan_id="S2", stage=Stage.DL, arrays=(array,), metrics={"llk": 9.0, "free_llk": math.nan}))
    wait_for(lambda: proxy.scan_id == "S2")
    assert (proxy.stage.name, proxy.result, proxy.llk) == ("dl", "S2/dl", 9.0)
    assert proxy.modulus_xy.shape == (5, 6)
    for name in ("strain_xy", "strain_xz", "strain_yz", "free_llk", "resolution_nm", "support_voxels"):
        assert quality(proxy, name) == tango.AttrQuality.ATTR_INVALID


@pytest.mark.parametrize("state", ["INIT", "ON", "RUNNING", "ALARM", "FAULT", "OFF"])
def test_the_state_is_the_daemons(server: ResultServer, proxy: tango.DeviceProxy, state: str) -> None:
    server.publish_status(Status(state=state, activity="busy", degraded={"gpu": "no GPU was found; the CPU does it"}))
    wait_for(lambda: proxy.state().name == state)
    wait_for(lambda: "gpu: no GPU was found; the CPU does it" in proxy.status())


def test_commands_reach_the_daemon_and_refusals_the_client(commands: Commands, proxy: tango.DeviceProxy) -> None:
    commands.heard.clear()
    proxy.Start()
    proxy.Reset()
    proxy.PrepareScan(json.dumps({"scan_id": "S7", "geometry": {"energy_kev": 9.0}}))
    proxy.Reprocess("S1")
    assert commands.heard == [
        ("start", {}),
        ("reset", {}),
        ("prepare", {"scan_id": "S7", "geometry": {"energy_kev": 9.0}}),
        ("reprocess", {"scan_id": "S1"}),
    ]
    with pytest.raises(tango.DevFailed, match="there is no scan to abort; start one"):
        proxy.Abort()
    for nonsense in ("{", "[1]", '"a"', '{"timeout_s": 1, "name": 2}'):
        with pytest.raises(tango.DevFailed):
            proxy.PrepareScan(nonsense)
    assert len(commands.heard) == 5


def test_a_daemon_that_hangs_on_a_command_costs_a_sentence_and_no_events(
    server: ResultServer, proxy: tango.DeviceProxy
) -> None:
    with pytest.raises(tango.DevFailed, match="no answer to 'stop' came from"):
        proxy.Stop()
    server.publish(LIVE)
    server.publish(FINAL)
    wait_for(lambda: proxy.result == "S1/final")


def test_init_asks_the_daemon_anew(server: ResultServer, proxy: tango.DeviceProxy) -> None:
    server.publish_status(STATUS)
    server.publish(FINAL)
    wait_for(lambda: proxy.scan_id == "S1")
    proxy.Init()
    wait_for(lambda: quality(proxy, "stage") == tango.AttrQuality.ATTR_VALID and proxy.stage.name == "final")
    assert proxy.state() == tango.DevState.RUNNING


def test_the_device_outlives_the_daemon_and_takes_it_up_again() -> None:
    first = ResultServer(ANY_PORT, ANY_PORT)
    first.publish_status(STATUS)
    first.publish(FINAL)
    with running(first, free_port()) as (process, proxy):
        wait_for(lambda: proxy.state() == tango.DevState.RUNNING)
        wait_for(lambda: quality(proxy, "modulus_xy") == tango.AttrQuality.ATTR_VALID)
        again = (first.publish_endpoint, first.requests_endpoint)
        first.close()
        wait_for(lambda: proxy.state() == tango.DevState.FAULT)
        assert "is braggd running there?" in proxy.status()
        np.testing.assert_array_equal(proxy.modulus_xy, VOLUME[4])
        with pytest.raises(tango.DevFailed, match="no answer to 'start' came from"):
            proxy.Start()
        with ResultServer(*again) as second:
            second.publish_status(Status(state="ON"))
            wait_for(lambda: proxy.state() == tango.DevState.ON)
            second.publish(Result(scan_id="S9", stage=Stage.LIVE, arrays=LIVE.arrays))
            wait_for(lambda: proxy.scan_id == "S9")
        assert process.poll() is None


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = TangoConfig(device=DEVICE, port=taken.getsockname()[1])
        command = command_line(config, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1")
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"cannot listen at 127.0.0.1:{config.port} (Address already in use); set host and port" in ended.stderr


def test_a_device_left_behind_by_a_killed_daemon_is_replaced(server: ResultServer) -> None:
    port = free_port()
    with running(server, port) as (left_behind, _), running(server, port) as (process, proxy):
        assert left_behind.wait(5) == 0
        wait_for(lambda: follows(proxy, server.requests_endpoint))
        assert process.poll() is None


def test_the_device_of_another_daemon_is_left_alone(server: ResultServer) -> None:
    port = free_port()
    with running(server, port) as (other, _):
        command = command_line(TangoConfig(device=DEVICE, port=port), ANY_PORT, "tcp://127.0.0.1:1")
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 1
        assert "Address already in use" in ended.stderr
        assert other.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_when_told(server: ResultServer, number: signal.Signals) -> None:
    with running(server, free_port()) as (process, proxy):
        wait_for(lambda: proxy.state() != tango.DevState.INIT)
        process.send_signal(number)
        assert process.wait(5) == 0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A real Tango database, PyDatabaseds, in an empty SQLite file."""
    port = free_port()
    program = Path(sys.executable).with_name("PyDatabaseds")
    process = subprocess.Popen(
        [program, "2", "-ORBendPoint", f"giop:tcp:127.0.0.1:{port}"],
        env=environment(TANGO_HOST=f"127.0.0.1:{port}", PYTANGO_DATABASE_NAME=str(tmp_path / "tango.db")),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        connected(f"tango://127.0.0.1:{port}/sys/database/2", process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def test_with_a_database_the_device_is_registered_and_served_from_there(server: ResultServer, database: str) -> None:
    host, port = database.split(":")
    tango_database = tango.Database(host, int(port))
    name = f"tango://{database}/{DEVICE}"
    with (
        running(server, free_port(), name, TANGO_HOST=database) as (left_behind, _),
        running(server, free_port(), name, TANGO_HOST=database) as (process, _),
    ):
        assert left_behind.wait(5) == 0
        assert process.poll() is None
    for _ in range(2):
        server.publish(FINAL)
        with running(server, free_port(), name, TANGO_HOST=database) as (_, proxy):
            wait_for(lambda: quality(proxy, "stage") == tango.AttrQuality.ATTR_VALID)
            heard: list[float] = []
            ticket = proxy.subscribe_event(
                "llk", tango.EventType.CHANGE_EVENT, lambda event, heard=heard: heard.append(event.attr_value.value)
            )
            wait_for(lambda heard=heard: heard == [1.5])
            proxy.unsubscribe_event(ticket)
    known = tango_database.get_device_info(DEVICE)
    assert (known.class_name, known.ds_full_name) == ("BraggDaemon", "BraggDaemon/braggd-test-1")

    other = tango.DbDevInfo()
    other.name, other._class, other.server = "braggd/test/2", "Motor", "Motor/1"
    tango_database.add_device(other)
    config = TangoConfig(device="braggd/test/2", port=free_port())
    command = command_line(config, server.publish_endpoint, server.requests_endpoint)
    ended = subprocess.run(
        command, env=environment(TANGO_HOST=database), capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert "braggd/test/2 is a Motor of Motor/1 in the Tango database" in ended.stderr


def test_a_database_that_does_not_answer_is_one_sentence(server: ResultServer) -> None:
    place = f"127.0.0.1:{free_port()}"
    config = TangoConfig(device=DEVICE)
    command = command_line(config, server.publish_endpoint, server.requests_endpoint)
    ended = subprocess.run(
        command, env=environment(TANGO_HOST=place), capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert f"{DEVICE}: the Tango database {place}" in ended.stderr
    assert "Traceback" not in ended.stderr
