"""What this daemon may take on: the last word on limits, after the coordinator's ledger had the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tvarr.cluster.fit import encoder_for, missing_decoder
from tvarr.cluster.model import Capabilities, Encoder, Family, JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.hwaccel.model import OwnSessions
from tvarr.media.model import Kind


@dataclass(slots=True)
class _Claim:
    encoder: Encoder | None  # of the picture; None where only sound changes
    decodes_on: str = ""  # `Gpu.id`, once that is known


class Capacity:
    """Counts jobs and sessions against the limits that this daemon reports. No I/O, no clock."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.draining = ""  # why no new jobs are taken; empty: they are
        self._claims: dict[str, _Claim] = {}

    @property
    def jobs(self) -> int:
        return len(self._claims)

    def claim(self, job_id: str, encoder: str, device: str) -> None:
        """Takes room for a job whose picture goes to `encoder` on `device`; an empty `encoder`: only sound changes.

        Raises `JobError`: CAPACITY where a limit is reached, UNSUPPORTED where there is no such encoder.
        """
        self._check_jobs(job_id)
        self._claims[job_id] = _Claim(self._checked(encoder, device) if encoder else None)

    def claim_for(self, spec: JobSpec) -> JobSpec:
        """Takes room for a job of a client that may leave the choice to us, and returns it with an encoder named.

        Raises `JobError` as `claim` does.
        """
        self._check_jobs(spec.job_id)
        worked_on = [target for target in spec.targets if not target.copy]
        named = spec.encoder and any(target.track.kind is Kind.VIDEO for target in worked_on)
        encoder = self._checked(spec.encoder, spec.device) if named else self._choose(worked_on, spec.hw_accel)
        self._claims[spec.job_id] = _Claim(encoder)
        return replace(spec, encoder=encoder.name if encoder else "", device=encoder.device if encoder else "")

    def decodes_on(self, job_id: str, device: str) -> None:
        """Notes the GPU that decodes for a job."""
        if claim := self._claims.get(job_id):
            claim.decodes_on = device

    def release(self, job_id: str) -> None:
        self._claims.pop(job_id, None)

    def own_sessions(self) -> dict[str, OwnSessions]:
        """What our jobs hold, by `Gpu.id`."""
        encode = Counter(c.encoder.device for c in self._claims.values() if c.encoder and c.encoder.device)
        decode = Counter(c.decodes_on for c in self._claims.values() if c.decodes_on)
        return {gpu: OwnSessions(encode[gpu], decode[gpu]) for gpu in encode | decode}

    def _check_jobs(self, job_id: str) -> None:
        if job_id in self._claims:
            raise JobError(ErrorCode.BAD_REQUEST, f"job {job_id} runs here already")
        if self.draining:
            raise JobError(ErrorCode.CAPACITY, f"takes no new jobs: {self.draining}")
        limit = self.capabilities.max_jobs
        if limit and len(self._claims) >= limit:
            raise JobError(ErrorCode.CAPACITY, f"all of its {limit} job slots are taken")

    def _checked(self, name: str, device: str) -> Encoder:
        found = next((e for e in self.capabilities.encoders if (e.name, e.device) == (name, device)), None)
        if found is None:
            raise JobError(ErrorCode.UNSUPPORTED, f"it has no encoder {name} on {device or 'this host'}")
        if not found.usable:
            raise JobError(ErrorCode.UNSUPPORTED, f"{name}: {found.reason or 'not usable'}")
        if full := self._full(found):
            raise JobError(ErrorCode.CAPACITY, full, retry_in_software=found.family is not Family.SOFTWARE)
        return found

    def _choose(self, targets: Iterable[Target], hw_accel: str) -> Encoder | None:
        full = {(e.name, e.device): words for e in self.capabilities.encoders if e.usable and (words := self._full(e))}
        encoders = tuple(
            replace(e, usable=False, reason=full[e.name, e.device]) if (e.name, e.device) in full else e
            for e in self.capabilities.encoders
        )
        now = replace(self.capabilities, encoders=encoders)
        chosen: Encoder | None = None
        for target in targets:
            if missing := missing_decoder(target, now):
                raise JobError(ErrorCode.UNSUPPORTED, missing)
            encoder = encoder_for(target, hw_accel, now)
            if isinstance(encoder, str):
                waits = any(words in encoder for words in full.values())
                raise JobError(ErrorCode.CAPACITY if waits else ErrorCode.UNSUPPORTED, encoder)
            if target.track.kind is Kind.VIDEO:
                chosen = encoder
        return chosen

    def _full(self, encoder: Encoder) -> str:
        """Why this encoder can't take one picture more, or nothing."""
        if encoder.codec.kind is not Kind.VIDEO:
            return ""
        held = [claim.encoder for claim in self._claims.values() if claim.encoder]
        if encoder.family is Family.SOFTWARE:
            limit = self.capabilities.max_cpu_jobs
            if limit and sum(e.family is Family.SOFTWARE for e in held) >= limit:
                return f"all of its {limit} software job slots are taken"
            return ""
        pool_of = {gpu.id: gpu.pool for gpu in self.capabilities.gpus}
        pool = next((p for p in self.capabilities.pools if p.id == pool_of.get(encoder.device)), None)
        if pool is None or pool.limit is None:
            return ""
        if sum(pool_of.get(e.device) == pool.id for e in held) >= pool.limit:
            return f"all {pool.limit} encoder sessions of {pool.id} are taken"
        return ""
