// A client of three nodes, written against the types that openapi-typescript makes of openapi.json.
// Arguments: CA, certificate and key in PEM files, then each node as NAME.node.CLUSTER.cyoloctl=PORT.

import { readFileSync } from "node:fs";
import { request } from "node:https";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const [ca, cert, key] = process.argv.slice(2, 5).map((path) => readFileSync(path));

// The fetch of Node.js presents no client certificate, and the name in the node's is not its address.
function over(port: number): (input: Request) => Promise<Response> {
  return async (input) => {
    const { hostname, pathname, search } = new URL(input.url);
    const body = Buffer.from(await input.arrayBuffer());
    const headers = { ...Object.fromEntries(input.headers), "content-length": body.length };
    const options = { host: "127.0.0.1", port, servername: hostname, path: pathname + search, headers };
    return new Promise((resolve, reject) => {
      const asked = request({ ...options, method: input.method, ca, cert, key, agent: false }, (answer) => {
        const parts: Buffer[] = [];
        answer.on("data", (part: Buffer) => parts.push(part));
        answer.on("error", reject);
        answer.on("end", () => {
          resolve(new Response(Buffer.concat(parts), { status: answer.statusCode ?? 0 }));
        });
      });
      asked.setTimeout(20_000, () => asked.destroy(new Error("no answer")));
      asked.on("error", reject);
      asked.end(body);
    });
  };
}

const [one, two, three] = process.argv.slice(5).map((node) => {
  const [name, port] = node.split("=");
  return createClient<paths>({ baseUrl: `https://${name}`, fetch: over(Number(port)) });
});

function given<T>(answer: { data?: T; error?: components["schemas"]["Error"] }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

// A session, on two nodes.
const minted = given(
  await one.POST("/v1/tokens/mint", {
    body: { sub: "alice", claims: { mfa: true }, ttl_s: 900.0, set_cookie: true },
    params: { query: { timeout_s: 5 * (0.1 + 0.2) } },
  }),
);
const token: string = minted.token;
const cookie: string | undefined = minted.set_cookie_value;
const inspected = given(await two.POST("/v1/tokens/inspect", { body: { token, require_quorum: true } }));
const refused = await two.POST("/v1/tokens/inspect", { body: { token: `${token}x` } });
// @ts-expect-error One of token and cookie has to be there.
const neither = await two.POST("/v1/tokens/inspect", { body: { require_quorum: true } });
const batch = given(
  await three.POST("/v1/tokens/batch", { body: { operation: "inspect", items: [{ token }, { token: "no" }] } }),
);
const results = batch.results.map((result) => (result.valid ? result.sub : result.code));

// A rendezvous, on three.
const started = given(
  await one.POST("/v1/rendezvous/start", { body: { kind: "mfa", data: { door: "north" } } }),
);
const waiting = three.POST("/v1/rendezvous/wait", {
  body: { id: started.id, request_id: "an-id-that-nobody-guesses" },
  params: { query: { timeout_s: 15 } },
});
const shown = given(
  await two.GET("/v1/rendezvous/{name}", { params: { path: { name: started.user_code } } }),
);
// For alice, by her session: whoever began it may not approve it.
const approved = given(
  await two.POST("/v1/rendezvous/approve", {
    body: { user_code: started.user_code, token, data: { level: "2" } },
  }),
);
const redeemed = given(await waiting);

const status = given(await one.GET("/v1/status"));
const members: string[] = status.members.filter((member) => member.reachable).map(({ name }) => name);

console.log(
  JSON.stringify({
    cookie: cookie?.split(token)[0],
    sub: inspected.sub,
    claims: inspected.claims,
    refused: [refused.response.status, refused.error?.error.code],
    neither: neither.response.status,
    results,
    shown: [shown.id === started.id, shown.state],
    approved: approved.state,
    redeemed: [redeemed.approved_by, redeemed.data],
    members,
  }),
);
