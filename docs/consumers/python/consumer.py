"""A consumer to copy from: a sketch with nats-py (pip install nats-py) and SQLite.

From the stream of a subscription with --format json it takes every transaction of the source once, whole and in order,
whatever is killed.

- Its position is a row of its own database, written in the transaction that writes what the position stands for. So it needs
  nothing durable on the NATS server: it reads from behind the position.
- It acts on nothing before the message that ends the unit.
- previous of each transaction must be the csn of the one before: nothing is missing, and nothing comes twice.

Any error ends it; let something start it again (systemd: Restart=always). It goes on where its database is.

    python3 consumer.py nats://127.0.0.1:4222 bank balances.db
"""

import asyncio
import json
import os
import sqlite3
import sys

SCHEMA = """
CREATE TABLE IF NOT EXISTS balances (id INTEGER PRIMARY KEY, shard TEXT NOT NULL, balance TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS consumed (stream TEXT PRIMARY KEY, csn TEXT NOT NULL, seq INTEGER NOT NULL);
"""


class Consumer:
    """What is done with messages. It keeps the balances of the table public.accounts."""

    def __init__(self, name, path):
        self.stream = f"CDC_{name}"
        self.transactions, self.epochs = f"cdc.{name}._tx", f"cdc.{name}._ctl.epoch"
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript(SCHEMA)
        self.db.execute("INSERT OR IGNORE INTO consumed VALUES (?, '0', 0)", (self.stream,))
        self.csn, self.seq = self.db.execute("SELECT csn, seq FROM consumed WHERE stream = ?", (self.stream,)).fetchone()
        self.parts, self.unit = [], []

    def take(self, subject, headers, data, seq):
        """Takes the next message."""
        if subject == self.epochs:  # a new writer: what the one before it did not finish comes again
            self.parts, self.unit = [], []
            return
        part, of = map(int, headers.get("Cdc-Part", "1/1").split("/"))
        if part == 1:
            self.parts = []
        if part != len(self.parts) + 1:
            raise ValueError(f"part {part} follows part {len(self.parts)}")
        self.parts.append(data)
        if part < of:
            return
        self.unit.append(json.loads(b"".join(self.parts)))
        self.parts = []
        if "Cdc-Checkpoint" in headers:
            self.commit(seq)

    def commit(self, seq):
        """Writes what a unit does, and the position behind it, in one transaction."""
        csn = self.csn
        self.db.execute("BEGIN IMMEDIATE")
        for tx in self.unit:
            if tx["previous"] != csn:
                raise ValueError(
                    f"transaction {tx['csn']} follows {tx['previous']}, and the last one here is {csn}: "
                    "some are missing, or the stream is another one. Begin anew"
                )
            csn = tx["csn"]
            for change in tx["changes"]:
                self.act(change)
        done = self.db.execute(
            "UPDATE consumed SET csn = ?, seq = ? WHERE stream = ? AND csn = ?", (csn, seq, self.stream, self.csn)
        )
        if done.rowcount != 1:
            raise ValueError(f"the position is not {self.csn} any more: another consumer is at work")
        self.db.execute("COMMIT")
        self.csn, self.seq, self.unit = csn, seq, []

    def act(self, change):
        op, shard = change["op"], change["shard"]
        if op == "truncate":
            if {"schema": "public", "table": "accounts"} in change["tables"]:
                self.db.execute("DELETE FROM balances WHERE shard = ?", (shard,))
            return
        if op in ("relation", "message", "ddl", "copy"):
            return
        if op not in ("insert", "update", "delete", "read"):
            raise ValueError(f"unknown op {op}")
        if (change["schema"], change["table"]) != ("public", "accounts"):
            return
        key, after = change.get("key"), change.get("after")
        if key and (after is None or key["id"] != after["id"]):  # not a row that came from another shard meanwhile
            self.db.execute("DELETE FROM balances WHERE id = ? AND shard = ?", (int(key["id"]), shard))
        if after:
            self.db.execute(
                "INSERT OR REPLACE INTO balances VALUES (?, ?, ?)", (int(after["id"]), shard, str(after["balance"]))
            )


async def main(url, name, path):
    import nats
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    consumer = Consumer(name, path)
    user, password = os.environ.get("NATS_USER"), os.environ.get("NATS_PASSWORD")  # where the server wants them
    nc = await nats.connect(url, user=user, password=password, max_reconnect_attempts=-1, inbox_prefix="_INBOX_reader")
    subscription = await nc.jetstream().pull_subscribe(
        consumer.transactions,
        stream=consumer.stream,
        config=ConsumerConfig(
            filter_subjects=[consumer.transactions, consumer.epochs],
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=consumer.seq + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60,
        ),
    )
    while True:
        try:
            messages = await subscription.fetch(50, timeout=5)  # of up to 2 MB each
        except nats.errors.TimeoutError:
            continue  # nothing new
        for m in messages:
            consumer.take(m.subject, m.headers or {}, m.data, m.metadata.sequence.stream)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
