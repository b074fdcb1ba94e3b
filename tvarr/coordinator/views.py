"""What the API and the pages show of daemons and relays, as plain JSON values."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from typing import Any

from tvarr.background import redact as clean_of_secrets
from tvarr.background import when
from tvarr.cluster.model import Capabilities, Considered
from tvarr.cluster.pools import Pool
from tvarr.coordinator.daemons import DaemonLink, Daemons
from tvarr.coordinator.endings import Ending, PastJob
from tvarr.coordinator.failures import Failure
from tvarr.coordinator.history import STEP_S
from tvarr.coordinator.outputs import Viewer
from tvarr.coordinator.relay import Relay
from tvarr.coordinator.run import Run
from tvarr.coordinator.segmented import Session
from tvarr.coordinator.source import redact
from tvarr.coordinator.variant import Variant
from tvarr.media.model import TICKS_PER_SECOND, Track
from tvarr.wire import convert, messages

View = dict[str, Any]

DAMAGE = ("sync_losses", "transport_errors", "continuity_errors", "crc_errors", "damaged_pes", "truncated_pes")
"""What a source's packets can suffer, by the demuxer's counters."""

Runs = dict[str, tuple[Relay, str, Run]]
"""Every job, by its id, and its profile."""

FETCH = "source"
"""In place of a profile: the job fetches the relay's source."""


def transcoder(link: DaemonLink, daemons: Daemons, runs: Runs) -> View:
    """One daemon: what it is, what it can do, what it does."""
    daemon = daemons.ledger.daemons[link.id]
    capabilities, beat = daemon.capabilities, link.heartbeat
    if link.shown is None or link.shown[0] is not capabilities:
        link.shown = capabilities, _capabilities(capabilities)
    jobs = [run for job in daemons.ledger.jobs_on(link.id) if (run := runs.get(job.id))]
    return {
        "id": link.id,
        "name": link.name,
        "version": link.register.version,
        "state": daemon.state.value,
        "set_aside": daemon.aside_reason,
        "address": link.peer,
        "connected_at": when(link.connected_at),
        "last_heartbeat_at": when(link.heard_at),
        "capabilities": link.shown[1],
        "gpus": [_gpu(capabilities, index, beat) for index in range(len(capabilities.gpus))],
        "pools": [_pool(pool, beat) for pool in daemon.pools.values()],
        "system": _system(beat),
        "jobs": [
            {**job(run), "channel": relay.channel.name, "relay_id": relay.id, "profile": profile}
            for relay, profile, run in jobs
        ],
        "totals": {"jobs_finished": link.jobs_done, "jobs_failed": link.jobs_failed},
    }


def transcoder_detail(link: DaemonLink, daemons: Daemons, runs: Runs) -> View:
    """The same with the last five minutes, what its jobs' ffmpeg says, and jobs that have ended."""
    view = transcoder(link, daemons, runs)
    for shown in view["jobs"]:
        shown["stderr"] = [clean_of_secrets(line) for line in runs[shown["id"]][2].stderr]
    view["history"] = {"step_s": STEP_S, **link.history.series(time.monotonic())}
    view["past_jobs"] = [_past_job(job) for job in reversed(link.past_jobs)]
    return view


def mark(link: DaemonLink, daemons: Daemons, runs: Runs) -> Hashable:
    """Another value whenever `transcoder_detail` shows something new; costs little."""
    daemon = daemons.ledger.daemons[link.id]
    jobs = [runs[job.id][2] for job in daemons.ledger.jobs_on(link.id) if job.id in runs]
    return (
        link.connected_at,
        link.heard_at,
        daemon.state,
        daemon.aside_reason,
        id(daemon.capabilities),
        link.jobs_done,
        link.jobs_failed,
        len(link.past_jobs),
        tuple((pool.limit, pool.in_use, pool.foreign) for pool in daemon.pools.values()),
        tuple((run.id, run.state, run.stats.frames if run.stats else 0, len(run.stderr)) for run in jobs),
    )


def failure(met: Failure) -> View:
    """One reason for which players got no stream, or the end of one."""
    return {
        "channel": met.channel,
        "profile": met.profile,
        "container": met.container,
        "status": met.status or None,
        "reason": met.reason,
        "reasons": list(met.reasons),
        "count": met.count,
        "at": when(met.at),
        "address": met.address,
        "user_agent": met.user_agent,
    }


def _past_job(past: PastJob) -> View:
    return {
        "id": past.job_id,
        "name": past.name,
        "encoder": past.encoder,
        "began_at": when(past.began_at),
        "took_s": round(past.took_s, 1),
        "frames": past.frames,
        "ending": _ending(past.ending),
        "failed": past.ending.is_failure,
        "command": clean_of_secrets(past.command),
        "stderr": [clean_of_secrets(line) for line in past.stderr],
    }


def _capabilities(capabilities: Capabilities) -> View:
    return {
        "ffmpeg_version": capabilities.ffmpeg_version,
        "encoders": [
            {
                "name": e.name,
                "codec": e.codec.value,
                "family": e.family.value,
                "device": e.device,
                "usable": e.usable,
                "verified": e.verified,
                "reason": e.reason,
            }
            for e in capabilities.encoders
        ],
        "decoders": sorted(capabilities.decoders),
        "hwaccels": list(capabilities.hwaccels),
        "protocols": sorted(capabilities.protocols),
        "max_jobs": capabilities.max_jobs,
        "max_cpu_jobs": capabilities.max_cpu_jobs,
        "cpu_count": capabilities.cpu_count,
        "cpu_model": capabilities.cpu_model,
        "memory_bytes": capabilities.memory_bytes,
        "os": capabilities.os,
    }


def _gpu(capabilities: Capabilities, index: int, beat: messages.Heartbeat | None) -> View:
    gpu = capabilities.gpus[index]
    stats = next((g for g in beat.gpus if g.id == gpu.id), None) if beat else None
    view: View = {
        "id": gpu.id,
        "name": gpu.name,
        "vendor": gpu.vendor,
        "index": gpu.index,
        "driver": gpu.driver,
        "memory_bytes": gpu.memory_bytes,
        "architecture": gpu.architecture,
        "pool": gpu.pool,
        "node": gpu.node,
        "engines": gpu.engines,
        "restricted": gpu.restricted,
    }
    for name in (
        "utilization_percent",
        "encoder_percent",
        "decoder_percent",
        "memory_used_bytes",
        "memory_total_bytes",
        "temperature_celsius",
        "power_watts",
        "encode_sessions",
        "decode_sessions",
    ):
        view[name] = getattr(stats, name) if stats else None
    return view


def _pool(pool: Pool, beat: messages.Heartbeat | None) -> View:
    """A pool as the ledger has it: the daemons of one host show the same."""
    usage = next((p for p in beat.pools if p.id == pool.id), None) if beat else None
    return {
        "id": pool.id,
        "limit": pool.limit,
        "limit_source": pool.source.value,
        "detail": pool.detail,
        "held": pool.held,
        "foreign": pool.foreign,
        "in_use": pool.in_use,
        "free": pool.free,
        "active": usage.active if usage else 0,
        "own": usage.own if usage else 0,
    }


def _system(beat: messages.Heartbeat | None) -> View:
    system = beat.system if beat else None
    if system is None:
        return {}
    return {
        "cpu_percent": round(system.cpu_percent, 1),
        "load_average": [round(load, 2) for load in system.load_average],
        "memory_used_bytes": system.memory_used_bytes,
        "memory_total_bytes": system.memory_total_bytes,
        "network_sent_bytes": system.network_sent_bytes,
        "network_received_bytes": system.network_received_bytes,
        "cpu_pressure_percent": system.cpu_pressure_percent,
        "memory_pressure_percent": system.memory_pressure_percent,
        "io_pressure_percent": system.io_pressure_percent,
        "uptime_s": round(system.uptime_s, 1),
        "process_cpu_s": round(system.process_cpu_s, 2),
        "process_memory_bytes": system.process_memory_bytes,
    }


def relay(relay: Relay) -> View:
    """One running channel: its source, its variants, and who watches."""
    status, fetch = relay.ingest.status, relay.ingest.fetch
    tracks = relay.ring.tracks_at(relay.ring.next_seq)
    return {
        "id": relay.id,
        "channel": {
            "id": relay.channel.id,
            "slug": relay.channel.slug,
            "name": relay.channel.name,
            "group": relay.channel.group,
        },
        "state": "ended" if relay.ended else status.state,
        "started_at": when(relay.began.at),
        "source": {
            "url": redact(relay.channel.url),
            "state": status.state,
            "counts": relay.holds_connection,
            "program": tracks.program if tracks else 0,
            "error": status.error,
            "reconnections": status.reconnections,
            "laps": status.laps,
            "segments_left_out": status.segments_left_out,
            "packets": asdict(status.demux),
            "errors": sum(getattr(status.demux, name) for name in DAMAGE),
            "bytes": status.bytes,
            "bitrate_kbps": round(status.bitrate_kbps),
            "job": job(fetch) if fetch else None,
            "placement": placement(fetch) if fetch else None,
        },
        "tracks": [_track(t) for t in tracks.tracks] if tracks else [],
        "buffer": {
            "bytes": relay.ring.bytes,
            "max_bytes": relay.ring.max_bytes,
            "max_s": relay.ring.max_ticks / TICKS_PER_SECOND if relay.ring.max_ticks is not None else None,
        },
        "variants": [_variant(v) for v in relay.variants.values()],
        "endings": [_ending(e) for e in relay.endings],
    }


def _variant(variant: Variant) -> View:
    keeper = variant.keeper
    viewers: list[Viewer | Session] = [viewer for output in variant.outputs for viewer in output.viewers]
    run, successor = keeper.run, keeper.successor
    return {
        "profile": variant.profile.name,
        "state": "waiting" if run and (run.waiting or run.state == "waiting") else variant.state,
        "error": str(variant.failure) if variant.failure else "",
        "takeovers": keeper.takeovers,
        "moves": keeper.moves,
        "move_refused": keeper.move_refused,
        "lost_pictures": keeper.splice.missing,
        "job": job(run) if run else None,
        "successor": job(successor) if successor else None,
        "placement": placement(run) if run else None,
        "outputs": [output.container for output in variant.outputs],
        "viewers_dropped": sum(output.dropped for output in variant.outputs),
        "viewers": [_viewer(v) for v in sorted(viewers, key=lambda v: v.connected_at)],
        "endings": [_ending(e) for e in keeper.endings],
    }


def job(run: Run) -> View:
    """A job's place and its pace."""
    ack, stats, place, waiting = run.ack, run.stats, run.placement, run.waiting
    encoder = place.encoder if place else None
    return {
        "id": run.id,
        "state": "queued" if waiting else run.state,
        "age_s": round(run.began.age_s, 1),
        "queue_position": run.queue_position,
        "waited_s": round(time.monotonic() - waiting.since if waiting else run.waited_s, 1),
        "daemon_id": place.daemon_id if place else "",
        "daemon_name": run.daemon_name,
        "encoder": (ack.encoder if ack else "") or (encoder.name if encoder else ""),
        "family": convert.family_from_wire(ack.family).value if ack and ack.encoder else "",
        "device": (ack.device if ack else "") or (encoder.device if encoder else ""),
        "decoder": ack.decoder if ack else "",
        "command": clean_of_secrets(ack.command) if ack else "",
        "speed": round(stats.speed, 2) if stats else 0.0,
        "fps": round(stats.fps, 1) if stats else 0.0,
        "frames": stats.frames if stats else 0,
        "cpu_percent": round(stats.cpu_percent, 1) if stats else 0.0,
        "memory_bytes": stats.memory_bytes if stats else 0,
        "input_bytes": stats.input_bytes if stats else 0,
        "output_bytes": stats.output_bytes if stats else 0,
        "output_kbps": round(run.output_kbps),
        "first_output_s": round(stats.first_output_s, 3) if stats else 0.0,
        "lost_samples": run.lost_samples,
        "lag_s": round(run.lag_s, 2),
    }


def placement(run: Run) -> View | None:
    """Why the job is where it is, or why it waits: every daemon that was considered, with its reason."""
    place = run.placement
    if (waiting := run.waiting) is not None:
        return {"reason": waiting.reason, "fallback": False, "considered": _considered(waiting.considered)}
    if place is None:
        return None
    return {"reason": place.reason, "fallback": place.fallback, "considered": _considered(place.considered)}


def _considered(considered: Iterable[Considered]) -> list[View]:
    return [
        {"daemon_id": c.daemon_id, "daemon_name": c.daemon_name, "chosen": c.chosen, "reason": c.reason}
        for c in considered
    ]


def _viewer(viewer: Viewer | Session) -> View:
    return {
        "id": viewer.id,
        "address": viewer.address,
        "user_agent": viewer.user_agent,
        "container": viewer.container,
        "connected_at": when(viewer.connected_at),
        "bytes": viewer.sent_bytes,
        "lag_s": round(viewer.lag_s, 2),
    }


def _track(track: Track) -> View:
    return {
        "id": track.id,
        "kind": track.kind.value,
        "codec": track.codec.value,
        "language": track.language,
        "width": track.width,
        "height": track.height,
        "fps": round(track.fps, 3),
        "interlaced": track.interlaced,
        "sample_rate": track.sample_rate,
        "channels": track.channels,
        "scrambled": track.scrambled,
    }


def _ending(ending: Ending) -> View:
    return {
        "code": ending.code,
        "reason": ending.reason,
        "at": when(ending.at),
        "job_id": ending.job_id,
        "daemon_name": ending.daemon_name,
    }
