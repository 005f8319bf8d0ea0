"""Frames over real ZMQ sockets."""

import threading
import time

import numpy as np
import pytest
import zmq

from braggd.errors import SourceError
from braggd.sources.replay import Sender
from braggd.sources.stream import FrameStream

MESSAGES = [[b"%d" % index, b"", bytes(50_000)] for index in range(40)]


@pytest.mark.parametrize(("send", "receive"), [("push", "pull"), ("pub", "sub")])
def test_every_part_arrives_in_order(send, receive):
    with Sender("tcp://127.0.0.1:*", send) as sender, FrameStream(sender.endpoint, receive) as stream:
        thread = threading.Thread(target=sender.send, args=(MESSAGES,))
        thread.start()
        found = [stream.receive(5) for _ in MESSAGES]
        thread.join()
    assert [[bytes(part) for part in parts] for parts in found] == MESSAGES


def test_large_parts_stay_valid_after_the_stream_is_closed():
    with Sender("tcp://127.0.0.1:*") as sender:
        with FrameStream(sender.endpoint) as stream:
            sender.send([[b"small", b"y" * 100_000]])
            parts = stream.receive(5)
        assert isinstance(parts[1], memoryview)
        assert np.frombuffer(parts[1], "u1").sum() == 100_000 * ord("y")


def test_nothing_to_receive_is_none_after_the_timeout():
    with Sender("tcp://127.0.0.1:*") as sender, FrameStream(sender.endpoint) as stream:
        assert stream.receive(0) is None
        began = time.monotonic()
        assert stream.receive(0.2) is None
        assert 0.15 < time.monotonic() - began < 2


def test_a_stream_can_be_bound_and_fed_by_several_senders():
    with (
        FrameStream("bind:tcp://127.0.0.1:*") as stream,
        zmq.Context() as context,
        context.socket(zmq.PUSH) as one,
        context.socket(zmq.PUSH) as other,
    ):
        for socket, name in ((one, b"a"), (other, b"b")):
            socket.connect(stream.endpoint)
            socket.send(name)
        assert {bytes(stream.receive(5)[0]) for _ in range(2)} == {b"a", b"b"}


def test_a_listener_may_come_before_the_detector_and_outlive_it():
    with FrameStream("bind:tcp://127.0.0.1:*") as probe:
        endpoint = probe.endpoint
    with FrameStream(endpoint) as stream:
        for name in (b"first", b"second"):
            with Sender(endpoint) as sender:
                sender.send([[name]])
                assert bytes(stream.receive(5)[0]) == name


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:port", "x://a:1"])
def test_a_bad_endpoint_is_told_in_a_sentence(endpoint):
    with pytest.raises(SourceError, match="write tcp://HOST:PORT"):
        FrameStream(endpoint)
    with pytest.raises(SourceError, match="write tcp://HOST:PORT"):
        FrameStream(f"bind:{endpoint}")
    with pytest.raises(SourceError, match="write tcp://HOST:PORT"):
        Sender(endpoint)


def test_a_port_in_use_is_told_in_a_sentence():
    with Sender("tcp://127.0.0.1:*") as sender, pytest.raises(SourceError, match="in use"):
        Sender(sender.endpoint)


def test_a_closed_stream_says_so():
    stream = FrameStream("bind:tcp://127.0.0.1:*")
    stream.close()
    with pytest.raises(SourceError, match="open the stream again"):
        stream.receive(0)
