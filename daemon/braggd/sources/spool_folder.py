"""The folder of spooled series: `NAME.stream` is unfinished, `NAME.stream.done` and `NAME.stream.failed` are kept."""

from __future__ import annotations

from pathlib import Path

from braggd.errors import SourceError

_OPEN, _DONE, _FAILED = ".stream", ".stream.done", ".stream.failed"


class SpoolFolder:
    """Where the stream's messages wait until their scan is in the archive."""

    def __init__(self, folder: Path, limit_gb: float, keep: int) -> None:
        """Look after a folder that exists; at most `keep` finished and `keep` failed series stay, and `limit_gb`."""
        self.folder = folder
        self._limit = limit_gb * 1e9
        self._keep = keep

    def unfinished(self) -> list[Path]:
        """Series whose scan is not in the archive yet, oldest first."""
        return _by_age(self.folder.glob(f"*{_OPEN}"))

    def finish(self, path: Path) -> None:
        """The scan is done."""
        self._rename(path, _DONE)

    def fail(self, path: Path) -> None:
        """The scan cannot be reconstructed; its messages stay for `reprocess`."""
        self._rename(path, _FAILED)

    def take_back(self, scan_id: str) -> Path:
        """Make a kept series unfinished again.

        Raises SourceError where it is not there.
        """
        target = self.folder / f"{scan_id}{_OPEN}"
        for suffix in (_DONE, _FAILED):
            kept = self.folder / f"{scan_id}{suffix}"
            if scan_id and kept.name == f"{Path(scan_id).name}{suffix}" and kept.exists():
                kept.rename(target)
                return target
        known = ", ".join(sorted({p.name.split(_OPEN)[0] for p in self.folder.glob(f"*{_OPEN}.*")})) or "none"
        raise SourceError(f"scan {scan_id!r} is not in the spool {self.folder}; kept are: {known}")

    def size(self) -> int:
        """Bytes in the folder."""
        total = 0
        for path in self.folder.glob(f"*{_OPEN}*"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # finished and removed meanwhile
                continue
        return total

    def _rename(self, path: Path, suffix: str) -> None:
        if path.exists():
            path.rename(path.with_name(path.name.split(_OPEN)[0] + suffix))
        for kind in (_DONE, _FAILED):
            kept = _by_age(self.folder.glob(f"*{kind}"))
            while kept and (len(kept) > self._keep or self.size() > self._limit):
                oldest = kept.pop(0)
                oldest.unlink(missing_ok=True)
                self.folder.joinpath(oldest.name.split(_OPEN)[0] + ".prepared.json").unlink(missing_ok=True)


def _by_age(paths: object) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime)  # type: ignore[call-overload, no-any-return]
