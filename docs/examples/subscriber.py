"""Takes events from an account of `ltp bus add`, each once as far as this process remembers. Needs `pip install nats-py`.

LTP_BUS_URL=nats://127.0.0.1:4222 LTP_BUS_USER=billing-1a2b3c4d LTP_BUS_PASSWORD=… python subscriber.py [COUNT]
"""

import asyncio
import json
import os
import sys

import nats


async def main(count: int) -> None:
    """Print events until there were so many."""
    user = os.environ["LTP_BUS_USER"]
    client = await nats.connect(
        os.environ.get("LTP_BUS_URL", "nats://127.0.0.1:4222"),
        user=user,
        password=os.environ["LTP_BUS_PASSWORD"],
        inbox_prefix=f"_INBOX_{user}".encode(),  # the common inbox is closed to subscribers
        max_reconnect_attempts=-1,
    )
    consumer = await client.jetstream().pull_subscribe_bind(user, stream="LTP_FEED")
    seen: set[str] = set()  # a real system keeps this where it keeps its effects
    while len(seen) < count:
        try:
            messages = await consumer.fetch(min(100, count - len(seen)), timeout=5)
        except TimeoutError:
            continue  # nothing new
        for message in messages:
            if message.headers["ce-id"] not in seen:
                event = {"type": message.headers["ce-type"], "seq": message.headers["ltp-seq"]}
                print(json.dumps({**event, "data": json.loads(message.data)}), flush=True)
                seen.add(message.headers["ce-id"])
            await message.ack()  # until then it is given again
    await client.drain()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else sys.maxsize))
