"""The HTTP server, asked over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from braggd.config import HttpConfig
from braggd.data import Outcome, Stage, Status
from braggd.errors import OutletError
from braggd.outlets.http import HttpServer
from braggd.outlets.metrics import Metrics

ANYWHERE = HttpConfig(port=0)


class Daemon:
    """What the server is told."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.reasons: dict[str, str] = {}
        self.folder = folder
        (folder / "archive").mkdir()
        (folder / "archive" / "S 1.cxi").write_bytes(b"hdf" * 1_000_000)
        (folder / "archive" / "broken.cxi").write_bytes(b"")
        (folder / "secret.cxi").write_bytes(b"secret")
        (folder / "archive" / ".S2.cxi").write_bytes(b"half a file")

    def serve(self) -> HttpServer:
        return HttpServer(
            ANYWHERE,
            metrics=self.metrics,
            status=lambda: Status(state="ON", frames_received=7),
            health=lambda: self.reasons,
            scans=lambda: [{"scan_id": "S 1"}],
            scan=self.scan,
            archive=self.folder / "archive",
        )

    def scan(self, scan_id: str) -> dict[str, Any]:
        if scan_id == "broken":
            raise OutletError("broken.cxi is not a braggd archive; name a file that braggd wrote")
        return {"scan_id": scan_id, "metrics": {"llk": 1.5}}


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


@pytest.fixture
def port(daemon: Daemon) -> Iterator[int]:
    with daemon.serve() as server:
        yield server.port


def get(port: int, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.endheaders()
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_metrics_are_those_of_the_contract_and_start_at_zero(daemon: Daemon, port: int) -> None:
    daemon.metrics.frames.labels(outcome=Outcome.USED.value).inc(201)
    daemon.metrics.stage_seconds.labels(stage=Stage.FINAL.value).observe(7.0)
    daemon.metrics.degraded.labels(reason="gpu").set(1)
    daemon.metrics.queue_depth.set(2)
    daemon.metrics.spool_bytes.set(12)
    response, body = get(port, "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    outcomes = ("used", "lost", "corrupt", "duplicate", "stray", "dropped")
    assert {key[1]: value for key, value in samples.items() if key[0] == "braggd_frames_total"} == {
        **dict.fromkeys(outcomes, 0.0),
        "used": 201.0,
    }
    assert samples["braggd_scans_total", "done"] == samples["braggd_scans_total", "failed"] == 0
    assert samples["braggd_stage_seconds_count", "final"] == 1
    assert samples["braggd_stage_seconds_bucket", "5.0", "final"] == 0
    assert samples["braggd_stage_seconds_bucket", "10.0", "final"] == 1
    assert samples["braggd_stage_seconds_count", "dl"] == 0
    assert samples["braggd_degraded", "gpu"] == 1
    assert samples["braggd_queue_depth",] == 2
    assert samples["braggd_spool_bytes",] == 12
    assert {key[0].removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for key in samples} == {
        "braggd_frames_total",
        "braggd_scans_total",
        "braggd_stage_seconds",
        "braggd_queue_depth",
        "braggd_spool_bytes",
        "braggd_degraded",
    }


def test_two_daemons_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.frames.labels(outcome="used").inc()
    assert second.registry.get_sample_value("braggd_frames_total", {"outcome": "used"}) == 0


def test_health_is_503_with_reasons_while_the_daemon_cannot_work(daemon: Daemon, port: int) -> None:
    response, body = get(port, "/healthz")
    assert (response.status, json.loads(body)) == (200, {"healthy": True, "reasons": {}})
    daemon.reasons = {"worker": "the reconstruction process keeps dying"}
    response, body = get(port, "/healthz")
    assert (response.status, json.loads(body)) == (503, {"healthy": False, "reasons": daemon.reasons})


def test_status_is_valid_json_with_null_for_what_is_not_known(port: int) -> None:
    response, body = get(port, "/api/status")
    status = json.loads(body, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert response.headers["Content-Type"] == "application/json"
    assert (status["state"], status["frames_received"], status["latency_s"]) == ("ON", 7, None)


def test_scans_are_listed_described_and_downloaded(daemon: Daemon, port: int) -> None:
    assert json.loads(get(port, "/api/scans")[1]) == {"scans": [{"scan_id": "S 1"}]}
    assert json.loads(get(port, "/api/scans/S%201")[1]) == {"scan_id": "S 1", "metrics": {"llk": 1.5}}
    response, body = get(port, "/api/scans/S%201/archive")
    assert body == (daemon.folder / "archive" / "S 1.cxi").read_bytes()
    assert "S%201.cxi" in response.headers["Content-Disposition"]
    response, body = get(port, "/api/scans/S%201/archive", "HEAD")
    assert (response.headers["Content-Length"], body) == ("3000000", b"")
    response, body = get(port, "/api/scans/broken")
    assert response.status == 500
    assert "not a braggd archive" in json.loads(body)["error"]


TRICKS = (
    *("../secret", "..%2Fsecret", "%2e%2e%2fsecret", "..", "%2E%2E", "archive%2F..%2F..%2Fsecret", "....//secret"),
    *("none", "", ".S2", "S%201%00", "S%201.cxi%00", "%ff", "*", "S*", "/etc/passwd", "%2Fetc%2Fpasswd"),
)


@pytest.mark.parametrize("scan_id", TRICKS)
def test_nothing_outside_the_archive_can_be_reached(port: int, scan_id: str) -> None:
    for address in (f"/api/scans/{scan_id}/archive", f"/api/scans/{scan_id}/", f"/api/scans/{scan_id}%2Farchive"):
        response, body = get(port, address)
        assert response.status == 404
        assert b"secret" not in body or b"there is no" in body
        assert "error" in json.loads(body)


def test_addresses_that_do_not_exist_are_404_and_nothing_can_be_changed(port: int) -> None:
    assert get(port, "/")[0].status == 200
    for path in ("/nothing", "/api", "/api/scans/S%201/archive/more", "/metrics/x"):
        assert get(port, path)[0].status == 404
    for method in ("POST", "PUT", "DELETE"):
        assert get(port, "/api/status", method)[0].status == 501


def test_a_client_that_does_not_read_its_download_holds_up_nobody(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /api/scans/S%201/archive HTTP/1.1\r\nHost: x\r\n\r\n")
        assert get(port, "/healthz")[0].status == 200
    assert get(port, "/healthz")[0].status == 200


def test_an_address_in_use_is_named_with_what_to_do(daemon: Daemon, port: int) -> None:
    config = HttpConfig(port=port)
    providers: dict[str, Any] = {"status": Status, "health": dict, "scans": list, "scan": dict, "archive": None}
    with pytest.raises(OutletError, match=rf"http://127.0.0.1:{port}: another program serves it already; set host"):
        HttpServer(config, metrics=daemon.metrics, **providers)
    with pytest.raises(OutletError, match=r"http://nowhere.invalid:8080 cannot be served"):
        HttpServer(HttpConfig(host="nowhere.invalid"), metrics=daemon.metrics, **providers)


def test_closing_frees_the_port_and_ends_the_thread(daemon: Daemon) -> None:
    server = daemon.serve()
    server.start()
    assert get(server.port, "/healthz")[0].status == 200
    server.close()
    assert "http" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
