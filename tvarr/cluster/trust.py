"""What failures cost a daemon: no tries of the same job for a while, and after several no jobs at all."""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.cluster.state import Backoff, Cluster, Daemon, Job

MAX_BACKOFFS = 10_000  # works with failures remembered; the oldest are forgotten first


@dataclass(slots=True)
class Trust:
    """Changes what the cluster remembers of failures, which `policy.choose` reads: `backoffs` and `aside`."""

    cluster: Cluster

    def back_off(self, job: Job, reason: str, now: float, *, hardware_only: bool) -> None:
        """The job's daemon is not tried for it again for a while, longer each time it fails soon."""
        backoffs, settings = self.cluster.backoffs, self.cluster.settings
        of_work = backoffs.setdefault(job.work, {})
        before = of_work.get(job.daemon_id)
        went_well = job.confirmed_at is not None and now - job.confirmed_at >= settings.went_well_after_s
        failures = before.failures + 1 if before and not went_well else 1
        pause = min(settings.backoff_s * 2 ** min(failures - 1, 16), settings.max_backoff_s)
        of_work[job.daemon_id] = Backoff(now + pause, failures, reason, hardware_only)
        while len(backoffs) > MAX_BACKOFFS:
            del backoffs[next(iter(backoffs))]

    def forget_backoffs(self, before: float) -> None:
        """Backoffs that ended before this time; with them how many failures there were."""
        for work, of_work in list(self.cluster.backoffs.items()):
            for daemon_id in [d for d, backoff in of_work.items() if backoff.until < before]:
                del of_work[daemon_id]
            if not of_work:
                del self.cluster.backoffs[work]

    def blame(self, daemon: Daemon, work: str, reason: str, now: float, *, at_once: bool = False) -> None:
        """One more job failed there: the last of several in a row sets the daemon aside, the next one again.

        `at_once`: it sent what no encoder makes, and one time is enough.
        """
        cluster, settings = self.cluster, self.cluster.settings
        if daemon.id in cluster.aside:
            return
        daemon.failed_works.add(work)
        count = len(daemon.failed_works)
        if not at_once and not daemon.times_aside and count < settings.aside_failures:
            return
        pause = min(settings.aside_s * 2 ** min(daemon.times_aside, 16), settings.max_aside_s)
        daemon.times_aside += 1
        daemon.aside_until = now + pause
        why = "a job failed again" if daemon.times_aside > 1 else f"{count} jobs failed in a row"
        if at_once:
            why = "it can't be trusted"
        daemon.aside_reason = f"set aside for {pause:g} s because {why}: {reason}"
        daemon.failed_works.clear()
        cluster.aside.add(daemon.id)
        cluster.wake(daemon.aside_until)

    def praise(self, daemon: Daemon) -> None:
        """A job of the daemon's went well."""
        daemon.failed_works.clear()
        daemon.times_aside = 0

    def take_back(self, now: float) -> None:
        """Daemons whose time aside is over."""
        cluster = self.cluster
        for daemon_id in list(cluster.aside):
            daemon = cluster.daemons[daemon_id]
            if daemon.aside_until is not None and daemon.aside_until <= now:
                daemon.aside_until, daemon.aside_reason = None, ""
                cluster.aside.discard(daemon_id)
                cluster.improved = True

    def deadlines(self) -> list[float]:
        """When daemons are taken back."""
        moments = (self.cluster.daemons[daemon_id].aside_until for daemon_id in self.cluster.aside)
        return [moment for moment in moments if moment is not None]
