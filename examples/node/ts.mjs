// The pictures of an MPEG-TS file (ISO/IEC 13818-1), as plain as it goes.
import { createReadStream } from "node:fs";

const PACKET = 188;
export const TICKS = 90_000; // a second
const WRAP = 2 ** 33;

// Those of the first video track: {pts, dts, data, keyframe}, times in ticks of 90 kHz that don't wrap, data in Annex B.
// Each PES packet has to hold one picture, as encoders write it.
export async function* pictures(path) {
  let [video, parts, keyframe, dts, rest] = [-1, [], false, 0, Buffer.alloc(0)];
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    const bytes = Buffer.concat([rest, chunk]);
    let at = 0;
    for (; at + PACKET <= bytes.length; at += PACKET) {
      const pid = ((bytes[at + 1] & 0x1f) << 8) | bytes[at + 2];
      let [payload, randomAccess] = [at + 4, false];
      if (bytes[at + 3] & 0x20) { // an adaptation field
        payload += 1 + bytes[at + 4];
        randomAccess = bytes[at + 4] > 0 && (bytes[at + 5] & 0x40) !== 0;
      }
      const starts = bytes[at + 1] & 0x40 && payload + 4 <= at + PACKET;
      if (starts && bytes.readUIntBE(payload, 3) === 1 && (bytes[payload + 3] & 0xf0) === 0xe0) {
        if (video < 0) video = pid;
        if (pid === video) {
          if (parts.length) {
            const picture = toPicture(Buffer.concat(parts), keyframe, dts);
            dts = picture.dts;
            yield picture;
          }
          [parts, keyframe] = [[], randomAccess];
        }
      }
      if (pid === video && bytes[at + 3] & 0x10) parts.push(bytes.subarray(payload, at + PACKET));
    }
    rest = bytes.subarray(at);
  }
  if (parts.length) yield toPicture(Buffer.concat(parts), keyframe, dts);
}

// Takes the header off (2.4.3.6), and puts the 33-bit time stamps where they are nearest to the one before.
function toPicture(pes, keyframe, previousDts) {
  const pts = time(pes, 9);
  let dts = pes[7] & 0x40 ? time(pes, 14) : pts;
  const reorder = (pts - dts + WRAP) % WRAP;
  if (previousDts) dts = previousDts + ((((dts - previousDts) % WRAP) + WRAP * 1.5) % WRAP) - WRAP / 2;
  return { pts: dts + reorder, dts, data: pes.subarray(9 + pes[8]), keyframe };
}

function time(b, at) {
  return ((b[at] >> 1) & 7) * 2 ** 30 + (b[at + 1] << 22) + ((b[at + 2] >> 1) << 15) + (b[at + 3] << 7) + (b[at + 4] >> 1);
}
