"""Every operation between the processes of a run, a module for each link.

| module | from | to |
|---|---|---|
| `run` | test process | launcher and supervisor, once; and what the run is like |
| `starts`, `containers`, `session` | test process | supervisor |
| `host` | supervisor | launcher |
| `inside` | launcher | supervisor |
| `networks` | launcher and supervisor | network helper, and its report |

`job` has the jobs: functions that run as root of the run's user namespace. `docs/reference/wire.md`
is made from these modules.

These modules have no ``from __future__ import annotations``: the types of fields are looked at.
"""
