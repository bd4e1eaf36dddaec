"""The machine's own energy readings, from its processor's counters (RAPL) or its battery.

::

    powercap/intel-rapl:N/energy_uj     µJ; counts up, and wraps at max_energy_range_uj. AMD's counters have these names, too
    power_supply/BAT*/power_now         µW at this moment
    power_supply/BAT*/energy_now        µWh left, if there is no power_now
    power_supply/BAT*/charge_now        µAh left, times voltage_now (µV), if the other two are missing

RAPL measures the processor's packages only, a battery the whole device. Both measurements include all processes on the
machine. So nothing else should run, and the reading at rest must be subtracted.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import RunError, UsageError, unknown

__all__ = ["SOURCES", "Battery", "Rapl", "Reading", "Sensor", "find_sensor"]

ROOT = Path("/sys/class")
SOURCES = ("auto", "rapl", "battery", "estimate")
BATTERY_POLL_S = 0.1  # seconds between two readings of a battery's power


@dataclass
class Reading:
    """The energy (J) and the duration (s) of some work."""

    joules: float = 0.0
    seconds: float = 0.0


class Sensor(ABC):
    """An energy sensor. `sees` describes the measured hardware.

    A reading should last `window_s` seconds. A measurement should be repeated `windows` times.
    """

    source: ClassVar[str]
    sees: ClassVar[str]
    window_s: ClassVar[float]
    windows: ClassVar[int]

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """A context that yields a `Reading`, and fills in its energy and time after the enclosed work.

        Raises RunError if the sensor fails.
        """
        found, start = Reading(), time.perf_counter()
        with self._watched(found):
            yield found
            found.seconds = time.perf_counter() - start

    @abstractmethod
    def _watched(self, found: Reading) -> AbstractContextManager[None]: ...


class Rapl(Sensor):
    """A processor's energy counters, summed over its packages. `folder` is the kernel's powercap folder.

    Raises RunError with the reason if there are no counters, or if they are unreadable. A counter wraps at the end of its
    range, so the work in one `reading` must use less energy than that. At 200 W, a range of 65 kJ is used up after five
    minutes.
    """

    source = "measured RAPL"
    sees = "this machine's processor"
    window_s, windows = 0.5, 5

    def __init__(self, folder: Path = ROOT / "powercap") -> None:
        # Packages only: a package includes its domains (intel-rapl:0:0), and psys (the platform) includes the packages.
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self._zones = [zone for zone in zones if _text(zone / "name").startswith("package")]
        if not self._zones:
            raise RunError(f"no RAPL counters of a processor at {folder} (a virtual machine rarely has them)")
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._read()

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]

    @contextmanager
    def _watched(self, found: Reading) -> Iterator[None]:
        before = self._read()
        yield
        passed = zip(before, self._read(), self._ranges, strict=True)
        found.joules = sum(now - then + (most if now < then else 0) for then, now, most in passed) / 1e6


class Battery(Sensor):
    """A battery's readings for the whole device. `folder` is the kernel's list of power supplies.

    Raises RunError with the reason if there is no battery, or if the battery has no readings or is not discharging.
    """

    source = "battery"
    sees = "this whole device"
    window_s, windows = 8.0, 2  # a driver updates its gauge every few seconds

    def __init__(self, folder: Path = ROOT / "power_supply") -> None:
        found = [each for each in sorted(folder.glob("*")) if _text(each / "type") == "Battery"]
        found = [each for each in found if _text(each / "scope") != "Device"]  # for example a mouse's battery
        if not found:
            raise RunError(f"no battery at {folder}")
        in_use = [each for each in found if _text(each / "status") == "Discharging"]
        self._at = (in_use or found)[0]
        self._require_discharging()
        self._has_power = (self._at / "power_now").exists()
        self._power() if self._has_power else self._left()

    def _require_discharging(self) -> None:
        if (status := _text(self._at / "status")) != "Discharging":
            raise RunError(f"battery {self._at.name} is not what the device runs on (status {status!r}): unplug it")

    def _power(self) -> float:
        return abs(_number(self._at / "power_now")) / 1e6

    def _left(self) -> float:
        if (self._at / "energy_now").exists():
            return _number(self._at / "energy_now") * 3600e-6
        if not (self._at / "charge_now").exists():
            raise RunError(f"battery {self._at.name} tells neither power_now nor energy_now nor charge_now")
        return _number(self._at / "charge_now") * 3600e-6 * _number(self._at / "voltage_now") / 1e6

    @contextmanager
    def _watched(self, found: Reading) -> Iterator[None]:
        with self._sampled(found) if self._has_power else self._counted(found):
            yield
        self._require_discharging()

    @contextmanager
    def _counted(self, found: Reading) -> Iterator[None]:
        before = self._left()
        yield
        found.joules = before - self._left()

    @contextmanager
    def _sampled(self, found: Reading) -> Iterator[None]:
        seen, done = [self._power()], threading.Event()

        def look() -> None:
            with suppress(RunError):  # the last reading, below, raises the error
                while not done.wait(BATTERY_POLL_S):
                    seen.append(self._power())

        looking = threading.Thread(target=look, name="battery", daemon=True)
        looking.start()
        try:
            yield
        finally:
            done.set()
            looking.join()
        seen.append(self._power())
        found.joules = sum(seen) / len(seen) * found.seconds


def find_sensor(source: str = "auto", root: Path = ROOT) -> tuple[Sensor | None, list[str]]:
    """Return the sensor for `source`, or None, and the reasons why other sensors are not used.

    None means that the energy must be estimated. `auto` prefers RAPL to a battery. `root` is the folder of the sensors' files.
    Raises UsageError for an unknown source, or for a requested sensor that is missing.
    """
    if source not in SOURCES:
        raise unknown("source of energy", source, SOURCES)
    reasons: list[str] = []
    for name, kind, folder in (("rapl", Rapl, "powercap"), ("battery", Battery, "power_supply")):
        if source not in ("auto", name):
            continue
        try:
            return kind(root / folder), reasons
        except RunError as error:
            reasons.append(str(error))
    if source in ("rapl", "battery"):
        raise UsageError(f"source {source!r} cannot be used: {reasons[0]}; 'auto' takes an available one")
    return None, reasons


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise RunError(f"{path} may not be read: run as root, or `sudo chmod a+r {path}`") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} gives no reading ({getattr(error, 'strerror', None) or error})") from None
