# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of the replies to requests; see hostile_base.py."""
import random
import struct

from hostile_base import Hostile
from nbd_session import (
    CHUNK_DATA, CHUNK_ERROR, CHUNK_ERROR_OFFSET, CHUNK_HOLE, CHUNK_NONE,
    CHUNK_STATUS, CONTEXT_ID, DONE, EIO, ENOSPC, SIMPLE, Gone)


#
# Replies in general: to writes and zeroes, and always before they are done
#
class Reply(Hostile, is_case=False):
    def bad(self, request):
        raise NotImplementedError

    def on_write(self, request):
        self.hit()
        self.bad(request)

    on_zeroes = on_trim = on_write


class ReplyBadMagic(Reply):
    def bad(self, request):
        self.put(struct.pack('>IIQ', 0xdeadbeef, 0, request.cookie))


class ReplyBadCookie(Reply):
    def bad(self, request):
        self.put(struct.pack('>IIQ', SIMPLE, 0, request.cookie + 99))


class ReplyTwice(Hostile):
    def on_write(self, request):
        self.hit()
        self.take_write(request)
        self.simple(request)
        self.simple(request)


class ReplyUnasked(Hostile):
    def run(self):
        self.shake_hands()
        self.hit()
        for cookie in range(1, 64):
            self.put(struct.pack('>IIQ', SIMPLE, 0, cookie))
        while True:
            self.serve_one()


class ReplyHalfThenCloses(Reply):
    def bad(self, request):
        self.put(struct.pack('>IIQ', SIMPLE, 0, request.cookie)[:9])
        raise Gone


class ReplyHalfThenSilence(Reply):
    def bad(self, request):
        self.put(struct.pack('>IIQ', SIMPLE, 0, request.cookie)[:15])
        self.stall()


class ReplyUnknownError(Reply):
    def bad(self, request):
        self.simple(request, 0xffff)


class ReplyErrorWithTopBit(Reply):
    def bad(self, request):
        self.simple(request, 0x80000000)


class ReplyEio(Reply):
    def bad(self, request):
        self.simple(request, EIO)


class ReplyEnospcSometimes(Hostile):
    def on_write(self, request):
        self.writes = getattr(self, 'writes', 0) + 1
        if self.writes % 2:
            self.hit()
            self.simple(request, ENOSPC)
        else:
            super().on_write(request)


class ReplyGarbage(Reply):
    def bad(self, request):
        self.put(random.Random(request.cookie).randbytes(100000))


class ReplyCloses(Reply):
    def bad(self, request):
        raise Gone


class ReplyNever(Reply):
    def bad(self, request):
        pass


class RequestsUnread(Hostile):
    def serve_one(self):
        self.hit()
        self.wait_for_the_end()


class ClosesAfterSomeBytes(Hostile):
    """In the middle of what it says, one byte later on each connection."""

    budget = None

    def put(self, data):
        if self.budget is None:
            self.budget = 180 + 7 * self.number
        if len(data) > self.budget:
            self.hit()
            super().put(data[:self.budget])
            raise Gone
        self.budget -= len(data)
        super().put(data)


class FlipsBits(Hostile):
    """One bit in some dozens of bytes of replies, never of a read's data."""

    dice = random.Random(4711)
    is_over = False

    def shake_hands(self):
        super().shake_hands()
        self.is_over = True

    def put(self, data):
        bent = bytearray(data)
        for at in range(min(len(bent), 24)):
            if self.is_over and self.dice.random() < 0.04:
                bent[at] ^= 1 << self.dice.randrange(8)
                self.hit()
        super().put(bytes(bent))


#
# Structured replies
#
class ChunkDataToWrite(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_DATA, struct.pack('>Q', request.offset) +
                   bytes(512))


class ChunkStatusToWrite(Reply):
    def bad(self, request):
        self.status(request, [(65536, 3)])


class ChunkNeverDone(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_ERROR, struct.pack('>IH', EIO, 0), 0)


class ChunkNoneNotDone(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_NONE, b'', 0)


class ChunkUnknownType(Reply):
    def bad(self, request):
        self.chunk(request, 0x77, b'????')


class ChunkUnknownError(Reply):
    def bad(self, request):
        self.chunk(request, 0xffff, struct.pack('>IH', EIO, 0) + bytes(1000))


class ChunkHugeLength(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_NONE, b'', DONE, 0xffffffff)


class ChunkErrorZero(Reply):
    """An error whose number says success."""

    def bad(self, request):
        self.chunk(request, CHUNK_ERROR, struct.pack('>IH', 0, 0))


class ChunkErrorThenDone(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_ERROR, struct.pack('>IH', EIO, 3) + b'no!',
                   0)
        self.chunk(request, CHUNK_NONE)


class ChunkErrorLongMessage(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_ERROR,
                   struct.pack('>IH', EIO, 0xffff) + b'%s' * 10)


class ChunkErrorOutOfBounds(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_ERROR_OFFSET,
                   struct.pack('>IHQ', EIO, 0, (1 << 64) - 1))


class ChunkErrorTooShort(Reply):
    def bad(self, request):
        self.chunk(request, CHUNK_ERROR, b'\0\0')


#
# Reads: without block status the relay looks by reading
#
class Read(Hostile, is_case=False):
    has_status = False

    def bad(self, request):
        raise NotImplementedError

    def on_read(self, request):
        self.hit()
        self.bad(request)

    def data(self, request, offset, data, flags=DONE):
        self.chunk(request, CHUNK_DATA, struct.pack('>Q', offset) + data,
                   flags)


class ReadWrongOffset(Read):
    def bad(self, request):
        self.data(request, request.offset + 4096, bytes(request.length))


class ReadOffsetWraps(Read):
    def bad(self, request):
        self.data(request, (1 << 64) - 8, bytes(request.length))


class ReadOverlaps(Read):
    """The first half twice, the second never, and all said to be there."""

    def bad(self, request):
        half = request.length // 2
        self.data(request, request.offset, bytes(half), 0)
        self.data(request, request.offset, bytes(half))


class ReadNothing(Read):
    def bad(self, request):
        self.chunk(request, CHUNK_NONE)


class ReadHalf(Read):
    def bad(self, request):
        self.data(request, request.offset, bytes(request.length // 2))


class ReadTooMuch(Read):
    def bad(self, request):
        self.data(request, request.offset, bytes(request.length + 512))


class ReadSimple(Read):
    def bad(self, request):
        self.simple(request, 0, bytes(request.length))


class ReadShortThenCloses(Read):
    def bad(self, request):
        self.chunk(request, CHUNK_DATA, struct.pack('>Q', request.offset) +
                   bytes(100), DONE, request.length + 8)
        raise Gone


class ReadShortThenSilence(Read):
    def bad(self, request):
        self.chunk(request, CHUNK_DATA, struct.pack('>Q', request.offset) +
                   bytes(100), DONE, request.length + 8)
        self.stall()


class ReadHugeHole(Read):
    def bad(self, request):
        self.chunk(request, CHUNK_HOLE,
                   struct.pack('>QI', request.offset, 0xffffffff))


class ReadEmptyChunks(Read):
    def bad(self, request):
        for _ in range(2000):
            self.data(request, request.offset, b'', 0)
        self.data(request, request.offset, bytes(request.length))


class ReadLengthAbsurd(Read):
    def bad(self, request):
        self.chunk(request, CHUNK_DATA, b'', DONE, 3)


#
# Block status: asked at first contact
#
class Status(Hostile, is_case=False):
    def bad(self, request):
        raise NotImplementedError

    def on_status(self, request):
        self.hit()
        self.bad(request)


class StatusZeroLength(Status):
    def bad(self, request):
        self.status(request, [(0, 3)])


class StatusZeroLengthFirst(Status):
    def bad(self, request):
        self.status(request, [(0, 0), (0, 3), (request.length, 3)])


class StatusAbsurdLength(Status):
    def bad(self, request):
        self.status(request, [(0xffffffff, 3)])


class StatusSumWraps(Status):
    def bad(self, request):
        self.status(request, [(0xffffffff, 3)] * 300)


class StatusWrongContext(Status):
    def bad(self, request):
        self.status(request, self.entries(request), CONTEXT_ID + 1)


class StatusHundreds(Status):
    def bad(self, request):
        self.status(request, [(512, 3), (512, 0)] * 500)


class StatusMillions(Status):
    def bad(self, request):
        self.status(request, [(1, 3)] * 2000000)


class StatusEmpty(Status):
    def bad(self, request):
        self.chunk(request, CHUNK_STATUS, struct.pack('>I', CONTEXT_ID))


class StatusNothing(Status):
    def bad(self, request):
        self.chunk(request, CHUNK_NONE)


class StatusSimple(Status):
    def bad(self, request):
        self.simple(request)


class StatusOddLength(Status):
    def bad(self, request):
        self.chunk(request, CHUNK_STATUS, struct.pack('>I', CONTEXT_ID) +
                   b'12345')


class StatusTwice(Status):
    def bad(self, request):
        self.status(request, [(request.length, 3)], flags=0)
        self.status(request, [(request.length, 0)])


class StatusThenError(Status):
    def bad(self, request):
        self.status(request, [(request.length, 3)], flags=0)
        self.chunk(request, CHUNK_ERROR, struct.pack('>IH', EIO, 0))


class StatusUnknownFlags(Status):
    def bad(self, request):
        self.status(request, [(request.length, 0xfffffffc)])


class StatusDataToStatus(Status):
    def bad(self, request):
        self.chunk(request, CHUNK_DATA, struct.pack('>Q', 0) + bytes(65536))


#
# Flush
#
class FlushFails(Hostile):
    def on_flush(self, request):
        self.hit()
        self.simple(request, EIO)


class FlushFailsSometimes(Hostile):
    def on_flush(self, request):
        self.hit()
        if self.hits % 3:
            self.simple(request, ENOSPC)
        else:
            super().on_flush(request)


class FlushNeverAnswered(Hostile):
    def on_flush(self, request):
        self.hit()


class FlushCloses(Hostile):
    def on_flush(self, request):
        self.hit()
        raise Gone


class FlushWithData(Hostile):
    def on_flush(self, request):
        self.hit()
        self.chunk(request, CHUNK_DATA, struct.pack('>Q', 0) + bytes(512))


class FlushErrorZero(Hostile):
    def on_flush(self, request):
        self.hit()
        self.chunk(request, CHUNK_ERROR, struct.pack('>IH', 0, 0))
