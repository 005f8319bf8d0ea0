"""Where a Tango device lives: a database, or a port of its own."""

from __future__ import annotations

import logging
import socket
import time
from multiprocessing import get_context

import tango

from braggd.errors import OutletError

INSTANCE = "braggd"

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1"}
_RETIREMENT_S = 3.0

_log = logging.getLogger(__name__)


def registered(device: str, database: str) -> str:
    """The server instance that the database has for the device, which is added if it is not there.

    Raises OutletError where the database does not answer, or holds another device of that name.
    """
    try:
        tango_database = tango.Database()
        try:
            known = tango_database.get_device_info(device)
        except tango.DevFailed:
            instance = device.replace("/", "-")
            new = tango.DbDevInfo()
            new.name, new._class, new.server = device, "BraggDaemon", f"BraggDaemon/{instance}"
            tango_database.add_device(new)
            _log.info("%s is now in the Tango database %s, server %s", device, database, new.server)
            return instance
    except tango.DevFailed as error:
        reason = error.args[0].desc.strip()
        raise OutletError(
            f"{device}: the Tango database {database} does not do it ({reason}); start it or unset TANGO_HOST"
        ) from error
    server, _, instance = known.ds_full_name.partition("/")
    if known.class_name != "BraggDaemon" or server != "BraggDaemon":
        raise OutletError(
            f"{device} is a {known.class_name} of {known.ds_full_name} in the Tango database {database}; "
            "set device under [tango] to another name"
        )
    return str(instance)


def take_port(host: str, port: int, device: str, requests: str) -> None:
    """See to it that a port is free, also from a device that an earlier run of the same daemon left behind.

    Raises OutletError where something else listens there; Tango itself would end with a page of CORBA.
    """
    error = _why_taken(host, port)
    if error is None:
        return
    place = f"tango://{_LOOPBACK.get(host, host)}:{port}"
    names = (f"{place}/{device}#dbase=no", f"{place}/dserver/BraggDaemon/{INSTANCE}#dbase=no")
    # In a process of its own: once this one has been a client, Tango cannot choose where it listens any more.
    asking = get_context("spawn").Process(target=_ask_to_retire, args=(*names, requests), daemon=True)
    asking.start()
    asking.join(_RETIREMENT_S)
    asking.kill()
    if asking.exitcode == 0:
        error = _why_taken(host, port)
    if error is not None:
        raise OutletError(
            f"the Tango device cannot listen at {host}:{port} ({error.strerror}); set host and port under [tango]"
        ) from error


def retire(device: str, administrator: str, requests: str) -> bool:
    """End the process of a device that follows the daemon at `requests`; leave any other alone, and return False.

    device, administrator: Tango names of the device and of its server's own device
    """
    gone = False
    try:
        if tango.DeviceProxy(device).read_attribute("daemon").value != requests:
            return False
        _log.info("%s was left behind by an earlier daemon and is replaced", device)
        left_behind = tango.DeviceProxy(administrator)
        left_behind.command_inout("Kill")
        gone = True
        deadline = time.monotonic() + _RETIREMENT_S
        while time.monotonic() < deadline:
            left_behind.ping()
            time.sleep(0.1)
    except tango.DevFailed:
        return gone
    return False


def _ask_to_retire(device: str, administrator: str, requests: str) -> None:
    raise SystemExit(0 if retire(device, administrator, requests) else 1)


def _why_taken(host: str, port: int) -> OSError | None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None
