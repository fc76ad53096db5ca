"""A slow and lossy wire: frames between two network devices, each of them late, some of them never.

A program (`wire.py ONE OTHER DELAY_S LOSS`), because not every kernel has the traffic shaper that does this (netem). It
says "carrying" when it does, and works until its standard input ends. Frames keep their order. A frame may be as large
as what the sender leaves to its network card to cut up (64 KiB): losing it loses that much at once.
"""

import random
import selectors
import socket
import sys
import time
from collections import deque
from contextlib import suppress

# linux/if_packet.h: every frame travels with the header that says which checksums and cuts its sender left to do
SOL_PACKET = 263
PACKET_VNET_HDR = 15

ALL_PROTOCOLS = 0x0003
LARGEST = 1 << 17

# The same frames are lost in every run of the same traffic.
SEED = 7


def plugged(device: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.bind((device, ALL_PROTOCOLS))
    end.setblocking(False)
    return end


def carry(one: socket.socket, other: socket.socket, delay_s: float, loss: float) -> None:
    """Until standard input ends."""
    chance = random.Random(SEED)
    selector = selectors.DefaultSelector()
    for ends in ((one, other), (other, one)):
        selector.register(ends[0], selectors.EVENT_READ, ends)
    selector.register(sys.stdin, selectors.EVENT_READ)
    travelling: deque[tuple[float, bytes, socket.socket]] = deque()
    while True:
        wait_s = max(0.0, travelling[0][0] - time.monotonic()) if travelling else None
        for key, _ in selector.select(wait_s):
            if key.data is None:
                return
            end, far = key.data
            frame, (_, _, kind, *_) = end.recvfrom(LARGEST)
            # what it sent itself comes by here, too
            if kind != socket.PACKET_OUTGOING and chance.random() >= loss:
                travelling.append((time.monotonic() + delay_s, frame, far))
        while travelling and travelling[0][0] <= time.monotonic():
            _, frame, far = travelling.popleft()
            # a device that is down or out of room loses the frame, as devices do
            with suppress(OSError):
                far.send(frame)


if __name__ == "__main__":
    with plugged(sys.argv[1]) as one, plugged(sys.argv[2]) as other:
        print("carrying", flush=True)
        carry(one, other, float(sys.argv[3]), float(sys.argv[4]))
