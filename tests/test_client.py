"""The client against a real server, over real sockets."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from braggd import wire
from braggd.client import Client
from braggd.data import Geometry, NamedArray, Result, Stage, Status
from braggd.errors import ClientError, OutletError
from braggd.outlets.zmq import ResultServer

ANY_PORT = "tcp://127.0.0.1:*"


def result(scan_id: str = "S1", stage: Stage = Stage.DL, value: float = 1.0) -> Result:
    random = np.random.default_rng(5)
    density = (random.normal(size=(3, 4, 5)) + 1j * random.normal(size=(3, 4, 5))).astype(np.complex64)
    return Result(
        scan_id=scan_id,
        stage=stage,
        arrays=(
            NamedArray(name="density", data=density, axes=("z", "y", "x")),
            NamedArray(name="modulus", data=np.abs(density)[:, ::-1, ::2], axes=("z", "y", "x")),
            NamedArray(name="big_endian", data=np.arange(7, dtype=">i4"), axes=("step",), unit="photons"),
            NamedArray(name="support", data=np.abs(density) > 1, axes=("z", "y", "x")),
            NamedArray(name="scalar", data=np.array(2.5), axes=()),
            NamedArray(name="empty", data=np.empty((0, 3), np.float32), axes=("row", "column")),
        ),
        metrics={"llk": value, "free_llk": math.nan, "resolution_nm": math.inf, "count": np.float32(3)},
        warnings=("no GPU: größer",),
        geometry=Geometry(energy_kev=9.0, rocking_deg=(0.0, math.nan), angles_deg={"delta": 31.5}),
        timing={"inpaint": 0.25},
    )


@pytest.fixture
def server() -> Iterator[ResultServer]:
    def handler(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "abort":
            raise OutletError("there is no scan to abort; start one")
        if name == "stop":
            time.sleep(0.6)
        return {"did": name, **arguments}

    with ResultServer(ANY_PORT, ANY_PORT, handler) as running:
        yield running


@pytest.fixture
def client(server: ResultServer) -> Iterator[Client]:
    with Client(server.publish_endpoint, server.requests_endpoint) as connected:
        yield connected


def test_a_result_arrives_as_it_was_sent(server: ResultServer, client: Client) -> None:
    sent = result()
    client.subscribe()
    server.publish(sent)
    came = next(client.results(timeout_s=5))
    assert (came.scan_id, came.stage, came.warnings) == (sent.scan_id, sent.stage, sent.warnings)
    assert came.metrics["llk"] == 1.0
    assert came.metrics["count"] == 3.0
    assert math.isnan(came.metrics["free_llk"])
    assert math.isnan(came.metrics["resolution_nm"])
    assert came.timing == {"inpaint": 0.25}
    assert came.geometry.energy_kev == 9.0
    assert came.geometry.angles_deg == {"delta": 31.5}
    assert came.geometry.rocking_deg[0] == 0.0
    assert math.isnan(came.geometry.rocking_deg[1])
    for there, here in zip(came.arrays, sent.arrays, strict=True):
        assert (there.name, there.axes, there.unit) == (here.name, here.axes, here.unit)
        assert there.data.dtype == here.data.dtype.newbyteorder("<")
        np.testing.assert_array_equal(there.data, here.data, strict=there.data.dtype == here.data.dtype)


def test_a_client_without_braggd_reads_results_with_json_and_numpy(server: ResultServer) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.connect(server.publish_endpoint)
        subscriber.subscribe(b"S1/")
        time.sleep(0.3)
        server.publish(result("S2"))
        server.publish(result("S1", Stage.FINAL))
        assert subscriber.poll(5000)
        topic, text, *buffers = subscriber.recv_multipart()
    assert topic == b"S1/final"
    header = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    fields = {"schema", "scan_id", "stage", "metrics", "warnings", "geometry", "timing", "arrays"}
    assert set(header) == fields
    assert header["metrics"]["free_llk"] is None
    assert len(buffers) == len(header["arrays"])
    first = header["arrays"][0]
    assert set(first) == {"name", "dtype", "shape", "axes", "unit"}
    density = np.frombuffer(buffers[0], first["dtype"]).reshape(first["shape"])
    np.testing.assert_array_equal(density, result().array("density"))


def test_no_result_is_lost_between_subscribing_and_asking(server: ResultServer) -> None:
    """While results are published without a pause, what `last` returns continues in the subscription without a gap."""
    stop = threading.Event()

    def publish() -> None:
        for count in range(100_000):
            server.publish(result(value=count))
            if stop.wait(0.005):
                return

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        for _ in range(10):
            with Client(server.publish_endpoint, server.requests_endpoint) as client:
                client.subscribe()
                known = client.last().metrics["llk"]
                followed = [next(client.results(timeout_s=5)).metrics["llk"] for _ in range(5)]
                assert followed[0] <= known + 1
                assert followed == [followed[0] + step for step in range(5)]
    finally:
        stop.set()
        publisher.join()


def test_a_late_joiner_gets_the_last_result_of_every_stage(server: ResultServer, client: Client) -> None:
    for scan_id in ("S1", "S2"):
        for stage in Stage:
            server.publish(result(scan_id, stage, value=1))
            server.publish(result(scan_id, stage, value=2))
    server.publish(result("S2", Stage.DL, value=3))
    wait_for(lambda: client.last().metrics["llk"] == 3)
    assert set(client.available()) == {(scan_id, stage) for scan_id in ("S1", "S2") for stage in Stage}
    assert client.last().stage is Stage.DL
    for scan_id in ("S1", "S2"):
        for stage in Stage:
            found = client.last(scan_id, stage)
            assert (found.scan_id, found.stage) == (scan_id, stage)
            assert found.metrics["llk"] == (3 if (scan_id, stage) == ("S2", Stage.DL) else 2)
    assert client.last("S1").stage is Stage.FINAL
    assert client.last(stage=Stage.FINAL).scan_id == "S2"


def test_status_reaches_those_who_listen_and_those_who_ask(server: ResultServer, client: Client) -> None:
    client.subscribe()
    assert client.receive(timeout_s=5) == client.status() or math.isnan(client.status().latency_s)
    server.publish_status(Status(state="RUNNING", frames_received=7, degraded={"gpu": "none found"}))
    heard = client.receive(timeout_s=5)
    assert isinstance(heard, Status)
    assert (heard.state, heard.frames_received, heard.degraded) == ("RUNNING", 7, {"gpu": "none found"})
    assert math.isnan(heard.latency_s)
    assert client.status().frames_received == 7


def test_results_and_the_newest_status_arrive_in_the_order_they_were_published(
    server: ResultServer, client: Client
) -> None:
    client.subscribe()
    client.receive(timeout_s=5)
    for count in range(25):
        server.publish_status(Status(frames_received=count))
        server.publish(result(value=count))
    server.publish_status(Status(frames_received=25))
    newest = -1
    for message in client.messages(timeout_s=5):
        if isinstance(message, Status):
            assert message.frames_received > newest
            if message.frames_received == 25:
                break
        else:
            newest += 1
            assert message.metrics["llk"] == newest
    assert newest == 24


def test_commands_reach_the_daemon_and_its_refusal_reaches_the_client(server: ResultServer, client: Client) -> None:
    assert client.command("prepare", name="S7", frames=201) == {"did": "prepare", "name": "S7", "frames": 201}
    with pytest.raises(ClientError, match="there is no scan to abort; start one"):
        client.command("abort")
    with pytest.raises(ClientError, match="there is no request 'explode'"):
        client.command("explode")


def test_a_slow_command_does_not_hold_up_results(server: ResultServer, client: Client) -> None:
    client.subscribe()
    with pytest.raises(ClientError, match=r"no answer to 'stop' came from .* within 0.1 s"):
        client.command("stop", timeout_s=0.1)
    begun = time.monotonic()
    server.publish(result())
    assert next(client.results(timeout_s=5)).scan_id == "S1"
    assert client.last().scan_id == "S1"
    assert time.monotonic() - begun < 0.4
    assert client.command("start") == {"did": "start"}, "the abandoned answer must not be taken for this one"


def test_time_outs_say_what_was_waited_for_and_how_long(client: Client) -> None:
    client.subscribe()
    with pytest.raises(ClientError, match=r"no result came from tcp://127.0.0.1:\d+ within 0.2 s"):
        next(client.results(timeout_s=0.2))
    with pytest.raises(ClientError, match="no result of S9/any stage is kept"):
        client.last("S9")
    with Client("tcp://127.0.0.1:9", "tcp://127.0.0.1:9") as lonely:
        with pytest.raises(ClientError, match=r"no message came from tcp://127.0.0.1:9 within 0.2 s"):
            lonely.subscribe(timeout_s=0.2)
        with pytest.raises(ClientError, match=r"no answer to 'status' came from tcp://127.0.0.1:9 within 0.2 s"):
            lonely.status(timeout_s=0.2)


def test_a_client_hears_a_daemon_that_was_started_again() -> None:
    with ResultServer(ANY_PORT, ANY_PORT) as first:
        client = Client(first.publish_endpoint, first.requests_endpoint)
        client.subscribe()
    with client, ResultServer(client.publish, client.requests) as second:
        assert isinstance(client.receive(timeout_s=5), Status), "what the first one sent"
        assert isinstance(client.receive(timeout_s=5), Status), "the second one's greeting"
        second.publish(result("after"))
        assert next(client.results(timeout_s=5)).scan_id == "after"
        assert client.last().scan_id == "after"


@pytest.mark.parametrize(
    "parts",
    [
        [b"S1/dl"],
        [b"S1/dl", b"{"],
        [b"S1/dl", b'{"schema": "other/9", "scan_id": "S1", "stage": "dl"}'],
        [b"S1/dl", b'{"schema": "braggd/1", "scan_id": "S1", "stage": "soon"}'],
        [b"S1/dl", b'{"schema": "braggd/1", "scan_id": "S1", "stage": "dl"}', b"one buffer too many"],
        [b"S1/dl", *wire.pack(result())[1:-1], b"seven b"],
        [b"S1/dl", *wire.pack(result())[1:3], b"1234", *wire.pack(result())[4:]],
    ],
)
def test_what_is_no_result_is_refused_with_a_sentence(parts: list[bytes]) -> None:
    with pytest.raises(ClientError):
        wire.unpack(parts)


def test_only_numbers_with_named_axes_are_sent() -> None:
    for data, axes in ((np.array(["a"]), ("x",)), (np.zeros((2, 2)), ("x",))):
        array = NamedArray(name="odd", data=data, axes=axes)
        with pytest.raises(OutletError, match="array odd"):
            wire.pack(Result(scan_id="S1", stage=Stage.DL, arrays=(array,)))


def wait_for(condition: Any, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except ClientError:
            pass
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)
