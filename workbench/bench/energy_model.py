"""A model of the phone's energy for a picture (PMC², Figures 1 and 5), from measured work and stated assumptions.

::

    energy of a picture = CPU time x power of a busy core + bytes sent x energy of a byte
                          + waiting time x power while waiting + (energy of the radio's promotion and tail) / request size

The request size is the number of pictures in a request. `energy_measurement` measures CPU time, bytes and, with a sensor, the
power of a busy core. No sensor measures the radio, so its energy is always assumed. The promotion is the phase in which the
radio wakes up before a request. The tail is the phase in which it stays awake after the last byte.

The assumptions matter more than the measurement noise. So every result begins with an interval: the energies at the two ends of
the assumptions' ranges (`RANGES`). `SCENARIOS` names complete situations: a stream of pictures, or a single picture for which
the radio wakes up.

Sources:

- Huang et al., A Close Examination of Performance and Power Characteristics of 4G LTE Networks, MobiSys '12: the power model
  of a phone's radios (`RADIOS`). Uplink and active power are as later work quotes them. Promotion and tail add up to the
  paper's energy of a single packet, 12.76 J over LTE (within 2 %) and 0.04 J over Wi-Fi.
- Narayanan et al., A Variegated Look at 5G in the Wild, SIGCOMM '21: a 4G uplink of a phone of 2020, 80.21 mW per Mbit/s.
- Humrick, HiSilicon Kirin 960: A Closer Look at Performance and Power, AnandTech, March 2017: power of busy cores.
- PMC², Figure 4: the generator on a Pixel 3 and on the paper's edge.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scipy.special import stdtrit

from ..errors import UsageError
from ..metrics import Estimate, mean

__all__ = ["ARRANGEMENTS", "PARTS", "RADIOS", "RANGES", "SCENARIOS", "Assumptions", "Measured", "energy", "shares"]

ARRANGEMENTS = ("none", "pp", "pmc2")
PARTS = ("compression", "generator", "sending", "radio", "waiting", "wake")


@dataclass(frozen=True)
class Radio:
    """The published power values of a phone's radio.

    `uplink` is the power per uplink rate, in mW per Mbit/s. `active` is the power of the active radio (mW). `promotion` and
    `tail` are pairs (duration in ms, power in mW). The promotion wakes the radio before a request. The tail keeps it awake
    after the last byte.
    """

    uplink: float
    active: float
    promotion: tuple[float, float]
    tail: tuple[float, float]

    @property
    def joules_per_byte(self) -> float:
        """The energy to send a byte (J), in addition to the energy of the active radio."""
        return 8e-9 * self.uplink

    @property
    def wait_w(self) -> float:
        """The radio's power while the phone waits for a response (W)."""
        return 1e-3 * self.active

    @property
    def alone_j(self) -> float:
        """The energy (J) of promotion and tail, which a single request needs in addition to its transfer."""
        return 1e-6 * (math.prod(self.promotion) + math.prod(self.tail))


# Huang et al., MobiSys '12.
RADIOS = {
    "Wi-Fi": Radio(283.17, 132.86, (79.1, 124.4), (238.1, 119.3)),
    "LTE": Radio(438.39, 1288.04, (260.1, 1210.7), (11576.0, 1060.0)),
}

# The least and the greatest published values for phones, and their source. The defaults lie between them.
RANGES: dict[str, tuple[float, float, str]] = {
    "cpu_w": (
        0.7,
        2.4,
        "a busy performance core of phones of 2015 and 2016, above idle (AnandTech, HiSilicon Kirin 960, March 2017)",
    ),
    "joules_per_byte": (
        8e-9 * 80.21,
        8e-9 * 868.98,
        "a 4G uplink of a phone of 2020 (Narayanan et al., SIGCOMM '21), or a 3G uplink (Huang et al., MobiSys '12)",
    ),
    "slowdown": (
        1.0,
        3.2,
        "a phone as fast as this machine, or as much slower as the paper's phone is than its edge (8.149 and 2.616 ms a "
        "picture in the generator; PMC², Figure 4, 2025)",
    ),
    "wait_w": (0.0, RADIOS["LTE"].wait_w, "waiting not counted, or an active LTE radio (Huang et al., MobiSys '12)"),
}


@dataclass(frozen=True)
class Assumptions:
    """The inputs of the energy model that are assumed, not measured.

    `cpu_w`: power of a busy core (W), used if no sensor reads it. `joules_per_byte`: energy to send a byte (J). `wait_w`: power
    (W) while the phone waits for a response. `slowdown`: time on a phone's core / time on this machine's core, for the same
    work. `alone_j`: energy of the radio's promotion and tail for each request (J), 0 in a stream of requests. By default, the
    radio is Wi-Fi. Raises UsageError for a negative or non-finite value, and if `cpu_w` or `slowdown` is 0.
    """

    cpu_w: float = 1.5
    joules_per_byte: float = RADIOS["Wi-Fi"].joules_per_byte
    wait_w: float = RADIOS["Wi-Fi"].wait_w
    slowdown: float = 2.0
    alone_j: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} must be a number from 0 up, got {value!r}")
        for name in ("cpu_w", "slowdown"):
            if not getattr(self, name):
                raise UsageError(f"{name} must be above 0, got 0")

    def text(self) -> str:
        """Return the assumptions as text, without the core's power."""
        words = [f"{1e6 * self.joules_per_byte:.3g} µJ a byte sent"]
        words += [f"{self.wait_w:.3g} W while waiting"] if self.wait_w else ["waiting not counted"]
        words += [f"a phone's core {self.slowdown:g} times as slow as this machine's"] if self.slowdown != 1 else []
        words += [f"{self.alone_j:.3g} J for the radio's promotion and tail at each request"] if self.alone_j else []
        return ", ".join(words)


# Complete situations, as changes of the assumptions: each radio in a stream of requests, or woken for a single request.
SCENARIOS: dict[str, dict[str, float]] = {
    f"{kind}, {name}": {
        "joules_per_byte": radio.joules_per_byte,
        "wait_w": radio.wait_w,
        "alone_j": radio.alone_j if kind == "one request alone" else 0.0,
    }
    for kind in ("stream", "one request alone")
    for name, radio in RADIOS.items()
}


@dataclass
class Measured:
    """The measurements of an arrangement: CPU time by component (ms), elapsed time (ms) and bytes sent.

    The lists in `cpu_ms`, `ms` and `sent` have one value for each repetition: the mean over all `n` images. `sent` counts an
    image's bytes at the socket. `payload` is one number, the mean size of an image's compressed content (bytes). `classes` are
    the labels of the images. A request has `batch` images.
    """

    name: str
    batch: int
    n: int = 0
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS[:3]})
    ms: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    payload: float = 0.0
    classes: list[int] = field(default_factory=list)

    @property
    def total_ms(self) -> list[float]:
        """The CPU time of an image (ms), one value for each repetition."""
        return [sum(parts) for parts in zip(*self.cpu_ms.values(), strict=True)]

    @property
    def waiting_ms(self) -> list[float]:
        """The elapsed time of an image without the CPU time (ms), one value for each repetition."""
        return [max(0.0, ms - cpu) for ms, cpu in zip(self.ms, self.total_ms, strict=True)]


def energy(measured: Measured, assumed: Assumptions, power: Sequence[float] = (), sees: str = "") -> dict[str, Any]:
    """Return the energy of a picture (mJ) as a dict, in total and by part. Intervals are Student's t over repetitions.

    `power` is the measured power of a busy core (W) in several measurements. If `power` is empty, the assumed power is used.
    `sees` describes the measured hardware.

    The entry `range_mj` has two energies, the least and the greatest. For the least, every assumption is at the lower end of
    its range in `RANGES`, or at its value in `assumed` if that is lower. The greatest is defined likewise. Two entries are
    comparable with the paper's values for 5,000 images: `joules_5000` (J) and `watts` (energy over time).
    """
    parts, cpu_ms = _parts(measured, assumed, power), [assumed.slowdown * ms for ms in measured.total_ms]
    whole = [sum(values) for values in zip(*parts.values(), strict=True)]
    source = f"estimate: assumed {assumed.cpu_w:g} W a busy core, {assumed.text()}"
    if power:
        source = f"{sees}: {mean(list(power)).value:.2f} W a busy core above rest; assumed: {assumed.text()}"
    lasted = [cpu + wait for cpu, wait in zip(cpu_ms, measured.waiting_ms, strict=True)]
    return {
        "range_mj": _range(measured, assumed, power),
        "n": measured.n,
        "repetitions": len(measured.ms),
        "batch": measured.batch,
        "source": source,
        "cpu_ms": student(cpu_ms),
        "ms": student(lasted),
        "bytes": sum(measured.sent) / len(measured.ms),
        "payload_bytes": measured.payload,
        "power_w": student(_watts(measured, assumed, power)),
        "mj": student(whole),
        "parts_mj": {part: student(values) for part, values in parts.items()},
        "joules_5000": student([5 * value for value in whole]),
        "watts": student([mj / ms for mj, ms in zip(whole, lasted, strict=True)]),
        "assumed": asdict(assumed),
    }


def _range(measured: Measured, assumed: Assumptions, power: Sequence[float]) -> list[float]:
    if power:
        assumed = replace(assumed, cpu_w=1.0)
    ends = []
    for end, outer in ((0, min), (1, max)):
        bounds = {name: outer(getattr(assumed, name), limits[end]) for name, limits in RANGES.items()}
        ends.append(_mean_mj(measured, replace(assumed, **bounds), power))
    return ends


def _watts(measured: Measured, assumed: Assumptions, power: Sequence[float]) -> list[float]:
    return [power[turn % len(power)] if power else assumed.cpu_w for turn in range(len(measured.ms))]


def _parts(measured: Measured, assumed: Assumptions, power: Sequence[float]) -> dict[str, list[float]]:
    core_w = [assumed.slowdown * watts for watts in _watts(measured, assumed, power)]
    parts = {part: [w * ms for w, ms in zip(core_w, values, strict=True)] for part, values in measured.cpu_ms.items()}
    return parts | {
        "radio": [1e3 * assumed.joules_per_byte * sent for sent in measured.sent],
        "waiting": [assumed.wait_w * ms for ms in measured.waiting_ms],
        "wake": [1e3 * assumed.alone_j / measured.batch] * len(measured.ms),
    }


def _mean_mj(measured: Measured, assumed: Assumptions, power: Sequence[float]) -> float:
    mean_w = [sum(power) / len(power)] if power else []
    return sum(map(sum, _parts(measured, assumed, mean_w).values())) / len(measured.ms)


def student(values: Sequence[float]) -> Estimate:
    """Return the mean of a few repetitions with its 95 % interval by Student's t."""
    found = mean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * (found.std or 0.0) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(found.value, found.value - half, found.value + half, found.n, found.std)


def share(part: Estimate, whole: Estimate) -> Estimate:
    """Return the ratio `part` / `whole` of two independent means. Its interval follows from relative errors (delta method)."""
    ratio = part.value / whole.value
    relative = math.hypot((part.high - part.value) / part.value, (whole.high - whole.value) / whole.value)
    return Estimate(ratio, ratio * (1 - relative), ratio * (1 + relative), min(part.n, whole.n))


def shares(measured: Mapping[str, Measured], assumed: Assumptions, power: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return {arrangement: dict} with the energy of each arrangement relative to the baseline's (`pp`).

    The dict of an arrangement has these entries. `range`: the least and the greatest ratio over all combinations of
    assumptions. Each assumption takes both ends of its range in `RANGES`, and its value in `assumed`. `share`: the ratio under
    `assumed`, with an interval for the measurements' noise only. `scenarios`: the ratio in each of `SCENARIOS`. `over_none`:
    the energy relative to the arrangement without protection. If its interval is narrow and contains 1, the protection costs
    the phone nothing.

    `power` has the measured power of a busy core (W) for each arrangement. If an arrangement is missing there, the assumed
    power is used.
    """
    result: dict[str, Any] = {}
    ends = {name: sorted({*bounds[:2], getattr(assumed, name)}) for name, bounds in RANGES.items()}

    def ratio(name: str, other: Assumptions) -> float:
        both = (_mean_mj(measured[each], other, power.get(each, ())) for each in (name, "pp"))
        return next(both) / next(both)

    whole = {name: energy(each, assumed, power.get(name, ()))["mj"] for name, each in measured.items()}
    for name in measured:
        if name == "pp":
            continue
        ratios = [
            ratio(name, replace(assumed, **dict(zip(ends, values, strict=True))))
            for values in itertools.product(*ends.values())
        ]
        result[name] = {
            "range": [min(ratios), max(ratios)],
            "share": share(whole[name], whole["pp"]),
            "scenarios": {title: ratio(name, replace(assumed, **change)) for title, change in SCENARIOS.items()},
        }
        if name != "none" and "none" in whole:
            result[name]["over_none"] = share(whole[name], whole["none"])
    return result
