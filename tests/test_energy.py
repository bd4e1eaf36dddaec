"""The energy of a picture on the phone: the model against hand-computed figures, the phone's stages, sensors on real files."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench import weights
from workbench.bench.energy_measurement import CpuClock, Phone, check_labels, noise_of, one_thread, powers, watts
from workbench.bench.energy_model import (
    ARRANGEMENTS,
    PARTS,
    RADIOS,
    RANGES,
    SCENARIOS,
    Assumptions,
    Measured,
    energy,
    share,
    shares,
    student,
)
from workbench.bench.sensors import Battery, Rapl, find_sensor
from workbench.codecs import Jpeg, Png
from workbench.data import Dataset
from workbench.errors import RunError, UsageError
from workbench.evaluation import PAPER
from workbench.metrics import Estimate, mean
from workbench.models import PerturbationGenerator
from workbench.notebook import plain
from workbench.pictures import load_pictures, to_float
from workbench.services.loading import StageConfig
from workbench.system import Client, Edge, System
from workbench.weights import Manifest, Pair

# --- the model -------------------------------------------------------------------------------------------------------------


def measured(name: str = "pp") -> Measured:
    parts = {"compression": [0.5, 0.7], "generator": [8.0, 9.0], "sending": [0.5, 0.3]}
    return Measured(name, batch=4, n=8, cpu_ms=parts, ms=[12.0, 12.0], sent=[1000.0, 2000.0], classes=[1] * 8)


def test_the_energy_is_time_times_power_and_bytes_and_waiting() -> None:
    found = energy(measured(), Assumptions(cpu_w=2.0, joules_per_byte=5e-6, wait_w=0.5, slowdown=1.0))
    assert found["cpu_ms"].value == pytest.approx(9.5)
    parts = {part: each.value for part, each in found["parts_mj"].items()}
    # ms times W is mJ. 5 µJ a byte is 5 mJ a kB. The waiting times are 3 and 2 ms.
    wanted = {"compression": 1.2, "generator": 17.0, "sending": 0.8, "radio": 7.5, "waiting": 1.25, "wake": 0.0}
    assert parts == pytest.approx(wanted)
    assert tuple(parts) == PARTS
    whole = student([18.0 + 5.0 + 1.5, 20.0 + 10.0 + 1.0])
    assert found["mj"] == Estimate(
        *(pytest.approx(x) for x in (whole.value, whole.low, whole.high)), 2, pytest.approx(whole.std)
    )
    assert found["joules_5000"].value == pytest.approx(5 * 27.75)
    assert found["ms"].value == pytest.approx(12.0)
    assert found["watts"].value == pytest.approx(27.75 / 12)
    assert (found["n"], found["repetitions"], found["batch"]) == (8, 2, 4)
    assert found["source"] == "estimate: assumed 2 W a busy core, 5 µJ a byte sent, 0.5 W while waiting"
    assert json.loads(json.dumps(plain(found), allow_nan=False))["assumed"]["cpu_w"] == 2.0


def test_a_slower_phone_takes_longer_at_the_same_power() -> None:
    fast, slow = (energy(measured(), Assumptions(slowdown=factor)) for factor in (1.0, 3.0))
    for part in ("compression", "generator", "sending"):
        assert slow["parts_mj"][part].value == pytest.approx(3 * fast["parts_mj"][part].value)
    assert slow["parts_mj"]["radio"] == fast["parts_mj"]["radio"]
    assert slow["ms"].value == pytest.approx(3 * 9.5 + 2.5), "what was waited stays"
    assert "3 times as slow" in slow["source"]


def test_measured_power_replaces_assumed_power() -> None:
    assumed = Assumptions(cpu_w=100.0, joules_per_byte=0.0, wait_w=0.0, slowdown=1.0)
    found = energy(measured(), assumed, [4.0, 6.0], "measured RAPL, this machine's processor")
    assert found["mj"].value == pytest.approx((9 * 4 + 10 * 6) / 2)
    assert found["power_w"].value == 5.0
    assert found["source"].startswith(
        "measured RAPL, this machine's processor: 5.00 W a busy core above rest; assumed: 0 µJ a byte"
    )
    least, most = found["range_mj"]
    assert least == pytest.approx(9.5 * 5.0), "the mean power, at the least of what is still assumed"
    radio, waiting = 1.5e6 * RANGES["joules_per_byte"][1], 2.5 * RANGES["wait_w"][1]
    assert most == pytest.approx(9.5 * 5.0 * RANGES["slowdown"][1] + radio + waiting), "the core's power is not assumed"


def test_the_range_over_assumptions_holds_the_figure() -> None:
    assumed = Assumptions()
    found = energy(measured(), assumed)
    assert next(iter(found)) == "range_mj"
    least, most = ({name: bounds[end] for name, bounds in RANGES.items()} for end in (0, 1))
    ends = [energy(measured(), Assumptions(**each))["mj"].value for each in (least, most)]
    assert found["range_mj"] == pytest.approx(ends)
    assert ends[0] < found["mj"].value < ends[1]
    beyond = energy(measured(), Assumptions(cpu_w=50.0, joules_per_byte=1.0, wait_w=9.0, slowdown=40.0))
    assert beyond["range_mj"][0] < beyond["mj"].value == pytest.approx(beyond["range_mj"][1])


def test_ten_repetitions_have_students_interval() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    found, normal = student(values), mean(values)
    assert found.value == normal.value
    assert (found.high - found.value) / (normal.high - normal.value) == pytest.approx(2.262157 / 1.959964, rel=1e-5)


def test_waking_the_radio_is_shared_by_the_pictures_of_a_request() -> None:
    four, one = (replace(measured(), batch=batch) for batch in (4, 1))
    alone = Assumptions(alone_j=0.4)
    assert energy(four, alone)["parts_mj"]["wake"].value == pytest.approx(100.0)
    assert energy(one, alone)["parts_mj"]["wake"].value == pytest.approx(400.0)
    assert "0.4 J for the radio's promotion and tail at each request" in energy(one, alone)["source"]


def test_a_radio_alone_costs_what_its_source_says_of_one_packet() -> None:
    """Huang et al.: one packet, promotion and tail included, costs 12.76 J over LTE and 0.04 J over Wi-Fi."""
    assert RADIOS["LTE"].alone_j == pytest.approx(12.76, rel=0.02)
    assert round(RADIOS["Wi-Fi"].alone_j, 2) == 0.04
    assert (RADIOS["Wi-Fi"].joules_per_byte, RADIOS["LTE"].wait_w) == pytest.approx((2.265e-6, 1.288), rel=1e-3)
    default = Assumptions()
    assert (default.joules_per_byte, default.wait_w) == (RADIOS["Wi-Fi"].joules_per_byte, RADIOS["Wi-Fi"].wait_w)


def test_the_lte_tail_dominates_a_single_picture() -> None:
    light = replace(measured("pmc2"), batch=1, cpu_ms={part: [0.5, 0.5] for part in PARTS[:3]})
    both = {"pp": replace(measured(), batch=1), "pmc2": light}
    found = shares(both, Assumptions(), {})["pmc2"]["scenarios"]
    assert list(found) == ["stream, Wi-Fi", "stream, LTE", "one request alone, Wi-Fi", "one request alone, LTE"]
    assert list(found) == list(SCENARIOS)
    assert found["stream, Wi-Fi"] < found["one request alone, Wi-Fi"] < 1
    assert found["one request alone, LTE"] > 0.99, "what the phone computes no longer matters"
    radio = RADIOS["LTE"]
    over_lte = Assumptions(joules_per_byte=radio.joules_per_byte, wait_w=radio.wait_w)
    assert found["stream, LTE"] == pytest.approx(shares(both, over_lte, {})["pmc2"]["share"].value)


def test_what_protection_costs_over_none_has_an_interval() -> None:
    found = shares({name: measured(name) for name in ARRANGEMENTS}, Assumptions(), {})
    assert found["pmc2"]["over_none"].low < 1 < found["pmc2"]["over_none"].high
    assert "over_none" not in found["none"]


def test_assumptions_that_make_no_sense_are_refused() -> None:
    for name, value, words in (
        ("cpu_w", -1.0, "cpu_w must be a number from 0 up, got -1.0"),
        ("cpu_w", 0.0, "cpu_w must be above 0"),
        ("joules_per_byte", float("nan"), "joules_per_byte must be a number from 0 up, got nan"),
        ("wait_w", float("inf"), "wait_w must be a number"),
        ("slowdown", 0.0, "slowdown must be above 0"),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            Assumptions(**{name: value})


def test_every_range_holds_its_default_and_says_who_measured_it() -> None:
    for name, (low, high, who) in RANGES.items():
        assert low < getattr(Assumptions(), name) < high, "the default is neither end"
        assert re.search(r"20\d\d|'\d\d", who)


def test_a_share_has_the_interval_of_both_its_figures() -> None:
    half = share(Estimate(5, 4, 6, 7), Estimate(10, 10, 10, 9))
    assert (half.value, half.low, half.high, half.n) == pytest.approx((0.5, 0.4, 0.6, 7))
    both = share(Estimate(5, 4, 6, 7), Estimate(10, 8, 12, 9))
    assert both.high - both.value == pytest.approx(0.5 * 0.2 * 2**0.5)


def test_the_baselines_shares_range_over_all_assumptions() -> None:
    light = Measured("pmc2", 4, 8, {"compression": [0.5, 0.5], "generator": [0.0, 0.0], "sending": [0.5, 0.5]}, [5.0, 5.0])
    light.sent = [500.0, 500.0]
    both = {"pp": measured(), "pmc2": light}
    found = shares(both, Assumptions(cpu_w=2.0, joules_per_byte=4e-6, wait_w=0.0, slowdown=1.0), {})
    assert set(found) == {"pmc2"}
    assert found["pmc2"]["share"].value == pytest.approx((2.0 + 2.0) / (19.0 + 6.0))
    assert next(iter(found["pmc2"])) == "range", "before the interval of the noise"
    corners = [
        (w * s + 500e3 * b + 4.0 * p) / (9.5 * w * s + 1500e3 * b + 2.5 * p)
        for w, b, s, p in itertools.product(*(RANGES[name][:2] for name in ("cpu_w", "joules_per_byte", "slowdown", "wait_w")))
    ]
    assert found["pmc2"]["range"] == pytest.approx([min(corners), max(corners)])
    result = shares(both, Assumptions(joules_per_byte=0.0, wait_w=0.0, slowdown=1.0), {"pp": [8.0], "pmc2": [4.0]})["pmc2"]
    assert result["share"].value == pytest.approx(4.0 / 76.0)
    assert result["range"][0] == pytest.approx(4.0 / 76.0), "without an assumption about the core"


def test_the_papers_figures_agree_with_what_it_says_of_them() -> None:
    paper = PAPER["energy"]
    joules = {name: paper[name]["watts"] * paper[name]["seconds"] for name in ARRANGEMENTS}
    assert 100 * joules["pmc2"] / joules["pp"] == pytest.approx(8.11, abs=0.01)


# --- the phone -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def phones(pair: Pair) -> dict[str, Phone]:
    return {name: Phone(name, Client(), Edge(pair.generator, Png()) if name == "pp" else None) for name in ARRANGEMENTS}


def test_a_phone_sends_what_the_system_sends(phones: dict[str, Phone], pair: Pair, digits: Dataset) -> None:
    images = to_float(digits.test.images[:6])
    files = Client().capture(images)
    tensor, size = phones["pmc2"].work(images)
    assert (tensor.name, tensor.data, size) == ("image", files, sum(map(len, files)))
    tensor, size = phones["none"].work(images)
    assert size == len(tensor.data[0])
    assert torch.equal(Jpeg(90, "4:4:4").decode(tensor.data[0]), to_float(load_pictures(files, None))), "the same pictures"
    tensor, size = phones["pp"].work(images)
    baseline = System.baseline(pair.generator, pair.target)
    assert (tensor.name, tensor.data) == ("payload", [baseline.edge.protect(images)])
    assert size == baseline.recognise(images).s2_bytes


def test_the_cpu_time_of_each_stage_is_charged_to_it(phones: dict[str, Phone], digits: Dataset) -> None:
    images = to_float(digits.test.images[:32])
    charged = {}
    for name, phone in phones.items():
        clock, before = CpuClock(), time.process_time()
        phone.work(images, clock)
        passed = 1e3 * (time.process_time() - before)
        charged[name] = {part: value for part, value in clock.milliseconds.items() if value}
        assert 0 < sum(charged[name].values()) <= passed
    assert set(charged["none"]) == set(charged["pmc2"]) == {"client_compression"}
    assert set(charged["pp"]) == {"generator", "compression"}


def test_a_clock_of_cpu_time_counts_all_threads_and_no_waiting() -> None:
    def burn(seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    clock = CpuClock()
    with clock("generator"):
        worker = threading.Thread(target=burn, args=(0.03,))
        worker.start()
        burn(0.03)
        worker.join()
    assert clock.milliseconds["generator"] >= 60
    with clock("compression"):
        time.sleep(0.1)
    assert clock.milliseconds["compression"] < 60


def test_a_phone_with_wrong_parts_is_refused(pair: Pair) -> None:
    with pytest.raises(UsageError, match="unknown arrangement 'pmc': did you mean 'pmc2'"):
        Phone("pmc", Client())
    with pytest.raises(UsageError, match="'pp' has a generator on the phone"):
        Phone("pp", Client())
    with pytest.raises(UsageError, match="'none' has no generator on the phone"):
        Phone("none", Client(), Edge(pair.generator, Png()))


def test_labels_may_differ_only_by_a_random_component() -> None:
    first = [1] * 64
    one, few, many = ([2] * changed + first[changed:] for changed in (1, 16, 17))  # a tenth and 4 standard deviations: 16
    check_labels("none", first, first, noise=0.0)
    check_labels("pp", first, few, noise=0.1)
    with pytest.raises(RunError, match="pp: the services gave other labels to 17 of the same 64 images"):
        check_labels("pp", first, many, noise=0.1)
    with pytest.raises(RunError, match="pmc2: the services gave other labels to 1 of the same 64 images"):
        check_labels("pmc2", first, one, noise=0.0)


def test_the_random_component_is_that_of_the_stages_generator(empty_data: Path, digits: Dataset) -> None:
    generator, name = PerturbationGenerator(2, noise=0.2), weights.generator_name("resnet18", "vgg13_bn")
    weights.save(generator, Manifest(name, "digits", *weights.describe(generator), "untrained", 0, {}, {}, {}))
    stage = StageConfig("digits", digits.classes, "resnet18", "vgg13_bn")
    assert [noise_of(name, stage) for name in ARRANGEMENTS] == [0.0, 0.2, 0.2]


# --- sensors ---------------------------------------------------------------------------------------------------------------


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def package(root: Path, number: int = 0, energy_uj: int = 1_000_000, most: int = 262_143_328_850) -> Path:
    zone = write(root / "powercap" / f"intel-rapl:{number}", name=f"package-{number}", energy_uj=energy_uj)
    write(root / "powercap" / f"intel-rapl:{number}:0", name="core", energy_uj=999, max_energy_range_uj=most)
    return write(zone, max_energy_range_uj=most)


def battery(root: Path, **files: object) -> Path:
    return write(root / "power_supply" / "BAT0", **{"type": "Battery", "status": "Discharging", **files})


def test_packages_are_added_and_what_is_inside_them_is_not(tmp_path: Path) -> None:
    zones = [package(tmp_path, number) for number in (0, 1)]
    psys = write(tmp_path / "powercap" / "intel-rapl:2", name="psys", energy_uj=5, max_energy_range_uj=1 << 40)
    with Rapl(tmp_path / "powercap").reading() as reading:
        write(zones[0], energy_uj=3_500_000)
        write(zones[1], energy_uj=1_250_000)
        write(psys, energy_uj=90_000_000)
        write(tmp_path / "powercap" / "intel-rapl:0:0", energy_uj=80_000_000)
    assert reading.joules == pytest.approx(2.75)
    assert 0 < reading.seconds < 10


def test_a_counter_that_wraps_around_goes_on_counting(tmp_path: Path) -> None:
    zone = package(tmp_path, energy_uj=99_000_000, most=100_000_000)
    with Rapl(tmp_path / "powercap").reading() as reading:
        write(zone, energy_uj=2_000_000)
    assert reading.joules == pytest.approx(3.0)


@contextmanager
def no_root() -> Iterator[None]:
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_unreadable_counters_are_reported_with_the_way_out() -> None:
    root = Path(tempfile.mkdtemp(prefix="workbench-"))
    try:
        root.chmod(0o755)
        counter = package(root) / "energy_uj"
        counter.chmod(0)
        with no_root():
            sensor, reasons = find_sensor("auto", root)
            with pytest.raises(UsageError, match="source 'rapl' cannot be used: .*may not be read: run as root"):
                find_sensor("rapl", root)
        assert sensor is None
        assert f"{counter} may not be read: run as root, or `sudo chmod a+r {counter}`" in reasons
        counter.chmod(stat.S_IRUSR)
        assert isinstance(find_sensor("auto", root)[0], Rapl)
    finally:
        shutil.rmtree(root)


def test_a_counter_that_holds_no_number_is_named(tmp_path: Path) -> None:
    for content in ("", "many"):
        counter = write(package(tmp_path), energy_uj=content) / "energy_uj"
        with pytest.raises(RunError, match=re.escape(f"{counter} gives no reading")):
            Rapl(tmp_path / "powercap")


@pytest.mark.timing
def test_a_battery_with_power_is_read_during_the_work(tmp_path: Path) -> None:
    at = battery(tmp_path, power_now=4_000_000, energy_now=50_000_000)
    with Battery(tmp_path / "power_supply").reading() as reading:
        write(at, power_now=8_000_000)
        time.sleep(0.6)
    assert 4.0 < reading.joules / reading.seconds < 8.0
    assert reading.joules / reading.seconds == pytest.approx(8.0, abs=1.2), "mostly the power while it lasted"


def test_a_battery_without_power_tells_by_what_is_left(tmp_path: Path) -> None:
    for name, before, after, joules in (
        ("energy", {"energy_now": 50_000_000}, {"energy_now": 49_990_000}, 36.0),
        ("charge", {"charge_now": 3_000_000, "voltage_now": 4_000_000}, {"charge_now": 2_999_000}, 14.4),
    ):
        at = battery(tmp_path / name, **before)
        with Battery(tmp_path / name / "power_supply").reading() as reading:
            write(at, **after)
        assert reading.joules == pytest.approx(joules), name


def test_a_discharge_counts_as_positive_until_it_ends(tmp_path: Path) -> None:
    at = battery(tmp_path, power_now=-3_000_000)
    sensor = Battery(tmp_path / "power_supply")
    with sensor.reading() as reading:
        pass
    assert reading.joules == pytest.approx(3.0 * reading.seconds)
    with pytest.raises(RunError, match="unplug it"), sensor.reading():
        write(at, status="Charging")


def test_a_battery_that_says_nothing_of_the_device_is_refused(tmp_path: Path) -> None:
    refused: list[tuple[dict[str, object], str]] = [
        ({"status": "Charging", "power_now": 1}, "battery BAT0 is not what the device runs on (status 'Charging'): unplug it"),
        ({}, "battery BAT0 tells neither power_now nor energy_now nor charge_now"),
        ({"charge_now": 5}, "voltage_now gives no reading"),
        ({"scope": "Device", "power_now": 1}, "no battery at"),
        ({"type": "Mains"}, "no battery at"),
    ]
    for number, (files, words) in enumerate(refused):
        battery(tmp_path / str(number), **files)
        with pytest.raises(RunError, match=re.escape(words)):
            Battery(tmp_path / str(number) / "power_supply")


def test_the_processors_sensor_goes_before_the_battery(tmp_path: Path) -> None:
    package(tmp_path)
    battery(tmp_path, power_now=1)
    assert isinstance(find_sensor("auto", tmp_path)[0], Rapl)
    assert isinstance(find_sensor("battery", tmp_path)[0], Battery)
    assert find_sensor("estimate", tmp_path) == (None, [])


def test_without_sensors_the_reasons_are_reported(tmp_path: Path) -> None:
    sensor, reasons = find_sensor("auto", tmp_path)
    assert sensor is None
    assert [reason.split(" at ")[0] for reason in reasons] == ["no RAPL counters of a processor", "no battery"]
    with pytest.raises(UsageError, match="source 'battery' cannot be used: no battery at .*'auto' takes an available one"):
        find_sensor("battery", tmp_path)
    with pytest.raises(UsageError, match="unknown source of energy 'rpal': did you mean 'rapl'"):
        find_sensor("rpal", tmp_path)


class Machine:
    """A processor with a real counter file: a constant power at rest, and more for each second of CPU time."""

    def __init__(self, root: Path, rest_w: float, core_w: float) -> None:
        self.zone, self.rest_w, self.core_w = package(root), rest_w, core_w
        self.joules, self.at, self.cpu = 1.0, time.perf_counter(), time.process_time()

    def tell(self) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self.joules += self.rest_w * (now - self.at) + self.core_w * (cpu - self.cpu)
        self.at, self.cpu = now, cpu
        write(self.zone, reading=round(1e6 * self.joules))
        (self.zone / "reading").replace(self.zone / "energy_uj")  # renamed, so a concurrent reader always reads a number

    def work(self) -> None:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        self.tell()

    def sleep(self, seconds: float) -> None:
        self.tell()
        time.sleep(seconds)
        self.cpu = time.process_time()  # the CPU time of `rest` itself does not count as work
        self.tell()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rapl, "window_s", 0.1)
    monkeypatch.setattr(Rapl, "windows", 2)


@pytest.mark.timing
def test_what_is_taken_at_rest_is_no_part_of_a_busy_cores_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rapl, "window_s", 0.15)
    monkeypatch.setattr(Rapl, "windows", 3)
    machine = Machine(tmp_path, rest_w=5.0, core_w=12.0)
    found = watts(Rapl(tmp_path / "powercap"), machine.work, machine.sleep)
    assert len(found) == 3
    assert mean(found).value == pytest.approx(12.0, rel=0.25), "the counter is written after each work"


@pytest.mark.usefixtures("short")
def test_a_silent_sensor_is_left_out_unless_requested(phones: dict[str, Phone], digits: Dataset, tmp_path: Path) -> None:
    images = to_float(digits.test.images[:4])
    package(tmp_path)
    power, sees, reasons = powers(phones, images, "auto", tmp_path)
    assert (power, sees) == ({}, "")
    assert "no higher at work than at rest" in reasons[-1]
    with pytest.raises(RunError, match=r"measured RAPL readings are no higher at work than at rest \(0.00 W\): end what else"):
        powers(phones, images, "rapl", tmp_path)
    power, sees, reasons = powers(phones, images, "estimate", tmp_path)
    assert (power, sees, reasons) == ({}, "", [])


@pytest.mark.usefixtures("short")
def test_the_same_work_is_measured_once(phones: dict[str, Phone], digits: Dataset, tmp_path: Path) -> None:
    machine, done = Machine(tmp_path, rest_w=0.0, core_w=20.0), threading.Event()

    def telling() -> None:
        while not done.wait(0.005):
            machine.tell()

    clerk = threading.Thread(target=telling)
    clerk.start()
    try:
        power, sees, _ = powers(phones, to_float(digits.test.images[:4]), "rapl", tmp_path)
    finally:
        done.set()
        clerk.join()
    assert set(power) == set(ARRANGEMENTS)
    assert power["none"] is power["pmc2"] is not power["pp"]
    assert all(mean(values).value > 0 for values in power.values())
    assert sees == "measured RAPL, this machine's processor"


def test_torch_uses_one_thread_during_a_measurement() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
