"""The fuzz targets run without a fuzzer, here over their corpus: they cannot rot, and they notice what is broken."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_frames
import fuzz_sessions
import make_corpus
import pytest
import watch
from fuzz_frames import ACTIVE, BODY, PAYLOAD, PORTIONS, RAW, shape

from ballonet_protocol import AGENT, MESSAGE_TYPES, Connection, LocalProtocolError, Ping, _codec, _connection
from ballonet_protocol._framing import FrameReader

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).parent / "corpus"
RUN = Path(__file__).parent / "run.py"
TARGETS = {"frames": fuzz_frames.one_input, "sessions": fuzz_sessions.one_input}


def inputs(target: str) -> dict[str, bytes]:
    """Name -> input, as committed."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}


# --- the corpus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_finds_nothing(target: str) -> None:
    """Every committed input passes every check of its target, memory and time included."""
    watching = watch.Watch(TARGETS[target], warm_up_s=0)
    watching.look()
    for data in inputs(target).values():
        watching.run(data)
    watching.look()
    assert watching.executions > 20


def test_the_corpus_is_what_its_generator_writes(tmp_path: Path) -> None:
    """Nothing was changed by hand. A vector that came later may be missing until the generator runs again."""
    make_corpus.write(tmp_path)
    for target in TARGETS:
        for name, data in inputs(target).items():
            assert (tmp_path / target / name).read_bytes() == data, f"{target}/{name}"


def test_the_corpus_is_small() -> None:
    """It has every message both ways and stays under 200 KB."""
    assert sum(len(data) for target in TARGETS for data in inputs(target).values()) < 200_000
    begun = {data[:2] for data in inputs("frames").values()}
    assert {code for code in MESSAGE_TYPES if shape(AGENT, ACTIVE, PAYLOAD, code) not in begun} == set()


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_are_an_input(target: str) -> None:
    """Empty, short and cut inputs are inputs like any other."""
    for data in (b"", b"\0", b"\xff", b"\xff\xff", *(data[:-1] for data in inputs(target).values())):
        assert TARGETS[target](data) >= 0


# --- what the targets notice -----------------------------------------------------------------------------------------


def _answer_everything(connection: Connection, *parts: Any) -> None:
    raise _connection.RemoteProtocolError(_connection.ErrorCode.BAD_MESSAGE, None, "always")


def _raise_the_wrong_thing(connection: Connection) -> None:
    raise KeyError("a bug")


def _forget_the_rest(reader: FrameReader, data: bytes) -> None:
    reader._buffer += data[:24]


def _keep(reader: FrameReader) -> int:
    return 0


def _decode_to_less(encoded: bytes) -> bytes | None:
    data = _COBS_DECODE(encoded)
    return data and data[:-1]


def _upper(message: Any) -> bytes:
    return bytes(_ENCODE(message.replace(token=message.token + 1) if isinstance(message, Ping) else message))


def _unpack_without_limits(packed: bytes, **options: Any) -> Any:
    return _UNPACKB(packed, raw=True, use_list=False, object_pairs_hook=list)


_COBS_DECODE, _ENCODE, _UNPACKB = fuzz_frames.cobs_decode, _codec.encode_message, _codec.unpackb
PING = shape(AGENT, ACTIVE, PAYLOAD, Ping.TYPE_CODE) + b"\x81\xa1t\x05"
PORTIONED = shape(AGENT, ACTIVE, PORTIONS, 99) + make_corpus.PING
BAD_ERROR = inputs("frames")["header-critical-error-agent"]
VERSION_0 = shape(AGENT, ACTIVE, BODY) + bytes(20)
MANY = b"\x83\xa1t\x05\xa1x\xdc\x00\x41" + bytes(65) + b"\xa1y\x01"


@pytest.mark.parametrize(
    ("data", "where", "name", "broken", "error"),
    [
        (PING, Connection, "next_message", _raise_the_wrong_thing, KeyError),
        (BAD_ERROR, Connection, "_receive_frame", _answer_everything, AssertionError),
        (PING, Connection, "_receive_frame", lambda *parts: None, AssertionError),
        (PORTIONED, FrameReader, "feed", _forget_the_rest, AssertionError),
        (shape(AGENT, ACTIVE, RAW) + b"\x05" * 8192, FrameReader, "_partial_bytes", _keep, AssertionError),
        (PING, fuzz_frames, "cobs_decode", _decode_to_less, AssertionError),
        (PING, _codec, "encode_message", _upper, AssertionError),
        (PING[:2] + MANY, _codec, "unpackb", _unpack_without_limits, AssertionError),
        (VERSION_0, _connection.RemoteProtocolError, "as_message", lambda error: None, LocalProtocolError),
    ],
    ids=["exception", "errors", "hello", "portions", "buffer", "cobs", "stable", "msgpacks", "answer"],
)  # fmt: skip
def test_a_broken_library_is_noticed(
    data: bytes, where: Any, name: str, broken: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check of the target over frames fails when what it checks is taken out of the library."""
    fuzz_frames.one_input(data)
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(error):
        fuzz_frames.one_input(data)


def test_a_broken_library_is_noticed_in_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that repeats a frame ends in a finding when numbers are not looked at."""
    monkeypatch.setattr(Connection, "_is_new", lambda connection, seq: True)
    with pytest.raises(AssertionError, match="twice"):
        fuzz_sessions.one_input(inputs("sessions")["double"])


# --- the watch -------------------------------------------------------------------------------------------------------


def _watch(target: Callable[[bytes], float]) -> watch.Watch:
    watching = watch.Watch(target, warm_up_s=0)
    watching.look()
    return watching


def _run_often(watching: watch.Watch, times: int) -> None:
    for _ in range(times):
        watching.run(b"")
    watching.look()


def test_a_slow_input_is_a_finding() -> None:
    """Over 50 ms is a finding when it stays so; once slow, and quick the next time, is an interrupt."""
    with pytest.raises(AssertionError, match="51 ms"):
        _watch(lambda data: 0.051).run(b"")
    times = iter((0.5, 0.001, 0.5))
    watching = _watch(lambda data: next(times))
    watching.run(b"")
    assert watching.slowest_ms == 1.0


@pytest.fixture
def frozen() -> Iterator[None]:
    """Collects no garbage but a test's own: pytest's takes longer than all else here."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_leak_is_a_finding(size: int) -> None:
    """Memory that stays is seen, in small blocks and in large ones."""
    kept = []

    def leak(data: bytes) -> float:
        kept.append(bytearray(size))
        return 0.0

    watching = _watch(leak)
    with pytest.raises(AssertionError, match="memory grew"):
        _run_often(watching, 2400)


@pytest.mark.usefixtures("frozen")
def test_what_does_not_leak_does_not_grow() -> None:
    """Many inputs of a target that keeps nothing come to nothing."""
    watching = _watch(lambda data: len(bytearray(5000)) * 0.0)
    _run_often(watching, 2400)
    assert watching.growth_kib < 64


def test_one_hungry_input_is_a_finding() -> None:
    """An input that needs over 1 MiB is a finding though it gives everything back."""
    watching = _watch(lambda data: len(bytearray(2**21)) * 0.0)
    with pytest.raises(AssertionError, match="one input took"):
        _run_often(watching, watch.TRACED_EACH)


def test_figures_survive_the_process(tmp_path: Path) -> None:
    """What was measured is on disk every two seconds, by a clock that is an argument."""
    now_s = 0.0
    path = tmp_path / "figures.json"
    watching = watch.Watch(lambda data: 0.002, 10, path, clock=lambda: now_s)
    watching.run(b"")
    assert not path.exists()
    now_s = watch.LOOKS_EVERY_S
    watching.run(b"")
    assert json.loads(path.read_text())["executions"] == 2
    assert json.loads(path.read_text())["slowest_ms"] == 2.0


# --- the command -----------------------------------------------------------------------------------------------------


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RUN), *words], capture_output=True, text=True, check=False, timeout=60)


def test_replay_needs_no_fuzzer() -> None:
    """An input that was found can be run again, by itself, and the closing line says what it took."""
    done = _run("sessions", str(CORPUS / "sessions" / "everything"), str(CORPUS / "sessions" / "open"))
    assert done.returncode == 0, done.stderr
    assert "sessions  executions         2  crashes 0  slowest 4 KiB" in done.stdout


def test_without_a_fuzzer_the_command_says_so(tmp_path: Path) -> None:
    """Where atheris is not installed the run ends with the command that installs it, not with a traceback."""
    code = (
        "import importlib.util, runpy, sys\n"
        "importlib.util.find_spec = lambda name: None\n"
        f"sys.argv = ['run.py']; sys.path.insert(0, {str(RUN.parent)!r})\n"
        f"runpy.run_path({str(RUN)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "make fuzz" in done.stderr
    assert "Traceback" not in done.stderr


def test_time_is_the_threads_own() -> None:
    """Sleeping machines and busy neighbours cost an input nothing."""
    began_s = time.thread_time()
    assert fuzz_frames.one_input(PING) <= time.thread_time() - began_s
