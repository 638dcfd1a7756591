"""The fleet: what every device tells of itself now, as a table that goes on or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.cluster.nodes import NodeInfo
from pipeline.cluster.session import Session, connect
from pipeline.runs.common import Context

if TYPE_CHECKING:
    from rich.table import Table

ANSWER_TIMEOUT_S = 15.0
PAUSE_S = 2.0
LOOK_S = 0.5
"""How long a device measures its load for one answer."""


def tell(look_s: float = LOOK_S) -> dict[str, Any]:
    """Run on a device: its telemetry now. None for what it does not tell."""
    from jetson_agent.budgets import is_serving, power_mode
    from jetson_agent.telemetry.sampler import Sampler

    sampler = Sampler(look_s / 2).start()
    try:
        sampler.read()  # a load is measured between two looks
        time.sleep(look_s)
        reading = sampler.read()
    finally:
        sampler.stop()
    return {
        "memory_used_bytes": reading.memory_used_bytes,
        "memory_total_bytes": reading.memory_total_bytes,
        "swap_used_bytes": reading.swap_used_bytes,
        "cpu_percent": reading.cpu_percent,
        "gpu_percent": reading.gpu_percent,
        "hottest_c": reading.hottest_c,
        "temperatures_c": reading.temperatures_c,
        "power_w": reading.power_w,
        "rails_w": reading.rails_w,
        "power_mode": power_mode(),
        "serving": is_serving(),
    }


def look(session: Session, ask: Callable[[], dict[str, Any]] = tell) -> list[dict[str, Any]]:
    """One row a living device, by name; ``telemetry`` is None and ``problem`` says why where one does not answer.

    Asking takes no resource, so a device that trains answers, too.
    """
    import ray
    from ray._private.state import available_resources_per_node
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    devices = [node for node in session.nodes() if node.labels.get("device") == "jetson"]
    remote = ray.remote(num_cpus=0, max_retries=0)(ask)
    asked = {
        node.node_id: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        ).remote()
        for node in devices
        if not node.leaving  # Ray sends nothing there any more
    }
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
    free = available_resources_per_node()
    rows = []
    for node in devices:
        telemetry, problem = None, ""
        if node.leaving:
            rows.append(_row(node, free.get(node.node_id, {}), None, "leaving"))
            continue
        try:
            telemetry = ray.get(asked[node.node_id], timeout=0.1)
        except ray.exceptions.GetTimeoutError:
            problem = f"no answer within {ANSWER_TIMEOUT_S:g} s"
            ray.cancel(asked[node.node_id])
        except ray.exceptions.RayError as error:
            problem = str(error).strip().splitlines()[-1]
        rows.append(_row(node, free.get(node.node_id, {}), telemetry, problem))
    return rows


def _row(node: NodeInfo, free: dict[str, float], telemetry: dict[str, Any] | None, problem: str) -> dict[str, Any]:
    return {
        "device": node.name,
        "model": node.model,
        "kind": node.kind,
        "offered_memory_bytes": node.memory_bytes,
        "working": free.get("jetson", 0.0) < node.resources.get("jetson", 0.0),
        "telemetry": telemetry,
        "problem": problem,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for people; a dash for what a device does not tell."""
    from rich.table import Table

    shown = Table(title=f"{len(rows)} device(s)")
    for title in ("device", "model", "kind", "state", "memory GB", "CPU %", "GPU %", "hottest C", "power W", "mode"):
        shown.add_column(title)
    for row in rows:
        told = row["telemetry"] or {}
        state = row["problem"] or ("working" if row["working"] else "serving" if told.get("serving") else "idle")
        used, total = told.get("memory_used_bytes"), told.get("memory_total_bytes")
        memory = "-" if used is None or total is None else f"{used / 1e9:.1f} / {total / 1e9:.1f}"
        numbers = [_number(told.get(name)) for name in ("cpu_percent", "gpu_percent", "hottest_c", "power_w")]
        shown.add_row(row["device"], row["model"], row["kind"], state, memory, *numbers, told.get("power_mode") or "-")
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def show_fleet(context: Context, as_json: bool) -> None:
    """Print the fleet: JSON or, where the output is no terminal, one table; else a table that goes on until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with connect(context.project, context.settings) as session:
        if as_json:
            print(json.dumps(look(session), indent=2))
        elif not console.is_terminal:
            console.print(table(look(session)))
        else:
            with Live(table(look(session)), console=console, auto_refresh=False) as live:
                try:
                    while True:
                        time.sleep(PAUSE_S)
                        live.update(table(look(session)), refresh=True)
                except KeyboardInterrupt:
                    return
