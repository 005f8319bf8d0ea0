"""What Prometheus scrapes."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from braggd.data import Outcome, Stage

SCAN_OUTCOMES = ("done", "failed", "aborted")

_STAGE_BUCKETS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    """The daemon's metrics, in a registry of their own; every one may be changed from any thread.

    frames: braggd_frames_total{outcome}; received = used + corrupt + duplicate + stray + dropped,
        expected = used + lost
    scans: braggd_scans_total{outcome}
    stage_seconds: braggd_stage_seconds{stage}, from the last frame to the stage's result
    queue_depth: braggd_queue_depth, scans that wait for reconstruction
    spool_bytes: braggd_spool_bytes
    degraded: braggd_degraded{reason}, 1 while it lasts
    """

    def __init__(self) -> None:
        # Otherwise every counter is joined by a `_created` series that nobody asked for.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.frames = Counter("braggd_frames", "Frames, by what became of them", ["outcome"], registry=self.registry)
        self.scans = Counter("braggd_scans", "Scans, by what became of them", ["outcome"], registry=self.registry)
        self.stage_seconds = Histogram(
            "braggd_stage_seconds",
            "From a scan's last frame to a stage's result, seconds",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.queue_depth = Gauge("braggd_queue_depth", "Scans that wait for reconstruction", registry=self.registry)
        self.spool_bytes = Gauge("braggd_spool_bytes", "Bytes in the spool", registry=self.registry)
        self.degraded = Gauge(
            "braggd_degraded", "1 while the daemon is degraded for a reason", ["reason"], registry=self.registry
        )
        for outcome in Outcome:
            self.frames.labels(outcome=outcome.value)
        for name in SCAN_OUTCOMES:
            self.scans.labels(outcome=name)
        for stage in Stage:
            if stage is not Stage.LIVE:
                self.stage_seconds.labels(stage=stage.value)
