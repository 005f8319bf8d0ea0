import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import silx.io
from silx.io import nxdata

from braggd.compression import compress
from braggd.data import Frame, Geometry, Stage
from braggd.errors import OutletError
from braggd.outlets.archive import list_archive, read_summary, write_archive
from braggd.outlets.raw import write_raw


def test_archive_gives_back_every_array_bit_for_bit(tmp_path, reconstruction):
    path = write_archive(tmp_path, reconstruction)
    assert path == tmp_path / "S0054-simulated.cxi"
    with h5py.File(path) as file:
        entry = file["entry_1"]
        assert entry["image_1/data"].dtype == np.complex64
        np.testing.assert_array_equal(entry["image_1/data"], reconstruction.density)
        np.testing.assert_array_equal(entry["image_1/support"], reconstruction.support)
        np.testing.assert_array_equal(entry["data_1/mask"], ~reconstruction.valid)
        valid = reconstruction.valid
        np.testing.assert_array_equal(entry["data_1/data"][()][valid], reconstruction.counts[valid])
        np.testing.assert_array_equal(entry["data_1/inpainted"], reconstruction.inpainted)
        np.testing.assert_array_equal(entry["data_1/region"], reconstruction.region)
        for name in ("modulus", "phase", "displacement", "strain", "support"):
            np.testing.assert_array_equal(entry["image_2"][name], getattr(reconstruction.crystal, name))


def test_fft_of_the_archived_object_is_the_measured_wave(tmp_path, reconstruction):
    with h5py.File(write_archive(tmp_path, reconstruction)) as file:
        density, counts = file["entry_1/image_1/data"][()], file["entry_1/data_1/data"][()]
        measured = file["entry_1/data_1/mask"][()] == 0
    wave = np.fft.fftshift(np.fft.fftn(density))
    calculated = np.abs(wave) ** 2
    calculated *= counts[measured].sum() / calculated[measured].sum()
    bright = measured & (calculated > 100)
    deviation = (counts[bright] - calculated[bright]) / np.sqrt(calculated[bright])
    assert bright.sum() > 1000
    assert np.std(deviation) < 1.1  # Poisson noise and nothing else
    peak = np.unravel_index(np.argmax(counts), counts.shape)
    assert np.abs(np.array(peak) - np.array(counts.shape) // 2).max() <= 3


def test_units_and_classes_are_where_nexus_readers_look(tmp_path, reconstruction):
    with h5py.File(write_archive(tmp_path, reconstruction)) as file:
        classes = {}
        file.visititems(lambda name, node: classes.__setitem__(name, node.attrs.get("NX_class", "")))
        groups = [name for name, node in ((n, file[n]) for n in classes) if isinstance(node, h5py.Group)]
        assert all(classes[name].startswith("NX") for name in groups)
        units = {
            "instrument_1/source_1/energy": "J",
            "instrument_1/detector_1/distance": "m",
            "instrument_1/detector_1/x_pixel_size": "m",
            "instrument_1/positioners_1/delta": "deg",
            "data_1/data": "counts",
            "image_2/voxel_size": "nm",
            "image_2/q_centre": "1/angstrom",
            "image_2/displacement": "angstrom",
            "image_2/phase": "rad",
        }
        assert {name: file["entry_1"][name].attrs["units"] for name in units} == units
        assert file["entry_1/instrument_1/source_1/energy"][()] == pytest.approx(9000 * 1.602176634e-19)
        np.testing.assert_allclose(file["entry_1/data_1/theta"][:2], [0.10, 0.11])  # the region starts at step 10
        assert file["entry_1/image_1/process_1/metrics/free_llk"][()] == 1.21
        assert json.loads(file["entry_1/image_1/process_1/config"][()]) == {"phasing": {"starts": 3}}


@pytest.mark.parametrize("known_geometry", [True, False])
def test_silx_opens_on_a_slice_of_the_modulus(tmp_path, make_reconstruction, known_geometry):
    reconstruction = make_reconstruction((24, 36, 32), known_geometry=known_geometry)
    with silx.io.open(str(write_archive(tmp_path, reconstruction))) as file:
        shown = nxdata.get_default(file)
        assert shown.is_valid
        assert shown.signal.ndim == 2
        assert shown.signal_name == "modulus"
        volume = reconstruction.crystal.modulus if known_geometry else np.abs(reconstruction.density)
        assert any(np.array_equal(shown.signal[()], plane) for plane in volume)
        assert shown.signal[()].max() > 0.7 * volume.max()
        parts = ["image_1", "data_1"] + ["image_2"] * known_geometry
        assert all(nxdata.get_default(file[f"entry_1/{part}"]).is_valid for part in parts)
        assert ("image_2" in file["entry_1"]) == known_geometry


def test_summary_is_json_and_says_what_was_archived(tmp_path, reconstruction):
    path = write_archive(tmp_path, reconstruction)
    summary = json.loads(json.dumps(read_summary(path), allow_nan=False))
    assert summary["scan_id"] == reconstruction.scan_id
    assert summary["stage"] == "final"
    assert summary["metrics"]["llk"] == 1.07
    assert summary["metrics"]["unknown"] is None  # NaN is not JSON
    assert summary["warnings"] == list(reconstruction.warnings)
    assert summary["timing"] == reconstruction.timing
    assert summary["provenance"]["versions"]["numpy"] == np.__version__
    assert summary["geometry"]["rocking_motor"] == "theta"
    assert summary["region"] == [list(bounds) for bounds in reconstruction.region]
    assert summary["voxel_size_nm"] == reconstruction.crystal.voxel_size_nm
    assert summary["size_bytes"] == path.stat().st_size


def test_summary_refuses_what_is_not_an_archive(tmp_path):
    with pytest.raises(OutletError, match=r"none\.cxi"):
        read_summary(tmp_path / "none.cxi")
    (tmp_path / "text.cxi").write_text("not HDF5")
    with pytest.raises(OutletError, match=r"text\.cxi"):
        read_summary(tmp_path / "text.cxi")


def test_later_stage_replaces_and_earlier_one_never_does(tmp_path, make_reconstruction):
    final = make_reconstruction((16, 24, 20))
    early = dataclasses.replace(final, stage=Stage.DL, metrics={"llk": 9.0})
    again = dataclasses.replace(final, metrics={"llk": 0.5})
    for written, stage, llk in (
        (early, "dl", 9.0),
        (final, "final", 1.07),
        (early, "final", 1.07),
        (again, "final", 0.5),
    ):
        summary = read_summary(write_archive(tmp_path, written))
        assert (summary["stage"], summary["metrics"]["llk"]) == (stage, llk)
    assert [path.name for path in tmp_path.iterdir()] == ["S0054-simulated.cxi"]


def test_list_is_newest_first_and_passes_over_strangers(tmp_path, make_reconstruction):
    small = make_reconstruction((16, 24, 20))
    for age, name in ((300, "old"), (100, "new"), (200, "between")):
        path = write_archive(tmp_path, dataclasses.replace(small, scan_id=name))
        os.utime(path, (time.time() - age,) * 2)
    (tmp_path / "stranger.cxi").write_bytes(b"\0" * 100)
    with h5py.File(tmp_path / "other.cxi", "w") as file:
        file["x"] = 1
    assert [brief["scan_id"] for brief in list_archive(tmp_path)] == ["new", "between", "old"]
    assert list_archive(tmp_path)[0]["stage"] == "final"
    with pytest.raises(OutletError, match="does not exist"):
        list_archive(tmp_path / "nowhere")


@pytest.mark.parametrize("scan_id", ["", "../escape", "a/b", ".hidden"])
def test_name_that_leaves_the_folder_is_refused(tmp_path, make_reconstruction, scan_id):
    with pytest.raises(OutletError, match="cannot be the name of a file"):
        write_archive(tmp_path, make_reconstruction((16, 24, 20), scan_id=scan_id))
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_named(tmp_path, make_reconstruction):
    with pytest.raises(OutletError, match="nowhere"):
        write_archive(tmp_path / "nowhere", make_reconstruction((16, 24, 20)))


WRITER = """
import importlib.util, os, resource, signal, sys
from pathlib import Path
from braggd.errors import OutletError
from braggd.outlets.archive import write_archive
from braggd.outlets.raw import write_raw
spec = importlib.util.spec_from_file_location("simulation", sys.argv[1])
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)
folder = Path(sys.argv[2])
"""


def _run(code, folder, **options):
    conftest = Path(__file__).with_name("conftest.py")
    return subprocess.Popen([sys.executable, "-c", WRITER + code, str(conftest), str(folder)], text=True, **options)


def test_killed_writer_leaves_the_earlier_file_whole(tmp_path, make_reconstruction):
    earlier = make_reconstruction((16, 24, 20), stage=Stage.DL)
    path = write_archive(tmp_path, earlier)
    before = path.read_bytes()
    # A writer that writes again and again, ever another size, and is killed at moments of no one's choosing.
    code = """
shapes = [simulation.simulated((32, 48, n)) for n in (40, 44)]
print("ready", flush=True)
while True:
    for one in shapes:
        write_archive(folder, one)
"""
    seen = set()
    for moment in (0.0, 0.05, 0.13, 0.21):
        with _run(code, tmp_path, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        seen.add(read_summary(path)["shape"][2])
        with h5py.File(path) as file:
            file["entry_1/image_1/data"][()]
    assert seen <= {20, 40, 44}
    assert before
    write_archive(tmp_path, earlier)  # does not replace, but the next real write sweeps
    write_archive(tmp_path, dataclasses.replace(earlier, stage=Stage.FINAL))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_full_disk_is_an_outlet_error_and_leaves_nothing(tmp_path):
    code = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
one = simulation.simulated((32, 48, 40))
write_archive(folder, simulation.simulated((16, 24, 20), stage=simulation.Stage.DL))
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    write_archive(folder, one)
except OutletError as error:
    print(error)
"""
    with _run(code, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        said, trouble = process.communicate(timeout=60)
    assert process.returncode == 0, trouble
    assert "S0054-simulated.cxi cannot be written" in said
    assert os.strerror(errno.EFBIG) in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["S0054-simulated.cxi"]
    assert read_summary(tmp_path / "S0054-simulated.cxi")["stage"] == "dl"


def _frames(pixels, encoding, order=None):
    for index in order if order is not None else range(len(pixels)):
        yield Frame(
            series="1",
            index=int(index),
            shape=pixels.shape[1:],
            dtype=pixels.dtype,
            encoding=encoding,
            payload=compress(pixels[index], encoding),
        )


@pytest.mark.parametrize("encoding", ["bslz4", "bs32-lz4<", "lz4", "none", "<"])
def test_raw_frames_come_back_through_plain_h5py(tmp_path, encoding):
    pixels = np.random.default_rng(1).poisson(0.7, (9, 37, 53)).astype("<u4")
    order = np.random.default_rng(2).permutation(9)
    path = tmp_path / "scan.raw.h5"
    assert write_raw(path, _frames(pixels, encoding, order), expected=9, rocking_deg=np.linspace(0, 1, 9)) == 9
    code = "import sys, h5py, hdf5plugin, numpy; numpy.save(sys.argv[2], h5py.File(sys.argv[1])['entry/data/data'][()])"
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "out.npy")], check=True, timeout=60)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), pixels)
    with silx.io.open(str(path)) as file:
        assert nxdata.get_default(file).signal.shape == (9, 37, 53)


def test_raw_chunks_are_the_stream_s_own_bytes(tmp_path):
    pixels = np.random.default_rng(1).poisson(0.7, (3, 64, 70)).astype("<u2")
    frames = list(_frames(pixels, "bs16-lz4<"))
    write_raw(tmp_path / "scan.raw.h5", frames)
    with h5py.File(tmp_path / "scan.raw.h5") as file:
        data = file["entry/data/data"]
        assert str(hdf5plugin.BSHUF_ID) in data._filters
        for frame in frames:
            assert data.id.read_direct_chunk((frame.index, 0, 0))[1] == bytes(frame.payload)


def test_raw_frame_that_does_not_decode_is_marked_and_kept_out(tmp_path):
    pixels = np.random.default_rng(1).poisson(0.7, (5, 16, 16)).astype("<u4")
    frames = list(_frames(pixels, "bslz4"))
    frames[2] = dataclasses.replace(frames[2], payload=frames[2].payload[: len(frames[2].payload) // 2])
    frames[3] = dataclasses.replace(frames[3], shape=(16, 17))
    del frames[1]
    assert write_raw(tmp_path / "scan.raw.h5", frames, expected=6) == 2
    with h5py.File(tmp_path / "scan.raw.h5") as file:
        assert file["entry/data/valid"][()].tolist() == [1, 0, 0, 0, 1, 0]
        np.testing.assert_array_equal(file["entry/data/data"][[0, 4]], pixels[[0, 4]])
        assert not file["entry/data/data"][2].any()


def test_raw_file_on_a_full_disk_leaves_nothing(tmp_path):
    code = """
import numpy as np
from braggd.data import Frame
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
frames = [
    Frame(series="1", index=n, shape=(64, 64), dtype=np.dtype("<u4"), encoding="none", payload=os.urandom(16384))
    for n in range(16)
]
try:
    write_raw(folder / "scan.raw.h5", frames)
except OutletError as error:
    print(error)
"""
    with _run(code, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        said, trouble = process.communicate(timeout=60)
    assert process.returncode == 0, trouble
    assert "scan.raw.h5 cannot be written" in said
    assert not list(tmp_path.iterdir())


def test_raw_file_of_nothing_is_refused(tmp_path):
    with pytest.raises(OutletError, match="no frame"):
        write_raw(tmp_path / "scan.raw.h5", [])
    assert not list(tmp_path.iterdir())


def test_object_without_geometry_has_a_summary_too(tmp_path, make_reconstruction):
    bare = dataclasses.replace(make_reconstruction((16, 24, 20)), crystal=None, geometry=Geometry(), warnings=())
    summary = read_summary(write_archive(tmp_path, bare))
    assert summary["voxel_size_nm"] is None
    assert summary["warnings"] == []
