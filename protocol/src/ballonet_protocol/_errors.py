"""Whose fault it is: ours (`LocalProtocolError`) or the peer's (`RemoteProtocolError`).

    ProtocolError
    |-- LocalProtocolError     this side misused the library; nothing was sent, the connection is as it was
    `-- RemoteProtocolError    one frame from the peer was wrong; it is gone, the connection goes on
"""

from __future__ import annotations

from ._messages import ErrorCode, ErrorMessage


class ProtocolError(Exception):
    """Base of both, never raised itself."""


class LocalProtocolError(ProtocolError):
    """Raised when the caller breaks the rules: wrong role, no session, a value out of bounds, a frame too large.

    Raised before anything is changed, so the caller can mend its ways and go on.
    """


class RemoteProtocolError(ProtocolError):
    """Raised for one frame that arrived whole and was wrong. Call `next_message` again for the next one.

    `code` is the ErrorCode that the peer is to hear, `re` the seq of its frame (None when it has none that can be
    trusted), `detail` says what was wrong in our own words; it holds no text of the peer.
    """

    def __init__(self, code: ErrorCode, re: int | None, detail: str) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code = code
        self.re = re
        self.detail = detail

    def as_message(self, *, fatal: bool = False) -> ErrorMessage:
        """The ERROR that tells the peer. The caller keeps to one per second."""
        return ErrorMessage(re=self.re, code=int(self.code), text=self.detail[:128], fatal=fatal)
