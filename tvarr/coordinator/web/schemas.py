"""The shapes of what the API answers about daemons, relays and itself; fields may be added."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow")


class Problem(_Shape):
    """An error (RFC 9457)."""

    title: str
    status: int
    detail: str
    reasons: list[str] = Field(default_factory=list, description="one line for each thing considered")


class EncoderView(_Shape):
    name: str = Field(description="FFmpeg's name")
    codec: str
    family: str
    device: str = Field(description="a GPU's id; empty: software")
    usable: bool
    verified: bool = Field(description="a trial encode ran")
    reason: str = Field(description="why it is not usable")


class CapabilitiesView(_Shape):
    ffmpeg_version: str
    encoders: list[EncoderView]
    decoders: list[str]
    hwaccels: list[str]
    protocols: list[str] = Field([], description="schemes of the sources that it can fetch")
    max_jobs: int
    max_cpu_jobs: int
    cpu_count: int
    cpu_model: str
    memory_bytes: int
    os: str


class GpuView(_Shape):
    """A GPU and what it does; null is what the driver does not tell."""

    id: str
    name: str
    vendor: str
    driver: str
    pool: str = Field(description="id of the session pool it draws from")
    utilization_percent: float | None
    encoder_percent: float | None
    decoder_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_celsius: float | None
    power_watts: float | None
    encode_sessions: int | None
    decode_sessions: int | None


class PoolView(_Shape):
    """Encoder sessions that GPUs share."""

    id: str
    limit: int | None = Field(description="null: none")
    limit_source: str
    detail: str
    held: int = Field(description="reserved for jobs, until the daemon has ended them")
    foreign: int = Field(description="other programs'")
    in_use: int
    free: int | None = Field(description="null: as many as wanted")
    active: int = Field(description="by the driver's count in the latest heartbeat, other programs' included")
    own: int = Field(description="of these, the daemon's jobs'")


class JobView(_Shape):
    id: str
    state: str
    age_s: float
    queue_position: int = Field(description="1: next; 0: it does not wait")
    waited_s: float = Field(description="in the queue")
    daemon_id: str
    daemon_name: str
    encoder: str
    device: str
    decoder: str
    command: str = Field(description="FFmpeg's, without secrets")
    speed: float = Field(description="media time over wall time")
    fps: float
    frames: int
    cpu_percent: float = Field(description="of one core, FFmpeg's")
    output_kbps: float = Field(description="over the last few seconds")
    lag_s: float = Field(description="from the source's newest sample to the output")


class DaemonJobView(JobView):
    channel: str
    relay_id: str
    profile: str


class TotalsView(_Shape):
    jobs_finished: int
    jobs_failed: int


class TranscoderView(_Shape):
    """A daemon."""

    id: str
    name: str
    version: str
    state: str = Field(description="connected, draining, unhealthy, disconnected")
    set_aside: str = Field(description="why it gets no jobs for a while, after failures; empty: it does")
    address: str
    connected_at: str
    last_heartbeat_at: str
    capabilities: CapabilitiesView
    gpus: list[GpuView]
    pools: list[PoolView]
    system: dict[str, Any] = Field(description="CPU, memory, network, pressure, uptime; empty before a heartbeat")
    jobs: list[DaemonJobView]
    totals: TotalsView


class GroupView(_Shape):
    """Channels that share a provider's account."""

    name: str
    max_connections: int = Field(description="to the provider at once; 0: no limit")
    channels: int = Field(description="how many there are")
    connections: int = Field(description="how many there are now")
    relays: list[str] = Field(description="ids of those that have one")


class EndingView(_Shape):
    code: str
    reason: str
    at: str


class PastJobView(_Shape):
    """A job that ended on a daemon."""

    id: str
    name: str = Field(description="the channel's slug and the profile")
    encoder: str
    began_at: str
    took_s: float
    frames: int
    ending: EndingView
    failed: bool
    command: str
    stderr: list[str] = Field(description="FFmpeg's last lines")


class TranscoderDetail(TranscoderView):
    """A daemon, with `stderr` in each of its jobs."""

    history: dict[str, Any] = Field(
        description="the last five minutes: step_s, and for each figure a value a step, null where it is not known"
    )
    past_jobs: list[PastJobView] = Field(description="the latest first")


class ChannelRef(_Shape):
    id: str
    slug: str
    name: str
    group: str


class SourceView(_Shape):
    url: str = Field(description="without credentials")
    state: str
    counts: bool = Field(description="it is a connection in the sense of its group's max_connections")
    program: int = Field(description="MPEG-TS program number; 0: none")
    error: str
    reconnections: int
    segments_left_out: int = Field(description="of HLS: that could not be had or read")
    errors: int = Field(description="losses and damage in its packets")
    bytes: int
    bitrate_kbps: float
    job: JobView | None = Field(None, description="where a transcoder fetches the source: as a variant's job")
    placement: PlacementView | None = Field(None, description="why that transcoder does: as a variant's")


class TrackView(_Shape):
    id: int
    kind: str
    codec: str
    language: str


class TrialView(_Shape):
    """What became of a channel's test."""

    works: bool
    error: str = Field(description="why it does not")
    took_s: float = Field(description="until the first media")
    tracks: list[TrackView]
    bitrate_kbps: float


class ConsideredView(_Shape):
    daemon_id: str
    daemon_name: str
    chosen: bool
    reason: str


class PlacementView(_Shape):
    """Why a job is where it is, or why it waits."""

    reason: str
    fallback: bool = Field(description="in software for want of a hardware session")
    considered: list[ConsideredView]


class ViewerView(_Shape):
    id: int | str
    address: str
    user_agent: str
    container: str
    connected_at: str
    bytes: int
    lag_s: float


class VariantView(_Shape):
    profile: str
    state: str
    error: str
    takeovers: int = Field(description="how often a lost job went on elsewhere")
    moves: int = Field(description="how often the job was moved while it ran")
    move_refused: str = Field(description="why the latest move came to nothing")
    lost_pictures: int = Field(description="that no job could make, as the source was not kept for so long")
    job: JobView | None
    successor: JobView | None = Field(description="the job that takes over, while one is moved")
    placement: PlacementView | None
    viewers: list[ViewerView]
    endings: list[EndingView]


class RelayView(_Shape):
    """A running channel."""

    id: str
    channel: ChannelRef
    state: str
    started_at: str
    source: SourceView
    tracks: list[TrackView]
    variants: list[VariantView]
    endings: list[EndingView]


class FailureView(_Shape):
    """Why players got no stream of a channel, or why theirs ended."""

    channel: str = Field(description="id or slug, as the player named it")
    profile: str = Field(description="as the player named it; empty: the channel's own")
    container: str = Field(description="ts, mp4, hls, dash")
    status: int | None = Field(description="of the answer; null: the stream had begun")
    reason: str
    reasons: list[str] = Field(description="one line for each thing considered")
    count: int = Field(description="how often")
    at: str = Field(description="the last time; so are the player's address and name")
    address: str
    user_agent: str


class MoveRequest(_Shape):
    """Which job of a relay is to run elsewhere."""

    profile: str = Field(description="of the variant")
    to: str = Field("", description="id or name of a transcoder; empty: wherever it is best")


class Registration(_Shape):
    """What a new worker has to be told."""

    coordinator_url: str
    token: str
    fixed: bool = Field(description="the token is a setting: it can't be renewed here")
    command: str = Field(description="for a machine with tvarr and ffmpeg")
    container: str
    compose: str


class ImportFrom(_Shape):
    url: str = Field(description="http or https")


class ImportedLine(_Shape):
    line: int
    id: str
    slug: str
    name: str


class RefusedLine(_Shape):
    line: int
    name: str
    reason: str


class ImportResult(_Shape):
    """What became of each channel of a list; `kept`: it was there, and is unchanged."""

    added: list[ImportedLine]
    updated: list[ImportedLine] = Field(description="the list says something else of them than the last one did")
    kept: list[ImportedLine]
    refused: list[RefusedLine]
