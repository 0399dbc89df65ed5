"""Explaining and recording before the real coordinator: its last turn is told, replayed and simulated from."""

from __future__ import annotations

import json

from ballonet_host_coord.explaining import as_json, as_text
from ballonet_host_coord.recording import Encoder, Entry, Reading
from ballonet_host_coord.simulate.recording import recorded_host
from ballonet_host_coord.snapshot import decision_to_json, snapshot_from_json, snapshot_to_json

MIB = 1024


def test_running_coordinator_tells_its_last_turn(play):
    """The operation "snapshot" answers with what was decided from, so a shortage is explained as it was decided."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 900)
        stage.work("beta", 900)
        await stage.until(lambda: stage.watch.turns[-1][1].guests[0].why.startswith("short"), within_s=20)
        stage.turn = stage.watch.turns[-1]  # the answer is made in a thread, and more turns may pass meanwhile
        stage.answer = await stage.house.coordinator.handle("snapshot", {})

    stage = play(scenario)
    snapshot, decision = stage.turn
    assert stage.answer == {"snapshot": snapshot_to_json(snapshot), "decision": decision_to_json(decision)}
    alpha, _ = json.loads(as_json(stage.answer, None))["guests"]
    assert alpha["rule"] == "short"
    assert alpha["target_kib"] == decision.guests[0].target_kib
    assert [holder["name"] for holder in alpha["holders"]] == ["beta"]
    assert any("more budget: its demand is met" in change["what"] for change in alpha["changes"])
    assert "instead of" not in as_text(stage.answer, None, 80).split("\n\n")[0]


def test_coordinator_is_asked_before_its_first_turn(play):
    """Who asks at once gets a turn, too."""

    async def scenario(stage):
        stage.house.coordinator.snapshot = stage.house.coordinator.decision = None
        stage.answer = await stage.house.coordinator.handle("snapshot", {})

    assert len(play(scenario).answer["snapshot"]["guests"]) == 2


def test_recording_of_a_house_is_its_demand(play):
    """What the machines' workloads used comes back from the recording of the coordinator's turns."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 600)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=20)
        await stage.until(lambda: stage.watch.turns[-1][0].guests[0].demand.use_kib > 600 * MIB, within_s=5)

    stage = play(scenario)
    encoder = Encoder(1)
    frames = [
        encoder.frame(Entry("turn", snapshot.now_s, 1e9 + snapshot.now_s, snapshot_to_json(snapshot)))
        for snapshot, _ in stage.watch.turns
    ]
    entries = [(entry.unix_s, snapshot_from_json(entry.value)) for entry in Reading(b"".join(frames))]
    assert [snapshot for _, snapshot in entries] == [snapshot for snapshot, _ in stage.watch.turns]
    host = recorded_host(entries)
    alpha, beta = host.guests
    assert host.budget_kib == stage.house.settings.host.budget_kib
    assert alpha.uses[-1].used_kib > 600 * MIB > 3 * beta.uses[-1].used_kib / 2
    assert alpha.present[-1][1] == host.end_s
