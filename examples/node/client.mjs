// Puts the video of an MPEG-TS file through a daemon, with @grpc/grpc-js and the .proto as it is.
//
// TVARR_AUTH_TOKEN=... node client.mjs HOST:PORT IN.ts OUT.h264 [copy|h264|hevc]
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { pictures, TICKS } from "./ts.mjs";

const PROTO = new URL("../../proto/tvarr/v1/ffmpegd.proto", import.meta.url).pathname;
const BATCH_BYTES = 256 * 1024; // samples travel in batches of about this size; the limit of a message is 16 MiB

const definition = loadSync(PROTO, { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true });
const { Ffmpegd } = grpc.loadPackageDefinition(definition).tvarr.v1;
const [target, source, destination, codec = "copy"] = process.argv.slice(2);
if (!destination || !process.env.TVARR_AUTH_TOKEN) {
  console.log("TVARR_AUTH_TOKEN=... node client.mjs HOST:PORT IN.ts OUT.h264 [copy|h264|hevc]");
  process.exit(1);
}

// Sends what the daemon gets: the job, its samples, the end.
async function feed(call) {
  const send = async (input) => call.write(input) || (await once(call, "drain"));
  await send({
    start: {
      protocol_version: 1,
      tracks: [{ id: 1, codec: "h264" }],
      targets: [{ track_id: 1, codec, preset: "veryfast" }],
      full_speed: true, // as fast as the daemon takes it; without, FFmpeg is tuned for a live source
    },
  });
  let [samples, size, sequence] = [[], 0, 0];
  for await (const { pts, dts, data, keyframe } of pictures(source)) {
    samples.push({ track: 1, pts, dts_delta: pts - dts, data, keyframe, sequence: sequence++ });
    size += data.length;
    if (size >= BATCH_BYTES) {
      await send({ batch: { samples } });
      [samples, size] = [[], 0];
    }
  }
  await send({ batch: { samples } });
  await send({ complete: {} });
  call.end();
}

async function main() {
  const options = { "grpc.max_receive_message_length": 16 << 20 };
  const daemon = new Ffmpegd(target, grpc.credentials.createInsecure(), options);
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${process.env.TVARR_AUTH_TOKEN}`);
  const register = promisify(daemon.Register.bind(daemon));
  const hello = await register({ protocol_version: 1, client_name: "node" }, metadata);
  console.log(`${hello.name}: ${hello.capabilities.encoders.filter((e) => e.usable).map((e) => e.name).join(", ")}`);

  const [began, out] = [performance.now(), createWriteStream(destination)];
  let [count, first, last] = [0, Infinity, -Infinity];
  const call = daemon.Transcode(metadata);
  const feeding = feed(call);
  feeding.catch(() => call.cancel());
  for await (const output of call) {
    if (output.kind === "ack") console.log(`encoded by ${output.ack.encoder || "nobody"}`);
    if (output.kind === "error") throw { code: output.error.code, details: output.error.message };
    for (const sample of output.batch?.samples ?? []) {
      [count, first, last] = [count + 1, Math.min(first, sample.pts), Math.max(last, sample.pts)];
      if (!out.write(sample.data)) await once(out, "drain");
    }
  }
  await feeding;
  out.end();
  const speed = (last - first) / TICKS / ((performance.now() - began) / 1000);
  console.log(`${count} pictures at ${speed.toFixed(1)} times real time`);
  daemon.close();
}

main().catch((error) => {
  const name = typeof error.code === "number" ? grpc.status[error.code] : error.code;
  console.log(`${name ?? error.name}: ${error.details ?? error.message}`);
  process.exit(1);
});
