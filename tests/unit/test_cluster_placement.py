"""Demands against nodes, without a cluster."""

from __future__ import annotations

import pytest

from pipeline.cluster.nodes import NodeInfo, living
from pipeline.cluster.placement import Placement, preflight
from stages.errors import ClusterError

HEAD = NodeInfo("head", "real", "x86_64", "a", {"CPU": 2.0, "memory": 20e9}, {"kind": "real"})
JETSON = NodeInfo(
    "jetson-1", "virtual", "orin-8gb", "b", {"jetson": 1.0, "memory": 6e9}, {"kind": "virtual", "model": "orin-8gb"}
)


def test_options_hold_only_what_is_asked():
    assert Placement().options() == {"num_cpus": 1}
    assert Placement(cpus=0, jetson=0.5, memory_bytes=10**9, labels={"model": "orin-8gb"}).options() == {
        "num_cpus": 0,
        "resources": {"jetson": 0.5},
        "memory": 10**9,
        "label_selector": {"model": "orin-8gb"},
    }


@pytest.mark.parametrize(
    ("placement", "node", "slots"),
    [
        (Placement(cpus=1), HEAD, 2),
        (Placement(cpus=1), JETSON, 0),
        (Placement(cpus=0, jetson=1), JETSON, 1),
        (Placement(cpus=0, jetson=0.1), JETSON, 10),
        (Placement(cpus=0, jetson=0.5, memory_bytes=4 * 10**9), JETSON, 1),
        (Placement(cpus=0, jetson=1, labels={"model": "thor-128gb"}), JETSON, 0),
        (Placement(cpus=0), HEAD, 2),
    ],
)
def test_slots_follow_the_scarcest_resource(placement, node, slots):
    assert placement.slots(node) == slots


def test_preflight_passes_where_one_node_fits():
    preflight(Placement(cpus=0, jetson=1, labels={"kind": "virtual"}), [HEAD, JETSON])


def test_preflight_does_not_add_nodes_up():
    with pytest.raises(ClusterError):
        preflight(Placement(cpus=1, jetson=1), [HEAD, JETSON])


def test_preflight_names_what_each_node_lacks():
    with pytest.raises(ClusterError) as caught:
        preflight(Placement(cpus=0, jetson=2, labels={"kind": "real"}), [HEAD, JETSON])
    lines = str(caught.value).splitlines()
    assert "asks for jetson 2, kind=real" in lines[0]
    assert lines[1].endswith("jetson 2 asked, jetson 0 there")
    assert lines[2].endswith("jetson 2 asked, jetson 1 there; label kind=real asked, kind=virtual there")


def test_preflight_of_an_empty_cluster_says_so():
    with pytest.raises(ClusterError, match="no node at all"):
        preflight(Placement(), [])


def test_dead_nodes_do_not_count_and_unlabelled_ones_are_unknown():
    nodes = [
        {"NodeID": "1", "Alive": False, "NodeName": "gone", "Resources": {"CPU": 1.0}, "Labels": {}},
        {
            "NodeID": "2",
            "Alive": True,
            "NodeName": "here",
            "Resources": {"CPU": 1.0, "node:192.0.2.1": 1.0},
            "Labels": {"ray.io/node-id": "2"},
        },
    ]
    assert living(nodes) == [NodeInfo("here", "unknown", "unknown", "2", {"CPU": 1.0}, {})]


def test_a_node_that_leaves_takes_nothing_new():
    node = {"NodeID": "2", "Alive": True, "NodeName": "here", "Resources": {"jetson": 1.0}, "Labels": {}}
    [leaving], [staying] = living([node], {"2": 0}), living([node], {"1": 0})
    work = Placement(cpus=0, jetson=1)
    assert (work.slots(leaving), work.slots(staying)) == (0, 1)
    assert leaving.describe().endswith(", leaving")
    preflight(work, [leaving, staying])
    with pytest.raises(ClusterError, match="it was told to leave the cluster and takes no new work"):
        preflight(work, [leaving])
