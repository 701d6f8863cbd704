"""A stub of nats-py, as far as the Python example uses it, for machines without: it gives the messages of the file that the
environment variable FEED names (lines of JSON), from the sequence that is asked for, and then nothing more."""

import asyncio
import base64
import json
import os
from types import SimpleNamespace

from . import errors
from .js.api import AckPolicy, ConsumerConfig, DeliverPolicy


async def connect(servers, *, user, password, max_reconnect_attempts, inbox_prefix):
    return SimpleNamespace(jetstream=JetStream)


class JetStream:
    async def pull_subscribe(self, subject, durable=None, stream=None, config=None):
        assert isinstance(config, ConsumerConfig)
        assert config.ack_policy is AckPolicy.NONE and config.deliver_policy is DeliverPolicy.BY_START_SEQUENCE
        assert subject in config.filter_subjects and stream.startswith("CDC_")
        return Subscription(config)


class Subscription:
    def __init__(self, config):
        with open(os.environ["FEED"]) as feed:
            messages = [json.loads(line) for line in feed]
        self.left = [m for m in messages if m["seq"] >= config.opt_start_seq and m["subject"] in config.filter_subjects]

    async def fetch(self, batch=1, timeout=5):
        if not self.left:
            await asyncio.sleep(0.01)
            raise errors.TimeoutError
        now, self.left = self.left[:batch], self.left[batch:]
        return [message(m) for m in now]


def message(m):
    sequence = SimpleNamespace(stream=m["seq"])
    return SimpleNamespace(
        subject=m["subject"],
        headers=m["headers"] or None,
        data=base64.b64decode(m["data"]),
        metadata=SimpleNamespace(sequence=sequence),
    )
