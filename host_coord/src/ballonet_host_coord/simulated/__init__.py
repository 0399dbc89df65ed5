"""Simulated implementations of the ports: machines with character, driven by the same clock as everything else.

They serve `ballonet demo --simulated`, the tests and the simulator. The guest in a simulated machine is the guest
agent's own core; only its `/proc` and its balloon are made up.
"""
