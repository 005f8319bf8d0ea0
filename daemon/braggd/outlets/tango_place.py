"""Where a Tango device lives: a database, or a port of its own."""

from __future__ import annotations

import logging
import socket

import tango

from braggd.errors import OutletError

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


def check_free(host: str, port: int) -> None:
    """Raise OutletError where a port is in use; Tango itself would end with a page of CORBA."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise OutletError(
            f"the Tango device cannot listen at {host}:{port} ({error.strerror}); set host and port under [tango]"
        ) from error
