"""Telemetry: tegrastats' lines of several releases, a tree like the kernel's, the energy of a time."""

from __future__ import annotations

import sys

import psutil
import pytest

from jetson_agent.telemetry import sysfs
from jetson_agent.telemetry.reading import Reading
from jetson_agent.telemetry.sampler import Sampler
from jetson_agent.telemetry.tegrastats import parse
from tests.helpers_device import AGX_ORIN, ORIN_NANO, PLAIN, SENSOR_OFF, fake_sys

MB = 2**20


def test_a_line_of_an_orin_nano():
    reading = parse(ORIN_NANO)
    assert (reading.memory_used_bytes, reading.memory_total_bytes) == (2513 * MB, 7620 * MB)
    assert reading.swap_used_bytes == 25 * MB
    assert reading.cpu_percent == pytest.approx(47 / 6)
    assert reading.gpu_percent == 0.0
    assert reading.temperatures_c["tj"] == reading.hottest_c == 51.718
    assert len(reading.temperatures_c) == 6
    assert reading.rails_w == {"VDD_IN": 4.744, "VDD_CPU_GPU_CV": 1.273, "VDD_SOC": 1.234}
    assert reading.power_w == 4.744  # the input rail: the others are parts of it


def test_a_line_of_an_agx_orin_without_swap_with_pairs_and_triples():
    reading = parse(AGX_ORIN)
    assert reading.swap_used_bytes is None
    assert (reading.cpu_percent, reading.gpu_percent) == (12.0, 12.0)
    assert reading.temperatures_c == {"cpu": 52.968, "tj": 53.5}
    assert reading.power_w == pytest.approx(5.139 + 5.5)


def test_a_sensor_that_is_off_is_left_out_and_names_are_lower_case():
    reading = parse(SENSOR_OFF)
    assert reading.temperatures_c == {"cpu": 41.375, "soc2": 37.5, "tj": 41.468}
    assert (reading.cpu_percent, reading.gpu_percent, reading.power_w) == (5.0, 10.0, None)


def test_a_line_without_time_and_units():
    reading = parse(PLAIN)
    assert (reading.power_w, reading.gpu_percent, reading.cpu_percent) == (1.79, 7.0, 3.0)
    assert reading.temperatures_c == {"gpu": 40.0}


@pytest.mark.parametrize("line", ["", "sudo: a password is required", "RAM a/bMB"])
def test_what_is_no_line_is_none(line):
    assert parse(line) is None


def test_the_rail_that_another_feeds_is_not_counted_twice():
    assert Reading(rails_w={"VIN_SYS_5V0": 5.0, "VDDQ_VDD2_1V8AO": 1.0}).power_w == 5.0


def test_the_kernels_files(tmp_path):
    reading = sysfs.read(fake_sys(tmp_path))
    assert reading.temperatures_c == {"cpu": 50.0}
    assert reading.rails_w == {"VDD_IN": 6.0, "VDD_SOC": 1.0}
    assert (reading.gpu_percent, reading.power_w) == (34.5, 6.0)


def test_a_machine_without_sensors_tells_its_memory_and_no_power(tmp_path):
    sampler = Sampler(0.01, program="/no/tegrastats", root=tmp_path).start().stop()
    reading = sampler.read()
    assert reading.memory_total_bytes == psutil.virtual_memory().total
    assert (reading.power_w, reading.hottest_c, sampler.energy_j) == (None, None, None)
    assert "device_power_watts" not in reading.figures()


def test_energy_is_power_over_time(tmp_path):
    sampler = Sampler(root=tmp_path)
    for at_s, watts in ((0.0, 2.0), (1.0, 4.0), (3.0, 4.0)):
        sampler._count(Reading(rails_w={"VDD_IN": watts}), at_s)
    assert sampler.energy_j == pytest.approx(3.0 + 8.0)


def test_tegrastats_goes_before_the_kernels_files_and_ends_with_the_sampler(tmp_path):
    program = tmp_path / "tegrastats"
    program.write_text(
        f"#!{sys.executable}\nimport time\nwhile True:\n    print({ORIN_NANO!r}, flush=True)\n    time.sleep(0.05)\n"
    )
    program.chmod(0o755)
    sampler = Sampler(0.05, program=str(program), root=fake_sys(tmp_path / "sys")).start()
    child = sampler._process
    while sampler.sample().power_w != 4.744:
        assert child.poll() is None
    assert sampler.last.gpu_percent == 0.0  # not the 34.5 of the kernel's file
    sampler.stop()
    assert not child.is_running()
    assert sampler.peak_c == 51.718
