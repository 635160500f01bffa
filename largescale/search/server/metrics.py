"""What the server has done, in the text format that Prometheus reads."""

from collections import Counter
from collections.abc import Mapping
from threading import Lock

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""
KNOWN = {"/", "/search", "/embed", "/add", "/thumbnail", "/health", "/metrics", "/openapi.json"}


class Metrics:
    """Requests by path and status, and how long they took."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()

    def count(self, path: str, status: int, seconds: float) -> None:
        path = path if path in KNOWN else "other"
        with self._lock:
            self._requests[path, status] += 1
            self._buckets[path, next((bound for bound in BOUNDS if seconds <= bound), float("inf"))] += 1
            self._seconds[path] += seconds  # type: ignore[assignment]

    def text(self, gauges: Mapping[str, float]) -> str:
        """`gauges`: values of this moment by their names."""
        with self._lock:
            lines = ["# TYPE largescale_requests_total counter"]
            lines += [f'largescale_requests_total{{path="{p}",status="{s}"}} {n}' for (p, s), n in sorted(self._requests.items())]
            lines.append("# TYPE largescale_request_seconds histogram")
            for path in sorted(self._seconds):
                total = 0
                for bound in (*BOUNDS, float("inf")):
                    total += self._buckets[path, bound]
                    name = "+Inf" if bound == float("inf") else f"{bound:g}"
                    lines.append(f'largescale_request_seconds_bucket{{path="{path}",le="{name}"}} {total}')
                lines.append(f'largescale_request_seconds_sum{{path="{path}"}} {self._seconds[path]:.6f}')
                lines.append(f'largescale_request_seconds_count{{path="{path}"}} {total}')
        for name, value in gauges.items():
            lines += [
                f"# TYPE largescale_{name} {'counter' if name.endswith('_total') else 'gauge'}",
                f"largescale_{name} {value:g}",
            ]
        return "\n".join(lines) + "\n"
