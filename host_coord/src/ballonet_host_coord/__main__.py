"""`python3 -m ballonet_host_coord`: the same as the command `ballonet`."""

from .cli import main

main()
