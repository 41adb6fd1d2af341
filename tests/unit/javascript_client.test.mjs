// Runs in Node against the gateway that the environment names; a small server of its own misbehaves.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import test from "node:test";

import { Lookalike, LookalikeError, optionHeaders, scaledBox } from "./lookalike.mjs";

const client = new Lookalike({ baseUrl: process.env.GATEWAY, apiKey: process.env.KEY });
const image = new Uint8Array([1, 2, 3]);
const SEARCH = JSON.stringify({ hits: [] });

/** Answer with each of `answers` in turn, and with the last for ever; run `work` against it; return the requests. */
async function behind(answers, work) {
  const seen = [];
  const server = createServer((request, reply) => {
    request.resume().on("end", () => {
      seen.push({ url: request.url, headers: request.headers });
      const [status, headers, body] = answers.length > 1 ? answers.shift() : answers[0];
      if (status) reply.writeHead(status, headers).end(body);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await work(`http://127.0.0.1:${server.address().port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return seen;
}

const told = (code) => JSON.stringify({ error: { code, message: "told", allowed: ["a"] }, request_id: "r-1" });

test("a search through the gateway, with options that no header could carry", async () => {
  const found = await client.search(image, { top_k: 2, filters: { farbe: ["grün"] }, min_similarity: undefined });
  assert.equal(found.hits[0].item_id, "animals/cat.png");
});

test("the other calls", async () => {
  assert.equal((await client.detect(image, { max_detections: 1 })).detections.length, 1);
  assert.equal((await client.embed([image, new Blob([image])])).dim, 2);
  assert.equal((await client.describe(image))[0].attributes[0].name, "articleType");
});

test("a wrong key and a wrong option are told by code", async () => {
  const stranger = new Lookalike({ baseUrl: process.env.GATEWAY, apiKey: "lk_wrong" });
  await assert.rejects(stranger.search(image), { name: "LookalikeError", code: "unauthorized", status: 401 });
  await assert.rejects(client.thumbnail("a", { edge: 3 }), (error) => {
    assert.ok(error instanceof LookalikeError && error.requestId);
    assert.deepEqual(error.allowed, ["64", "128", "256", "512", "1024"]);
    return error.code === "invalid_option";
  });
});

test("a busy service is asked again, after the pause that it names", async () => {
  const busy = [503, { "retry-after": "1" }, told("overloaded")];
  const start = performance.now();
  const seen = await behind([busy, [200, {}, SEARCH]], async (baseUrl) => {
    assert.deepEqual(await new Lookalike({ baseUrl }).search(image), { hits: [] });
  });
  assert.equal(seen.length, 2);
  assert.ok(performance.now() - start >= 990);
});

test("what the client can mend is not sent again", async () => {
  const seen = await behind([[422, {}, told("invalid_option")]], async (baseUrl) => {
    const error = { code: "invalid_option", status: 422, message: "told", requestId: "r-1" };
    await assert.rejects(new Lookalike({ baseUrl }).search(image), error);
  });
  assert.equal(seen.length, 1);
});

test("an answer in another form is still an error", async () => {
  await behind([[413, {}, "<html>"]], async (baseUrl) => {
    await assert.rejects(new Lookalike({ baseUrl }).search(image), { name: "LookalikeError", status: 413 });
  });
});

test("one deadline holds for all attempts", async () => {
  await behind([[0]], async (baseUrl) => {
    const start = performance.now();
    const slow = new Lookalike({ baseUrl, timeoutMs: 300 });
    await assert.rejects(slow.search(image), { code: "deadline_exceeded", status: 504 });
    assert.ok(performance.now() - start < 2000);
  });
});

test("a service that is not there is told, after another attempt", async () => {
  const nobody = new Lookalike({ baseUrl: "http://127.0.0.1:9", retries: 1 });
  await assert.rejects(nobody.search(image), { code: "model_unavailable", status: 0 });
});

test("a caller may break off", async () => {
  await behind([[0]], async (baseUrl) => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 50);
    await assert.rejects(new Lookalike({ baseUrl }).search(image, { signal: stop.signal }), { name: "AbortError" });
  });
});

test("options become headers of plain ASCII", () => {
  assert.deepEqual(optionHeaders({ top_k: 3, box: [1, 2, 3, 4], attributes: false, filters: { a: ["é😀"] }, crop: null }), {
    "x-lookalike-top-k": "3",
    "x-lookalike-box": "[1,2,3,4]",
    "x-lookalike-attributes": "false",
    "x-lookalike-filters": '{"a":["\\u00e9\\ud83d\\ude00"]}',
  });
});

test("a box of a small copy is one of whole pixels inside of the original", () => {
  assert.deepEqual(scaledBox([-3, 10.3, 70, 60], 0.125, { width: 1000, height: 400 }), [0, 82, 560, 400]);
});

test("an item_id is one segment of a path", () => {
  assert.equal(client.thumbnailPath("../a b/c?#", 64), "/items/..%2Fa%20b%2Fc%3F%23/thumbnail?edge=64");
});
