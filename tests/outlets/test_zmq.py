"""The results server under clients that misbehave."""

from __future__ import annotations

import subprocess
import sys
import time

import msgspec
import numpy as np
import psutil
import pytest
import zmq

from braggd.client import Client
from braggd.data import NamedArray, Result, Stage, Status
from braggd.errors import ClientError, OutletError
from braggd.outlets.memory import Memory
from braggd.outlets.zmq import ResultServer

ANY_PORT = "tcp://127.0.0.1:*"

MEGABYTE = 1 << 20


def result(scan_id: str, stage: Stage, size: int) -> Result:
    data = np.full(size // 4, 1.0, np.float32)
    return Result(scan_id=scan_id, stage=stage, arrays=(NamedArray(name="density", data=data, axes=("x",)),))


@pytest.mark.parametrize("stage", [Stage.LIVE, Stage.FINAL])
def test_a_subscriber_that_never_reads_costs_bounded_time_and_memory(stage: Stage) -> None:
    """2 GB are published past three subscribers that read nothing; one that reads gets the newest result."""
    limit = 64 * MEGABYTE
    with ResultServer(ANY_PORT, ANY_PORT, keep_bytes=limit) as server, zmq.Context() as context:
        deaf = [context.socket(zmq.SUB) for _ in range(3)]
        for subscriber in deaf:
            subscriber.linger = 0
            subscriber.rcvhwm = 1
            subscriber.connect(server.publish_endpoint)
            subscriber.subscribe(b"")
        time.sleep(0.3)
        memory = psutil.Process().memory_info().rss
        slowest = most = 0.0
        for count in range(500):
            message = result(f"S{count}", stage, 4 * MEGABYTE)
            begun = time.perf_counter()
            server.publish(message)
            slowest = max(slowest, time.perf_counter() - begun)
            most = max(most, psutil.Process().memory_info().rss - memory)
        with Client(server.publish_endpoint, server.requests_endpoint) as client:
            assert client.last().scan_id == "S499"
        for subscriber in deaf:
            subscriber.close()
    assert slowest < 0.25
    # Queues of at most 64 results, which they share, what ZMQ and the kernel hold, and the memory for late joiners.
    assert most < 450 * MEGABYTE


def test_a_client_that_asks_and_never_reads_costs_bounded_memory() -> None:
    with ResultServer(ANY_PORT, ANY_PORT) as server, zmq.Context() as context:
        server.publish(result("S1", Stage.FINAL, 16 * MEGABYTE))
        deaf = context.socket(zmq.DEALER)
        deaf.linger = 0
        deaf.rcvhwm = 1
        deaf.connect(server.requests_endpoint)
        memory = psutil.Process().memory_info().rss
        for _ in range(2000):
            deaf.send(b'{"request": "last"}')
        with Client(server.publish_endpoint, server.requests_endpoint) as client:
            assert client.last(timeout_s=10).scan_id == "S1"
            assert client.status(timeout_s=10).state == "INIT"
        assert psutil.Process().memory_info().rss - memory < 200 * MEGABYTE
        deaf.close()


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_any_zmq_client_gets_an_answer(kind: int) -> None:
    with ResultServer(ANY_PORT, ANY_PORT) as server, zmq.Context() as context:
        socket = context.socket(kind)
        socket.connect(server.requests_endpoint)
        server.publish_status(Status(state="ON"))
        for request, field in (
            (b'{"request": "status"}', "state"),
            (b'{"request": "scans"}', "scans"),
            (b'{"request": "results"}', "results"),
            (b'{"request": "last"}', "error"),
            (b'{"request": ["last"]}', "error"),
            (b'{"request": "start"}', "error"),
            (b'{"request": "last", "scan_id": {"a": 1}}', "error"),
            (b"[1, 2]", "error"),
            (b"\xff\x00", "error"),
            (b"", "error"),
        ):
            socket.send(request)
            assert socket.poll(5000), request
            reply = msgspec.json.decode(socket.recv_multipart()[-1])
            assert field in reply, request
        socket.close(linger=0)


def test_every_question_of_a_burst_is_answered() -> None:
    with ResultServer(ANY_PORT, ANY_PORT) as server, zmq.Context() as context:
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.rcvhwm = 1
        socket.connect(server.requests_endpoint)
        for _ in range(200):
            socket.send(b'{"request": "scans"}')
        time.sleep(0.3)
        answered = 0
        while answered < 200 and socket.poll(2000):
            socket.recv_multipart()
            answered += 1
        socket.close()
        assert answered == 200


def test_an_endpoint_in_use_is_named_with_what_to_do() -> None:
    with ResultServer(ANY_PORT, ANY_PORT) as server:
        with pytest.raises(OutletError, match=f"{server.publish_endpoint}: another .*; set results.publish to another"):
            ResultServer(server.publish_endpoint, ANY_PORT)
        with pytest.raises(OutletError, match=f"{server.requests_endpoint}: another .*; set results.requests to"):
            ResultServer(ANY_PORT, server.requests_endpoint)
        for nonsense in ("nonsense", "tcp://127.0.0.1", "carrier-pigeon://loft:1"):
            with pytest.raises(OutletError, match=f"{nonsense}: cannot be served"):
                ResultServer(nonsense, ANY_PORT)


def test_a_live_array_may_go_on_growing_after_it_was_published() -> None:
    with ResultServer(ANY_PORT, ANY_PORT) as server:
        curve = np.zeros(50_000, np.float32)
        live = Result(
            scan_id="S1", stage=Stage.LIVE, arrays=(NamedArray(name="rocking_curve", data=curve, axes=("step",)),)
        )
        with Client(server.publish_endpoint, server.requests_endpoint) as client:
            client.subscribe()
            server.publish(live)
            curve += 1
            assert not next(client.results(timeout_s=5)).array("rocking_curve").any()
            assert not client.last().array("rocking_curve").any()


def test_what_was_published_before_closing_still_goes_out() -> None:
    server = ResultServer(ANY_PORT, ANY_PORT)
    with Client(server.publish_endpoint, server.requests_endpoint) as client:
        client.subscribe()
        server.publish(result("S1", Stage.FINAL, 2 * MEGABYTE))
        server.close()
        server.close()
        server.publish(result("S2", Stage.FINAL, 16))
        assert next(client.results(timeout_s=5)).scan_id == "S1"
        with pytest.raises(ClientError):
            client.status(timeout_s=0.2)


def test_a_hanging_command_does_not_keep_the_process_from_ending() -> None:
    script = """
import time, zmq
from braggd.outlets.zmq import ResultServer
with ResultServer("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", lambda name, arguments: time.sleep(60)) as server:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(server.requests_endpoint)
        dealer.send(b'{"request": "stop"}')
        time.sleep(0.3)
"""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", script], timeout=20, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_memory_keeps_the_newest_scans_and_never_cuts_the_newest() -> None:
    memory = Memory(scans=2, size=100)
    for scan_id in "abc":
        for stage in ("live", "dl", "final"):
            memory.keep(scan_id, stage, [bytes(10)])
    assert memory.scans() == ["b", "c"]
    assert memory.find() is memory.find("c", "final")
    memory.keep("d", "final", [bytes(75)])
    assert memory.entries() == [("c", "dl"), ("c", "final"), ("d", "final")]
    memory.keep("d", "live", [bytes(90)])
    assert memory.entries() == [("d", "final"), ("d", "live")]
    assert memory.find("c") is None
    memory.keep("d", "final", [b"newer"])
    assert memory.find(stage="final") == [b"newer"]
    assert memory.find() == [b"newer"]


def test_closing_gives_every_descriptor_back() -> None:
    process = psutil.Process()
    with ResultServer(ANY_PORT, ANY_PORT):
        pass
    before = process.num_fds()
    for _ in range(10):
        with ResultServer(ANY_PORT, ANY_PORT) as server:
            server.publish(result("S1", Stage.FINAL, MEGABYTE))
    assert process.num_fds() <= before + 2
