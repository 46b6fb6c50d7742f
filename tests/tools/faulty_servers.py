# SPDX-License-Identifier: LGPL-2.1-or-later
"""Servers that speak NBD well and do their work badly.

They are honest until the file SOCKET.arm is there, and listed with no cases:
each needs a test of its own (tests/integration/zombies.sh, bitmap-import.sh).
"""
import os
import struct
import threading

from nbd_session import (
    CONTEXT_ID, OPT_LIST_META, OPT_SET_META, REP_ACK, REP_META, Gone, Session)

ZOMBIE_SECONDS = 2.5  # after the death of its connection

FAULTY = {}


class Faulty(Session):
    hits = 0
    path = None  # of the socket

    def __init_subclass__(cls):
        super().__init_subclass__()
        FAULTY[cls.__name__.lower()] = cls

    def is_armed(self):
        return os.path.exists(self.path + '.arm')

    def hit(self):
        type(self).hits += 1
        self.told()


class Zombie(Faulty):
    """Takes one write, says nothing more; executes it when nobody waits."""

    def on_write(self, request):
        if not self.is_armed():
            super().on_write(request)
            return
        os.unlink(self.path + '.arm')
        self.hit()
        try:
            self.stall()
        except Gone:
            threading.Timer(ZOMBIE_SECONDS, self.rise, (request,)).start()
            raise

    def rise(self, request):
        self.take_write(request)
        self.hit()


class Volatile(Faulty):
    """Armed: keeps writes in memory until a flush; killed, it loses them."""

    cache = []
    lock = threading.Lock()

    def take_write(self, request):
        if not self.is_armed():
            super().take_write(request)
            return
        with self.lock:
            self.cache.append(request)
        self.hit()

    def drop_or_keep(self):
        with self.lock:
            for request in self.cache:
                super().take_write(request)
            self.cache.clear()

    def on_flush(self, request):
        self.drop_or_keep()
        super().on_flush(request)

    def on_write(self, request):
        self.take_write(request)
        if request.flags & 1:  # FUA
            self.drop_or_keep()
        self.simple(request)

    on_zeroes = on_trim = on_write


class Liar(Volatile):
    """The same, and a flush does nothing but say that it did."""

    cache = []

    def drop_or_keep(self):
        if not self.is_armed():
            super().drop_or_keep()


class Overreaching(Faulty):
    """Has a bitmap, of which it says more than there is of the disk."""

    def option(self, option, data):
        if option not in (OPT_LIST_META, OPT_SET_META):
            return super().option(option, data)
        self.reply(option, REP_META, struct.pack('>I', CONTEXT_ID) +
                   b'qemu:dirty-bitmap:far')
        self.reply(option, REP_ACK)
        return False

    def on_status(self, request):
        self.hit()
        self.status(request, [(request.length - 512, 0), (request.length, 1),
                              (512, 0), (request.length, 1)])
