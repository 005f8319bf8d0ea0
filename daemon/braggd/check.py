"""`braggd check`: what of a configuration cannot work on this machine, in words."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from braggd.config import Config
from braggd.crystal.geometry import DIFFRACTOMETERS
from braggd.errors import BraggdError
from braggd.inference.filler import Filler
from braggd.inference.networks import model_path
from braggd.inference.predictor import Predictor
from braggd.inference.session import open_session
from braggd.phasing.arrays import lesser
from braggd.phasing.recipe import parse
from braggd.scan.detector import detector


def faults(config: Config) -> list[str]:
    """One sentence for each thing that is wrong; empty where the daemon would start and work."""
    return [*_names(config), *_folders(config), *_endpoints(config)]


def _names(config: Config) -> list[str]:
    found = []
    for field in ("recipe", "quick", "seeded", "refine", "prolong"):
        recipe = getattr(config.phasing, field)
        try:
            if recipe or field not in ("quick", "prolong"):
                parse(recipe)
        except BraggdError as error:
            found.append(f"[phasing] {field}: {error}")
    if sentence := lesser(config.phasing.device):
        found.append(f"[phasing] device: {sentence}; set it to cpu or auto")
    if config.detector.name:
        try:
            detector(config.detector.name)
        except BraggdError as error:
            found.append(f"[detector] name: {error}")
    for field in ("mask", "flatfield"):
        file = getattr(config.detector, field).split("::")[0]
        if file and not Path(file).is_file():
            found.append(f"[detector] {field}: {file} is not there; name a .npy, .npz or HDF5 file")
    networks = {
        "inpaint_model": ("gaps", config.inference.inpaint_model, Filler.of),
        "phase_model": ("phase", config.inference.phase_model, Predictor.of),
    }
    for field, (task, chosen, kind) in networks.items():
        if not chosen:
            continue
        try:
            kind(open_session(model_path(task, chosen), ("cpu",)))
        except BraggdError as error:
            found.append(f"[inference] {field}: {error}")
    if config.geometry.diffractometer:
        name = config.geometry.diffractometer
        if name not in DIFFRACTOMETERS:
            known = ", ".join(DIFFRACTOMETERS)
            found.append(f"[geometry] diffractometer: {name!r} is unknown; known are {known}")
    return found


def _folders(config: Config) -> list[str]:
    found = []
    for field, folder in (("[archive] folder", config.archive.folder), ("[service] spool", config.service.spool)):
        if not folder:
            continue
        existing = Path(folder).absolute()
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            found.append(f"{field}: {folder} cannot be written; name another folder or change the owner of {existing}")
    return found


def _endpoints(config: Config) -> list[str]:
    found = []
    bound = {
        "[results] publish": config.results.publish,
        "[results] requests": config.results.requests,
        "[http] port": f"tcp://{config.http.host}:{config.http.port}" if config.http.port else "",
        "[tango] port": f"tcp://{config.tango.host}:{config.tango.port}"
        if config.tango.device != "off" and not os.environ.get("TANGO_HOST")
        else "",
    }
    taken: dict[str, str] = {}
    for field, endpoint in bound.items():
        if not endpoint:
            continue
        if endpoint in taken and not endpoint.endswith(":*"):
            found.append(f"{field}: {endpoint} is also {taken[endpoint]}; choose another port")
            continue
        taken[endpoint] = field
        found += _unbindable(field, endpoint)
    source = urlsplit(config.source.endpoint)
    if source.scheme not in ("tcp", "ipc"):
        found.append(f"[source] endpoint: {config.source.endpoint} is no ZMQ endpoint; give tcp://HOST:PORT")
    return found


def _unbindable(field: str, endpoint: str) -> list[str]:
    url = urlsplit(endpoint)
    if url.scheme == "ipc" or endpoint.endswith(":*"):
        return []
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if url.scheme != "tcp" or not host or port is None:
        return [f"{field}: {endpoint} is no endpoint; give tcp://HOST:PORT"]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0" if host == "*" else host, port))
        except OSError as error:
            return [f"{field}: {endpoint} cannot be taken ({error.strerror}); choose another port or end its owner"]
    return []
