"""The command `ballonet`: what it says, what it refuses, its exit codes, and that it stops cleanly."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from ballonet_host_coord import cli as cli_module
from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.cli import cli
from ballonet_host_coord.control import NoRoom, serve_control
from ballonet_host_coord.recorder import read_recording
from ballonet_host_coord.snapshot import decision_to_json, snapshot_to_json

from .builders import make_guest, make_snapshot

STATUS = {
    "host": {"budget_kib": 1835008, "booked_kib": 1048576, "headroom_kib": 65536, "headroom_free_kib": 65536},
    "guests": [{"name": "web", "status": "Low", "assigned_kib": 524288, "state": "steady", "why": "buffer not met"}],
}
_SNAPSHOT = make_snapshot(make_guest("web"))
TURN = {"snapshot": snapshot_to_json(_SNAPSHOT), "decision": decision_to_json(one_iteration(_SNAPSHOT))}
SETTINGS = """
[host]
control = "{0}/run/control"
state = "{0}/state.sqlite"
[guest.web]
qmp = "{0}/web.qmp"
minimum = "256M"
maximum = "1G"
"""


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"BALLONET_SOCKET": None, "BALLONET_CONFIG": None, **environment})


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "coordinator.toml"
    path.write_text(SETTINGS.format(tmp_path))
    return str(path)


@pytest.fixture
def asked() -> list[tuple[str, dict[str, Any]]]:
    """What the coordinator was asked."""
    return []


@pytest.fixture
def coordinator(tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """The control socket of a coordinator that runs in a thread of its own."""
    path = str(tmp_path / "run" / "control")
    ready = threading.Event()
    stop: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def answer(operation: str, arguments: dict[str, Any]) -> Any:
        asked.append((operation, arguments))
        if arguments.get("guest") == "wbe":
            raise LookupError("no guest 'wbe'; known: web")
        granted = {"name": "web", "ram_kib": 1048576, "granted_kib": 524288, "missing_kib": 524288}
        settings = {"settings": {"minimum": 524288, "weight": 8000}, "set": {"weight": "8000"}}
        named = {"names": ["web"]}
        held = {"name": "web", "state": "held", "size_kib": 1048576, "hold_s": 60.0, "free_kib": 2097152}
        if arguments.get("size") == "9T":
            raise NoRoom("9 TiB for web: at most 100 MiB can be freed")
        pending = {**held, "state": "pending"}
        if arguments.get("guest") == "forgotten":
            held = {"name": "forgotten", "state": "none", "free_kib": 2097152}
        reserved = {"reserve": pending, "reservation": held, "unreserve": {"dropped_kib": 0}}
        answers = {**reserved, "release": {"guests": [granted]}, "pause": named, "resume": named, "set": settings}
        return {"status": STATUS, "snapshot": TURN, **answers}[operation]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, answer)
            stop.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(30)
    yield path
    token, scope = stop[0]
    token.run_sync_soon(scope.cancel)
    thread.join()


# --- asking a coordinator -------------------------------------------------------------------------------


def test_status_is_a_table(coordinator: str) -> None:
    """Status shows the host and each guest; the output of a program is not coloured."""
    result = run("status", "--socket", coordinator)
    assert result.exit_code == 0
    assert "budget 1792, booked 1024" in result.output
    assert re.search(r"^web +Low +512 ", result.output, re.M)
    assert "\x1b" not in result.output


def test_status_for_programs_is_what_the_coordinator_said(coordinator: str) -> None:
    """With --json nothing is rounded or left out."""
    result = run("status", "--json", BALLONET_SOCKET=coordinator)
    assert (result.exit_code, json.loads(result.output)) == (0, STATUS)


def test_socket_comes_from_the_settings(coordinator: str, config: str) -> None:
    """Who moved the control socket in the settings need not name it for each command."""
    assert run("status", BALLONET_CONFIG=config).exit_code == 0


def test_explain_says_why_now_and_later_the_same(coordinator: str, tmp_path: Path) -> None:
    """The running coordinator's decision is explained, and what was saved of it is explained in the same words."""
    saved = str(tmp_path / "turn.json")
    now = run("explain", "web", "--save", saved, "--socket", coordinator)
    assert now.exit_code == 0
    assert "web: has 512 MiB, shrinks to 480 MiB" in now.output
    assert run("explain", "web", "--snapshot", saved).output == now.output
    told = json.loads(run("explain", "--json", "--snapshot", saved).output)
    assert [guest["target_kib"] for guest in told["guests"]] == [480 * 1024]


def test_record_writes_what_explain_reads(coordinator: str, tmp_path: Path) -> None:
    """A recording says how much it holds when it ends, and its turns can be explained."""
    path = str(tmp_path / "recording")
    recorded = run("record", path, "--for", "0.1s", "--socket", coordinator)
    assert (recorded.exit_code, recorded.output.startswith(f"{path}: 1 turns, ")) == (0, True)
    assert [entry.value for entry in read_recording(path)] == [TURN]
    explained = run("explain", "--recording", path, "--at", "+1s")
    assert explained.exit_code == 0
    assert f"{path}: as of 20" in explained.output
    assert "web: has 512 MiB" in explained.output


def test_record_ends_cleanly_with_ctrl_c(coordinator: str, tmp_path: Path) -> None:
    """SIGINT ends a recording with code 0 and its line; what was recorded is whole."""
    path = str(tmp_path / "recording")
    command = [sys.executable, "-m", "ballonet_host_coord", "record", path, "--socket", coordinator]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            while not (os.path.exists(path) and list(read_recording(path))):
                assert process.poll() is None
        finally:
            process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[0]
    assert (process.returncode, (recording := read_recording(path)).lost) == (0, "")
    assert said.startswith(f"{path}: {len(list(recording))} turns, ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--snapshot", "/nowhere"], "No such file"),
        (["--recording", "/nowhere"], "No such file"),
        (["wbe"], "no guest 'wbe'; known: web"),
    ],
)
def test_what_cannot_be_explained_is_exit_code_1(coordinator: str, arguments: list[str], said: str) -> None:
    """A file that is not there and a guest that is not known are said, with the code of a failure."""
    result = run("explain", *arguments, BALLONET_SOCKET=coordinator)
    assert result.exit_code == 1
    assert said in result.output


@pytest.mark.parametrize(
    "command",
    [["status"], ["release", "web"], ["release", "--all"], ["resume", "web"], ["explain"], ["record", "/dev/null"],
     ["pause", "web"], ["set", "web"]],
)
def test_no_coordinator_is_exit_code_3(tmp_path: Path, command: list[str]) -> None:
    """Where nobody answers every command says so with the socket's path, and with a code of its own."""
    result = run(*command, "--socket", str(tmp_path / "nobody"))
    assert result.exit_code == 3
    assert f"no coordinator runs at {tmp_path}/nobody" in result.output


def test_refusal_is_exit_code_1(coordinator: str) -> None:
    """What the coordinator refuses is said in its words."""
    result = run("resume", "wbe", "--socket", coordinator)
    assert (result.exit_code, result.output) == (1, "ballonet: no guest 'wbe'; known: web\n")


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["web"], {"guest": "web", "force": False}),
        (["web", "--force"], {"guest": "web", "force": True}),
        (["--all"], {"all": True, "force": False}),
    ],
)
def test_release_says_what_is_given_and_what_is_missing(
    coordinator: str, asked: list[tuple[str, dict[str, Any]]], arguments: list[str], sent: dict[str, Any]
) -> None:
    """A release tells what the guest has now and what it has to wait for."""
    result = run("release", *arguments, "--socket", coordinator)
    assert result.exit_code == 0
    assert asked == [("release", sent)]
    assert result.output == "web: released with 512 MiB; 512 MiB more when there is room, or with --force\n"


def test_resume_names_its_guest(coordinator: str, asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Resume asks for the one guest that was named."""
    assert run("resume", "web", "--socket", coordinator).output == "web: managed again\n"
    assert asked == [("resume", {"guest": "web"})]


DOMAIN = """<domain type='qemu'><name>web</name><uuid>5b1f4c3e-9d1a-4a3b-8f0e-2c5d6e7f8a9b</uuid>
<metadata><b:policy xmlns:b='urn:ballonet:domain:1' weight='8000' minimum='lots'/></metadata>
<memory unit='MiB'>1024</memory><currentMemory unit='MiB'>512</currentMemory><devices/></domain>"""


def test_reserve_waits_until_it_is_held(coordinator: str, asked: list[tuple[str, dict[str, Any]]]) -> None:
    """It asks, looks again while the room is being made, and says what is held for how long."""
    result = run("reserve", "1G", "--for", "web", "--timeout", "10s", "--socket", coordinator)
    assert (result.exit_code, result.output) == (0, "web: 1024 MiB are held for 60 s\n")
    wanted = {"guest": "web", "size": "1G", "weight": "5000", "timeout_s": 10.0, "hold_s": 60.0}
    assert asked == [("reserve", wanted), ("reservation", {"guest": "web"})]


def test_reserve_that_is_refused_says_the_numbers(coordinator: str) -> None:
    """An exit code of its own and the coordinator's words."""
    result = run("reserve", "9T", "--for", "web", "--socket", coordinator)
    assert (result.exit_code, result.output) == (4, "ballonet: 9 TiB for web: at most 100 MiB can be freed\n")


def test_reserve_that_is_forgotten_is_no_lack_of_room(coordinator: str) -> None:
    """What a coordinator that was started anew knows nothing of has failed; only time and room have their code."""
    assert run("reserve", "1G", "--for", "forgotten", "--socket", coordinator).exit_code == 1
    assert run("reserve", "1G", "--for", "forgotten", "--timeout", "0.1s", "--socket", coordinator).exit_code == 4


def test_reserve_reads_a_domains_xml(coordinator: str, asked: list[tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    """Name and sizes come from the XML: all that it may touch while it boots, what it has then, and QEMU's own memory.
    The weight in its metadata holds where no other is said."""
    (tmp_path / "web.xml").write_text(DOMAIN)
    result = run("reserve", "--domain-xml", str(tmp_path / "web.xml"), "--socket", coordinator)
    assert result.exit_code == 0, result.output
    (_, wanted), _ = asked
    assert (wanted["guest"], wanted["size"], wanted["settled"]) == ("web", "1146880KiB", "622592KiB")
    assert wanted["weight"] == "8000"
    run("reserve", "--domain-xml", str(tmp_path / "web.xml"), "--weight", "7", "--socket", coordinator)
    assert asked[2][1]["weight"] == "7"
    (tmp_path / "web.xml").write_text("<domain>")
    assert run("reserve", "--domain-xml", str(tmp_path / "web.xml"), "--socket", coordinator).exit_code == 1


STRANGE = "--force 'q' \"$x\" ünï 雲"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_strange_name_is_reserved_for(
    locale: str, coordinator: str, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """The name of a domain is data, whatever is in it and whatever libvirtd's locale is."""
    command = "from ballonet_host_coord.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "reserve", "--domain-xml", "-", "--socket", coordinator], check=False,
        input=DOMAIN.replace(">web<", f">{STRANGE}<").encode(), capture_output=True,
        env={"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert asked[0][1]["guest"] == STRANGE


def test_pause_takes_a_guest_or_all(coordinator: str, asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Pause names who is left alone."""
    assert run("pause", "--all", "--socket", coordinator).output == "web: left alone\n"
    assert asked == [("pause", {"all": True})]


def test_set_sends_texts_and_shows_what_is_in_force(
    coordinator: str, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """Only what was said is sent; the table marks what was set at run time."""
    result = run("set", "web", "--weight", "8000", "--persist", "--socket", coordinator)
    assert asked == [("set", {"guest": "web", "values": {"weight": "8000"}, "persist": True, "reset": False})]
    assert [line.split() for line in result.output.splitlines()] == [
        ["minimum", "512", "MiB"], ["weight", "8000", "set", "at", "run", "time"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["release"], ["release", "web", "--all"], ["resume"], ["frobnicate"], ["status", "--colour"],
     ["record"], ["record", "x", "--for", "long"], ["explain", "--at", "+1s"],
     ["explain", "--snapshot", "a", "--recording", "b"]],
)
def test_misuse_is_exit_code_2(arguments: list[str]) -> None:
    """Half a command, two contradicting halves and an unknown one do nothing."""
    assert run(*arguments).exit_code == 2


# --- settings -------------------------------------------------------------------------------------------


def test_check_says_ok_and_names_the_guests(config: str) -> None:
    """Good settings are told with the guests that they name."""
    result = run("check", "--settings-only", "--config", config)
    assert (result.exit_code, result.output) == (0, f"{config}: OK, 1 guest(s): web\n")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_every_fault_is_said_before_anything_is_touched(
    config: str, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With faulty settings each fault has its line, the code is 2, and nothing was made or connected to."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the service was started")

    monkeypatch.setattr("ballonet_host_coord.service.serve", never)
    text = Path(config).read_text().replace('"256M"', '"2G"').replace("[host]", "[host]\nbugdet = 1")
    Path(config).write_text(text)
    result = run(command, "--config", config)
    assert result.exit_code == 2
    assert f"{config}: [host] bugdet = 1: unknown (did you mean budget?)" in result.output
    assert f"{config}: [guest.web] minimum = 2 GiB: allowed is at most the maximum, 1 GiB" in result.output
    assert os.listdir(tmp_path) == ["coordinator.toml"]


# --- serving --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_service_runs_until_it_is_told_to_stop(config: str, tmp_path: Path, number: signal.Signals) -> None:
    """`ballonet serve` answers on its socket though its guest is not there, and a signal ends it with code 0."""
    command = [sys.executable, "-m", "ballonet_host_coord", "serve", "--config", config]
    environment = {**os.environ, "JOURNAL_STREAM": "8:1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            while "control socket" not in first:
                assert first, "the service ended early"
                first = process.stderr.readline()
            assert first.startswith("<6>")
            result = run("status", "--json", BALLONET_CONFIG=config)
            assert result.exit_code == 0, result.output
            (guest,) = json.loads(result.output)["guests"]
            assert guest["name"] == "web"
            process.send_signal(number)
            rest = process.stderr.read()
        finally:
            process.kill()
    assert process.returncode == 0, rest
    assert f"stopping on {number.name}" in rest
    assert not (tmp_path / "run" / "control").exists()


def test_second_service_fails_with_a_reason(coordinator: str, config: str) -> None:
    """A service whose socket is taken says so and ends with code 1."""
    done = subprocess.run(
        [sys.executable, "-m", "ballonet_host_coord", "serve", "--observe"],
        env={**os.environ, "BALLONET_CONFIG": config},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "another coordinator answers there" in done.stderr
    assert "Traceback" not in done.stderr


def test_observe_reaches_the_service(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag, and its environment variable, decide whether anything is moved."""
    served = []

    async def serve(settings: object, *, observe: bool, source: object, passed: object) -> None:
        served.append(observe)

    monkeypatch.setattr("ballonet_host_coord.service.serve", serve)
    assert run("serve", "--config", config).exit_code == 0
    assert run("serve", "--config", config, "--observe").exit_code == 0
    assert run("serve", "--config", config, BALLONET_SERVE_OBSERVE="1").exit_code == 0
    assert served == [False, True, True]


def test_journal_gets_a_level_on_every_line() -> None:
    """Those of a traceback, too; levels between the known ones round down."""
    formatter = cli_module._JournalFormatter("%(message)s")
    for level, prefix in ((logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (25, "<6>"), (5, "<7>")):
        record = logging.LogRecord("x", level, "", 0, "one", None, (ValueError, ValueError("two"), None))
        assert formatter.format(record) == f"{prefix}one\n{prefix}ValueError: two"


def test_a_name_forges_no_line_of_the_journal() -> None:
    """Whatever stands in a message is one line without control characters."""
    formatter = cli_module._JournalFormatter("%(message)s")
    for name in ("a\rb", "a\x85b", "a\u2028<3>b", "a\x1b[2Jb", "a\nb"):
        line = formatter.format(logging.LogRecord("x", logging.INFO, "", 0, "%s: paused", (name,), None))
        assert line.isprintable()
        assert line.startswith("<6>a?")


def test_a_terminal_without_unicode_is_no_reason_to_fail(tmp_path: Path) -> None:
    """What its encoding lacks is written as its number."""
    config = tmp_path / "c.toml"
    config.write_text('[guest."größe-Ω"]\nqmp = "/run/a"\nminimum = "1G"\nmaximum = "1G"\n[host]\nbudget = "9G"\n')
    words = [sys.executable, "-m", "ballonet_host_coord", "check", "--settings-only", "--config", str(config)]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("latin-1").endswith("größe-\\u03a9\n")


# --- the demo -------------------------------------------------------------------------------------------


def test_demo_that_lacks_something_says_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the demo cannot be imported the other commands work, and `demo` says what to install: from the tree.

    On an index the names may be strangers'.
    """

    def lacking(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name="ballonet_guest_agent")

    monkeypatch.setattr(cli_module, "_has_demo", lambda: True)
    monkeypatch.setattr(cli_module.importlib, "import_module", lacking)
    assert run("--help").exit_code == 0
    result = run("demo", "--simulated")
    assert result.exit_code == 1
    where = "in a copy of the tree: pip install ./protocol ./guest_agent ./host_coord"
    assert f"needs ballonet_guest_agent; {where}" in result.output


def test_demo_that_is_not_there_is_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the demo installed the command line is whole, and has no `demo`."""
    monkeypatch.setattr(cli_module, "_has_demo", lambda: False)
    assert "demo" not in run("--help").output
    assert run("demo").exit_code == 2


def test_asking_does_not_load_the_service() -> None:
    """A command that only asks a running coordinator does not import the parts that serve."""
    program = "import sys, ballonet_host_coord.cli; print(*(m for m in sys.modules if m.startswith('ballonet')))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"ballonet_host_coord.service", "ballonet_host_coord.coordinator"} & set(loaded) == set()
