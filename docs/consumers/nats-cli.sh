#!/bin/sh
# Looks at a subscription's stream with the nats CLI (https://github.com/nats-io/natscli): what is there, and how far a reader is.
# It changes nothing but for a consumer, which it removes. Where NATS is comes from NATS_URL, or from the context (nats context).
#
#   sh nats-cli.sh bank
set -eu
name=${1:-bank}
stream=CDC_$name
command -v nats >/dev/null || { echo "nats-cli.sh: the nats CLI is not installed. Try: go install github.com/nats-io/natscli/nats@latest" >&2; exit 1; }

echo "== the stream: its first and last sequence, its size"
nats stream info "$stream"

echo "== its subjects, with the number of messages on each"
nats stream subjects "$stream"

echo "== the last transaction, with its headers: Cdc-Csn, Cdc-Watermark, Cdc-Unit, Cdc-Checkpoint"
nats stream get "$stream" --last-for "cdc.$name._tx"

# A consumer that begins at the stream's beginning. To begin at sequence 1000: --deliver 1000; one hour ago: --deliver 1h; one
# table: --filter "cdc.$name.public.accounts", with --json-layout row.
peek=peek_$$
trap 'nats consumer rm "$stream" "$peek" --force >/dev/null' EXIT
nats consumer add "$stream" "$peek" --pull --ack none --deliver all --filter "cdc.$name._tx" --replay instant --defaults >/dev/null

echo "== the first transactions"
nats consumer next "$stream" "$peek" --count 3 --raw --no-ack

echo "== how far the consumer is: Unprocessed Messages are behind it"
nats consumer info "$stream" "$peek"
