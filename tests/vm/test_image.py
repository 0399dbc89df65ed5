"""The guest that the demo and the other real-guest tests stand on: it boots, and its parts do what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.vm.enforcement_course import enforce
from tests.vm.in_guest.enforce import GROWN_MIB, LIMIT_KIB, MIB

from ballonet_host_coord.demo.machine import MachineError, MachineSpec

RAM_KIB = 512 * 1024
HELD_MIB = 200


@dataclass
class Seen:
    """What one boot of the guest showed; the tests below read it."""

    output: dict[str, str] = field(default_factory=dict)
    actual_kib: dict[str, int] = field(default_factory=dict)
    held: dict[str, Any] = field(default_factory=dict)
    released: dict[str, Any] = field(default_factory=dict)
    killed: dict[str, Any] = field(default_factory=dict)
    after_kill: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    enforced: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    pid: int = 0
    qemu_ended: bool = False


COMMANDS = {
    # It is Type=notify: up once its interpreter is, 3 s after udev saw the port under emulation.
    "agent starts": "until systemctl is-active --quiet ballonet-guest-agent.service; do sleep 0.1; done",
    "agent": "systemctl show -P ActiveState -P User ballonet-guest-agent.service",
    "agent's python": "systemctl show -P ExecStart ballonet-guest-agent.service",
    "compared agent": "systemctl is-active qemu-guest-agent.service || true",
    "swap": "swapon --show=SIZE --bytes --noheadings",
    "failed": "systemctl --failed --no-legend --plain",
    "root is": "findmnt -n -o SOURCE,OPTIONS /",
    "balloon": "cat /sys/bus/virtio/drivers/virtio_balloon/virtio*/features",
    "check": "ballonet-agent check --json; echo $?",
    "check of another port": "ballonet-agent check --json --port org.example.0 || true",
    "held by another": (
        "systemctl stop ballonet-guest-agent.service; "
        "sh -c 'exec 3<>/dev/virtio-ports/org.ballonet.agent.0; exec sleep 600' & holder=$!; "
        "until [ -e /proc/$holder/fd/3 ]; do sleep 0.1; done; "
        "echo $holder; ballonet-agent check --json || true; kill $holder; "
        "systemctl start ballonet-guest-agent.service"
    ),
    "release": ". /etc/os-release; echo $VERSION_ID",
    "sample": "ballonet-agent sample --json",
    "zram": "modprobe zram && echo 64M > /sys/block/zram0/disksize && mkswap /dev/zram0 && swapon /dev/zram0",
    # Without the swap disk, so that all swap is zram.
    "sample with zram": "swapoff /dev/vdb && ballonet-agent sample --json && swapon /dev/vdb && swapoff /dev/zram0",
}


@pytest.fixture(scope="module")
def seen(machines, play) -> Seen:
    async def boot() -> Seen:
        seen = Seen()
        async with machines(MachineSpec("image", RAM_KIB)) as machine:
            seen.pid = machine.pid
            await machine.monitor.set_balloon(RAM_KIB * 3 // 4)
            seen.actual_kib["waiting"] = await machine.monitor.actual_kib()
            await machine.monitor.call("cont")
            async with machine.guest() as guest:
                for name, command in COMMANDS.items():
                    seen.output[name] = (await guest.run(command, timeout_s=120)).strip()
                seen.enforced = await enforce(guest)
                seen.held = await guest.hold(HELD_MIB)
                seen.counters = await guest.counters()
                seen.released = await guest.hold(0)
                try:
                    await guest.run("exit 3")
                except MachineError as fault:
                    seen.fault = str(fault)
                await guest.run(f"kill -9 {(await guest.state())['holder_pid']}")
                while not seen.killed.get("deaths"):
                    seen.killed = await guest.state()
                seen.after_kill = await guest.hold(8)
                seen.actual_kib["up"] = await machine.monitor.actual_kib()
        seen.qemu_ended = machine.process.returncode is not None
        return seen

    return play(boot)


def test_it_is_debian_12_with_nothing_broken(seen):
    """The guest is the Debian that users run, and every service of it that was started works."""
    assert seen.output["release"] == "12"
    assert seen.output["failed"] == ""


def test_the_agent_runs_as_the_guests_own_service(seen):
    """The port alone starts the agent, with Debian's python3 and as its own user."""
    assert set(seen.output["agent"].splitlines()) == {"active", "_ballonet-agent"}
    assert "/usr/bin/python3" in seen.output["agent's python"]


def test_the_compared_agent_stays_off_without_its_port(seen):
    """qemu-guest-agent costs nothing in guests that are not there to measure it."""
    assert seen.output["compared agent"] == "inactive"


def test_check_finds_nothing_to_mend(seen):
    """As root in a guest that is set up as it should be all is well; the hints are those that the demo's QEMU earns."""
    said, _, code = seen.output["check"].rpartition("\n")
    rows = json.loads(said)["findings"]
    assert int(code) == 0
    assert {row["name"] for row in rows if row["level"] == "problem"} == set()
    assert {row["name"] for row in rows if row["level"] == "hint"} <= {"reporting"}
    texts = {row["name"]: row["text"] for row in rows}
    assert "by the running agent" in texts["port"]
    assert texts["service"] == "the service runs"
    assert texts["psi"] == "the PSI trigger can be armed"


def test_check_lists_the_ports_that_there_are(seen):
    """Asked for a port that the VM lacks, it names those that it has and prints the channel to paste."""
    (row,) = [row for row in json.loads(seen.output["check of another port"])["findings"] if row["name"] == "port"]
    assert row["level"] == "problem"
    assert "org.ballonet.agent.0" in row["text"]
    assert "<target type='virtio' name='org.example.0'/>" in row["mend"].splitlines()[3]


def test_check_names_who_has_the_port(seen):
    """A process that holds the port in the agent's place is named with its number."""
    pid, _, said = seen.output["held by another"].partition("\n")
    (row,) = [row for row in json.loads(said)["findings"] if row["name"] == "port"]
    assert row["level"] == "problem"
    assert f"sleep (pid {pid})" in row["text"]


def test_swap_is_on(seen):
    """A guest has swap, as the demo promises."""
    assert int(seen.output["swap"]) >= 400 << 20


def test_the_balloon_may_deflate_on_oom(seen):
    """The driver negotiated feature 2, without which a shrink would take memory for good."""
    assert seen.output["balloon"][2] == "1"


def unknown(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """The names below which nothing is known."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from unknown(value, f"{path}{name}.")
        elif value is None:
            yield path + name


def test_the_agent_reads_everything_there_is(seen):
    """On Debian 12 no sensor is unknown, PSI is there, and what does not fit into the guest is not claimed."""
    sample = json.loads(seen.output["sample"])
    assert list(unknown(sample)) == []
    assert sample["psi"]["state"] == "present"
    assert sample["balloon"]["deflate_on_oom"] is True
    assert sample["zram"] == {"size_kib": 0, "stored_kib": 0, "held_kib": 0}
    memory = sample["memory"]
    assert memory["available_kib"] + memory["anon_kib"] + memory["balloon_kib"] <= memory["total_kib"] < RAM_KIB


def test_swap_in_memory_is_told_from_swap(seen):
    """zram that is in use as swap is seen as such, and all of the swap is zram where there is nothing else."""
    sample = json.loads(seen.output["sample with zram"])
    assert list(unknown(sample)) == []
    assert sample["zram"]["size_kib"] == sample["memory"]["swap_total_kib"] > 0


def test_a_target_set_before_the_first_instruction_arrives(seen):
    """A waiting VM takes a target; it is reached once the driver is there."""
    assert seen.actual_kib["waiting"] == RAM_KIB
    assert seen.actual_kib["up"] == RAM_KIB * 3 // 4


def test_the_workload_really_has_what_it_holds(seen):
    """Memory counts as held when it is resident, written page by page."""
    assert seen.held["held_kib"] == HELD_MIB * 1024
    assert seen.held["rss_kib"] >= HELD_MIB * 1024
    assert seen.held["swap_kib"] == 0
    assert 0 < seen.held["touched_s"] <= seen.held["usable_s"]
    assert 0 < seen.held["longest_stall_us"] <= seen.held["touched_s"] * 1e6
    assert seen.counters["meminfo"]["AnonPages"] >= HELD_MIB * 1024
    assert seen.counters["vmstat"]["oom_kill"] == 0
    assert seen.counters["psi"].startswith("some ")


def test_the_workload_gives_all_of_it_back(seen):
    """Released memory is the guest's again at once."""
    assert seen.released["held_kib"] == 0
    assert seen.released["rss_kib"] < 32 * 1024


def test_the_workload_outlives_its_holder(seen):
    """When the kernel kills the process that holds the memory, that is reported and the next command works."""
    assert seen.killed["deaths"] == 1
    assert seen.after_kill["held_kib"] == 8 * 1024


def test_a_failing_command_is_an_error_with_its_code(seen):
    """What fails in the guest fails the test that asked for it."""
    assert "exit code 3" in seen.fault


def test_qemu_ends_with_its_context(seen):
    """No process stays behind."""
    assert seen.qemu_ended


def test_a_guest_without_swap_does_not_wait_for_it(machines, play):
    """Without the swap disk the guest is up without a job that waits for it, and has none."""

    async def boot() -> str:
        spec = MachineSpec("bare", RAM_KIB, swap=False, waiting=False)
        async with machines(spec) as machine, machine.guest(within_s=240) as guest:
            return await guest.run(
                "swapon --show --noheadings; systemctl list-jobs --no-legend | grep -F vdb;"
                " journalctl -b -o cat --no-pager | grep -F 'Timed out waiting for device'; true"
            )

    assert play(boot).strip() == ""


# --- a cgroup v2 with a process that stands for QEMU, on Debian's kernel ----------------------------------

SLACK_KIB = 16 * MIB
"""The kernel charges in batches and looks at the limit after that; what is on its way to the swap still counts."""


def test_memory_high_holds_a_process_that_was_given_no_more(seen):
    """It touches all it wants and holds no more than its limit: the rest is in swap, and nothing is killed."""
    said = seen.enforced["not raised"]
    assert (said["folder"], said["version"], said["limit_kib"]) == ("/sys/fs/cgroup/ballonet-test", 2, None)
    assert said["read_back_kib"] == LIMIT_KIB
    assert said["before"]["used_kib"] < LIMIT_KIB
    grown = said["grown"]
    assert grown["used_kib"] <= LIMIT_KIB + SLACK_KIB
    assert grown["used_kib"] + grown["swapped_kib"] >= GROWN_MIB * MIB
    assert grown["held_back"] > said["before"]["held_back"]
    assert grown["killed"] == 0


def test_a_limit_that_is_raised_first_is_not_met(seen):
    """Raised before the grant the same growth meets no limit at all; lowered, the kernel takes what is above it."""
    said = seen.enforced["raised first"]
    assert said["grown"]["used_kib"] >= GROWN_MIB * MIB
    assert said["grown"]["held_back"] == said["before"]["held_back"]
    assert said["lowered"]["used_kib"] <= LIMIT_KIB + SLACK_KIB


def test_a_real_group_with_a_second_process_is_left_alone(seen):
    """And a limit of ours is gone when it was taken away."""
    for said in seen.enforced.values():
        assert "holds other processes" in said["shared"]
        assert said["removed"] == "max"
