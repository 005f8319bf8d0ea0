"""Frames become a scan: counted, checked, cropped about the peak, placed at their rocking step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd import compression, shared
from braggd.config import Config
from braggd.data import Frame, Geometry, Ledger, NamedArray, Outcome, Result, SeriesStart, Stage
from braggd.errors import CorruptFrame, DetectorError, RegionError, SourceError
from braggd.scan.detector import Detector, detector, from_shape, load_flatfield, load_mask
from braggd.scan.region import Peak, find_peaks, window_about
from braggd.scan.volume import Volume, Window

_LOOKS = (8, 16, 32, 64, 128, 256)  # frames after which the peak is looked for; each look costs some milliseconds
_SURE = 25.0  # photons in the summed peak's 3 x 3 median from which the window is trusted while frames still come
_RIVAL = 0.2  # a second spot with this share of the photons is compared by its rocking curve
_SAMPLES = 48  # frames read again for that comparison
_SUMMED = 50  # of a long scan, only about so many frames are summed whole; a peak spans several
_MOST_BYTES = 6_000_000_000  # a header may promise more frames than will ever come

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SharedScan:
    """A scan whose arrays lie in shared memory; whoever is done with it calls `release`.

    counts: (step, row, column) float32; valid: the same shape, bool
    """

    scan_id: str
    counts: shared.ArrayHandle
    valid: shared.ArrayHandle
    geometry: Geometry
    origin: tuple[int, int, int]
    ledger: Ledger
    warnings: tuple[str, ...]

    def release(self) -> None:
        """Give the memory back."""
        shared.unlink(self.counts)
        shared.unlink(self.valid)


class Assembly:
    """One series on its way to becoming a scan.

    Frames may come in any order. Each is decoded once when it comes, so that a corrupt one is known at once; those
    that came before the peak was found are read a second time, from wherever the caller keeps them.
    """

    def __init__(self, scan_id: str, start: SeriesStart, config: Config, reread: Callable[[int], Frame]) -> None:
        """Begin.

        reread: gives the frame of a rocking step again; raises SourceError where it is lost
        """
        self.scan_id = scan_id
        self.series = start.series
        self.ledger = Ledger(expected=start.frames_expected)
        self.warnings: list[str] = list(start.warnings)
        self._start = start
        self._config = config
        self._reread = reread
        self._used: dict[int, bool] = {}  # rocking step -> whether it lies in the volume already
        self._detector: Detector | None = None
        self._blind: NDArray[np.bool_] | None = None
        self._sum: NDArray[np.uint32 | np.float64] | None = None
        self._summed = 0
        self._peak: tuple[int, int] | None = None
        self._window: Window | None = None
        self._volume: Volume | None = None
        self._saturation = 0.0
        self._gain: NDArray[np.float32] | None = None
        self._no_value = -1
        self._every = max(1, (start.frames_expected or 0) // _SUMMED)
        if start.shape is not None:
            self._prepare(start.shape)

    @property
    def complete(self) -> bool:
        """Whether every expected frame has come."""
        return self.ledger.expected is not None and self.ledger.used == self.ledger.expected

    def announce(self, start: SeriesStart) -> None:
        """Take a header that came after the first images."""
        self._start = start
        self.warnings += start.warnings
        self._count(expected=start.frames_expected)
        if start.shape is not None and self._blind is not None and start.shape == self._blind.shape:
            self._blind = self._blind_pixels(start.shape)
            self._used = dict.fromkeys(self._used, False)  # placed without its mask

    def add(self, frame: Frame) -> Outcome:
        """Place a frame; tells what became of it, and has counted it."""
        outcome = self._outcome(frame)
        self.count(outcome)
        return outcome

    def count(self, outcome: Outcome) -> None:
        """Enter a frame into the ledger."""
        self._count(**{outcome.value: getattr(self.ledger, outcome.value) + 1})

    def live(self) -> Result | None:
        """What is known so far: rocking curve, summed window, centre of mass; None before the first frame."""
        if self._sum is None or self._blind is None or not self._used:
            return None
        window = self._window or window_about(
            self._find_peak() or (self._sum.shape[0] // 2, self._sum.shape[1] // 2),
            self._config.scan.window,
            (self._sum.shape[0], self._sum.shape[1]),
        )
        crop = (slice(*window[0]), slice(*window[1]))
        volume = self._volume if self._window is not None else None
        summed = volume.frame_sum if volume is not None else self._sum[crop]
        frame_sum = np.where(self._blind[crop], 0, summed).astype(np.float32)
        curve = volume.curve.copy() if volume is not None else np.zeros(0, np.float32)
        metrics = {"peak_row": float("nan"), "peak_column": float("nan"), "peak_step": float("nan")}
        if self._peak is not None:
            metrics |= {"peak_row": float(self._peak[0]), "peak_column": float(self._peak[1])}
        total = float(curve.sum())
        if total > 0:
            metrics["peak_step"] = float(curve @ np.arange(len(curve)) / total)
        metrics |= _centre_of_mass(frame_sum, (window[0][0], window[1][0]))
        return Result(
            scan_id=self.scan_id,
            stage=Stage.LIVE,
            arrays=(
                NamedArray(name="rocking_curve", data=curve, axes=("step",), unit="photon"),
                NamedArray(name="frame_sum", data=frame_sum, axes=("row", "column"), unit="photon"),
            ),
            metrics=metrics,
            warnings=tuple(self.warnings),
            geometry=self._geometry(),
        )

    def finish(self) -> SharedScan:
        """Close the series: find the peak for good, place every frame, mask what is missing.

        Raises RegionError where no frame or no peak came.
        """
        if self._sum is None or self._blind is None or not self._used:
            raise RegionError(f"scan {self.scan_id}: no usable frame came; see the frames' outcomes in the metrics")
        window = self._settle_window(self._decide_peak(), self._sum.shape)
        steps = self._steps()
        if self._volume is None:
            self._volume = Volume(steps, *(stop - start for start, stop in window))
            self._volume.aim(window)
        self._fill([step for step, placed in self._used.items() if not placed], window)
        missing = [step for step in range(steps) if step not in self._used]
        self._count(expected=steps, lost=len(missing))
        if missing:
            self.warn(f"{len(missing)} of {steps} frames missing, first {missing[0]}; their planes are masked")
            self._volume.valid[missing] = False
            self._volume.counts[missing] = 0
        (top, _), (left, _) = window
        return SharedScan(
            scan_id=self.scan_id,
            counts=self._volume.counts_handle,
            valid=self._volume.valid_handle,
            geometry=self._geometry(),
            origin=(0, top, left),
            ledger=self.ledger,
            warnings=tuple(self.warnings),
        )

    def discard(self) -> None:
        """Give the memory back without a scan."""
        if self._volume is not None:
            self._volume.release()
            self._volume = None

    def warn(self, sentence: str) -> None:
        """Keep a warning once; it goes with every result of the scan."""
        if sentence not in self.warnings:
            log.warning("scan %s: %s", self.scan_id, sentence)
            self.warnings.append(sentence)

    def _outcome(self, frame: Frame) -> Outcome:
        expected = self.ledger.expected
        if frame.index < 0 or (expected is not None and frame.index >= expected):
            self.warn(f"frame {frame.index} is beyond the {expected} that the header promises; it is left out")
            return Outcome.STRAY
        if frame.index in self._used:
            return Outcome.DUPLICATE
        if self._blind is None:
            self._prepare(frame.shape)
        if self._blind is None or frame.shape != self._blind.shape:
            own = "x".join(map(str, self._blind.shape)) if self._blind is not None else "?"
            self.warn(f"frame {frame.index} has {frame.shape[0]}x{frame.shape[1]} pixels, not {own}; it is left out")
            return Outcome.CORRUPT
        try:
            self._place(frame)
        except CorruptFrame as error:
            self.warn(str(error))
            return Outcome.CORRUPT
        return Outcome.USED

    def _place(self, frame: Frame) -> None:
        """Sum the frame if its turn has come, and copy its window if that is known."""
        summed = frame.index % self._every == 0 or self._sum is None
        if self._window is not None and self._volume is not None and not summed:
            self._copy(frame.index, compression.decompress_rows(frame, *self._window[0]))
            return
        pixels = compression.decompress(frame)
        self._used[frame.index] = False
        if summed:
            self._add_up(pixels)
        if self._window is None and len(self._used) in _LOOKS and (peak := self._find_peak(sure=True)) is not None:
            self._settle_window(peak, pixels.shape)
        if self._window is not None and self._volume is not None:
            self._copy(frame.index, pixels[slice(*self._window[0])])

    def _copy(self, step: int, band: NDArray[Any]) -> None:
        if self._volume is not None:
            blind = self._blind[slice(*self._window[0])] if self._blind is not None and self._window else None
            gain = self._gain[slice(*self._window[0])] if self._gain is not None and self._window else None
            self._used[step] = self._volume.place(step, band, blind, gain, self._no_value, self._saturation)

    def _add_up(self, pixels: NDArray[Any]) -> None:
        if self._sum is None:
            unsigned = np.issubdtype(pixels.dtype, np.unsignedinteger)
            if unsigned:
                self._no_value = int(np.iinfo(pixels.dtype).max)
            # 32 bits are four times faster to add than 64, and hold a pixel's sum over the frames that are summed.
            self._sum = np.zeros(pixels.shape, np.uint32 if unsigned and pixels.dtype.itemsize <= 4 else np.float64)
        np.add(self._sum, pixels, out=self._sum, casting="unsafe")
        self._summed += 1

    def _fill(self, steps: list[int], window: Window) -> None:
        for step in sorted(steps):
            try:
                self._copy(step, compression.decompress_rows(self._reread(step), *window[0]))
            except (SourceError, OSError) as error:
                self.warn(f"frame {step} could not be read again ({error}); its plane is masked")
                del self._used[step]
                self._count(used=self.ledger.used - 1, dropped=self.ledger.dropped + 1)

    def _steps(self) -> int:
        """How many rocking steps the volume has: what the header promises, unless that is absurd."""
        seen = max(self._used) + 1 if self._used else 0
        expected = self.ledger.expected
        if expected is None:
            return seen
        rows, columns = self._config.scan.window
        if expected * rows * columns * 4 > _MOST_BYTES:
            self.warn(f"the header promises {expected} frames, too many to keep; the scan ends with the last that came")
            return seen
        return max(expected, seen)

    def _settle_window(self, peak: tuple[int, int], shape: tuple[int, ...]) -> Window:
        window = window_about(peak, self._config.scan.window, (shape[0], shape[1]))
        if self._window is not None and self._peak is not None:
            moved = max(abs(a - b) for a, b in zip(peak, self._peak, strict=True))
            if moved <= min(self._config.scan.window) // 8 or window == self._window:
                self._peak = peak
                return self._window
            log.info("scan %s: the peak moved to row %d, column %d", self.scan_id, *peak)
        self._peak, self._window = peak, window
        self._used = dict.fromkeys(self._used, False)
        if self._volume is not None:
            self._volume.aim(window)
        return window

    def _find_peak(self, sure: bool = False) -> tuple[int, int] | None:
        if self._config.scan.peak is not None:
            return self._config.scan.peak
        peaks = self._peaks()
        if not peaks or (sure and peaks[0].height < _SURE):
            return None
        return peaks[0].row, peaks[0].column

    def _decide_peak(self) -> tuple[int, int]:
        """The peak of the whole scan: the richest spot, or a weaker one where the richest is cut off by the scan."""
        if self._config.scan.peak is not None:
            return self._config.scan.peak
        peaks = self._peaks()
        if not peaks:
            raise RegionError(
                f"scan {self.scan_id}: no Bragg peak on the detector; check the shutter, or name it as [scan] peak"
            )
        rivals = [peak for peak in peaks if peak.content >= _RIVAL * peaks[0].content]
        if len(rivals) > 1:
            curves = self._rocking_curves(rivals)
            rocking = [peak for peak, curve in zip(rivals, curves, strict=True) if _peaks_inside(curve)]
            rivals = rocking or rivals
        return rivals[0].row, rivals[0].column

    def _rocking_curves(self, peaks: list[Peak]) -> NDArray[np.float64]:
        """Counts of each spot's 3 x 3 pixels against rocking step, sampled; (peak, sample)."""
        steps = sorted(self._used)
        steps = steps[:: max(1, len(steps) // _SAMPLES)]
        curves = np.zeros((len(peaks), len(steps)))
        for column, step in enumerate(steps):
            try:
                pixels = compression.decompress(self._reread(step))
            except (SourceError, OSError):
                continue
            for row, peak in enumerate(peaks):
                box = pixels[max(0, peak.row - 1) : peak.row + 2, max(0, peak.column - 1) : peak.column + 2]
                curves[row, column] = np.median(box)
        return curves

    def _peaks(self) -> list[Peak]:
        if self._sum is None or self._blind is None:
            return []
        return find_peaks(self._sum, self._blind | self._silent(self._sum))

    def _silent(self, summed: NDArray[np.uint32 | np.float64]) -> NDArray[np.bool_]:
        """Pixels that say "no value" in every frame: blind, whatever the masks say."""
        if self._no_value < 0:
            return np.zeros(summed.shape, np.bool_)
        all_silent = self._summed * self._no_value
        return np.asarray(summed == (all_silent % 2**32 if summed.dtype == np.uint32 else all_silent))

    def _prepare(self, shape: tuple[int, int]) -> None:
        """Masks, and the volume where the header tells its size: before the first frame, while there is time."""
        self._blind = self._blind_pixels(shape)
        expected = self.ledger.expected
        if expected is not None and self._steps() == expected:
            rows, columns = (min(most, n) for most, n in zip(self._config.scan.window, shape, strict=True))
            self._volume = Volume(expected, rows, columns)

    def _blind_pixels(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        blind = np.zeros(shape, np.bool_)
        self._detector = self._detector_of(shape)
        if self._detector is not None:
            blind |= self._detector.mask
        mask = self._start.pixel_mask
        if mask is not None and mask.shape == shape:
            blind |= mask != 0
        elif mask is not None:
            self.warn(f"the stream's pixel mask has the shape {mask.shape}, the frames {shape}; it is not used")
        if self._config.detector.mask:
            blind |= load_mask(self._config.detector.mask, shape)
        if self._config.detector.flatfield:
            self._gain = load_flatfield(self._config.detector.flatfield, shape)
            blind |= np.isnan(self._gain)
        known = self._detector.saturation if self._detector is not None else None
        self._saturation = self._config.detector.saturation or self._start.saturation or known or 0.0
        return blind

    def _detector_of(self, shape: tuple[int, int]) -> Detector | None:
        if self._config.detector.name:
            found = detector(self._config.detector.name)
            if found.shape != shape:
                raise DetectorError(
                    f"[detector] name says {found.name} ({found.shape[0]}x{found.shape[1]}), "
                    f"but frames are {shape[0]}x{shape[1]}; correct the name or leave it out"
                )
            return found
        if self._start.detector:
            try:
                found = detector(self._start.detector)
            except DetectorError:
                log.info("the stream's detector %r is not in the registry", self._start.detector)
            else:
                if found.shape == shape:
                    return found
        return from_shape(shape)

    def _geometry(self) -> Geometry:
        own = self._config.geometry.completed_by(self._start.geometry)
        if self._detector is not None and own.pixel_size_m is None:
            own = own.completed_by(Geometry(pixel_size_m=self._detector.pixel_size_m))
        return own

    def _count(self, **changes: int | None) -> None:
        self.ledger = replace(self.ledger, **changes)  # type: ignore[arg-type]


def _peaks_inside(curve: NDArray[np.float64]) -> bool:
    """Whether a rocking curve has its maximum inside the scan, and falls off on both sides of it."""
    if len(curve) < 5 or curve.max() <= 0:
        return True
    top = int(np.argmax(curve))
    return bool(0 < top < len(curve) - 1 and max(curve[0], curve[-1]) < 0.5 * curve[top])


def _centre_of_mass(image: NDArray[np.float32], origin: tuple[int, int]) -> dict[str, float]:
    total = float(image.sum(dtype=np.float64))
    if total <= 0:
        return {"com_row": float("nan"), "com_column": float("nan")}
    rows = image.sum(axis=1, dtype=np.float64) @ np.arange(image.shape[0])
    columns = image.sum(axis=0, dtype=np.float64) @ np.arange(image.shape[1])
    return {"com_row": float(rows) / total + origin[0], "com_column": float(columns) / total + origin[1]}
