"""Whose fault it is, and what the peer hears of it."""

from __future__ import annotations

from ballonet_protocol import ErrorCode, ErrorMessage, LocalProtocolError, ProtocolError, RemoteProtocolError


def test_two_kinds() -> None:
    """Both kinds are ProtocolErrors and neither is the other."""
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(LocalProtocolError, RemoteProtocolError)


def test_as_message() -> None:
    """A RemoteProtocolError knows the ERROR that answers it; a long detail is cut to what the wire takes."""
    error = RemoteProtocolError(ErrorCode.BAD_MESSAGE, 7, "t is missing")
    assert error.as_message() == ErrorMessage(re=7, code=2, text="t is missing", fatal=False)
    assert error.as_message(fatal=True).fatal is True
    assert str(error) == "BAD_MESSAGE: t is missing"
    assert len(RemoteProtocolError(ErrorCode.BUSY, None, "x" * 500).as_message().text or "") == 128
