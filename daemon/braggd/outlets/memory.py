"""The last results, for clients that come late."""

from __future__ import annotations

from braggd.wire import Part


class Memory:
    """The last result of every stage of the newest scans, as message parts.

    scans: how many; a scan is new when its first result comes
    size: bytes beyond which the oldest results go first; those of the newest scan always stay
    """

    def __init__(self, scans: int, size: int) -> None:
        self._most_scans = max(1, scans)
        self._most_bytes = size
        self._scans: list[str] = []
        self._kept: dict[tuple[str, str], list[Part]] = {}

    def keep(self, scan_id: str, stage: str, parts: list[Part]) -> None:
        """Remember a result in place of the one of the same scan and stage."""
        self._kept.pop((scan_id, stage), None)
        self._kept[scan_id, stage] = parts
        if scan_id not in self._scans:
            self._scans.append(scan_id)
        for old in self._scans[: -self._most_scans]:
            self._forget([key for key in self._kept if key[0] == old])
        spare = [key for key in self._kept if key[0] not in (self._scans[-1], scan_id)]
        while spare and self._bytes() > self._most_bytes:
            self._forget([spare.pop(0)])

    def find(self, scan_id: str | None = None, stage: str | None = None) -> list[Part] | None:
        """The newest result that fits, None where there is none."""
        for key in reversed(self._kept):
            if scan_id in (None, key[0]) and stage in (None, key[1]):
                return self._kept[key]
        return None

    def entries(self) -> list[tuple[str, str]]:
        """(scan_id, stage) of what is kept, oldest first."""
        return list(self._kept)

    def scans(self) -> list[str]:
        """What is kept, oldest first."""
        return list(self._scans)

    def _forget(self, keys: list[tuple[str, str]]) -> None:
        for key in keys:
            del self._kept[key]
        left = {scan_id for scan_id, _ in self._kept}
        self._scans = [scan_id for scan_id in self._scans if scan_id in left]

    def _bytes(self) -> int:
        return sum(len(part) for parts in self._kept.values() for part in parts)
