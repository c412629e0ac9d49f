#!/bin/sh
# Takes COUNT events from an account of `ltp bus add` with the plain `nats` command, and acknowledges them.
#   LTP_BUS_URL=nats://127.0.0.1:4222 LTP_BUS_USER=billing-1a2b3c4d LTP_BUS_PASSWORD=… sh subscriber.sh [COUNT]
# To follow live instead:  nats sub 'ltp-feed.PROJECT.>'  with the same options.
set -eu
# From the environment, never as an argument: arguments are for all to see.
export NATS_URL="${LTP_BUS_URL:-nats://127.0.0.1:4222}" NATS_USER="$LTP_BUS_USER" NATS_PASSWORD="$LTP_BUS_PASSWORD"
exec nats --inbox-prefix "_INBOX_$LTP_BUS_USER" consumer next LTP_FEED "$LTP_BUS_USER" --count "${1:-10}" --ack --raw
