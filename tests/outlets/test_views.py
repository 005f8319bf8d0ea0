"""What Tango shows of a result, against volumes whose slices are known."""

from __future__ import annotations

import struct

import numpy as np

from braggd.data import NamedArray, Result, Stage
from braggd.outlets import views


def crystal(**names: np.ndarray) -> Result:
    arrays = tuple(NamedArray(name=name, data=data, axes=("z", "y", "x")) for name, data in names.items())
    return Result(scan_id="S1", stage=Stage.FINAL, arrays=arrays)


def test_slices_pass_through_the_centre_of_mass_and_keep_their_axes() -> None:
    """Every voxel's value tells its place, so a slice tells where it was cut and which way it lies."""
    z, y, x = np.meshgrid(np.arange(10), np.arange(12), np.arange(14), indexing="ij")
    place = (10000 * z + 100 * y + x).astype(np.float32)
    support = np.zeros(place.shape, np.uint8)
    support[2:5, 6:9, 9:12] = 1
    view = views.result_view(crystal(modulus=place, strain=-place, support=support))
    np.testing.assert_array_equal(view["modulus_xy"], place[3])
    np.testing.assert_array_equal(view["modulus_xz"], place[:, 7])
    np.testing.assert_array_equal(view["modulus_yz"], place[:, :, 10])
    np.testing.assert_array_equal(view["strain_yz"], -place[:, :, 10])
    assert view["modulus_xy"].shape == (12, 14)
    assert view["modulus_xz"].shape == (10, 14)
    assert view["modulus_yz"].shape == (10, 12)
    assert view["phase_xy"] is None


def test_a_support_of_another_frame_does_not_move_the_slices() -> None:
    modulus = np.zeros((8, 9, 10), np.float32)
    modulus[6, 2, 7] = 1
    support = np.zeros((20, 20, 20), np.uint8)
    support[0, 0, 0] = 1
    view = views.result_view(crystal(modulus=modulus, support=support))
    assert view["modulus_xy"][2, 7] == view["modulus_xz"][6, 7] == view["modulus_yz"][6, 2] == 1


def test_without_geometry_modulus_and_phase_come_from_the_density() -> None:
    density = np.zeros((4, 5, 6), np.complex64)
    density[2, 3, 4] = 2 * np.exp(0.5j)
    view = views.result_view(crystal(density=density))
    np.testing.assert_allclose(view["modulus_xy"][3, 4], 2)
    np.testing.assert_allclose(view["phase_xy"][3, 4], 0.5, rtol=1e-6)
    assert view["strain_xy"] is None


def test_an_empty_object_is_cut_in_the_middle() -> None:
    for value in (0.0, np.nan):
        view = views.result_view(crystal(modulus=np.full((4, 6, 8), value, np.float32)))
        assert view["modulus_xy"].shape == (6, 8)
    assert views.result_view(crystal())["modulus_xy"] is None


def test_a_volume_reads_as_lima_documents_it() -> None:
    """Decoded by the documented layout: header of 80 bytes, dimensions from x to z, then C order."""
    volume = np.random.default_rng(3).normal(size=(3, 4, 5)).astype(np.float32)
    encoded = views.encode_volume(volume)
    assert encoded is not None
    name, data = encoded
    fields = struct.unpack_from("<IHHIIHHHHHHHHIIIIIIQQII", data)
    magic, version, size, category, kind, endianness, dimensions = fields[:7]
    assert name == "DATA_ARRAY"
    assert struct.pack(">I", magic) == b"DTAY"
    assert (version, size, category, kind, endianness, dimensions) == (4, 80, 4, 8, 0, 3)
    assert fields[7:13] == (5, 4, 3, 0, 0, 0)
    assert fields[13:19] == (4, 20, 80, 0, 0, 0)
    np.testing.assert_array_equal(np.frombuffer(data, "<f4", offset=size).reshape(3, 4, 5), volume)
    masked = views.encode_volume(volume > 0)
    assert masked is not None
    assert struct.unpack_from("<I", masked[1], 12) == (8,)
    whole = views.encode_volume((volume > 0).astype(np.uint8))
    assert whole is not None
    assert struct.unpack_from("<I", whole[1], 12) == (0,)


def test_a_volume_that_corba_cannot_carry_is_not_shown() -> None:
    assert views.encode_volume(np.zeros((256, 256, 256), np.float32)) is None
    assert views.encode_volume(np.zeros((256, 256, 254), np.float32)) is not None
