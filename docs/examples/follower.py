"""Follows the points of a run over a WebSocket, each once over any break. Needs `pip install websockets`.

LTP_URL=http://127.0.0.1:8700 LTP_TOKEN=ltp_… python follower.py RUN [COUNT]
"""

import asyncio
import json
import os
import sys

import websockets

REVOKED = 1008


async def main(run: str, count: int) -> None:
    """Print points until there were so many."""
    url = os.environ["LTP_URL"].replace("http", "ws", 1) + "/api/v1/events/ws"
    headers = {"Authorization": f"Bearer {os.environ['LTP_TOKEN']}"}
    after = 0  # a real system keeps this where it keeps its effects
    # The loop connects again, with growing pauses, whenever the connection is lost.
    async for socket in websockets.connect(url, additional_headers=headers, max_size=16 << 20):
        try:
            await socket.send(json.dumps({"id": "a", "topic": "points", "run": run, "after": after}))
            async for text in socket:
                message = json.loads(text)
                if "error" in message:
                    raise SystemExit(text)
                for point in message["data"]["points"]:
                    print(json.dumps(point), flush=True)
                count -= len(message["data"]["points"])
                after = message["seq"]
                if count <= 0:
                    return
        except websockets.ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == REVOKED:
                raise SystemExit("the token is good no more") from closed


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else sys.maxsize))
