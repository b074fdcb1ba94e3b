// A worker of another make: registers with a tvarr coordinator and does copy jobs. What it is sent goes back as it came.
//
// TVARR_AUTH_TOKEN=... node worker.mjs COORDINATOR:9090 [NAME]
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTO = new URL("../../proto/tvarr/v1/ffmpegd.proto", import.meta.url).pathname;
const definition = loadSync(PROTO, { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true });
const { Coordinator } = grpc.loadPackageDefinition(definition).tvarr.v1;
const [target, name = "copier"] = process.argv.slice(2);
if (!target || !process.env.TVARR_AUTH_TOKEN) {
  console.log("TVARR_AUTH_TOKEN=... node worker.mjs COORDINATOR:9090 [NAME]");
  process.exit(1);
}
const instance = { daemon_id: randomUUID(), instance_id: randomUUID() }; // a real one keeps its daemon_id over restarts
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.TVARR_AUTH_TOKEN}`);
const jobs = new Map(); // what is known of each, by its id
let [keptAs, leaving] = ["", false];

// A connection of its own for each stream: a slow job never holds another up, nor the heartbeats.
const dial = () =>
  new Coordinator(target, grpc.credentials.createInsecure(), {
    "grpc.max_receive_message_length": 16 << 20,
    "grpc.use_local_subchannel_pool": 1,
  });

const encoder = (codec) => ({ name: `copy_${codec}`, codec, family: "FAMILY_SOFTWARE", usable: true, verified: true });
const capabilities = {
  encoders: [encoder("h264"), encoder("aac")], // the same codecs in and out, or a copy would be a lie
  decoders: ["h264", "aac"],
  max_jobs: 4,
  max_cpu_jobs: 4,
  cpu_count: os.cpus().length,
  memory_bytes: os.totalmem(),
  os: os.type(),
};

const system = () => ({
  cpu_percent: Math.min(100, (100 * os.loadavg()[0]) / os.cpus().length),
  memory_total_bytes: os.totalmem(),
  memory_used_bytes: os.totalmem() - os.freemem(),
  uptime_s: process.uptime(),
});
const active = () =>
  [...jobs].map(([job_id, { start, began, speed }]) => ({
    job_id, speed, encoder: start?.encoder, age_s: (performance.now() - began) / 1000,
  }));

// From registration to the end of the stream.
async function attach() {
  const connection = dial();
  const call = connection.Attach(metadata);
  let [beating, sequence] = [null, 0];
  call.write({ register: { protocol_version: 1, ...instance, name, version: "1", machine_id: os.hostname(), capabilities, jobs: active() } });
  const leave = () => call.write({ draining: { reason: "asked to end" } });
  process.on("SIGTERM", leave);
  try {
    for await (const message of call) {
      if (message.kind === "registered") {
        keptAs = message.registered.daemon_id; // another one, where a worker that lives has ours
        console.log(`registered as ${keptAs}`);
        const beat = () => call.write({ heartbeat: { system: system(), jobs: active(), sequence: sequence++ } });
        beating = setInterval(beat, message.registered.heartbeat_interval_s * 1000);
        if (leaving) leave();
      } else if (message.kind === "start") {
        call.write({ accepted: { job_id: message.start.job_id } });
        work(message.start.job_id).catch((error) => console.log(`job ${message.start.job_id}: ${error.message}`));
      } else if (message.kind === "cancel") {
        jobs.get(message.cancel.job_id)?.call.cancel();
      }
    }
  } finally {
    clearInterval(beating);
    process.off("SIGTERM", leave);
    call.end();
    connection.close();
  }
}

// One job: what it is comes first, then samples both ways.
async function work(jobId) {
  const connection = dial();
  const call = connection.Work(metadata);
  const send = async (output) => call.write(output) || (await once(call, "drain"));
  const job = { call, start: null, began: performance.now(), speed: 0 };
  jobs.set(jobId, job);
  let [samples, bytes, first, told] = [0, 0, 0, job.began];
  try {
    await send({ open: { job_id: jobId, daemon_id: keptAs, protocol_version: 1 } });
    for await (const input of call) {
      if (input.kind === "start") {
        job.start = input.start;
      } else if (input.kind === "batch" && input.batch.samples.length) {
        if (!samples) {
          first = input.batch.samples[0].pts;
          await send({ ack: { encoder: job.start.encoder, family: "FAMILY_SOFTWARE", tracks: job.start.tracks } });
        }
        for (const sample of input.batch.samples) {
          sample.sequence = samples++;
          bytes += sample.data.length;
        }
        await send({ batch: input.batch });
        if (performance.now() - told >= 1000) {
          told = performance.now();
          job.speed = (input.batch.samples.at(-1).pts - first) / 90 / (told - job.began);
          const counts = { input_samples: samples, output_samples: samples, input_bytes: bytes, output_bytes: bytes };
          await send({ stats: { speed: job.speed, ...counts } });
        }
      } else if (input.kind === "complete") {
        await send({ complete: { samples } });
        break;
      } else if (input.kind === "stop") {
        await send({ error: { code: "CODE_CANCELLED", message: "asked to stop" } });
        break;
      }
    }
    console.log(`job ${jobId}: ${samples} samples`);
    call.end();
  } finally {
    jobs.delete(jobId);
    connection.close();
  }
}

process.on("SIGTERM", async () => {
  leaving = true; // the coordinator moves the jobs away; what is left after a few seconds is lost and starts elsewhere
  for (let waited = 0; jobs.size && waited < 50; waited++) await sleep(100);
  process.exit(0);
});
for (;;) {
  await attach().catch((error) => console.log(error.details ?? error.message));
  await sleep(1000 + Math.random() * 4000);
}
