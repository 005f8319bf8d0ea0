import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from braggd.data import Stage
from braggd.errors import OutletError
from braggd.outlets.picture import write_picture
from braggd.outlets.render import View, shaded_surface

GAP = np.array(to_rgb("#3d5a6c")) * 255


def test_picture_is_a_full_hd_png_with_the_gap_in_one_frame_only(tmp_path, reconstruction):
    write_picture(tmp_path / "scan.png", reconstruction)
    with Image.open(tmp_path / "scan.png") as image:
        assert image.format == "PNG"
        assert image.info["Title"] == reconstruction.scan_id
        pixels = np.asarray(image.convert("RGB"), np.float64)
    assert pixels.shape == (1080, 1920, 3)
    gap = np.abs(pixels - GAP).max(axis=-1) < 2
    measured, inpainted = gap[760:1030, 260:468].mean(), gap[760:1030, 478:685].mean()
    assert 0.05 < measured < 0.6
    assert inpainted < 0.001
    assert [path.name for path in tmp_path.iterdir()] == ["scan.png"]


def test_strain_is_seen_on_the_surface(tmp_path, reconstruction):
    """Where the sign of the strain is turned round, red becomes blue."""
    turned = dataclasses.replace(reconstruction.crystal, strain=-reconstruction.crystal.strain)
    redness = []
    for crystal in (reconstruction.crystal, turned):
        write_picture(tmp_path / "scan.png", dataclasses.replace(reconstruction, crystal=crystal))
        with Image.open(tmp_path / "scan.png") as image:
            view = np.asarray(image.convert("RGB"), np.float64)[125:724, 43:685]
        redness.append((view[..., 0] - view[..., 2])[view.max(axis=-1) > 60].mean())
    assert abs(redness[0] - redness[1]) > 5


@pytest.mark.parametrize("azimuth", [0.0, 40.0])
def test_ball_is_drawn_as_a_disc_lit_from_the_upper_left(azimuth):
    z, y, x = np.indices((40, 40, 40)) - 19.5
    radius = 12.0
    ball = np.clip(radius - np.sqrt(x**2 + y**2 + z**2) + 0.5, 0, 1).astype(np.float32)
    image, half_width = shaded_surface(ball, 0.5, np.full((40, 40, 40, 3), 0.7, np.float32), View(azimuth_deg=azimuth))
    area = image[..., 3].sum() * (2 * half_width / len(image)) ** 2
    assert area == pytest.approx(np.pi * radius**2, rel=0.02)
    brightness = image[..., :3].mean(axis=-1)
    rows, columns = np.indices(brightness.shape) / len(image) - 0.5
    lit = brightness * (image[..., 3] > 0.5)
    assert (lit * rows).sum() < 0
    assert (lit * columns).sum() < 0


def test_body_is_not_mirrored_when_looked_at_along_the_beam():
    """With z downstream and y up, x of a right-handed frame is on the left."""
    volume = np.zeros((30, 30, 30), np.float32)
    volume[10:14, 20:24, 12:16] = 1  # towards the eye and up: +y
    volume[10:14, 8:12, 22:26] = 1  # towards the eye and down, at +x
    colours = np.zeros((30, 30, 30, 3), np.float32)
    colours[:, 16:, :, 0] = 1  # upper half red
    colours[:, :16, :, 1] = 1  # lower half green
    image, _ = shaded_surface(volume, 0.5, colours, View(azimuth_deg=0.0, elevation_deg=0.0))
    rows, columns = np.indices(image.shape[:2])
    seen = image[..., 3] > 0.5
    red, green = seen & (image[..., 0] > image[..., 1]), seen & (image[..., 1] > image[..., 0])
    assert rows[red].mean() < rows[green].mean()
    assert columns[green].mean() < columns[red].mean()


def test_nearer_body_hides_the_farther_one():
    volume = np.zeros((30, 20, 20), np.float32)
    volume[4:8, 5:15, 5:15] = 1
    volume[20:24, 5:15, 5:15] = 1
    colours = np.zeros((30, 20, 20, 3), np.float32)
    colours[:15, ..., 0] = 1  # upstream, nearer: red
    colours[15:, ..., 2] = 1
    image, _ = shaded_surface(volume, 0.5, colours, View(azimuth_deg=0.0, elevation_deg=0.0))
    seen = image[..., 3] > 0.5
    assert (image[seen][:, 0] > image[seen][:, 2]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"crystal": None},
        {"crystal": None, "support": None},
        {"scan_id": r"strange_$^{name} " + "x" * 80, "warnings": ("$\\frac", "b" * 400, "c", "d")},
        {"metrics": {}, "warnings": (), "stage": Stage.DL},
        {"inpainted": 0.0},
    ],
    ids=["no geometry", "no support", "strange text", "no metrics", "no photons"],
)
def test_picture_is_drawn_whatever_is_lacking(tmp_path, make_reconstruction, change):
    whole = make_reconstruction((16, 24, 20))
    if "support" in change:
        change = change | {"support": np.zeros_like(whole.support), "density": np.zeros_like(whole.density)}
    if "inpainted" in change:
        change = {"inpainted": np.zeros_like(whole.inpainted), "counts": np.zeros_like(whole.counts)}
    write_picture(tmp_path / "scan.png", dataclasses.replace(whole, **change))
    with Image.open(tmp_path / "scan.png") as image:
        assert image.size == (1920, 1080)


def test_missing_folder_is_named(tmp_path, make_reconstruction):
    with pytest.raises(OutletError, match="nowhere"):
        write_picture(tmp_path / "nowhere" / "scan.png", make_reconstruction((16, 24, 20)))
