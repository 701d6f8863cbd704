// A consumer to copy from. From the stream of a subscription with --format json --json-layout row it takes what happens to one
// table: every transaction of the source once, whole and in order, whatever is killed.
//
//   - Its position is a row of its own database, written in the transaction that writes what the position stands for. So it
//     needs nothing durable on the NATS server: it reads with an ordered consumer, from behind the position.
//   - It acts on nothing before the message that ends the unit.
//   - previous of each transaction must be the csn of the one before: nothing is missing, and nothing comes twice.
//
//   node consumer.js --nats nats://127.0.0.1:4222 --subscription bank --dsn postgres://localhost/consumer

import { parseArgs } from "node:util";
import { DeliverPolicy, jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import pg from "pg";

const { values: flags } = parseArgs({
  options: {
    nats: { type: "string", default: "nats://127.0.0.1:4222" },
    subscription: { type: "string", default: "bank" },
    dsn: { type: "string", default: "postgres://localhost/consumer" },
  },
});
const stream = `CDC_${flags.subscription}`;
const subject = (tokens) => `cdc.${flags.subscription}.${tokens}`;
const [accounts, ends, epochs] = ["public.accounts", "_tx", "_ctl.epoch"].map(subject);

// What this consumer is for: the balances of the table public.accounts.
const db = new pg.Client({ connectionString: flags.dsn });
await db.connect();
await db.query(`
  CREATE TABLE IF NOT EXISTS balances (id bigint PRIMARY KEY, shard text NOT NULL, balance numeric NOT NULL);
  CREATE TABLE IF NOT EXISTS consumed (stream text PRIMARY KEY, csn text NOT NULL, seq bigint NOT NULL)`);
await db.query("INSERT INTO consumed VALUES ($1, '0', 0) ON CONFLICT DO NOTHING", [stream]);
let { csn, seq } = (await db.query("SELECT csn, seq FROM consumed WHERE stream = $1", [stream])).rows[0];

const { NATS_USER: user, NATS_PASSWORD: pass } = process.env; // where the server wants them
const nc = await connect({ servers: flags.nats, user, pass, maxReconnectAttempts: -1, inboxPrefix: "_INBOX_reader" });
const consumer = await jetstream(nc).consumers.get(stream, {
  filter_subjects: [accounts, ends, epochs],
  deliver_policy: DeliverPolicy.StartSequence,
  opt_start_seq: Number(seq) + 1,
});
const messages = await consumer.consume({ max_bytes: 8 << 20 }); // in bytes: a message may have 2 MB

let parts = []; // of a payload
let rows = []; // of a transaction
let unit = []; // transactions
for await (const m of messages) {
  if (m.subject === epochs) { // a new writer: what the one before it did not finish comes again
    [parts, rows, unit] = [[], [], []];
    continue;
  }
  const [part, of] = (m.headers?.get("Cdc-Part") || "1/1").split("/").map(Number);
  if (part === 1) parts = [];
  if (part !== parts.length + 1) throw new Error(`part ${part} follows part ${parts.length}`);
  parts.push(Buffer.from(m.data));
  if (part < of) continue;
  const body = JSON.parse(Buffer.concat(parts).toString());
  parts = [];
  if (m.subject === accounts) {
    rows.push(body);
    continue;
  }
  const told = body.tables.find((t) => t.schema === "public" && t.table === "accounts")?.changes ?? 0;
  if (told !== rows.length) throw new Error(`transaction ${body.csn} has ${told} messages for the table, and ${rows.length} came`);
  unit.push({ csn: body.csn, previous: body.previous, rows });
  rows = [];
  if (!m.headers.get("Cdc-Checkpoint")) continue; // the unit goes on
  await commit(m.seq);
}
throw new Error("the stream has ended: was the subscription dropped?");

// commit writes what a unit does, and the position behind it, in one transaction.
async function commit(end) {
  const before = csn;
  await db.query("BEGIN");
  for (const tx of unit) {
    if (tx.previous !== csn) {
      throw new Error(`transaction ${tx.csn} follows ${tx.previous}, and the last one here is ${csn}: some are missing, or the stream is another one. Begin anew`);
    }
    for (const row of tx.rows) {
      if (row.csn !== tx.csn) throw new Error(`a row of transaction ${row.csn} is in front of the end of ${tx.csn}`);
      await act(row);
    }
    csn = tx.csn;
  }
  const done = await db.query("UPDATE consumed SET csn = $1, seq = $2 WHERE stream = $3 AND csn = $4", [csn, end, stream, before]);
  if (done.rowCount !== 1) throw new Error(`the position is not ${before} any more: another consumer is at work`);
  await db.query("COMMIT");
  unit = [];
}

// act does what a row's change asks for. A numeric, and a bigint beyond 2^53, are strings in the JSON text: nothing is rounded.
async function act({ op, shard, key, after }) {
  switch (op) {
    case "insert":
    case "update":
    case "delete":
    case "read":
      break;
    case "truncate":
      await db.query("DELETE FROM balances WHERE shard = $1", [shard]);
      return;
    case "relation":
      return; // what the table looks like
    default:
      throw new Error(`unknown op ${op}`);
  }
  if (key && key.id !== after?.id) { // a delete, or the old key; not of a row that came from another shard
    await db.query("DELETE FROM balances WHERE id = $1 AND shard = $2", [key.id, shard]);
  }
  if (after) {
    await db.query(
      "INSERT INTO balances VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET shard = excluded.shard, balance = excluded.balance",
      [after.id, shard, after.balance],
    );
  }
}
