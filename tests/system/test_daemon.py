"""The whole daemon as users run it: real sockets, real signals, real files."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import zmq
from numpy.typing import NDArray

from braggd.data import Geometry
from braggd.sources.replay import Sender, prepare
from tests.system.running import SMALL, Daemon, daemon, next_result

Message = list[bytes]
README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def messages(measured_counts: NDArray[np.int32]) -> Callable[[int], list[Message]]:
    counts = measured_counts[79:120, 62:190, 64:192].astype(np.uint32)
    geometry = Geometry(rocking_motor="theta", rocking_deg=tuple(0.115 + 0.005 * i for i in range(41)))

    def make(series: int = 1) -> list[Message]:
        return [list(m) for m in prepare(counts, geometry, series=series)]

    return make


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("daemon"), tango=True) as process:
        process.wait_for(lambda s: s.state == "ON")
        yield process
        assert process.stop() == 0, process.log


def play(daemon: Daemon, messages: list[Message]) -> None:
    with Sender(daemon.source) as sender:
        sender.send(messages)


def readme_block(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\s*```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None, f"README.md has no block {mark!r}"
    return found[1]


def test_a_scan_comes_out_of_every_outlet(running: Daemon, messages: Callable[[int], list[Message]]) -> None:
    with running.client() as client:
        client.subscribe()
        play(running, messages(11))
        next_result(client, "refined")
        final = next_result(client, "final")
    assert final.array("density").shape == (32, 64, 64)
    assert final.timing["latency"] > 0
    running.wait_for(lambda s: s.state == "ON" and not s.activity)
    archive = running.folder / "archive" / f"{final.scan_id}.cxi"
    with h5py.File(archive) as file:
        np.testing.assert_array_equal(file["entry_1/image_1/data"], final.array("density"))
        region = file["entry_1/data_1/region"][()]
        assert region.shape == (3, 2)
    scans = json.load(urllib.request.urlopen(f"{running.http}/api/scans"))
    assert final.scan_id in json.dumps(scans)
    body = urllib.request.urlopen(f"{running.http}/api/scans/{final.scan_id}/archive").read()
    assert body == archive.read_bytes()
    text = urllib.request.urlopen(f"{running.http}/metrics").read().decode()
    assert 'braggd_frames_total{outcome="used"} 41.0' in text
    assert urllib.request.urlopen(f"{running.http}/healthz").status == 200


@pytest.mark.parametrize("mark", ["zmq client", "tango client"])
def test_the_readme_s_clients_get_the_result_even_when_late(
    running: Daemon, messages: Callable[[int], list[Message]], mark: str
) -> None:
    with running.client() as client:
        client.subscribe()
        play(running, messages(21 if mark == "zmq client" else 22))
        scan_id = next_result(client, "refined").scan_id
    running.wait_for(lambda s: not s.activity)
    code = readme_block(mark)
    assert len(code.strip().splitlines()) <= 10
    code = code.replace("tcp://127.0.0.1:5556", running.publish).replace("tcp://127.0.0.1:5557", running.requests)
    code = re.sub(r"tango://\S+#dbase=no", running.tango, code)
    # the examples go on for ever: what they say is read until it names the scan
    said = running.folder / "said"
    with said.open("w") as output, subprocess.Popen([sys.executable, "-u", "-c", code], stdout=output) as late:
        deadline = time.monotonic() + 30
        while scan_id not in said.read_text() and time.monotonic() < deadline and late.poll() is None:
            time.sleep(0.05)
        late.kill()
    assert scan_id in said.read_text()


def test_a_client_that_stops_reading_slows_nothing_down(
    running: Daemon, messages: Callable[[int], list[Message]]
) -> None:
    context = zmq.Context()
    lazy = [context.socket(zmq.SUB) for _ in range(3)]
    for socket_ in lazy:
        socket_.rcvhwm = 1
        socket_.subscribe(b"")
        socket_.connect(running.publish)
    try:
        with running.client() as client:
            client.subscribe()
            for series in range(31, 34):
                play(running, messages(series))
                assert next_result(client, "refined").timing["latency"] < 120  # it would wait for ever
    finally:
        context.destroy(linger=0)


def test_a_dead_reconstruction_process_is_replaced_and_the_scan_still_comes(
    running: Daemon, messages: Callable[[int], list[Message]]
) -> None:
    workers = [p for p in psutil.Process(running.process.pid).children() if "braggd.worker" in " ".join(p.cmdline())]
    assert len(workers) == 1
    with running.client() as client:
        client.subscribe()
        workers[0].kill()
        play(running, messages(41))
        refined = next_result(client, "refined")
    assert refined.array("support").any()
    status = running.wait_for(lambda s: s.state == "ALARM")
    assert "started again" in status.degraded["worker"]
    with running.client() as client:
        client.command("reset")
    running.wait_for(lambda s: s.state == "ON")


def test_a_scan_can_be_reprocessed_from_the_spool(running: Daemon, messages: Callable[[int], list[Message]]) -> None:
    with running.client() as client:
        client.subscribe()
        client.command("prepare", scan_id="again")
        play(running, messages(51))
        first = next_result(client, "refined")
        running.wait_for(lambda s: not s.activity)
        client.command("reprocess", scan_id="again")
        second = next_result(client, "refined")
    assert first.scan_id == second.scan_id == "again"
    np.testing.assert_allclose(np.abs(first.array("density")), np.abs(second.array("density")), rtol=1e-3, atol=1e-2)


def test_an_aborted_reconstruction_is_no_fault(tmp_path: Path, messages: Callable[[int], list[Message]]) -> None:
    with daemon(tmp_path, SMALL.replace("40*HIO", "20000*HIO")) as process:
        process.wait_for(lambda s: s.state == "ON")
        play(process, messages(1))
        process.wait_for(lambda s: s.progress > 0 and s.frames_received == 0)
        with process.client() as client:
            client.command("abort")
        process.wait_for(lambda s: s.state == "ON")
        text = urllib.request.urlopen(f"{process.http}/metrics").read().decode()
        assert 'braggd_scans_total{outcome="aborted"} 1.0' in text
        assert process.stop() == 0, process.log


def test_what_is_in_hand_at_sigterm_is_finished_by_the_next_start(
    tmp_path: Path, messages: Callable[[int], list[Message]]
) -> None:
    with daemon(tmp_path, SMALL) as first:
        first.wait_for(lambda s: s.state == "ON")
        play(first, messages(1)[:30])  # a scan that is still being measured
        first.wait_for(lambda s: s.frames_received == 29)
        assert first.stop(within_s=10) == 0, first.log
    assert len(list((tmp_path / "spool").glob("*.stream"))) == 1
    with daemon(tmp_path, SMALL) as second:
        second.wait_for(lambda s: s.stage == "final" and not s.activity)
        with second.client() as client:
            result = client.last(stage="final")
        assert second.stop() == 0, second.log
    assert any("12 of 41 frames missing" in warning for warning in result.warnings)
    assert len(list((tmp_path / "archive").glob("*.cxi"))) == 1


def test_systemd_is_told_when_the_daemon_is_ready_and_alive(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(30)
        with daemon(tmp_path / "run", NOTIFY_SOCKET=address) as process:
            said = systemd.recv(4096).decode()
            assert said == "READY=1"
            beat = systemd.recv(4096).decode()
            assert beat.startswith("WATCHDOG=1\nSTATUS=")
            process.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while "STOPPING=1" not in said and time.monotonic() < deadline:
                said = systemd.recv(4096).decode()
            assert process.process.wait(10) == 0
    assert said == "STOPPING=1"
