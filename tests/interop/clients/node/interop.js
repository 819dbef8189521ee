// gRPC's interop cases with Node's client: `node interop.js ADDRESS` prints `case<TAB>ok`, or what went wrong, a line a
// case. A case that has not ended after its time is wrong, too. interop.proto has to lie beside this file.
"use strict";

const assert = require("node:assert/strict");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const address = process.argv[2];
const proto = path.join(__dirname, "interop.proto");
const { testing } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true })).grpc;
const insecure = grpc.credentials.createInsecure();
const stub = new testing.TestService(address, insecure);
const zipping = new testing.TestService(address, insecure, {
  "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
});

const CASE_MILLISECONDS = 10_000;
const NO_COMPRESS = 2; // grpc-js does not export its flags
const LARGE_REQUEST = 271828;
const LARGE_RESPONSE = 314159;
const REQUESTS = [27182, 8, 1828, 45904];
const RESPONSES = [31415, 9, 2653, 58979];
const SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";

const payload = (size) => ({ body: Buffer.alloc(size) });
const large = () => ({ response_size: LARGE_RESPONSE, payload: payload(LARGE_REQUEST) });
const asking = (response, request) => ({ response_parameters: [{ size: response }], payload: payload(request) });
const failing = (message) => ({ response_status: { code: grpc.status.UNKNOWN, message } });

// A unary call: its error or null, its response, and the metadata before and after it.
function unary(client, method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve) => {
    const all = {};
    const call = client[method](request, metadata, (error, response) => Object.assign(all, { error, response }));
    call.on("metadata", (initial) => Object.assign(all, { initial }));
    call.on("status", (status) => resolve({ ...all, trailers: status.metadata }));
  });
}

// A stream of responses: how it ends. `heard` is told of each response.
function ending(call, heard = () => {}) {
  return new Promise((resolve) => {
    call.on("data", heard);
    call.on("error", () => {}); // what it says comes as the status, too
    call.on("status", resolve);
  });
}

function adding(client, each = (call, message) => call.write(message)) {
  return new Promise((resolve) => {
    const call = client.StreamingInputCall((error, response) => resolve({ error, response }));
    REQUESTS.forEach((size, index) => each(call, { payload: payload(size) }, index));
    call.end();
  });
}

async function largeUnary(client) {
  const { error, response } = await unary(client, "UnaryCall", large());
  assert.ifError(error);
  assert.equal(response.payload.body.length, LARGE_RESPONSE);
}

async function stillAlive() {
  assert.ifError((await unary(stub, "EmptyCall", {})).error);
}

const cases = {
  empty_unary: stillAlive,

  large_unary: () => largeUnary(stub),

  async client_streaming() {
    const { error, response } = await adding(stub);
    assert.ifError(error);
    assert.equal(response.aggregated_payload_size, 74922);
  },

  async server_streaming() {
    const sizes = [];
    const call = stub.StreamingOutputCall({ response_parameters: RESPONSES.map((size) => ({ size })) });
    const status = await ending(call, (response) => sizes.push(response.payload.body.length));
    assert.equal(status.code, grpc.status.OK);
    assert.deepEqual(sizes, RESPONSES);
  },

  async ping_pong() {
    const sizes = [];
    const call = stub.FullDuplexCall();
    const ask = (index) => call.write(asking(RESPONSES[index], REQUESTS[index]));
    const end = ending(call, (response) => {
      sizes.push(response.payload.body.length);
      if (sizes.length < RESPONSES.length) ask(sizes.length);
      else call.end();
    });
    ask(0);
    assert.equal((await end).code, grpc.status.OK);
    assert.deepEqual(sizes, RESPONSES);
  },

  async empty_stream() {
    const call = stub.FullDuplexCall();
    const end = ending(call, () => assert.fail("a response to nothing"));
    call.end();
    assert.equal((await end).code, grpc.status.OK);
  },

  async cancel_after_begin() {
    const error = await new Promise((resolve) => stub.StreamingInputCall(resolve).cancel());
    assert.equal(error.code, grpc.status.CANCELLED);
    await stillAlive();
  },

  async cancel_after_first_response() {
    const call = stub.FullDuplexCall();
    const end = ending(call, () => call.cancel());
    call.write(asking(RESPONSES[0], REQUESTS[0]));
    assert.equal((await end).code, grpc.status.CANCELLED);
    await stillAlive();
  },

  async timeout_on_sleeping_server() {
    const call = stub.FullDuplexCall({ deadline: Date.now() + 1 });
    const end = ending(call);
    call.write({ payload: payload(REQUESTS[0]) });
    assert.equal((await end).code, grpc.status.DEADLINE_EXCEEDED);
    await stillAlive();
  },

  async custom_metadata() {
    const metadata = new grpc.Metadata();
    metadata.set("x-grpc-test-echo-initial", "test_initial_metadata_value");
    metadata.set("x-grpc-test-echo-trailing-bin", Buffer.from("ababab", "hex"));
    const { error, trailers } = await unary(stub, "UnaryCall", large(), metadata);
    assert.ifError(error);
    assert.deepEqual(trailers.get("x-grpc-test-echo-initial"), ["test_initial_metadata_value"]);
    assert.deepEqual(trailers.get("x-grpc-test-echo-trailing-bin"), [Buffer.from("ababab", "hex")]);
  },

  async status_code_and_message() {
    const { error } = await unary(stub, "UnaryCall", failing("test status message"));
    assert.deepEqual([error.code, error.details], [grpc.status.UNKNOWN, "test status message"]);
    const call = stub.FullDuplexCall();
    const end = ending(call);
    call.write(failing("test status message"));
    const { code, details } = await end;
    assert.deepEqual([code, details], [grpc.status.UNKNOWN, "test status message"]);
  },

  async special_status_message() {
    const { error } = await unary(stub, "UnaryCall", failing(SPECIAL));
    assert.deepEqual([error.code, error.details], [grpc.status.UNKNOWN, SPECIAL]);
  },

  async unimplemented_method() {
    assert.equal((await unary(stub, "UnimplementedCall", {})).error.code, grpc.status.UNIMPLEMENTED);
  },

  async unimplemented_service() {
    const other = new testing.UnimplementedService(address, insecure);
    assert.equal((await unary(other, "UnimplementedCall", {})).error.code, grpc.status.UNIMPLEMENTED);
  },

  client_compressed_unary: () => largeUnary(zipping),

  async client_compressed_streaming() {
    // Every other message goes as it is: Node takes gRPC's flags for a write where streams have their encoding.
    const some = (call, message, index) => call.write(message, index % 2 ? NO_COMPRESS : undefined);
    const { error, response } = await adding(zipping, some);
    assert.ifError(error);
    assert.equal(response.aggregated_payload_size, 74922);
  },
};

async function main() {
  for (const [name, run] of Object.entries(cases)) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("has not ended in time")), CASE_MILLISECONDS);
    });
    const outcome = await Promise.race([run(), late]).then(
      () => "ok",
      (error) => error.message.replace(/\s+/g, " "),
    );
    clearTimeout(timer);
    console.log(`${name}\t${outcome}`);
  }
  process.exit(0); // calls that have not ended would keep it
}

main();
