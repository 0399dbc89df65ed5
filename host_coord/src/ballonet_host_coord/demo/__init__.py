"""The demo: real Linux guests under QEMU, their image and their workload. The VM tests use the same parts."""
