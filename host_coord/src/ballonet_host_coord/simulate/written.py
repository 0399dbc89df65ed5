"""Generated demand written as a trace file, in the traces' own form: a shell module."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

from .course import Course

HEADER = ("vm", "t_s", "used_kib", "provisioned_kib")


def write(path: Path, courses: Sequence[Course]) -> int:
    """CSV by machine and time, gzipped when the name ends in .gz; how many rows. The same courses, the same bytes."""
    has_cache = any(cached_kib is not None for course in courses for _, _, cached_kib in course.samples)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([*HEADER, "cached_kib"] if has_cache else HEADER)
    rows = 0
    for course in courses:
        for t_s, used_kib, cached_kib in course.samples:
            row = [course.name, f"{t_s:.2f}".rstrip("0").rstrip("."), used_kib, course.provisioned_kib]
            out.writerow([*row, "" if cached_kib is None else cached_kib] if has_cache else row)
            rows += 1
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return rows
