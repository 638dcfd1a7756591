"""Stand-ins for a Jetson's sensors: a tree like the kernel's /sys, lines of tegrastats as others published them."""

from __future__ import annotations

from pathlib import Path

ORIN_NANO = (
    "08-10-2026 21:39:51 RAM 2513/7620MB (lfb 1x4MB) SWAP 25/3810MB (cached 0MB) "
    "CPU [11%@729,7%@729,8%@729,4%@729,3%@729,14%@729] GR3D_FREQ 0% cpu@51.218C soc2@51.093C soc0@50.125C "
    "gpu@51.593C tj@51.718C soc1@50.343C VDD_IN 4744mW/6179mW VDD_CPU_GPU_CV 1273mW/2369mW VDD_SOC 1234mW/1392mW"
)
AGX_ORIN = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,off,1%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC off cpu@52.968C/52.968C tj@53.5C/53.5C "
    "VDD_GPU_SOC 5139mW/5139mW/5139mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
SENSOR_OFF = (
    "01-03-2023 16:10:22 RAM 2257/30536MB (lfb 5392x4MB) SWAP 0/15268MB (cached 0MB) CPU [5%@729,off,off] "
    "EMC_FREQ 0% GR3D_FREQ 10%@1300 CV0@-256C CPU@41.375C SOC2@37.5C tj@41.468C"
)
PLAIN = "RAM 100/3964MB (lfb 640kB) CPU [off,3%@102] GR3D_FREQ 7% GPU@40C POM_5V_IN 1790/1790 POM_5V_GPU 0/0"


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def fake_sys(root: Path, *, degrees: float = 50.0, volts: float = 5.0, amperes: float = 1.2) -> Path:
    """A /sys with two thermal zones (one of them off), one INA3221 and a GPU at 34.5 % load."""
    zones = root / "devices/virtual/thermal"
    write(zones / "thermal_zone0/type", "cpu-thermal")
    write(zones / "thermal_zone0/temp", int(degrees * 1000))
    write(zones / "thermal_zone1/type", "cv0-thermal")
    write(zones / "thermal_zone1/temp", -256000)
    monitor = root / "class/hwmon/hwmon1"
    write(monitor / "name", "ina3221")
    write(monitor / "in1_label", "VDD_IN")
    write(monitor / "in1_input", int(volts * 1000))
    write(monitor / "curr1_input", int(amperes * 1000))
    write(monitor / "in2_label", "VDD_SOC")
    write(monitor / "in2_input", int(volts * 1000))
    write(monitor / "curr2_input", 200)
    write(monitor / "in3_label", "NC")
    write(root / "class/devfreq/17000000.gpu/device/load", 345)
    return root
