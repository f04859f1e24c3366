"""Benchmarks: what Sluicegate costs next to the least that the same machine needs for the same traffic.

`python -m bench` runs all of them (`docs/performance.md` says what they mean). The generator and the sink run on one
core, the system under test on another, a gateway and its C baseline alike; all traffic stays on loopback.
"""
