"""`ballonet demo` as a command: its first line, its exit codes, its file, and that it fails with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from ballonet_host_coord.demo import cli, requirements
from ballonet_host_coord.demo.image import Image, ImageError
from ballonet_host_coord.demo.lines import PeerGone
from ballonet_host_coord.demo.machine import MachineError
from ballonet_host_coord.demo.requirements import RequirementsError
from ballonet_host_coord.demo.verdict import GuestScore, Verdict

IMAGE = Image(Path("disk"), Path("swap"), Path("kernel"), Path("initrd"))


def a_verdict(simulated=False, exceeded_kib=0, **score) -> Verdict:
    guest = GuestScore("alpha", **{"steps_s": [0.5], **score})
    return Verdict(simulated, "tcg", 100, exceeded_kib, 100 + exceeded_kib, 80, 70, 200, (guest,))


class Theatre:
    """Stands in for both plays and what they need; a verdict or an error is what comes of each."""

    def __init__(self) -> None:
        self.qemu: Exception | None = None
        self.installs = False
        self.image: Exception | None = None
        self.real: Verdict | Exception = a_verdict()

    def ensure(self, packages, say) -> None:
        assert packages == requirements.TO_RUN
        if self.installs:
            say("installing qemu-system-x86 with apt-get")
        if self.qemu:
            raise self.qemu

    def build_image(self, say) -> Image:
        say("building")
        if self.image:
            raise self.image
        return IMAGE

    async def run_real(self, image, screen) -> Verdict:
        assert image == IMAGE
        screen.say("two real Debian guests")
        if isinstance(self.real, Verdict):
            return self.real
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            async with trio.open_nursery():
                raise self.real

    async def run_simulated(self, screen) -> Verdict:
        screen.say("simulated guests: no QEMU")
        return a_verdict(simulated=True)


@pytest.fixture
def theatre(monkeypatch: pytest.MonkeyPatch) -> Theatre:
    theatre = Theatre()
    monkeypatch.setattr(requirements, "ensure", theatre.ensure)
    for name in ("build_image", "run_real", "run_simulated"):
        monkeypatch.setattr(cli, name, getattr(theatre, name))
    return theatre


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.demo, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def first_line(result: Result) -> str:
    return result.output.splitlines()[0]


def test_a_play_that_holds_is_success(theatre, tmp_path):
    """Exit code 0, the verdict for people on the screen and for programs in the file."""
    file = tmp_path / "verdict.json"
    result = run("--json", file)
    assert result.exit_code == 0
    assert result.output.endswith("all of it holds\n")
    assert json.loads(file.read_text()) == a_verdict().to_json()


@pytest.mark.parametrize(
    "changes",
    [{"steps_s": [0.5, None]}, {"steps_s": []}, {"oom_kills": 1}, {"exceeded_kib": 1}],
    ids=["not met", "no step", "killed", "exceeded"],
)
def test_a_play_that_does_not_hold_is_failure(theatre, tmp_path, changes):
    """Exit code 1, and both verdicts say what happened."""
    file = tmp_path / "verdict.json"
    theatre.real = a_verdict(**changes)
    result = run("--json", file)
    assert result.exit_code == 1
    assert result.output.endswith("it does NOT hold\n")
    assert json.loads(file.read_text()) == theatre.real.to_json()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MachineError("QEMU ended with exit code 1"), "QEMU ended with exit code 1"),
        (PeerGone("closed while waiting"), "closed while waiting"),
        (trio.TooSlowError(), "TooSlowError"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_play_that_breaks_off_fails_with_a_sentence(theatre, tmp_path, error, said):
    """No traceback, exit code 1, and no file: least of all an earlier run's success."""
    file = tmp_path / "verdict.json"
    file.write_text('{"oom_kills": 0}')
    theatre.real = error
    result = run("--json", file)
    assert result.exit_code == 1
    assert "the demo failed: " in result.output
    assert said in result.output.splitlines()[-1]
    assert not file.exists()


def test_a_bug_of_ours_comes_with_its_traceback(theatre):
    """What nobody foresaw is not made a sentence of."""
    theatre.real = KeyError("usable_s")
    with pytest.raises(ExceptionGroup):
        run()


def test_a_file_that_could_not_be_written_is_refused_first(theatre, tmp_path):
    """A folder that is not there is told before the guests boot, not after."""
    result = run("--json", tmp_path / "none" / "verdict.json")
    assert result.exit_code == 2
    assert "there is no folder" in result.output
    assert "real Debian guests" not in result.output


@pytest.mark.parametrize("installs", [False, True])
def test_without_qemu_the_first_line_says_simulated_and_why(theatre, installs):
    """Where QEMU cannot be had, also after a try, the guests are simulated and nothing is said before that."""
    theatre.installs = installs
    theatre.qemu = RequirementsError("could not install qemu-system-x86: no network")
    result = run()
    assert result.exit_code == 0
    assert "simulated guests" in first_line(result)
    assert "no network" in first_line(result)
    assert "real Debian guests" not in result.output


def test_what_was_installed_is_told_once_that_worked(theatre):
    """Lines that were held back until QEMU was there are not lost."""
    theatre.installs = True
    result = run()
    assert "installing qemu-system-x86" in first_line(result)
    assert "real Debian guests" in result.output


@pytest.mark.parametrize("error", [ImageError("mirror is down"), RequirementsError("mirror is down")])
def test_with_qemu_an_image_that_fails_is_a_failure(theatre, error):
    """Simulated guests are for hosts without QEMU; a broken builder or mirror is not hidden behind them."""
    theatre.image = error
    result = run()
    assert result.exit_code == 1
    assert "the demo failed: mirror is down" in result.output
    assert "simulated" not in result.output


def test_simulated_needs_nothing(theatre):
    """`--simulated` looks for no QEMU and builds nothing."""
    theatre.qemu = theatre.image = AssertionError("looked for real guests")
    result = run("--simulated")
    assert result.exit_code == 0
    assert "simulated guests" in first_line(result)
