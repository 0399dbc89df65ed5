"""Asks the OOM killer to take this process last, where no service manager has asked for it.

The unit says `OOMScoreAdjust=-900`. Under another init, or started by hand, the agent says so itself. A score that
somebody has set, to whatever but 0, stays.
"""

from __future__ import annotations

import os

#: As in the unit: below every service that leaves its score alone, above sshd's and udev's -1000.
OOM_SCORE_ADJ = -900


def protect_from_oom(proc_root: str = "/proc") -> str | None:
    """Set this process's score. None: it is set, now or before; else the reason. Lowering needs CAP_SYS_RESOURCE."""
    try:
        path = proc_root + "/self/oom_score_adj"
        for flags in (os.O_RDONLY, os.O_WRONLY):
            fd = os.open(path, flags | os.O_CLOEXEC)
            try:
                if flags == os.O_WRONLY:
                    os.write(fd, b"%d" % OOM_SCORE_ADJ)
                elif os.read(fd, 16).strip() != b"0":
                    break
            finally:
                os.close(fd)
    except OSError as error:
        return error.strerror or str(error)
    return None
