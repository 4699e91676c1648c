// A server that takes webhooks and verifies them with the library of Standard Webhooks.
//   node webhook.mjs SECRET [CERTIFICATE KEY]     by https with these files; prints its address, then a JSON line a request: {path, verified, error, id, body}
// What it answers stands in the path: /410, /429?after=3; else 200. /redirect/… is answered 307, /slow with a body that
// never ends, /hang not at all.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { Webhook } from "standardwebhooks";

const [secret, certificate, key] = process.argv.slice(2);
const webhook = new Webhook(secret);

function verify(body, headers) {
  try {
    return { verified: true, event: webhook.verify(body, headers) };
  } catch (error) {
    return { verified: false, error: error.message };
  }
}

function answer(request, response) {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks).toString("utf8");
    const { pathname, searchParams } = new URL(request.url, "http://here");
    const line = { path: request.url, id: request.headers["webhook-id"], type: request.headers["content-type"], body,
      ...verify(body, request.headers) };
    process.stdout.write(JSON.stringify(line) + "\n");
    if (pathname === "/hang") return;
    if (pathname === "/slow") {
      response.writeHead(200);
      const timer = setInterval(() => response.write("."), 1000);
      response.on("close", () => clearInterval(timer));
      return;
    }
    if (pathname.startsWith("/redirect/")) response.setHeader("Location", pathname.slice("/redirect".length));
    if (searchParams.has("after")) response.setHeader("Retry-After", searchParams.get("after"));
    response.writeHead(pathname.startsWith("/redirect/") ? 307 : Number(pathname.slice(1)) || 200);
    response.end(`took ${request.url}`);
  });
}

const server = certificate === undefined ? createServer(answer)
  : createSecureServer({ cert: readFileSync(certificate), key: readFileSync(key) }, answer);
server.listen(0, "127.0.0.1", () => process.stdout.write(`127.0.0.1:${server.address().port}\n`));
