"""Machines that are not there: descriptions from which the compilers of TPUs and NVIDIA GPUs work."""

from typing import NamedTuple

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 minor: 0 patch: 0 }
dnn_version_info { major: 9 minor: 7 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
}
"""
"""One H100 with 80 GB, in the text of XLA's `GpuTargetConfigProto`."""


class Target(NamedTuple):
    """A machine: the kind of its compiler, the name of its topology, and how many of its devices are used."""

    platform: str
    topology: str
    devices: int


TARGETS = {
    "v5e-1": Target("tpu", "v5e:2x2", 1),
    "v5e-8": Target("tpu", "v5e:2x4", 8),
    "v5e-64": Target("tpu", "v5e:8x8", 64),
    "v5e-256": Target("tpu", "v5e:16x16", 256),
    "v5p-8": Target("tpu", "v5p:2x2x2", 8),
    "v6e-8": Target("tpu", "v6e:2x4", 8),
    "h100-1": Target("cuda", "1x1x1", 1),
    "h100-8": Target("cuda", "1x1x8", 8),
}


def devices_of(target):
    """The devices of a target, in an order in which neighbours are close."""
    from jax.experimental import mesh_utils, topologies

    if target.platform == "cuda":
        found = topologies.get_topology_desc("h100", "cuda", target_config=H100, topology=target.topology)
    else:
        found = topologies.get_topology_desc(platform="tpu", topology_name=target.topology)
    devices = list(found.devices)
    if target.platform == "tpu" and target.devices == len(devices):
        devices = list(mesh_utils.create_device_mesh((len(devices),), devices))
    return devices[: target.devices]
