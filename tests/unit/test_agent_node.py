"""What a Jetson tells Ray about itself."""

from __future__ import annotations

import json

import psutil
import pytest

from jetson_agent.node import UNKNOWN, JetsonNode, detect, module_name, read_device_tree, virtual_jetson

GIB = 2**30


@pytest.mark.parametrize(
    ("board", "total_bytes", "model"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", int(7.4 * GIB), "orin-8gb"),
        ("NVIDIA Orin NX Developer Kit (Jetson)", int(15.3 * GIB), "orin-16gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", int(61.4 * GIB), "agx-orin-64gb"),
        ("NVIDIA Jetson AGX Thor Developer Kit", int(122.8 * GIB), "thor-128gb"),
        ("NVIDIA Jetson Nano Developer Kit", int(3.9 * GIB), "nano-4gb"),
        ("Raspberry Pi 5 Model B Rev 1.0", 8 * GIB, UNKNOWN),
        ("NVIDIA Jetson Something New", 8 * GIB, UNKNOWN),
        ("", 8 * GIB, UNKNOWN),
    ],
)
def test_module_names(board, total_bytes, model):
    assert module_name(board, total_bytes) == model


def test_the_device_tree_ends_with_a_null(tmp_path):
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    assert read_device_tree(tmp_path / "model") == "NVIDIA Jetson Orin Nano"


def test_a_device_offers_less_than_all_of_its_memory(tmp_path):
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    node = detect(device_tree=tmp_path / "model")
    assert 0 < node.memory_bytes < psutil.virtual_memory().total
    assert (node.gpus, node.virtual) == (1, False)


def test_a_machine_that_is_no_jetson_is_unknown(tmp_path):
    node = detect(10**9, device_tree=tmp_path / "absent")
    assert (node.model, node.gpus, node.memory_bytes) == (UNKNOWN, 0, 10**9)


def test_labels_tell_a_virtual_node_from_a_real_one():
    assert virtual_jetson(6_500_000_000).labels == {
        "device": "jetson",
        "model": "orin-8gb",
        "memory_gb": "6",
        "kind": "virtual",
    }
    assert JetsonNode("orin-8gb", 6 * 10**9, virtual=False).labels["kind"] == "real"


def test_both_ways_of_joining_say_the_same():
    node = virtual_jetson(6 * 10**9)
    keywords = node.node_arguments()
    said = dict(item.removeprefix("--").partition("=")[::2] for item in node.start_arguments("192.0.2.1:6379"))
    assert json.loads(said["resources"]) == keywords["resources"]
    assert dict(pair.split("=") for pair in said["labels"].split(",")) == keywords["labels"]
    for argument, keyword in [
        ("num-cpus", "num_cpus"),
        ("num-gpus", "num_gpus"),
        ("memory", "memory"),
        ("object-store-memory", "object_store_memory"),
        ("node-name", "node_name"),
    ]:
        assert said[argument] == str(keywords[keyword])
    assert said["num-cpus"] == "0"
