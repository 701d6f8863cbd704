"""Feeds the Python example with messages of a stream, without nats-py: a line of standard input is a message, or the word crash.
At a crash the consumer is thrown away as a killed process would be, and one that begins at its database's position takes over.
Prints the balances at the end."""

import base64
import json
import sys

from consumer import Consumer

name, path = sys.argv[1:]
seen = []
consumer = Consumer(name, path)


def take(m):
    consumer.take(m["subject"], m["headers"], base64.b64decode(m["data"]), m["seq"])


for line in sys.stdin:
    if line.strip() == "crash":
        consumer.db.close()  # rolls back
        consumer = Consumer(name, path)
        for m in seen:
            if m["seq"] > consumer.seq:
                take(m)
        continue
    seen.append(json.loads(line))
    take(seen[-1])
for row in consumer.db.execute("SELECT shard, id, balance FROM balances ORDER BY id"):
    print(*row)
