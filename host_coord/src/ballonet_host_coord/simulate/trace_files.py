"""Demand traces as files: CSV with a header, gzipped or plain. A shell module.

Columns: `vm,t_s,used_kib,provisioned_kib`, then `cached_kib` and `rss_kib` or neither. An empty field was not
recorded. Within a machine, times rise. Faults are said with the file, the line and what is allowed.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from statistics import median

from .demand_trace import DemandTrace, Sample, from_samples, period_of

COLUMNS = ["vm", "t_s", "used_kib", "provisioned_kib"]
MORE_COLUMNS = ["cached_kib", "rss_kib"]
_HEADERS = [COLUMNS, COLUMNS + MORE_COLUMNS[:1], COLUMNS + MORE_COLUMNS]
_GZIP_MAGIC = b"\x1f\x8b"

# The period of a file in which no machine has two samples.
_ONE_SAMPLE_PERIOD_S = 1.0


class TraceError(ValueError):
    """The file is not a trace: theirs."""


def read_traces(path: Path, vms: str = "*") -> list[DemandTrace]:
    """The machines of a file whose names match the glob `vms`, by first appearance.

    Raises TraceError for what is no trace, OSError when the file cannot be read.
    """
    packed = path.read_bytes()
    try:
        text = (gzip.decompress(packed) if packed.startswith(_GZIP_MAGIC) else packed).decode()
    except (OSError, EOFError, zlib.error) as exc:
        raise TraceError(f"{path}: broken gzip: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise TraceError(f"{path}: not UTF-8 text: {exc}; allowed is CSV, plain or gzipped") from exc
    samples = _samples(path, io.StringIO(text), vms)
    if not samples:
        raise TraceError(f"{path}: no machine matches {vms!r}; allowed is a glob of names in the first column")
    periods = [period_s for those in samples.values() if (period_s := period_of(those)) is not None]
    usual_s = median(periods) if periods else _ONE_SAMPLE_PERIOD_S
    traces = (from_samples(name, those, period_of(those) or usual_s) for name, those in samples.items())
    return [trace for trace in traces if trace is not None]


def write_traces(path: Path, traces: Iterable[DemandTrace], period_s: float) -> None:
    """Plain CSV with a row of each machine at each of its steps and each `period_s` after it. Raises OSError."""
    traces = list(traces)
    has_cache = any(step.cached_kib is not None for trace in traces for step in trace.steps)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(_HEADERS[1 if has_cache else 0])
        for trace in traces:
            ends_s = [step.t_s for step in trace.steps[1:]] + [trace.end_s]
            for step, end_s in zip(trace.steps, ends_s, strict=True):
                count = 0
                while (t_s := step.t_s + count * period_s) < end_s:
                    shown_s = int(t_s) if t_s == int(t_s) else t_s
                    row = [trace.name, shown_s, step.used_kib, step.provisioned_kib, step.cached_kib]
                    out.writerow(row if has_cache else row[:-1])
                    count += 1


def _samples(path: Path, file: Iterable[str], vms: str) -> dict[str, list[Sample]]:
    reader = csv.reader(file)
    header = next(reader, [])
    if header not in _HEADERS:
        allowed = " or ".join(",".join(columns) for columns in _HEADERS)
        raise TraceError(f"{path}, line 1: header is {','.join(header)!r}; allowed is {allowed}")
    width, has_cache = len(header), "cached_kib" in header
    samples: dict[str, list[Sample]] = {}
    name, last_s = None, 0.0
    those: list[Sample] | None = None
    for row in reader:
        if len(row) != width:
            raise TraceError(f"{path}, line {reader.line_num}: {len(row)} fields; allowed are the header's {width}")
        if row[0] != name:
            name = row[0]
            those = samples.setdefault(name, []) if fnmatchcase(name, vms) else None
            last_s = those[-1].t_s if those else float("-inf")
        if those is None:
            continue
        try:
            t_s = float(row[1])
            used = int(row[2]) if row[2] else None
            provisioned = int(row[3]) if row[3] else None
            cached = int(row[4]) if has_cache and row[4] else None
        except ValueError as exc:
            raise TraceError(
                f"{path}, line {reader.line_num}: {exc}; allowed are seconds, then whole KiB or nothing"
            ) from exc
        if not isfinite(t_s) or t_s <= last_s:
            raise TraceError(f"{path}, line {reader.line_num}: t_s {row[1]}; allowed are times that rise within {name}")
        if (provisioned or 0) < 0 or (cached or 0) < 0:
            raise TraceError(f"{path}, line {reader.line_num}: a negative size; allowed is 0 or more (used apart)")
        last_s = t_s
        those.append(Sample(t_s, used, provisioned, cached))
    return samples
