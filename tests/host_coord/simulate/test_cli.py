"""`ballonet simulate` as a command: what it says, its exit codes, its files."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner, Result

from ballonet_host_coord import cli as ballonet
from ballonet_host_coord.simulate.cli import FRONTIER, simulate
from ballonet_host_coord.simulate.policies.registry import POLICIES
from ballonet_host_coord.simulate.report import GIB
from ballonet_host_coord.simulate.sources import Source, load

from .fakes import LACKS


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(simulate, ["--jobs", "1", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_is_a_command_of_ballonet():
    """It stands in the list without being imported, and answers for itself when asked."""
    sys.modules.pop("ballonet_host_coord.simulate.cli", None)
    assert "simulate" in CliRunner().invoke(ballonet.cli, ["--help"]).output
    asked = CliRunner().invoke(ballonet.cli, ["simulate", "--help"])
    assert asked.exit_code == 0
    assert "desktops-storm: " in asked.output


def test_the_table_is_all_that_stands_on_stdout(engine):
    """Progress goes to stderr, a line for each run where that is no terminal."""
    result = run("--mix", "servers", "--vms", 2, "--days", 0.05)
    assert result.exit_code == 0
    assert result.stdout.startswith("servers, 2 VMs")
    assert "of 5 runs" not in result.stdout
    assert "5 of 5 runs: oracle at 1.05x" in result.stderr


def test_json_on_stdout_is_json_alone(engine):
    """`--json -` leaves the table out."""
    result = run("--mix", "servers", "--vms", 2, "--json", "-", "--seed", 9, "--slider", 30)
    value = json.loads(result.stdout)
    assert (value["seed"], value["slider"]) == (9, 30)
    assert list(value["policies"]) == ["ballonet", "follower", "lazy", "static", "oracle"]


def test_json_to_a_file_leaves_the_table(engine, tmp_path):
    """Both kinds of reader get theirs."""
    path = tmp_path / "score.json"
    assert "policy" in run("--mix", "servers", "--vms", 2, "--json", path).stdout
    assert json.loads(path.read_text())["budget_kib"] > 0


def test_all_is_every_policy(engine):
    """`all` runs each that there is, once."""
    run("--mix", "servers", "--vms", 2, "--policy", "all")
    assert [name for name, *_ in engine.scored] == list(POLICIES)


def test_a_policy_named_twice_runs_once(engine):
    """A list is a set in its order."""
    run("--mix", "servers", "--vms", 2, "--policy", "lazy,oracle, lazy")
    assert [name for name, *_ in engine.scored] == ["lazy", "oracle"]


def test_an_unknown_policy_is_refused_with_all_that_there_are(engine):
    """The nearest one is offered, and nothing has run."""
    result = run("--mix", "servers", "--policy", "lazy,folower")
    assert result.exit_code == 2
    assert "there is no 'folower', did you mean follower?" in result.stderr
    for name in POLICIES:
        assert name in result.stderr
    assert set(LACKS) <= set(POLICIES)
    assert engine.scored == []


def test_the_frontier_has_six_budgets_on_one_day(engine, tmp_path):
    """Each policy at each of them, one JSON document for each budget."""
    path = tmp_path / "frontier.json"
    result = run("--mix", "servers", "--vms", 2, "--frontier", "--policy", "lazy,oracle", "--json", path)
    assert "1.05x" in result.stdout
    assert len(json.loads(path.read_text())) == len(FRONTIER) == 6
    assert len(engine.scored) == 12
    assert "hours 0 to 24" in result.stdout


def test_a_range_of_the_slider_is_a_curve(engine):
    """Each position runs and has its line."""
    result = run("--mix", "servers", "--vms", 2, "--slider", "0:100:50", "--policy", "ballonet")
    assert [slider for _, _, slider in engine.scored] == [0, 50, 100]
    assert [line.split()[0] for line in result.stdout.splitlines()[-3:]] == ["0", "50", "100"]
    assert "= 1.05 x oracle" in result.stdout


@pytest.mark.parametrize("extra", [(), ("--frontier",), ("--slider", "0:100:50")], ids=["run", "frontier", "slider"])
def test_a_picture_of_each_kind(engine, tmp_path, extra):
    """A run, the frontier and the slider's curve can all be drawn."""
    path = tmp_path / "picture.svg"
    assert run("--mix", "servers", "--vms", 2, "--plot", path, *extra).exit_code == 0
    assert path.read_text().startswith("<?xml")


def test_a_picture_that_could_not_be_is_refused_first(engine, tmp_path):
    """An hour of runs is not wasted on a file name."""
    result = run("--mix", "servers", "--plot", tmp_path / "picture.pdf")
    assert result.exit_code == 2
    assert ".svg or .png" in result.stderr
    assert engine.scored == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--traces FILE, --mix NAME or --from RECORDING"),
        (("--mix", "servers", "--traces", __file__), "--traces FILE, --mix NAME or"),
        (("--mix", "server"), "servers"),
        (("--mix", "servers", "--budget", "much"), "1.05x for a multiple"),
        (("--mix", "servers", "--budget", "0x"), "1.05x for a multiple"),
        (("--mix", "servers", "--slider", "101"), "0 to 100"),
        (("--mix", "servers", "--slider", "0:200:50"), "0 to 100"),
        (("--mix", "servers", "--slider", "0:100:0"), "FIRST:LAST:STEP"),
        (("--mix", "servers", "--hours", "6:5"), "FROM before TO"),
        (("--mix", "servers", "--hours", "noon"), "FROM:TO in hours"),
        (("--mix", "servers", "--hours", "1:2", "--days", "1"), "either --days or --hours"),
        (("--mix", "servers", "--frontier", "--slider", "0:100:50"), "either --frontier or one --slider"),
        (("--traces", __file__, "--write-traces", "x.csv"), "say --mix"),
        (("--mix", "servers", "--together", "--write-traces", "x.csv"), "leave --hours"),
        (("--mix", "servers", "--character", "liar"), "there is no 'liar'; there are: ideal, hidden-floor, stuck"),
        (("--mix", "servers", "--character", "lying", "--write-traces", "x.csv"), "--character out"),
        (("--from", __file__, "--mix", "servers"), "--from RECORDING"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(engine, arguments, said):
    """Exit code 2, the option, and what may stand there; nothing has run."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert engine.scored == []


@pytest.mark.parametrize(("text", "kib"), [("96G", 96 << 20), ("1.5T", 3 << 29), ("512M", 512 << 10)])
def test_a_budget_may_be_a_size(engine, text, kib):
    """Sizes are binary, as memory is."""
    run("--mix", "servers", "--vms", 2, "--budget", text, "--policy", "lazy")
    assert engine.scored == [("lazy", kib, 25)]


def test_a_range_of_the_slider_runs_others_once(engine):
    """What has no slider has one line beside the curve."""
    result = run("--mix", "servers", "--vms", 2, "--slider", "0:100:50", "--policy", "ballonet,lazy")
    assert [name for name, *_ in engine.scored] == ["ballonet", "lazy", "ballonet", "ballonet"]
    assert "at every place of the slider" in result.stdout
    assert "4 of 4 runs" in result.stderr


def test_a_file_that_is_no_trace_is_told(engine):
    """What the reader of files says is the message, without a traceback; it failed, and was not misused."""
    result = run("--traces", __file__)
    assert result.exit_code == 1
    assert "line 1: header" in result.stderr


def test_a_machine_that_is_not_there_is_told(engine, trace_file):
    """A glob that matches none fails with what it was."""
    result = run("--traces", trace_file, "--select", "web*")
    assert result.exit_code == 1
    assert "no machine matches 'web*'" in result.stderr


def test_a_mix_is_written_in_place_of_simulated(engine, tmp_path):
    """`--write-traces` makes the file and runs nothing."""
    path = tmp_path / "mix.csv"
    assert run("--mix", "desktops-storm", "--vms", 2, "--hours", ":1", "--write-traces", path).exit_code == 0
    assert path.read_text().startswith("vm,t_s,used_kib,provisioned_kib\ndesktop-000,0,")
    assert engine.scored == []


def test_a_recording_is_simulated_under_its_own_settings(engine, recording):
    """Budget less QEMU's own, slider and headroom are the host's; stderr says so, and what is lost of the file."""
    result = run("--from", recording, "--policy", "ballonet")
    assert result.exit_code == 0
    own_kib = load(Source(recording=recording)).overhead_kib
    assert own_kib > 0
    assert engine.scored == [("ballonet", 2 * GIB - own_kib, 60)]
    assert engine.headroom_kib == 32 * 1024
    assert "2 guests over 0.17 h; budget 2.00 GiB" in result.stderr
    assert "bytes are damaged and were passed over" in result.stderr


def test_another_budget_for_a_recorded_host_is_its_setting(engine, recording):
    """A size stands for the setting `budget`, so QEMU's own memory comes off it, too; a multiple is of guests' need."""
    run("--from", recording, "--policy", "lazy", "--budget", "3G")
    run("--from", recording, "--policy", "lazy", "--budget", "2x")
    house = load(Source(recording=recording))
    assert [kib for _, kib, _ in engine.scored] == [3 * GIB - house.overhead_kib, 2 * house.oracle_kib]
    assert run("--from", recording, "--policy", "lazy", "--budget", "1M").exit_code == 1


def test_a_recording_over_the_slider_with_the_engine_itself(recording):
    """The operator's question: what would another place of the slider hold and leave short, here."""
    result = run("--from", recording, "--slider", "0:100:50", "--policy", "ballonet", "--json", "-")
    documents = json.loads(result.stdout)
    held_kib = [document["policies"]["ballonet"]["held_mean_kib"] for document in documents]
    assert [document["slider"] for document in documents] == [0, 50, 100]
    assert held_kib == sorted(held_kib, reverse=True)
    assert held_kib[-1] < held_kib[0]


def test_what_is_no_recording_fails(tmp_path):
    """With its name and without a traceback."""
    path = tmp_path / "x"
    path.write_text("no recording")
    result = run("--from", path)
    assert result.exit_code == 1
    assert f"{path}: the recording holds no turn" in result.stderr


def test_a_character_can_be_given_twice(engine):
    """Each with its own machines, and the table says so; for machines that are not there it fails."""
    given = ("--mix", "servers", "--vms", 2, "--policy", "lazy", "--character", "lying")
    result = run(*given, "--character", "stuck=*-001")
    assert "lying, stuck *-001" in " ".join(result.stdout.split())
    assert run(*given, "--character", "stuck=none").exit_code == 1
