"""Jobs that fell back to software, and the hardware that frees for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tvarr.cluster.events import Instruction, Promote
from tvarr.cluster.fit import need_key
from tvarr.cluster.model import Placement
from tvarr.cluster.policy import choose
from tvarr.cluster.pools import Held
from tvarr.cluster.state import Cluster, Job, PoolKey


@dataclass(slots=True)
class Moves:
    cluster: Cluster
    _fallbacks: dict[int, Job] = field(default_factory=dict)  # by serial

    def placed(self, job: Job) -> None:
        if job.placement.fallback:
            self._fallbacks[job.serial] = job

    def offer(self, now: float) -> list[Instruction]:
        """Offers free sessions to jobs that fell back to software, oldest first, no session to two of them."""
        if not self.cluster.settings.promote or not self._fallbacks:
            return []
        self._fallbacks = {s: job for s, job in self._fallbacks.items() if self.cluster.jobs.get(job.id) is job}
        promised = Counter(job.promised for job in self._fallbacks.values() if job.promote_at is not None)
        promoted: list[Instruction] = []
        hopeless: set[tuple[object, ...]] = set()
        for job in self._fallbacks.values():
            kind = need_key(job.need)
            if job.promote_at is not None or job.state is not Held.CONFIRMED or kind in hopeless:
                continue
            verdict = choose(self.cluster, job.need, now, work=job.work, avoid=job.avoid, hardware_only=True)
            if not isinstance(verdict, Placement):
                hopeless.add(kind)
                continue
            key = self._pool_key(verdict)
            free = self.cluster.pools[key].free if key is not None else None
            if free is not None and promised[key] >= free:
                continue
            promised[key] += 1
            job.promised, job.promote_at = key, now + self.cluster.settings.promote_pause_s
            self.cluster.wake(job.promote_at)
            promoted.append(Promote(job.id))
        return promoted

    def _pool_key(self, placement: Placement) -> PoolKey | None:
        pool = self.cluster.daemons[placement.daemon_id].pools.get(placement.pool)
        return None if pool is None else (pool.host, pool.id)

    def look_at_the_clock(self, now: float) -> None:
        for fallback in self._fallbacks.values():
            if fallback.promote_at is not None and fallback.promote_at <= now:
                fallback.promote_at = None
                self.cluster.improved = True

    def deadlines(self) -> list[float]:
        return [j.promote_at for j in self._fallbacks.values() if j.promote_at is not None]
