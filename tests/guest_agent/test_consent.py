"""consent.py: the table of its docstring, row by row, and the ends of a consent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.consent import Consent, View
from ballonet_protocol import AckStatus, AckWhy, Deflate, Inflate, MoveStatus

MIB = 1 << 20
QUIET = View(
    ram_bytes=1024 * MIB,
    present_bytes=800 * MIB,
    floor_bytes=300 * MIB,
    unmovable_bytes=200 * MIB,
    suspended=False,
    settling=False,
    pressed=False,
)


def view(**changes: object) -> View:
    return View(**{**QUIET.__dict__, **changes})  # type: ignore[arg-type]


def inflate(target_mib: int, gen: int = 1, **more: int) -> Inflate:
    return Inflate(gen=gen, target_bytes=target_mib * MIB, ttl_ms=30_000, **more)


def deflate(target_mib: int, gen: int = 1) -> Deflate:
    return Deflate(gen=gen, target_bytes=target_mib * MIB, ttl_ms=30_000)


@pytest.mark.parametrize(
    ("changes", "target_mib", "status", "effective_mib", "why"),
    [
        ({}, 500, AckStatus.ACCEPTED, 500, AckWhy.NONE),
        ({}, 900, AckStatus.ACCEPTED, 900, AckWhy.NONE),
        ({"present_bytes": None}, 500, AckStatus.REFUSED, 1024, AckWhy.POLICY),
        ({"suspended": True}, 500, AckStatus.REFUSED, 800, AckWhy.SUSPENDED),
        ({"settling": True}, 500, AckStatus.REFUSED, 800, AckWhy.SETTLING),
        ({"pressed": True}, 500, AckStatus.REFUSED, 800, AckWhy.PRESSURE),
        ({"settling": True, "pressed": True}, 500, AckStatus.REFUSED, 800, AckWhy.SETTLING),
        ({}, 100, AckStatus.CLAMPED, 300, AckWhy.FLOOR),
        ({}, 0, AckStatus.CLAMPED, 300, AckWhy.FLOOR),
        ({"floor_bytes": 900 * MIB}, 100, AckStatus.REFUSED, 800, AckWhy.FLOOR),
        ({"unmovable_bytes": 400 * MIB}, 100, AckStatus.CLAMPED, 400, AckWhy.PRESSURE),
        ({"unmovable_bytes": 850 * MIB}, 100, AckStatus.REFUSED, 800, AckWhy.PRESSURE),
    ],
)
def test_inflate(changes: dict[str, object], target_mib: int, status: int, effective_mib: int, why: int) -> None:
    """Each row of the table, with the size that the agent consents to."""
    answer = Consent().answer(inflate(target_mib), view(**changes), 100.0)
    assert (answer.status, answer.effective_bytes, answer.why) == (status, effective_mib * MIB, why)


def test_the_hosts_floor_raises_and_never_lowers() -> None:
    """An INFLATE's own floor counts when it is the higher one."""
    assert Consent().answer(inflate(100, floor_bytes=600 * MIB), QUIET, 0.0).effective_bytes == 600 * MIB
    assert Consent().answer(inflate(100, floor_bytes=1 * MIB), QUIET, 0.0).effective_bytes == 300 * MIB


def test_deflate_is_only_clamped_to_ram() -> None:
    """A grant is taken in every condition of the guest."""
    worst = view(present_bytes=None, suspended=True, settling=True, pressed=True)
    assert Consent().answer(deflate(900), worst, 0.0).status == AckStatus.ACCEPTED
    answer = Consent().answer(deflate(5000), worst, 0.0)
    assert (answer.status, answer.effective_bytes, answer.why) == (AckStatus.CLAMPED, 1024 * MIB, AckWhy.ABOVE_RAM)


def test_a_grant_is_no_consent_to_take() -> None:
    """A DEFLATE to next to nothing is taken as it is; an INFLATE under its gen is not agreed to by it."""
    consent = Consent()
    assert consent.answer(deflate(0), QUIET, 0.0).effective_bytes == 0
    same_gen = consent.answer(inflate(0), QUIET, 0.0)
    assert (same_gen.status, same_gen.effective_bytes) == (AckStatus.DUPLICATE, 800 * MIB)


@pytest.mark.fault(23)
def test_gen_same_is_duplicate_with_todays_value() -> None:
    """A repeated command has no new effect; its answer is what is agreed now, also after the floor was raised."""
    consent = Consent()
    consent.answer(inflate(500), QUIET, 0.0)
    again = consent.answer(inflate(400), QUIET, 1.0)
    assert (again.status, again.effective_bytes) == (AckStatus.DUPLICATE, 500 * MIB)
    raised = consent.answer(inflate(500), view(floor_bytes=600 * MIB), 2.0)
    assert (raised.status, raised.effective_bytes) == (AckStatus.DUPLICATE, 600 * MIB)


@pytest.mark.parametrize(
    ("changes", "effective_mib", "why"),
    [
        ({"pressed": True}, 800, AckWhy.PRESSURE),
        ({"suspended": True}, 800, AckWhy.SUSPENDED),
        ({"unmovable_bytes": 650 * MIB}, 650, AckWhy.PRESSURE),
        ({"unmovable_bytes": 900 * MIB}, 800, AckWhy.PRESSURE),
        ({"floor_bytes": 700 * MIB}, 700, AckWhy.FLOOR),
    ],
)
def test_duplicate_looks_at_the_guest_anew(changes: dict[str, object], effective_mib: int, why: int) -> None:
    """A repeated INFLATE is not agreed to where a new one would not be; when the stall is over it is again."""
    consent = Consent()
    consent.answer(inflate(500), QUIET, 0.0)
    again = consent.answer(inflate(500), view(**changes), 1.0)
    assert (again.status, again.effective_bytes, again.why) == (AckStatus.DUPLICATE, effective_mib * MIB, why)
    later = consent.answer(inflate(500), QUIET, 2.0)
    assert later.effective_bytes == (500 * MIB if effective_mib == 800 else effective_mib * MIB)


def test_duplicate_keeps_the_inflates_own_floor() -> None:
    """The floor that the INFLATE named holds for its repetition."""
    consent = Consent()
    consent.answer(inflate(100, floor_bytes=600 * MIB), QUIET, 0.0)
    assert consent.answer(inflate(100, floor_bytes=600 * MIB), QUIET, 0.0).effective_bytes == 600 * MIB


def test_grant() -> None:
    """Up to a DEFLATE's size, and up to the size before an INFLATE that ended early; closed when used or too old."""
    consent = Consent()
    consent.answer(deflate(900), QUIET, 0.0)
    assert consent.granted_bytes(29.0) == 900 * MIB
    assert consent.granted_bytes(30.0) is None
    consent.close_grant(899 * MIB)
    assert consent.granted_bytes(0.0) == 900 * MIB
    consent.close_grant(900 * MIB)
    assert consent.granted_bytes(0.0) is None
    consent.answer(inflate(500, gen=2), QUIET, 0.0)
    assert consent.granted_bytes(0.0) is None
    assert consent.expire(30.0)
    assert consent.granted_bytes(59.0) == 800 * MIB
    assert consent.granted_bytes(60.0) is None
    consent.answer(inflate(500, gen=3), QUIET, 0.0)
    consent.progress(500 * MIB)
    consent.end()
    assert consent.granted_bytes(0.0) is None


def test_duplicate_of_a_refusal_never_consents() -> None:
    """The pressure is over when the command comes again: the answer is still the present size."""
    consent = Consent()
    consent.answer(inflate(500), view(pressed=True), 0.0)
    again = consent.answer(inflate(500), QUIET, 5.0)
    assert (again.status, again.effective_bytes, again.why) == (AckStatus.DUPLICATE, 800 * MIB, AckWhy.PRESSURE)


@pytest.mark.parametrize("ending", ["stop", "end", "expire"])
def test_ended_consent_does_not_come_back(ending: str) -> None:
    """After harm, silence or the end of its lease a consent is over, whoever repeats the command."""
    consent = Consent()
    consent.answer(inflate(500), QUIET, 0.0)
    if ending == "expire":
        assert consent.expire(30.0)
    else:
        getattr(consent, ending)()
    again = consent.answer(inflate(500), QUIET, 31.0)
    assert (again.status, again.effective_bytes) == (AckStatus.DUPLICATE, 800 * MIB)


@pytest.mark.fault(23)
def test_gen_lower_is_stale() -> None:
    """An older command changes nothing; the answer carries the newest gen and no size."""
    consent = Consent()
    consent.answer(deflate(900, gen=7), QUIET, 0.0)
    stale = consent.answer(inflate(400, gen=3), QUIET, 0.0)
    assert (stale.gen, stale.status, stale.effective_bytes) == (7, AckStatus.STALE, None)
    assert (consent.gen, consent.effective_bytes) == (7, 900 * MIB)


@pytest.mark.fault(23)
def test_gens_may_be_skipped() -> None:
    """A lost command leaves a hole in the sequence; the next one counts."""
    consent = Consent()
    consent.answer(inflate(500, gen=1), QUIET, 0.0)
    assert consent.answer(inflate(400, gen=9), QUIET, 0.0).status == AckStatus.ACCEPTED


def test_progress() -> None:
    """An INFLATE is done at or below its size, a DEFLATE at or above, within a request of the driver; once."""
    consent = Consent()
    consent.answer(inflate(500), QUIET, 0.0)
    assert consent.shrinking
    assert not consent.progress(502 * MIB)
    assert not consent.progress(None)
    assert consent.progress(501 * MIB)
    assert consent.state == (1, MoveStatus.REACHED)
    assert not consent.progress(500 * MIB)
    consent.answer(deflate(700, gen=2), QUIET, 0.0)
    assert not consent.progress(600 * MIB)
    assert consent.progress(700 * MIB)


@pytest.mark.fault(24)
def test_lease() -> None:
    """It ends after ttl on the clock given, is restarted by a duplicate, and a finished move does not expire."""
    consent = Consent()
    consent.answer(inflate(500), QUIET, 100.0)
    assert consent.lease_left_s(110.0) == 20.0
    consent.answer(inflate(500), QUIET, 120.0)
    assert not consent.expire(149.9)
    assert consent.expire(150.0)
    assert consent.state == (1, MoveStatus.EXPIRED)
    assert consent.lease_left_s(150.0) is None
    consent.answer(deflate(800, gen=2), QUIET, 200.0)
    consent.progress(800 * MIB)
    assert not consent.expire(300.0)
    assert consent.state == (2, MoveStatus.REACHED)


@given(
    target=st.integers(0, 2**53 - 1),
    floor=st.integers(0, 1024 * MIB),
    present=st.integers(0, 1024 * MIB),
    unmovable=st.integers(0, 2048 * MIB),
    hosts_floor=st.integers(0, 2**53 - 1),
)
def test_never_agrees_below_the_floor(target: int, floor: int, present: int, unmovable: int, hosts_floor: int) -> None:
    """Whatever is asked, the size agreed to is the present one or not below any floor, and never above both."""
    looked = view(floor_bytes=floor, present_bytes=present, unmovable_bytes=unmovable)
    command = Inflate(gen=1, target_bytes=target, ttl_ms=5000, floor_bytes=hosts_floor)
    answer = Consent().answer(command, looked, 0.0)
    assert answer.effective_bytes is not None
    if answer.status == AckStatus.REFUSED:
        assert answer.effective_bytes == present
    else:
        assert answer.effective_bytes >= max(floor, hosts_floor, unmovable, target)
