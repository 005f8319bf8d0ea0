"""Recorded scans: every format gives back what was written; every wrong file is refused in one sentence."""

import re

import fabio.tifimage
import h5py
import hdf5plugin
import numpy as np
import pytest

from braggd.data import Geometry, Reconstruction, Stage
from braggd.errors import ScanFileError
from braggd.example import example_scan
from braggd.outlets.archive import write_archive
from braggd.sources.files import iter_frames, read_scan

STEPS, ROWS, COLUMNS = 12, 30, 40
ANGLES = 11.0 + 0.01 * np.arange(STEPS)


@pytest.fixture
def counts():
    return np.random.default_rng(1).poisson(3, (STEPS, ROWS, COLUMNS)).astype(np.uint16)


def put(group, name, value, units=None, **options):
    dataset = group.create_dataset(name, data=value, **options)
    if units:
        dataset.attrs["units"] = units
    return dataset


# --- NeXus, the shipped scan


def test_the_shipped_scan_is_read_with_all_of_its_geometry():
    scan = read_scan(str(example_scan()))
    with h5py.File(example_scan(), "r") as file:
        np.testing.assert_array_equal(scan.counts, file["entry/data/data"][()])
        assert scan.geometry.rocking_deg == tuple(file["entry/data/theta"][()])
    assert scan.valid is None
    assert scan.geometry.diffractometer == "aps-34idc"
    assert scan.geometry.energy_kev == 9
    assert scan.geometry.distance_m == 0.5
    assert scan.geometry.pixel_size_m == (55e-6, 55e-6)
    assert scan.geometry.angles_deg == {"delta": 32.174, "gamma": 12.6346, "chi": 90, "phi": -5}
    assert scan.geometry.rocking_motor == "theta"
    assert "34-ID-C" in scan.title


def test_a_region_is_the_same_as_that_part_of_the_whole():
    whole = read_scan(str(example_scan()))
    part = read_scan(f"{example_scan()}::/entry/data/data", ((90, 110), (100, 150), (40, 41)))
    np.testing.assert_array_equal(part.counts, whole.counts[90:110, 100:150, 40:41])
    assert part.geometry.rocking_deg == whole.geometry.rocking_deg[90:110]
    assert part.geometry.angles_deg == whole.geometry.angles_deg


@pytest.mark.parametrize("region", [((0, 202), (0, 9), (0, 9)), ((5, 5), (0, 9), (0, 9)), ((-1, 5), (0, 9), (0, 9))])
def test_a_region_outside_the_scan_is_refused(region):
    with pytest.raises(ScanFileError, match="201 x 256 x 256"):
        read_scan(str(example_scan()), region)


def test_frames_come_one_by_one_as_they_are_in_the_whole(tmp_path, counts):
    np.savez(tmp_path / "s.npz", data=counts)
    frames = list(iter_frames(f"{tmp_path}/s.npz"))
    np.testing.assert_array_equal(frames, counts)


def write_nexus(path, counts, motors, name=""):
    with h5py.File(path, "w") as file:
        entry = file.create_group("scan")
        entry.attrs.update(NX_class="NXentry")
        file.attrs["default"] = "scan"
        data = entry.create_group("frames")
        data.attrs.update(NX_class="NXdata", signal="intensity", axes=["omega_table", ".", "."])
        entry.attrs["default"] = "frames"
        put(data, "intensity", counts)
        put(data, "other", counts[:, :5])
        put(data, "omega_table", np.radians(ANGLES), "rad")
        instrument = entry.create_group("instrument")
        if name:
            instrument["name"] = name
        detector = instrument.create_group("detector")
        detector.attrs["NX_class"] = "NXdetector"
        put(detector, "distance", 850.0, "mm")
        put(detector, "x_pixel_size", 75.0, "um")
        put(detector, "y_pixel_size", 0.055, "mm")
        source = instrument.create_group("source")
        source.attrs["NX_class"] = "NXsource"
        put(source, "distance", -60.0, "m")
        put(instrument, "wavelength", 0.1377602, "nm")
        for motor, value in motors.items():
            put(instrument.require_group("motors"), motor, value, "deg")


def test_units_are_converted_and_the_rocked_axis_is_that_of_the_data(tmp_path, counts):
    write_nexus(tmp_path / "s.nxs", counts, {"two_theta": 31.0})
    geometry = read_scan(f"{tmp_path}/s.nxs").geometry
    assert geometry.distance_m == pytest.approx(0.85)
    assert geometry.pixel_size_m == pytest.approx((55e-6, 75e-6))
    assert geometry.energy_kev == pytest.approx(9, rel=1e-5)
    assert geometry.rocking_motor == "omega_table"
    assert geometry.rocking_deg == pytest.approx(ANGLES)
    assert geometry.angles_deg == {"two_theta": 31}


APS = {"theta": ANGLES, "chi": 90.0, "phi": -5.0, "delta": 32.0, "gamma": 12.0}
ID01 = {"mu": 0.0, "eta": ANGLES, "phi": 3.0, "nu": 0.5, "delta": 35.0}


@pytest.mark.parametrize(
    ("motors", "name", "expected"),
    [
        (APS, "", "aps-34idc"),
        (ID01, "", "esrf-id01"),
        (ID01, "ESRF-ID01", "esrf-id01"),
        ({**ID01, "chi": 90.0}, "ESRF-ID01", "esrf-id01"),
        ({**ID01, "chi": 90.0}, "", ""),
        (ID01, "PETRA III P10", ""),
        ({"eta": ANGLES, "delta": 35.0}, "", ""),
        ({"omega": ANGLES, "chi": 0.0, "phi": 0.0, "tth": 30.0}, "", "fourc"),
    ],
)
def test_a_diffractometer_is_named_only_where_it_is_certain(tmp_path, counts, motors, name, expected):
    write_nexus(tmp_path / "s.h5", counts, motors, name)
    with h5py.File(tmp_path / "s.h5", "a") as file:
        del file["scan/frames"].attrs["axes"], file["scan/frames/omega_table"]
    assert read_scan(f"{tmp_path}/s.h5").geometry.diffractometer == expected


# --- DECTRIS


def write_master(folder, counts, per_file=5):
    """As a DECTRIS file writer does: frames in files of their own behind external links, bitshuffle-LZ4."""
    with h5py.File(folder / "series_1_master.h5", "w") as master:
        entry = master.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        data = entry.create_group("data")
        data.attrs["NX_class"] = "NXdata"
        for number, start in enumerate(range(0, len(counts), per_file), 1):
            name = f"series_1_data_{number:06d}.h5"
            with h5py.File(folder / name, "w") as file:
                filters = hdf5plugin.Bitshuffle(cname="lz4")
                chunks = (1, *counts.shape[1:])
                file.create_dataset("entry/data/data", data=counts[start : start + per_file], chunks=chunks, **filters)
            data[f"data_{number:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        detector = entry.create_group("instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        put(detector, "detector_distance", 1.2, "m")
        put(detector, "x_pixel_size", 75e-6, "m")
        put(detector, "y_pixel_size", 75e-6, "m")
        specific = detector.create_group("detectorSpecific")
        mask = np.zeros(counts.shape[1:], np.uint32)
        mask[10:12], mask[3, 4] = 1, 16
        put(specific, "pixel_mask", mask)
        put(specific, "photon_energy", 8500.0, "eV")
        put(specific, "saturation_value", 60000)
        put(entry, "instrument/beam/incident_wavelength", 1.4586, "angstrom")
        put(entry, "sample/goniometer/omega", ANGLES, "degree")
        put(entry, "sample/goniometer/omega_end", ANGLES + 0.01, "degree")
        put(entry, "sample/goniometer/chi", np.full(STEPS, 90.0), "degree")
        put(entry, "sample/goniometer/phi", np.zeros(STEPS), "degree")
        put(entry, "instrument/detector/goniometer/two_theta", np.full(STEPS, 33.0), "degree")
    return folder / "series_1_master.h5", mask


def test_a_dectris_master_file_is_read_over_all_of_its_data_files(tmp_path, counts):
    counts[2, 20, 20], counts[3, 21, 21] = 65535, 60000
    master, mask = write_master(tmp_path, counts)
    scan = read_scan(str(master))
    np.testing.assert_array_equal(scan.counts, counts)
    expected = np.broadcast_to(mask == 0, counts.shape).copy()
    expected[2, 20, 20] = expected[3, 21, 21] = False
    np.testing.assert_array_equal(scan.valid, expected)
    assert scan.geometry.energy_kev == pytest.approx(8.5)
    assert scan.geometry.distance_m == 1.2
    assert scan.geometry.pixel_size_m == (75e-6, 75e-6)
    assert scan.geometry.rocking_motor == "omega"
    assert scan.geometry.rocking_deg == pytest.approx(ANGLES)
    assert scan.geometry.angles_deg == {"chi": 90, "phi": 0, "two_theta": 33}


def test_a_region_across_two_data_files_is_whole(tmp_path, counts):
    master, mask = write_master(tmp_path, counts)
    part = read_scan(str(master), ((3, 11), (5, 25), (0, 40)))
    np.testing.assert_array_equal(part.counts, counts[3:11, 5:25])
    np.testing.assert_array_equal(part.valid, np.broadcast_to(mask[5:25] == 0, (8, 20, 40)))


def test_a_missing_data_file_is_named(tmp_path, counts):
    master, _ = write_master(tmp_path, counts)
    (tmp_path / "series_1_data_000002.h5").unlink()
    with pytest.raises(ScanFileError, match=r"series_1_data_000002\.h5"):
        read_scan(str(master))


# --- BLISS


def write_bliss(path, counts, scans=("1.1",)):
    """As BLISS writes at ID01: positions as soft links, the scanned motor an array, a second smaller detector."""
    with h5py.File(path, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        for number, scan in enumerate(scans):
            entry = file.create_group(scan)
            entry.attrs.update(NX_class="NXentry", default="plotselect")
            entry["title"] = "ascan eta 11 11.11 11 1"
            entry["instrument/name"] = "ESRF-ID01"
            for motor, value in {**ID01, "mononrj": 12.998, "thx": 3.0}.items():
                put(entry, f"instrument/{motor}/value", value, "keV" if motor == "mononrj" else "deg")
                entry[f"instrument/positioners/{motor}"] = h5py.SoftLink(f"/{scan}/instrument/{motor}/value")
                put(entry, f"instrument/positioners_start/{motor}", 99.0)
            put(entry, "instrument/eiger2M/data", counts + number)
            put(entry, "instrument/eiger2M/distance", 1.1)
            put(entry, "instrument/eiger2M/x_pixel_size", 75e-6)
            put(entry, "instrument/eiger2M/y_pixel_size", 75e-6)
            entry["measurement/eiger2M"] = h5py.SoftLink(f"/{scan}/instrument/eiger2M/data")
            entry["measurement/gone"] = h5py.ExternalLink("gone.h5", "/data")
            put(entry, "measurement/small", counts[:, :4, :4])
            put(entry, "measurement/eta", ANGLES)
            entry["plotselect/eta"] = h5py.SoftLink(f"/{scan}/measurement/eta")
            entry["plotselect"].attrs.update(NX_class="NXdata", signal="eta")


@pytest.mark.parametrize("inside", ["", "::/1.1", "::/1.1/measurement/eiger2M"])
def test_a_bliss_scan_is_read_with_the_motors_of_id01(tmp_path, counts, inside):
    write_bliss(tmp_path / "sample.h5", counts)
    scan = read_scan(f"{tmp_path}/sample.h5{inside}")
    np.testing.assert_array_equal(scan.counts, counts)
    assert scan.geometry.diffractometer == "esrf-id01"
    assert scan.geometry.energy_kev == 12.998
    assert scan.geometry.distance_m == 1.1
    assert scan.geometry.pixel_size_m == (75e-6, 75e-6)
    assert scan.geometry.rocking_motor == "eta"
    assert scan.geometry.rocking_deg == pytest.approx(ANGLES)
    assert scan.geometry.angles_deg == {"mu": 0, "phi": 3, "nu": 0.5, "delta": 35}


def test_of_several_bliss_scans_one_has_to_be_named(tmp_path, counts):
    write_bliss(tmp_path / "sample.h5", counts, ["sample_1.1", "sample_2.1"])
    with pytest.raises(ScanFileError, match=r"2 scans .*sample_2\.1"):
        read_scan(f"{tmp_path}/sample.h5")
    np.testing.assert_array_equal(read_scan(f"{tmp_path}/sample.h5::/sample_2.1").counts, counts + 1)


def test_a_scan_too_large_for_memory_is_refused_and_a_region_of_it_read(tmp_path):
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("data", (10**6, 4362, 4148), "u4", chunks=(1, 64, 64), fillvalue=3)
    with pytest.raises(ScanFileError, match=r"GB of memory.*region"):
        read_scan(f"{tmp_path}/huge.h5")
    part = read_scan(f"{tmp_path}/huge.h5", ((999_990, 10**6), (4000, 4100), (0, 50)))
    assert part.counts.shape == (10, 100, 50)
    assert (part.counts == 3).all()
    assert next(iter_frames(f"{tmp_path}/huge.h5")).shape == (4362, 4148)


# --- CXI


def test_a_cxi_file_is_read_with_its_mask(tmp_path, counts):
    mask = np.zeros(counts.shape, np.uint8)
    mask[4, 5:7], mask[6] = 1, 4
    with h5py.File(tmp_path / "s.cxi", "w") as file:
        file["cxi_version"] = 150
        put(file, "entry_1/data_1/data", counts.astype(np.float32))
        put(file, "entry_1/data_1/mask", mask)
        put(file, "entry_1/image_1/data", np.ones(counts.shape, np.complex64))
        put(file, "entry_1/instrument_1/source_1/energy", 9.0 * 1.602176634e-16, "J")
        put(file, "entry_1/instrument_1/detector_1/distance", 0.7, "m")
    scan = read_scan(f"{tmp_path}/s.cxi")
    np.testing.assert_array_equal(scan.counts, counts)
    np.testing.assert_array_equal(scan.valid, mask == 0)
    assert scan.geometry.energy_kev == pytest.approx(9)
    assert scan.geometry.distance_m == 0.7


def test_an_archive_of_braggd_gives_back_its_counts_mask_and_geometry(tmp_path, counts):
    valid = np.random.default_rng(2).random(counts.shape) > 0.1
    geometry = Geometry(
        diffractometer="esrf-id01",
        energy_kev=9.5,
        distance_m=0.8,
        pixel_size_m=(55e-6, 75e-6),
        angles_deg={"nu": 1.5, "delta": 32.0, "mu": 0.0, "phi": 4.0},
        rocking_motor="eta",
        rocking_deg=tuple(10 + 0.01 * np.arange(40)),
    )
    written = write_archive(
        tmp_path,
        Reconstruction(
            scan_id="scan",
            stage=Stage.FINAL,
            counts=counts.astype(np.float32),
            valid=valid,
            inpainted=counts.astype(np.float32) + 1,
            region=((7, 7 + STEPS), (0, ROWS), (0, COLUMNS)),
            density=np.ones(counts.shape, np.complex64),
            support=np.ones(counts.shape, bool),
            geometry=geometry,
            crystal=None,
            metrics={},
            warnings=(),
            timing={},
            provenance={},
        ),
    )
    scan = read_scan(str(written))
    np.testing.assert_array_equal(scan.counts, np.where(valid, counts, 0))
    np.testing.assert_array_equal(scan.valid, valid)
    assert scan.geometry.rocking_deg == geometry.rocking_deg[7 : 7 + STEPS]
    assert scan.geometry.completed_by(geometry) == scan.geometry
    assert scan.geometry.angles_deg == geometry.angles_deg


# --- numpy


def test_a_numpy_archive_is_read_with_mask_and_angles(tmp_path, counts):
    mask = np.zeros(counts.shape[1:], np.uint8)
    mask[:, 7:9] = 2
    np.savez_compressed(tmp_path / "s.npz", data=counts, mask=mask, theta_deg=ANGLES)
    scan = read_scan(f"{tmp_path}/s.npz", ((1, 5), (0, 30), (5, 10)))
    np.testing.assert_array_equal(scan.counts, counts[1:5, :, 5:10])
    np.testing.assert_array_equal(scan.valid, np.broadcast_to(mask[:, 5:10] == 0, (4, 30, 5)))
    assert scan.geometry == Geometry(rocking_motor="theta", rocking_deg=tuple(ANGLES[1:5]))


def test_numbers_that_stand_for_no_measurement_are_not_valid(tmp_path):
    for dtype, nothing in ((np.uint32, 2**32 - 1), (np.uint16, 65535), (np.int32, -1), (np.float32, np.nan)):
        data = np.ones((3, 4, 5), dtype)
        data[1, 2, 3] = nothing
        np.savez(tmp_path / "s.npz", data=data)
        expected = np.ones(data.shape, bool)
        expected[1, 2, 3] = False
        np.testing.assert_array_equal(read_scan(f"{tmp_path}/s.npz").valid, expected)


# --- folders of frames


SPEC = """#F s.spec
#E 1400000000
#D Mon Nov 22 10:00:00 2021
#O0 Delta  Gamma  Theta  Chi
#O1 Phi  Two Theta  energy

#S 7 ascan  theta 0 1 10 1
#D Mon Nov 22 10:00:00 2021
#P0 1 2 3 4
#P1 5 6 9.0
#N 2
#L Theta  Monitor
{seven}

#S 54 ascan  theta 11 11.11 11 1
#D Mon Nov 22 10:00:00 2021
#P0 32.1 12.6 11 90
#P1 -5 0 9.0
#N 2
#L Theta  Monitor
{points}
"""


@pytest.fixture
def folder(tmp_path, counts):
    """Frames numbered without leading zeros, so that their order by text is not that of their numbers."""
    folder = tmp_path / "Staff20-1a_S0054"
    folder.mkdir()
    for step, frame in enumerate(counts):
        fabio.tifimage.tifimage(data=frame).write(str(folder / f"frame_{step + 1}.tif"))
    (folder / "notes.txt").write_text("not a frame")
    return folder


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(folder, counts):
    scan = read_scan(str(folder))
    np.testing.assert_array_equal(scan.counts, counts)
    assert scan.counts.dtype == np.uint16
    part = read_scan(str(folder), ((8, 12), (1, 3), (0, 40)))
    np.testing.assert_array_equal(part.counts, counts[8:12, 1:3])


@pytest.mark.parametrize("inside", ["", "::s.spec", "::s.spec#54"])
def test_a_spec_file_beside_the_frames_gives_the_motors(folder, inside):
    points = "\n".join(f"{angle:.4f} 100" for angle in ANGLES)
    (folder / "s.spec").write_text(SPEC.format(points=points, seven=points))
    geometry = read_scan(f"{folder}{inside}").geometry
    assert geometry.rocking_motor == "theta"
    assert geometry.rocking_deg == pytest.approx(ANGLES)
    assert geometry.energy_kev == 9
    angles = {"delta": 32.1, "gamma": 12.6, "chi": 90, "phi": -5, "two_theta": 0}
    assert geometry.angles_deg == pytest.approx(angles)


def test_a_spec_scan_that_is_unclear_or_missing_is_refused(folder, tmp_path):
    points = "\n".join(f"{angle:.4f} 100" for angle in ANGLES)
    (folder / "s.spec").write_text(SPEC.format(points=points, seven=points))
    for inside in ("s.spec#9", "no.spec", "s.spec#x"):
        with pytest.raises(ScanFileError, match=r"\.spec"):
            read_scan(f"{folder}::{inside}")


# --- what is wrong


def test_a_file_with_several_volumes_lists_them(tmp_path, counts):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["a/one"], file["b/two"], file["flat"] = counts, counts[:, :9], counts[0]
    for spec in ("s.h5", "s.h5::/three", "s.h5::/flat"):
        with pytest.raises(ScanFileError, match=r"/a/one \(12 x 30 x 40\), /b/two \(12 x 9 x 40\)"):
            read_scan(f"{tmp_path}/{spec}")
    np.testing.assert_array_equal(read_scan(f"{tmp_path}/s.h5::/b/two").counts, counts[:, :9])
    np.testing.assert_array_equal(read_scan(f"{tmp_path}/s.h5::a").counts, counts)


def wrong_files(folder, counts):
    """Everything that is no scan, by its spec."""
    (folder / "text.h5").write_text("no HDF5")
    (folder / "empty.h5").write_bytes(b"")
    with h5py.File(folder / "whole.h5", "w") as file:
        put(file, "entry/data/data", counts, chunks=(1, ROWS, COLUMNS), compression="gzip")
    whole = (folder / "whole.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[-8000:-2000] = b"\x00" * 6000
    (folder / "damaged.h5").write_bytes(damaged)
    with h5py.File(folder / "none.h5", "w") as file:
        file["flat"], file["names"] = counts[0], [[["a"]]]
    with h5py.File(folder / "hollow.h5", "w") as file:
        file["entry/data/data"] = counts[:0]
    np.savez(folder / "other.npz", image=counts)
    np.savez(folder / "flat.npz", data=counts[0])
    np.savez(folder / "angles.npz", data=counts, theta_deg=ANGLES[:5])
    np.savez(folder / "mask.npz", data=counts, mask=counts[:, :, 0])
    np.savez(folder / "objects.npz", data=np.array([[[{}]]], object))
    (folder / "cut.npz").write_bytes((folder / "other.npz").read_bytes()[:300])
    (folder / "frames").mkdir()
    (folder / "nothing").mkdir()
    (folder / "frames" / "a1.tif").write_bytes(b"II*\x00 and no more")
    (folder / "single.tif").write_bytes(b"no image")
    (folder / "mixed").mkdir()
    for step, frame in enumerate((counts[0], counts[1, :5])):
        fabio.tifimage.tifimage(data=frame).write(str(folder / "mixed" / f"{step}.tif"))
    names = (
        "text.h5 empty.h5 cut.h5 damaged.h5 none.h5 hollow.h5 other.npz flat.npz angles.npz mask.npz objects.npz "
        "cut.npz frames nothing single.tif mixed missing.h5 whole.h5::/no flat.npz::no"
    )
    return [f"{folder}/{name}" for name in names.split()]


def test_every_wrong_file_is_refused_in_one_sentence_with_its_name(tmp_path, counts):
    for spec in wrong_files(tmp_path, counts):
        with pytest.raises(ScanFileError) as caught:
            read_scan(spec)
        message = str(caught.value)
        assert spec.partition("::")[0] in message
        assert "\n" not in message
        assert len(message) < 300


def test_damage_to_a_file_s_structure_comes_out_as_nothing_else(tmp_path, counts):
    """Each of the marks that begin HDF5's internal blocks is overwritten in turn."""
    path = tmp_path / "s.h5"
    write_nexus(path, counts[:, :4, :4], {})
    whole = path.read_bytes()
    refused = 0
    for found in re.finditer(rb"TREE|HEAP|SNOD", whole):
        path.write_bytes(whole[: found.start()] + b"    " + whole[found.end() :])
        try:
            read_scan(str(path))
        except ScanFileError:
            refused += 1
    assert refused > 5
