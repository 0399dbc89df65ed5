"""Files of traces: read as they are meant, refused with the line and what is allowed, read back once written."""

from __future__ import annotations

import gzip

import pytest

from ballonet_host_coord.simulate.demand_trace import Step, trace_of
from ballonet_host_coord.simulate.trace_files import TraceError, read_traces, write_traces

from .houses import GIB, trace

PLAIN = "vm,t_s,used_kib,provisioned_kib\n"


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_rows_become_traces(tmp_path, pack):
    """Plain or gzipped, with and without the columns of the cache, empty fields as not recorded."""
    path = tmp_path / "traces"
    path.write_bytes(pack(b"vm,t_s,used_kib,provisioned_kib,cached_kib,rss_kib\na,0,5,10,3,9\na,1.5,6,,,\nb/1,7,1,4,,\n"))
    a, b = read_traces(path)
    assert (a.name, a.steps, a.end_s) == ("a", (Step(0.0, 5, 3, 10), Step(1.5, 6, 3, 10)), 3.0)
    assert (b.name, b.steps, b.end_s) == ("b/1", (Step(7.0, 1, None, 4),), 8.5)


def test_machines_are_chosen_by_a_glob(tmp_path):
    """And a glob that nobody matches is a fault."""
    path = tmp_path / "t.csv"
    path.write_text(PLAIN + "multi/1,0,5,10\nother,0,5,10\nmulti/2,0,5,10\n")
    assert [one.name for one in read_traces(path, "multi/*")] == ["multi/1", "multi/2"]
    with pytest.raises(TraceError, match=r"t\.csv: no machine matches 'x\*'; allowed is a glob"):
        read_traces(path, "x*")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: header is ''; allowed is vm,t_s,used_kib,provisioned_kib or "),
        ("vm,time,used\n", "line 1: header is 'vm,time,used'; allowed"),
        (PLAIN + "a,0,5\n", "line 2: 3 fields; allowed are the header's 4"),
        (PLAIN + "a,0,5,10\na,1,x,10\n", "line 3: .*'x'; allowed are seconds, then whole KiB or nothing"),
        (PLAIN + "a,,5,10\n", "line 2: .*allowed are seconds"),
        (PLAIN + "a,5,5,10\na,5,5,10\n", "line 3: t_s 5; allowed are times that rise within a"),
        (PLAIN + "a,5,5,10\nb,5,5,10\na,4,5,10\n", "line 4: t_s 4; allowed are times that rise"),
        (PLAIN + "a,nan,5,10\n", "line 2: t_s nan; allowed"),
        (PLAIN + "a,0,5,-1\n", "line 2: a negative size; allowed is 0 or more"),
        (PLAIN, "no machine matches"),
    ],
)
def test_faults_are_said_with_their_line_and_what_is_allowed(tmp_path, text, says):
    """What is wrong, where, and what would be right."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=says):
        read_traces(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [(gzip.compress(b"vm,t_s")[:-9], "broken gzip"), (b"\x1f\x8b\x00", "broken gzip"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_file_that_is_no_text_is_said_to_be_none(tmp_path, data, says):
    """Cut or broken gzip, and other bytes."""
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=says):
        read_traces(path)


def test_what_is_written_reads_back(tmp_path):
    """Steps on the grid of the period come back as they were, ends and sizes that change too."""
    steps = [Step(0.0, 5, 7, GIB), Step(4.0, 6, 7, GIB), Step(6.0, 5, 8, 2 * GIB)]
    traces = [trace_of("a", steps, 20.0), trace_of("b", [Step(3.5, 1, 0, GIB)], 9.5)]
    path = tmp_path / "t.csv"
    write_traces(path, traces, period_s=2.0)
    assert read_traces(path) == traces


def test_what_has_no_cache_is_written_without(tmp_path):
    """The header says what is recorded."""
    path = tmp_path / "t.csv"
    write_traces(path, [trace("a", (0.0, 5), end_s=1.0)], period_s=0.5)
    assert path.read_text() == PLAIN + f"a,0,5,{16 * GIB}\na,0.5,5,{16 * GIB}\n"
