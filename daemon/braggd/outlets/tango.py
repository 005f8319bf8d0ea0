"""The Tango device, in a process of its own: what it knows it learns from the daemon over ZMQ, like any other client.

    python -m braggd.outlets.tango --device braggd/daemon/1 --publish tcp://... --requests tcp://...

Whatever happens to Tango, to its database or to a client of it, the daemon goes on; and when the daemon goes, the
device stays, says so in FAULT, and takes it up again when it is back. With TANGO_HOST set the device is registered in
that database and served from there; without, it is at `tango://HOST:PORT/DEVICE#dbase=no`.
"""
# ruff: noqa: N802 - commands are named as Tango's are

from __future__ import annotations

import argparse
import contextlib
import enum
import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tango
from tango import AttrQuality, AttrWriteType, DevState
from tango.server import Device, attribute, command

from braggd.client import Client
from braggd.config import TangoConfig
from braggd.data import Result, Stage, Status
from braggd.errors import BraggdError, ClientError, OutletError
from braggd.outlets import views
from braggd.outlets.tango_place import INSTANCE, registered, retire, take_port

_LARGEST_IMAGE = 16384
_LONGEST_CURVE = 1 << 20
_TICK_S = 0.25
_SILENCE_S = 2.0
# A command holds the device's lock; events wait for it, and Tango gives up after 3.2 s.
_COMMAND_TIMEOUT_S = 2.0
_STATES = {name: getattr(DevState, name) for name in ("INIT", "ON", "RUNNING", "ALARM", "FAULT", "OFF")}

_log = logging.getLogger(__name__)


class StageLabel(enum.IntEnum):
    """How far the scan has come, as Tango's enumeration."""

    live = 0
    dl = 1
    refined = 2
    final = 3


@dataclass(frozen=True, slots=True, eq=False)
class _Value:
    """An attribute's last value; None where there is none."""

    value: Any
    time: float


def command_line(config: TangoConfig, publish: str, requests: str) -> list[str]:
    """How to start the device's process beside a daemon with these endpoints."""
    return [
        *(sys.executable, "-m", "braggd.outlets.tango", "--device", config.device),
        *("--host", config.host, "--port", str(config.port), "--publish", publish, "--requests", requests),
    ]


def _shown(name: str, dtype: Any, doc: str, **properties: Any) -> attribute:
    """A read-only attribute that shows the last value of that name."""

    def read(self: BraggDaemon) -> Any:
        return self.last_value(name)

    read.__name__ = f"read_{name}"
    return attribute(name=name, dtype=dtype, doc=doc, fget=read, **properties)


def _picture(name: str, doc: str, unit: str = "") -> attribute:
    return _shown(name, ((np.float32,),), doc, unit=unit, max_dim_x=_LARGEST_IMAGE, max_dim_y=_LARGEST_IMAGE)


class BraggDaemon(Device):  # type: ignore[misc]
    """A running braggd.

    Attributes that have no value yet are INVALID. Metrics, pictures and the volume always belong to one and the same
    result, named by `result`; they stay while the next scan is being acquired.
    """

    publish: ClassVar[str]
    requests: ClassVar[str]

    scan_id = _shown("scan_id", str, "The scan that is acquired or was reconstructed last")
    stage = _shown("stage", StageLabel, "How far that scan has come")
    result = _shown("result", str, "scan_id/stage of the metrics, pictures and volume")
    daemon = _shown("daemon", str, "Endpoint of the daemon that this device follows")
    frames_received = _shown("frames_received", int, "Frames that came, whatever became of them")
    frames_expected = _shown("frames_expected", int, "Frames that the scan should have, 0 where nobody told")
    frames_lost = _shown("frames_lost", int, "Frames that should have come and did not")
    progress = _shown("progress", float, "Of what is being done now, 0 to 1")
    queue_depth = _shown("queue_depth", int, "Scans that wait for reconstruction")
    latency_s = _shown("latency_s", float, "From the last frame to the newest stage", unit="s")
    provider = _shown("provider", str, "What inference really runs on")
    llk = _shown("llk", float, "Log-likelihood per measured voxel")
    free_llk = _shown("free_llk", float, "Log-likelihood per voxel that was kept from the phasing")
    resolution_nm = _shown("resolution_nm", float, "Resolution", unit="nm")
    strain_rms = _shown("strain_rms", float, "Root mean square of the strain in the support")
    support_voxels = _shown("support_voxels", int, "Voxels in the support")
    rocking_curve = _shown("rocking_curve", (np.float32,), "Sum of each frame", unit="photon", max_dim_x=_LONGEST_CURVE)
    frame_sum = _picture("frame_sum", "Sum of the frames, (row, column)", "photon")
    modulus_xy = _picture("modulus_xy", "Modulus through the centre of mass, (y, x)")
    modulus_xz = _picture("modulus_xz", "Modulus through the centre of mass, (z, x)")
    modulus_yz = _picture("modulus_yz", "Modulus through the centre of mass, (z, y)")
    phase_xy = _picture("phase_xy", "Phase through the centre of mass, (y, x)", "rad")
    phase_xz = _picture("phase_xz", "Phase through the centre of mass, (z, x)", "rad")
    phase_yz = _picture("phase_yz", "Phase through the centre of mass, (z, y)", "rad")
    strain_xy = _picture("strain_xy", "Strain through the centre of mass, (y, x)")
    strain_xz = _picture("strain_xz", "Strain through the centre of mass, (z, x)")
    strain_yz = _picture("strain_yz", "Strain through the centre of mass, (z, y)")
    volume = _shown("volume", tango.DevEncoded, "The volume that volume_name names, (z, y, x), as LImA's DATA_ARRAY")

    volume_name = attribute(
        dtype=str,
        access=AttrWriteType.READ_WRITE,
        doc=f"Which volume is shown: {', '.join(views.VOLUMES)}",
        fget="read_volume_name",
        fset="write_volume_name",
    )

    _volume_name: str = views.VOLUMES[0]

    def read_volume_name(self) -> str:
        """Which volume is shown."""
        return self._volume_name

    def write_volume_name(self, name: str) -> None:
        """Show another volume."""
        if name not in views.VOLUMES:
            _refuse("volume_name", f"there is no volume {name!r}; there are {', '.join(views.VOLUMES)}")
        self._volume_name = name
        self._push("volume_name", name)
        self._show({"volume": self._encoded()})

    def init_device(self) -> None:
        """Forget everything and ask the daemon anew."""
        super().init_device()
        names = [shown.get_name() for shown in self.get_device_attr().get_attribute_list()]
        self._values = dict.fromkeys(names, _Value(None, time.time()))
        self._volumes: dict[str, Any] = {}
        self._scan_of_status = ""
        for name in names:
            self.set_change_event(name, True, False)
            self.set_archive_event(name, True, False)
        self._show({"daemon": self.requests})
        self._set_state(DevState.INIT, f"asking the daemon at {self.requests}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(self._stop,), name="follow", daemon=True)
        self._thread.start()

    def delete_device(self) -> None:
        """Stop following the daemon."""
        self._stop.set()
        # It may be waiting for the lock that this holds; it ends by itself then.
        self._thread.join(2 * _TICK_S)

    def dev_state(self) -> DevState:
        """The daemon's state; Tango's own default would mix in the alarms of attributes."""
        return self.get_state()

    def dev_status(self) -> str:
        """What the daemon does, or why it cannot."""
        return str(self.get_status())

    @command  # type: ignore[untyped-decorator]
    def Start(self) -> None:
        """Take scans."""
        self._tell("start")

    @command  # type: ignore[untyped-decorator]
    def Stop(self) -> None:
        """Finish what is there, and take no more scans."""
        self._tell("stop")

    @command  # type: ignore[untyped-decorator]
    def Abort(self) -> None:
        """Drop the scan in hand."""
        self._tell("abort")

    @command  # type: ignore[untyped-decorator]
    def Reset(self) -> None:
        """Clear faults and alarms."""
        self._tell("reset")

    @command(dtype_in=str, doc_in='JSON object, such as {"scan_id": "S7"}')  # type: ignore[untyped-decorator]
    def PrepareScan(self, preparation: str) -> None:
        """Tell the daemon what it should know of the next scan."""
        try:
            arguments = json.loads(preparation)
        except ValueError as error:
            _refuse("PrepareScan", f"PrepareScan takes a JSON object, and this is none ({error})")
        if not isinstance(arguments, dict):
            _refuse("PrepareScan", f"PrepareScan takes a JSON object, not {preparation!r}")
        self._tell("prepare", **arguments)

    @command(dtype_in=str, doc_in="scan_id")  # type: ignore[untyped-decorator]
    def Reprocess(self, scan_id: str) -> None:
        """Reconstruct a scan again that the spool still has."""
        self._tell("reprocess", scan_id=scan_id)

    def last_value(self, name: str) -> tuple[Any, float, AttrQuality]:
        """Value, time and quality of an attribute, as Tango's read methods return them."""
        known = self._values[name]
        if known.value is None:
            return _empty(name), known.time, AttrQuality.ATTR_INVALID
        return known.value, known.time, AttrQuality.ATTR_VALID

    def _follow(self, stop: threading.Event) -> None:
        with tango.EnsureOmniThread():
            while not stop.is_set():
                try:
                    with Client(self.publish, self.requests) as client:
                        self._listen(client, stop)
                except ClientError as error:
                    self._set_state(DevState.FAULT, f"the daemon cannot be followed, and is asked again: {error}")
                except Exception:  # noqa: BLE001 - the device must outlive whatever Tango or a message holds
                    _log.exception("the device starts to follow the daemon anew")
                stop.wait(_TICK_S)

    def _listen(self, client: Client, stop: threading.Event) -> None:
        client.subscribe(_SILENCE_S)
        self._take_status(client.status(_SILENCE_S))
        for scan_id, stage in client.available(_SILENCE_S):
            # One that is gone meanwhile has been replaced by what the subscription brings.
            with contextlib.suppress(ClientError):
                self._take_result(client.last(scan_id, stage))
        heard = time.monotonic()
        while not stop.is_set():
            try:
                message = client.receive(_TICK_S)
            except ClientError:
                if time.monotonic() - heard < _SILENCE_S:
                    continue
                message = client.status(_SILENCE_S)
            heard = time.monotonic()
            if isinstance(message, Status):
                self._take_status(message)
            else:
                self._take_result(message)

    def _take_status(self, status: Status) -> None:
        view = views.status_view(status)
        if status.scan_id != self._scan_of_status:
            # Only a new scan; how far it has come is told by its results, once they can be read here.
            self._scan_of_status = status.scan_id
            if status.scan_id != self._values["scan_id"].value:
                view |= {"scan_id": status.scan_id or None, "stage": _label(status.stage)}
        self._show(view)
        reasons = [f"{name}: {sentence}" for name, sentence in status.degraded.items()]
        state = _STATES.get(status.state, DevState.UNKNOWN)
        self._set_state(state, "\n".join([status.activity or status.state.lower(), *reasons]))

    def _take_result(self, result: Result) -> None:
        view = views.result_view(result)
        if result.stage is not Stage.LIVE:
            self._volumes = views.volumes_of(result)
            view |= {"volume": self._encoded(), "result": f"{result.scan_id}/{result.stage}"}
        # Last, so that who waits for a stage finds all of it.
        self._show({**view, "scan_id": result.scan_id, "stage": _label(result.stage)})

    def _encoded(self) -> tuple[str, bytes] | None:
        volume = self._volumes.get(self._volume_name)
        return None if volume is None else views.encode_volume(volume)

    def _show(self, view: views.View) -> None:
        changed = [name for name, value in view.items() if not _same(self._values[name].value, value)]
        self._values |= {name: _Value(view[name], time.time()) for name in changed}
        for name in changed:
            self._push(name, *self.last_value(name))

    def _set_state(self, state: DevState, status: str) -> None:
        if (state, status) == (self.get_state(), self.get_status()):
            return
        self.set_state(state)
        self.set_status(status)
        self._push("State", state)
        self._push("Status", status)

    def _push(self, name: str, value: Any, *stamp: Any) -> None:
        arguments = (*value, *stamp) if name == "volume" else (value, *stamp)
        for push in (self.push_change_event, self.push_archive_event):
            try:
                push(name, *arguments)
            except tango.DevFailed as error:
                # The device was locked for too long; who reads finds the value all the same.
                _log.warning("no event of %s: %s", name, error.args[0].desc)

    def _tell(self, name: str, **arguments: Any) -> None:
        try:
            with Client(self.publish, self.requests) as client:
                client.command(name, timeout_s=_COMMAND_TIMEOUT_S, **arguments)
        except (BraggdError, TypeError) as error:
            _refuse(name, str(error))


def _refuse(origin: str, sentence: str) -> None:
    tango.Except.throw_exception("braggd", sentence, origin)


def _same(old: Any, new: Any) -> bool:
    """Whether nobody needs to hear of it; pictures are always news."""
    return old is new or (not isinstance(old, np.ndarray) and not isinstance(new, np.ndarray) and bool(old == new))


def _label(stage: str) -> StageLabel | None:
    return StageLabel[stage] if stage in StageLabel.__members__ else None


def _empty(name: str) -> Any:
    """What Tango wants beside the quality INVALID."""
    match name:
        case "scan_id" | "result" | "provider":
            return ""
        case "volume":
            return views.DATA_ARRAY, b""
        case "rocking_curve":
            return np.zeros(1, np.float32)
        case "frame_sum":
            return np.zeros((1, 1), np.float32)
        case _:
            return np.zeros((1, 1), np.float32) if name.rpartition("_")[2] in views.PLANES else 0


def serve(device: str, host: str, port: int, publish: str, requests: str) -> None:
    """Run the device until it is told to end, in the database where there is one.

    Raises OutletError where the device cannot be served.
    """
    BraggDaemon.publish, BraggDaemon.requests = publish, requests
    if database := tango.ApiUtil.get_env_var("TANGO_HOST"):
        instance = registered(device, database)
        retire(device, f"dserver/BraggDaemon/{instance}", requests)
        BraggDaemon.run_server([instance])
        return
    take_port(host, port, device, requests)
    BraggDaemon.run_server([INSTANCE, "-nodb", "-host", host, "-port", str(port), "-dlist", device])


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the process; the exit code is 1 where the device cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m braggd.outlets.tango", description="The Tango device of a braggd.")
    parser.add_argument("--device", default="braggd/daemon/1", help="name, DOMAIN/FAMILY/MEMBER")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen without a database")
    parser.add_argument("--port", default=45450, type=int)
    parser.add_argument("--publish", default="tcp://127.0.0.1:5556", help="the daemon's results")
    parser.add_argument("--requests", default="tcp://127.0.0.1:5557", help="the daemon's requests")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        serve(given.device, given.host, given.port, given.publish, given.requests)
    except OutletError as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
