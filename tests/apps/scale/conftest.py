"""A Ray cluster of several nodes on this machine."""

import os
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[3]
PROGRAM = os.environ.get("FOREWORD", "foreword")
# Nothing here takes so long.
PATIENCE = 120


def until(done, what):
    begun = time.monotonic()
    while not (value := done()):
        assert time.monotonic() - begun < PATIENCE, what
        time.sleep(0.1)
    return value


@pytest.fixture
def cluster():
    """A head without room for work, and two nodes with room for two each."""
    memory = dict(object_store_memory=80_000_000)
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, resources={"head": 1}, **memory))
    for _ in range(2):
        cluster.add_node(num_cpus=2, resources={"work": 2}, **memory)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()
