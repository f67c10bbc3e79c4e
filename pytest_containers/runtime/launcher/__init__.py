"""The launcher: the run's process on the host's side.

It starts the supervisor and the network helper, and does for them what only a process in the
host's namespaces can: open directories of the caller, forward ports, run jobs in the run's user
namespace. It dies with the test process, and everything else dies with it.
"""
