// The program of a Node worker: calls a Lambda handler, and speaks to the Runtime API over an inherited socket.
//
// Run as `node _worker_main.cjs FILE NAME DESCRIPTOR`; it needs nothing but Node.js (18 or newer). FILE is the handler's
// own file, NAME the export in it (`handler`, or `api.handler` for a nested one), DESCRIPTOR the inherited socket, at
// whose other end is `runtime_http.py`.
//
// What a handler sees and what it may do is that of AWS's own runtime for Node.js: promises, callbacks, `context.done`,
// `context.callbackWaitsForEmptyEventLoop`, `awslambda.streamifyResponse`, the types and words of errors. The socket
// holds the event loop only while the next event is awaited: so the loop is empty when the handler has nothing left to
// do, and `beforeExit` says so. What a handler leaves running goes on between two events, where Lambda would freeze it.
"use strict";

const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const { Writable } = require("node:stream");
const { pathToFileURL } = require("node:url");

const INVOCATION = "/2018-06-01/runtime/invocation/";
const STREAMED = Symbol("streamed"); // marks a handler of `streamifyResponse`
const HEADER_TEXT = 200; // characters of a value in a head
const TRAILER_TEXT = 1000; // characters of an error's message in a trailer, and of each line of its trace
const NEVER_SETTLED = "a promise was never settled, and nothing is left that could settle it";

const env = process.env;
const [file, name, descriptor] = process.argv.splice(1, 4).slice(1);
process.argv.push(file);

let whenEmpty = null; // called when the event loop has nothing left to do
let whenCrashed = null; // `(error)`: takes an error that nobody has caught to the gateway; null while nothing runs,
// and a function of its own for each event, by which that event knows whether it is still the one that runs

// The Runtime API

class Client {
  constructor(fd) {
    this.socket = new net.Socket({ fd, readable: true, writable: true });
    this.asked = []; // resolve the answers that are awaited
    this.parts = [];
    this.size = 0;
    this.wanted = 1; // bytes without which nothing can be done
    this.head = null;
    this.socket.on("data", (data) => this.take(data));
    this.socket.on("error", () => process.exit(1));
    this.socket.on("end", () => process.exit(1));
    this.socket.unref();
  }

  // The answer's `{ status, headers, body }`.
  answer() {
    return new Promise((resolve) => this.asked.push(resolve));
  }

  // Sends the result of the last event, if there is one, together with the request for the next, which it returns.
  async next(result) {
    this.socket.ref();
    const asked = `GET ${INVOCATION}next HTTP/1.1\r\nHost: runtime\r\n\r\n`;
    this.socket.write(result ? Buffer.concat([result, Buffer.from(asked)]) : asked);
    // Both answers may come together. 413: the gateway has said that it is too large; the worker is none the worse.
    const [posted, event] = [result ? this.answer() : null, this.answer()];
    if (posted) this.expect(await posted, 202, 413);
    this.expect(await event, 200);
    this.socket.unref();
    return event;
  }

  expect(answer, ...wanted) {
    if (!wanted.includes(answer.status)) throw new Error(`the Runtime API answered ${answer.status}`);
  }

  take(data) {
    this.parts.push(data);
    this.size += data.length;
    while (this.size >= this.wanted) {
      let bytes = this.parts.length > 1 ? Buffer.concat(this.parts) : this.parts[0];
      if (this.head === null) {
        const end = bytes.indexOf("\r\n\r\n");
        if (end < 0) {
          this.wanted = this.size + 1;
        } else {
          this.head = parseHead(bytes.toString("latin1", 0, end));
          bytes = bytes.subarray(end + 4);
          this.wanted = Number(this.head.headers["content-length"]);
        }
      } else {
        const answer = { ...this.head, body: bytes.subarray(0, this.wanted) };
        bytes = bytes.subarray(this.wanted);
        this.head = null;
        this.wanted = 1;
        this.asked.shift()(answer);
      }
      this.parts = [bytes];
      this.size = bytes.length;
    }
  }
}

function parseHead(text) {
  const [first, ...lines] = text.split("\r\n");
  const headers = {};
  for (const line of lines) {
    const colon = line.indexOf(": ");
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 2);
  }
  return { status: Number(first.split(" ")[1]), headers };
}

function post(where, body, type = "application/json", more = "") {
  const bytes = Buffer.from(body);
  const head =
    `POST ${where} HTTP/1.1\r\nHost: runtime\r\nContent-Type: ${header(type)}\r\n` +
    `${more}Content-Length: ${bytes.length}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head, "latin1"), bytes]);
}

function postError(where, error) {
  const { errorType, errorMessage, trace } = described(error);
  const more = `Lambda-Runtime-Function-Error-Type: ${header(errorType)}\r\n`;
  return post(where, JSON.stringify({ errorType, errorMessage, trace }), "application/json", more);
}

function header(text) {
  return String(text).slice(0, HEADER_TEXT).replace(/[^\x20-\x7e]+/g, " ");
}

// Errors

class RuntimeError extends Error {
  constructor(type, message, cause) {
    super(message);
    Object.defineProperty(this, "name", { value: `Runtime.${type}` });
    if (cause?.stack) this.stack = cause.stack;
  }
}

function described(error) {
  try {
    if (Object.prototype.toString.call(error) !== "[object Error]" && !(error instanceof Error)) {
      return { errorType: typeof error, errorMessage: String(error), trace: [] };
    }
    const trace = String(error.stack || "").split("\n");
    return { errorType: String(error.name), errorMessage: String(error.message), trace };
  } catch {
    const errorMessage =
      "callback called with Error argument, but there was a problem while retrieving one or more of its message," +
      " name, and stack";
    return { errorType: "handled", errorMessage, trace: [] };
  }
}

// One line, as in Lambda's log: all of the error in one block.
function logError(what, error) {
  const { errorType, errorMessage, trace } = described(error);
  let more = {};
  try {
    if (error instanceof Error) more = JSON.parse(JSON.stringify(error));
  } catch {
    // It holds what JSON has no words for.
  }
  const text = JSON.stringify({ errorType, errorMessage, ...more, stack: trace });
  process.stderr.write(`ERROR\t${what}\t${text}\n`);
}

function crash(what, error, status) {
  logError(what, error);
  const tell = whenCrashed;
  whenCrashed = whenEmpty = null;
  if (tell === null) process.exit(status);
  client.socket.write(tell(error), () => process.exit(status));
}

// Streamed answers

// What the handler writes leaves at once, as a chunk of the response; `write` returns false while the gateway is slow.
class ResponseStream extends Writable {
  constructor(where, options) {
    super({ ...options, decodeStrings: true });
    this.where = where;
    this.type = "application/octet-stream";
    this.begun = false;
  }

  setContentType(type) {
    this.type = type;
  }

  write(chunk, ...rest) {
    const bytes = typeof chunk === "string" || chunk instanceof Uint8Array ? chunk : JSON.stringify(chunk);
    return super.write(bytes, ...rest);
  }

  _write(chunk, encoding, done) {
    if (!chunk.length) return done(); // an empty chunk would be the end
    client.socket.write(this.framed(chunk), done);
  }

  framed(chunk) {
    const parts = [Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from("\r\n")];
    return Buffer.concat(this.begun ? parts : [this.head(), ...parts]);
  }

  head() {
    this.begun = true;
    return Buffer.from(
      `POST ${this.where}/response HTTP/1.1\r\nHost: runtime\r\nContent-Type: ${header(this.type)}\r\n` +
        "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n" +
        "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n",
    );
  }

  // What is left to be sent when the handler has ended the stream.
  last() {
    return Buffer.concat([this.begun ? Buffer.alloc(0) : this.head(), Buffer.from("0\r\n\r\n")]);
  }

  // The same for a handler that has failed: what it had written before is sent, and nothing that it writes later.
  failed(error) {
    const written = (this.writableBuffer ?? []).filter(({ chunk }) => chunk.length).map(({ chunk }) => this.framed(chunk));
    this.destroy();
    return Buffer.concat([...written, this.failure(error)]);
  }

  failure(error) {
    if (!this.begun) return postError(`${this.where}/error`, error);
    const { errorType, errorMessage, trace } = described(error);
    const body = JSON.stringify({ errorType: cut(errorType), errorMessage: cut(errorMessage), trace: trace.slice(0, 2).map(cut) });
    return Buffer.from(
      `0\r\nLambda-Runtime-Function-Error-Type: ${header(errorType)}\r\n` +
        `Lambda-Runtime-Function-Error-Body: ${Buffer.from(body).toString("base64")}\r\n\r\n`,
    );
  }
}

function cut(text) {
  return text.slice(0, TRAILER_TEXT);
}

globalThis.awslambda = {
  streamifyResponse(handler, options) {
    handler[STREAMED] = options || {};
    return handler;
  },
  // No client of UDP gets a status or headers: what follows them is the answer.
  HttpResponseStream: { from: (stream) => stream },
};

// The handler

// The function that FILE exports as NAME. CommonJS or an ES module, as Node.js itself tells them apart.
async function load() {
  let exported;
  try {
    exported = isModule() ? await import(pathToFileURL(file).href) : require(file);
  } catch (error) {
    throw error?.code === "ERR_REQUIRE_ESM" || error?.code === "ERR_REQUIRE_ASYNC_MODULE"
      ? new RuntimeError("UserCodeSyntaxError", `${error.message.split("\n")[0]}; name the file .mjs`, error)
      : importError(error);
  }
  const found = name.split(".").reduce((inside, key) => inside?.[key], exported);
  if (typeof found === "function") return found;
  const why = found ? "is not a function" : "is undefined or not exported";
  const functions = Object.keys(exported ?? {}).filter((key) => typeof exported[key] === "function");
  const has = functions.length ? `exports the functions: ${functions.join(", ")}` : "exports no function";
  const error = new RuntimeError("HandlerNotFound", `${env._HANDLER} ${why}; ${path.basename(file)} ${has}`);
  error.stack = String(error);
  throw error;
}

function isModule() {
  if (!file.endsWith(".js")) return file.endsWith(".mjs");
  for (let folder = path.dirname(file); path.basename(folder) !== "node_modules"; folder = path.dirname(folder)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8")).type === "module";
    } catch (error) {
      if (error instanceof SyntaxError || folder === path.dirname(folder)) return false;
    }
  }
  return false;
}

function importError(error) {
  if (error instanceof SyntaxError) return new RuntimeError("UserCodeSyntaxError", String(error), error);
  if (!["MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND"].includes(error?.code)) return error;
  const first = String(error).split("\n")[0];
  const fix = /'@aws-sdk\//.test(first) ? "; Lambda brings the AWS SDK along, here npm install it beside the handler" : "";
  return new RuntimeError("ImportModuleError", first + fix, error);
}

// The bytes of the result of one event, or of its error, once it is there. Never rejects.
function invoke(handler, { headers, body }) {
  return new Promise((resolve) => {
    const where = `${INVOCATION}${headers["lambda-runtime-aws-request-id"]}`;
    let waits = true;
    const end = (bytes) => {
      whenCrashed = whenEmpty = null;
      resolve(bytes);
    };
    const fail = (error) => {
      if (whenCrashed !== crashed) return; // it has ended, and another event may run by now
      logError("Invoke Error", error);
      end(crashed(error));
    };
    const succeed = (result) => {
      if (whenCrashed !== crashed) return;
      try {
        end(post(`${where}/response`, JSON.stringify(result === undefined ? null : result)));
      } catch {
        fail(new RuntimeError("MarshalError", "Unable to stringify response body"));
      }
    };
    const done = (error, result) => (error === null || error === undefined ? succeed(result) : fail(error));
    const callback = (error, result) => {
      if (!waits || (error !== null && error !== undefined)) done(error, result);
      else if (whenCrashed === crashed) whenEmpty = () => succeed(result);
    };
    const context = {
      get callbackWaitsForEmptyEventLoop() {
        return waits;
      },
      set callbackWaitsForEmptyEventLoop(value) {
        waits = value;
      },
      functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
      functionName: env.AWS_LAMBDA_FUNCTION_NAME,
      memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
      logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
      logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
      clientContext: undefined,
      identity: undefined,
      invokedFunctionArn: headers["lambda-runtime-invoked-function-arn"],
      awsRequestId: headers["lambda-runtime-aws-request-id"],
      getRemainingTimeInMillis: () => Number(headers["lambda-runtime-deadline-ms"]) - Date.now(),
      done,
      succeed,
      fail,
    };
    env._X_AMZN_TRACE_ID = headers["lambda-runtime-trace-id"];
    const answer = handler[STREAMED] ? new ResponseStream(where, handler[STREAMED]) : null;
    const crashed = (error) => (answer ? answer.failed(error) : postError(`${where}/error`, error));
    whenCrashed = crashed;
    whenEmpty = () => {
      process.stderr.write("WARN\tthe handler left no answer: it has not called back, or " + NEVER_SETTLED + "\n");
      succeed(null);
    };
    try {
      const event = JSON.parse(body.toString());
      if (answer) return stream(handler, event, context, answer, () => whenCrashed === crashed && end(answer.last()), fail);
      const result = handler(event, context, callback);
      if (typeof result?.then === "function") result.then(succeed, fail);
    } catch (error) {
      fail(error);
    }
  });
}

function stream(handler, event, context, answer, finish, fail) {
  whenEmpty = () => fail(new RuntimeError("StreamError", "the response stream was never ended; call responseStream.end()"));
  answer.on("finish", finish);
  answer.on("error", fail);
  const result = handler(event, answer, context);
  if (typeof result?.then === "function") result.then(undefined, fail);
}

async function main() {
  whenCrashed = (error) => postError("/2018-06-01/runtime/init/error", error);
  whenEmpty = () => crash("Init Error", new RuntimeError("NodeJsExit", `${NEVER_SETTLED} (await at the top level)`), 13);
  let handler;
  try {
    handler = await load();
  } catch (error) {
    return crash("Init Error", error, 1);
  }
  await new Promise(setImmediate); // what loading it has rejected shows by now
  if (whenCrashed === null) return;
  whenCrashed = whenEmpty = null;
  for (let result = null; ; ) result = await invoke(handler, await client.next(result));
}

env.AWS_EXECUTION_ENV = `AWS_Lambda_nodejs${process.versions.node.split(".")[0]}.x`;
const client = new Client(Number(descriptor));
process.on("beforeExit", () => whenEmpty?.());
process.on("uncaughtException", (error) => crash("Uncaught Exception", error, 129));
process.on("unhandledRejection", (reason) => {
  const message = described(reason).errorMessage;
  crash("Unhandled Promise Rejection", new RuntimeError("UnhandledPromiseRejection", message, reason), 128);
});
main();
