"""`python3 -m ballonet_protocol.conform` is `ballonet-conform`."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
