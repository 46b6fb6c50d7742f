# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of the handshake; see hostile_base.py."""
import random
import struct

from hostile_base import Hostile
from nbd_session import (
    CHUNK_DATA, ERR_SHUTDOWN, ERR_TLS_REQD, OPT_STRUCTURED, OPTION_REPLY,
    READ_ONLY, REP_ACK, REP_INFO, REP_META, Gone)


#
# Greeting
#
class GreetingGarbage(Hostile):
    def greet(self):
        self.hit()
        self.put(random.Random(self.number).randbytes(4096))
        self.stall()


class GreetingOldstyle(Hostile):
    def greet(self):
        self.hit()
        self.put(b'NBDMAGIC' + struct.pack('>QQI', 0x420281861253,
                                           (1 << 63) + 5, 1) + bytes(124))
        self.stall()


class GreetingNone(Hostile):
    def greet(self):
        self.hit()
        raise Gone


class GreetingStalls(Hostile):
    def greet(self):
        self.hit()
        self.stall()


class GreetingHalf(Hostile):
    def greet(self):
        self.hit()
        self.put(b'NBDMAGICIHAV')
        self.stall()


class GreetingNotFixed(Hostile):
    def greet(self):
        self.hit()
        self.put(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 0))


class GreetingUnknownFlags(Hostile):
    def greet(self):
        self.hit()
        self.put(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 0xffff))


#
# Options
#
class OptionBadMagic(Hostile):
    def reply(self, option, kind, data=b'', length=None):
        self.hit()
        self.put(struct.pack('>QIII', OPTION_REPLY ^ 1, option, kind,
                             len(data)) + data)


class OptionHugeLength(Hostile):
    def reply(self, option, kind, data=b'', length=None):
        self.hit()
        super().reply(option, kind, data, 0xfffffff0)
        self.stall()


class OptionWrongNumber(Hostile):
    def reply(self, option, kind, data=b'', length=None):
        self.hit()
        super().reply(option ^ 3, kind, data)


class OptionUnknownReply(Hostile):
    def option(self, option, data):
        self.hit()
        self.reply(option, 0x1234, b'what is this')
        return super().option(option, data)


class OptionUnknownError(Hostile):
    def option(self, option, data):
        self.hit()
        self.reply(option, 0xffffffff, b'\0%s%n' * 100)
        return False


class OptionStalls(Hostile):
    def option(self, option, data):
        self.hit()
        self.stall()


class OptionGoStalls(Hostile):
    def go(self, option):
        self.hit()
        self.stall()


class OptionContextStalls(Hostile):
    def meta_context(self, option):
        self.hit()
        self.stall()


class OptionHalf(Hostile):
    def go(self, option):
        self.hit()
        self.put(struct.pack('>QII', OPTION_REPLY, option, REP_INFO)[:11])
        self.stall()


class OptionEndless(Hostile):
    def go(self, option):
        self.hit()
        while True:
            self.reply(option, REP_INFO, self.export_info())


class OptionAckWithPayload(Hostile):
    def go(self, option):
        self.hit()
        self.reply(option, REP_INFO, self.export_info())
        self.reply(option, REP_ACK, bytes(64))


class OptionTlsRequired(Hostile):
    def option(self, option, data):
        self.hit()
        self.reply(option, ERR_TLS_REQD, b'TLS first')
        return False


class OptionShutdown(Hostile):
    def option(self, option, data):
        self.hit()
        self.reply(option, ERR_SHUTDOWN, b'x' * (1 << 20))
        return False


#
# What the export is said to be
#
class InfoMissing(Hostile):
    def go(self, option):
        self.hit()
        self.reply(option, REP_ACK)


class InfoTwice(Hostile):
    def go(self, option):
        self.hit()
        self.reply(option, REP_INFO, self.export_info())
        self.size = 1 << 40
        super().go(option)


class InfoShort(Hostile):
    def go(self, option):
        self.hit()
        self.reply(option, REP_INFO, self.export_info()[:7])
        super().go(option)


class InfoTiny(Hostile):
    def go(self, option):
        self.hit()
        self.reply(option, REP_INFO, b'\0')
        super().go(option)


class OtherSize(Hostile, is_case=False):
    said = 0

    def export_info(self):
        self.hit()
        self.size = self.said
        return super().export_info()


class SizeZero(OtherSize):
    pass


class SizeNegative(OtherSize):
    said = (1 << 63) + 5


class SizeAllOnes(OtherSize):
    said = (1 << 64) - 1


class SizeLargestPositive(OtherSize):
    said = (1 << 63) - 1


class SizeOneByteShort(Hostile):
    def export_info(self):
        self.hit()
        self.size = self.disk.size - 1
        return super().export_info()


class SizeChanges(Hostile):
    """Right at first; after some writes it is another one each time."""

    def export_info(self):
        if self.number > 1:
            self.hit()
            self.size = self.disk.size >> (self.number % 5)
        return super().export_info()

    def on_write(self, request):
        super().on_write(request)
        raise Gone


class BlockSizeZero(Hostile):
    blocks = (0, 0, 0)

    def go(self, option):
        self.hit()
        super().go(option)


class BlockSizeThree(BlockSizeZero):
    blocks = (3, 5, 7)


class BlockSizeHuge(BlockSizeZero):
    blocks = (1 << 31, 1 << 31, 1 << 31)


class BlockSizeTinyMaximum(BlockSizeZero):
    blocks = (512, 4096, 1)


class BlockSizeBackwards(BlockSizeZero):
    blocks = (65536, 4096, 512)


class FlagsNone(Hostile):
    flags = 0

    def go(self, option):
        self.hit()
        super().go(option)


class FlagsWithoutHasFlags(FlagsNone):
    flags = 4 | 8 | 32 | 64


class FlagsAll(FlagsNone):
    flags = 0xffff


class ReadOnlyLater(Hostile):
    def go(self, option):
        if self.number > 1:
            self.hit()
            self.flags |= READ_ONLY
        super().go(option)

    def on_write(self, request):
        super().on_write(request)
        raise Gone


class ContextOtherName(Hostile):
    def meta_context(self, option):
        self.hit()
        self.reply(option, REP_META, struct.pack('>I', 1) + b'base:alloc\xff')
        self.reply(option, REP_ACK)


class ContextManyIds(Hostile):
    def meta_context(self, option):
        self.hit()
        for number in range(1000):
            self.reply(option, REP_META,
                       struct.pack('>I', number) + b'base:allocation')
        self.reply(option, REP_ACK)


class ContextHugeName(Hostile):
    def meta_context(self, option):
        self.hit()
        self.reply(option, REP_META, struct.pack('>I', 1) + b'x' * 100000)
        self.reply(option, REP_ACK)


class ContextNoName(Hostile):
    def meta_context(self, option):
        self.hit()
        self.reply(option, REP_META, struct.pack('>I', 1))
        self.reply(option, REP_ACK)


class ContextWithoutStructured(Hostile):
    structured = False

    def option(self, option, data):
        if option == OPT_STRUCTURED:
            self.hit()
        return super().option(option, data)

    def on_read(self, request):
        self.chunk(request, CHUNK_DATA, struct.pack('>Q', request.offset) +
                   bytes(request.length))
