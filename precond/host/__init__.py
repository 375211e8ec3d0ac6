"""Refresh roots in float64 on the host's cores while training goes on. This is floor 4 of the library."""

from precond.host.host_refresh import HostRefresh, host_refresh

__all__ = ["HostRefresh", "host_refresh"]
