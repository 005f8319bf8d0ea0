"""Metrics, health, status and the archive over HTTP, for reading only.

/metrics                    Prometheus
/healthz                    200 or 503, {"healthy": bool, "reasons": {NAME: SENTENCE}}
/api/status                 `braggd.data.Status`
/api/scans                  {"scans": [...]}, what is in the archive
/api/scans/{id}             one of them in full
/api/scans/{id}/archive     its file
/                           these addresses
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import msgspec
from prometheus_client.exposition import choose_encoder

from braggd.config import HttpConfig
from braggd.data import Status
from braggd.errors import BraggdError, OutletError
from braggd.outlets.metrics import Metrics

_ADDRESSES = ("/metrics", "/healthz", "/api/status", "/api/scans", "/api/scans/{id}", "/api/scans/{id}/archive")
_CLIENT_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


class HttpServer:
    """Answers HTTP from threads of its own, with what it asks of its providers.

    config: where to listen; port 0 takes a free one, and `port` tells which
    status: what the daemon is doing
    health: reasons, by name, why the daemon cannot do its work; empty where it can
    scans: what is in the archive
    scan: one scan of the archive in full, by its scan_id; BraggdError where it cannot be read
    archive: folder of `{scan_id}.cxi`, None where there is none

    Raises OutletError where the address cannot be served.
    """

    def __init__(
        self,
        config: HttpConfig,
        *,
        metrics: Metrics,
        status: Callable[[], Status],
        health: Callable[[], Mapping[str, str]],
        scans: Callable[[], Sequence[Mapping[str, Any]]],
        scan: Callable[[str], Mapping[str, Any]],
        archive: Path | None,
    ) -> None:
        self.metrics, self.status, self.health, self.scans, self.scan = metrics, status, health, scans, scan
        self.archive = archive
        try:
            self._server = _Server((config.host, config.port), self)
        except (OSError, OverflowError) as error:
            reason = f"http://{config.host}:{config.port} cannot be served ({error})"
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                reason = f"http://{config.host}:{config.port}: another program serves it already"
            raise OutletError(f"{reason}; set host and port under [http], or port = 0 for none") from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Answer from here on."""
        self._thread.start()

    def close(self) -> None:
        """Stop; downloads that are under way end with the process."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def archive_file(self, scan_id: str) -> Path | None:
        """The archive of a scan, None where there is none; looked up among the folder's files, so never outside it."""
        if self.archive is None or scan_id.startswith("."):
            return None
        return {path.name: path for path in self.archive.glob("*.cxi")}.get(f"{scan_id}.cxi")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], owner: HttpServer) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.info("a request from %s broke off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "braggd"
    timeout = _CLIENT_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        try:
            self._answer()
        except BraggdError as error:
            self._json({"error": str(error)}, HTTPStatus.INTERNAL_SERVER_ERROR)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:  # noqa: BLE001 - one bad answer must not end the connection without a word
            _log.exception("GET %s", self.path)
            self._json({"error": "the daemon's log tells what went wrong"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class calls it so
        _log.debug(format, *arguments)

    def _answer(self) -> None:
        owner = self.server.owner
        match [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]:
            case [""]:
                self._json({"braggd": _ADDRESSES})
            case ["metrics"]:
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._send(encode(owner.metrics.registry), kind)
            case ["healthz"]:
                reasons = dict(owner.health())
                status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
                self._json({"healthy": not reasons, "reasons": reasons}, status)
            case ["api", "status"]:
                self._json(owner.status())
            case ["api", "scans"]:
                self._json({"scans": list(owner.scans())})
            case ["api", "scans", scan_id, *rest] if rest in ([], ["archive"]):
                path = owner.archive_file(scan_id)
                if path is None:
                    self._json({"error": f"there is no scan {scan_id!r}; see /api/scans"}, HTTPStatus.NOT_FOUND)
                elif rest:
                    self._file(path)
                else:
                    self._json(owner.scan(scan_id))
            case _:
                sentence = f"there is nothing at {self.path}; there are {', '.join(_ADDRESSES)}"
                self._json({"error": sentence}, HTTPStatus.NOT_FOUND)

    def _json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(msgspec.json.encode(content), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, path: Path) -> None:
        with path.open("rb") as file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/x-hdf5")
            self.send_header("Content-Length", str(file.seek(0, 2)))
            self.send_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(path.name, safe='')}")
            self.end_headers()
            if self.command != "HEAD":
                file.seek(0)
                shutil.copyfileobj(file, self.wfile, 1 << 20)
