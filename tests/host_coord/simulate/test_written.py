"""Generated demand as files in the traces' form."""

from __future__ import annotations

import csv
import gzip

import pytest

from ballonet_host_coord.simulate.mixes import MIXES
from ballonet_host_coord.simulate.written import write


@pytest.mark.parametrize(
    ("name", "header"),
    [("servers", "vm,t_s,used_kib,provisioned_kib"), ("build-farm", "vm,t_s,used_kib,provisioned_kib,cached_kib")],
)
@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_a_file_says_what_the_course_says(tmp_path, name, header, ending):
    """Every sample is a row, by machine and time, with the cache where there is one."""
    courses = MIXES[name](2, 1, 7200.0)
    path = tmp_path / f"mix.{ending}"
    rows = write(path, courses)
    text = (gzip.decompress(path.read_bytes()) if ending.endswith("gz") else path.read_bytes()).decode()
    assert text.splitlines()[0] == header
    read = list(csv.DictReader(text.splitlines()))
    assert len(read) == rows == sum(len(course.samples) for course in courses)
    samples = [(course, sample) for course in courses for sample in course.samples]
    for row, (course, (t_s, used_kib, cached_kib)) in zip(read, samples, strict=True):
        assert row["vm"] == course.name
        assert (float(row["t_s"]), int(row["used_kib"])) == (t_s, used_kib)
        assert int(row["provisioned_kib"]) == course.provisioned_kib
        assert row.get("cached_kib") == (None if cached_kib is None else str(cached_kib))


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_the_same_demand_is_the_same_bytes(tmp_path, ending):
    """No date and no name in the file: a checksum says whether two are the same."""
    first, second = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    for path in (first, second):
        write(path, MIXES["servers"](2, 1, 600.0))
    assert first.read_bytes() == second.read_bytes()
