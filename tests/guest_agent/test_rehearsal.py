"""rehearsal.py: the urgent way is walked once, without anybody noticing."""

from __future__ import annotations

from ballonet_guest_agent.actions import Identity
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.rehearsal import rehearse
from ballonet_guest_agent.sample import Sample
from ballonet_protocol import Connection, Demand, HelloAck, HelloReq, Message, Report


def test_goes_the_whole_way(make_guest, monkeypatch) -> None:
    """From the asking to a DEMAND: nothing that a shortage needs is done for the first time then."""
    sent: list[type[Message]] = []
    send = Connection.send
    monkeypatch.setattr(Connection, "send", lambda self, message: (sent.append(type(message)), send(self, message))[1])
    frames = rehearse(AgentSettings(), Identity(bytes(16), has_psi_trigger=True), make_guest().sample())
    assert [HelloReq, HelloAck, Report, Demand] == sent[:4]
    assert frames == len(sent)


def test_a_guest_that_says_nothing() -> None:
    """Without a readable /proc there is less to rehearse, and nothing fails."""
    assert rehearse(AgentSettings(), Identity(bytes(16)), Sample.from_texts("", "", None, None)) >= 1
