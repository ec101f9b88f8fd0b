"""Failovers: a leader is taken away until a survivor acknowledges a write."""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import threading
import time

from benchmarks.report import Figure, Report
from benchmarks.rounds import leader_of
from benchmarks.systems import BenchmarkError, Cyoloctl, Etcd, Member, System, call, until

__all__ = ["measure_failover"]


def failover(system: System, request_id: str, how: signal.Signals) -> float:
    """Take the leader away by a signal; seconds until a survivor acknowledges the next write.

    Five workers a survivor, 100 ms apart, each with connections of its own, give up an attempt after half a
    second and pause 100 ms after a refusal: a request that went down with the leader does not hide that the
    next one would succeed, and the load stays small.  Every attempt carries the same request id.
    """
    victim = leader_of(system)
    survivors = [member for member in system.members if member is not victim]
    path, body = system.write("failover", request_id)
    acknowledged: list[float] = []
    done = threading.Event()

    def attempt_until_done(member: Member, delay_s: float) -> None:
        done.wait(delay_s)
        while not done.is_set():
            try:
                status, answer = call(member.target, "POST", path, body, timeout_s=0.5)
            except (OSError, http.client.HTTPException):
                continue
            if system.accepted(status, answer):
                acknowledged.append(time.perf_counter())
                done.set()
            else:
                done.wait(0.1)

    workers = [
        threading.Thread(target=attempt_until_done, args=(member, index * 0.1))
        for member in survivors
        for index in range(5)
    ]
    began = time.perf_counter()
    os.kill(victim.pid, how)
    for worker in workers:
        worker.start()
    done.wait(60)
    done.set()
    for worker in workers:
        worker.join()
    system.kill(victim)
    if not acknowledged:
        raise BenchmarkError(f"{system.name}: no write acknowledged within 60 s of the leader's end")
    system.start_member(victim)

    def back() -> bool:
        system.check_alive()
        return system.healthy()

    until(f"{system.name} healthy after {request_id}", back)
    return min(acknowledged) - began


def measure_failover(report: Report, ours: Cyoloctl, theirs: Etcd | None, times: int) -> None:
    """Take leaders away in turn on both systems; each is back and caught up before the next.

    A killed process closes its connections, which tells the survivors at once.  A machine that loses power
    or its network does not: a stopped process (SIGSTOP) shows that case, without a target of its own.
    """
    frozen_times = max(1, times // 4)
    systems: list[System] = [ours] if theirs is None else [ours, theirs]
    took: dict[str, dict[str, list[float]]] = {}
    for how, count in ((signal.SIGKILL, times), (signal.SIGSTOP, frozen_times)):
        took[how.name] = {}
        for number in range(count):
            for system in systems:
                took[how.name].setdefault(system.name, []).append(
                    failover(system, f"{how.name}-{number}", how)
                )
    report.details["failover_s"] = took

    def beside(how: str) -> str:
        etcd = took[how].get("etcd")
        if etcd is None:
            return "etcd was not measured"
        return f"etcd alike: median {statistics.median(etcd):.2f} s, worst {max(etcd):.2f} s"

    killed, frozen = took["SIGKILL"][ours.name], took["SIGSTOP"][ours.name]
    what = f"{times} times SIGKILL of the leader until a survivor acknowledged a write; {beside('SIGKILL')}"
    report.add(Figure("failover, median", statistics.median(killed), "s", "<", 1.5, what))
    report.add(Figure("failover, worst", max(killed), "s", "<", 3.0, what))
    what = (
        f"{frozen_times} times SIGSTOP, connections stay open as when a machine loses power,"
        f" median {statistics.median(frozen):.2f} s; {beside('SIGSTOP')}"
    )
    report.add(Figure("failover of a frozen leader, worst", max(frozen), "s", "", 0, what))
    # Ten workers tried each write with one request id: exactly one increment each.
    if ours.value("failover") != times + frozen_times:
        raise BenchmarkError(
            f"counter failover is {ours.value('failover')} after {times + frozen_times} writes"
        )
