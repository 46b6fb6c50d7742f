# SPDX-License-Identifier: LGPL-2.1-or-later
"""One connection of an honest NBD server, in pieces that a test can bend.

A subclass overrides what it wants to do wrong: greet(), option(), go(), one
of the on_*() handlers, or put(), through which every byte to the client goes.
Newstyle fixed handshake, structured replies, base:allocation; one request at
a time; errors of the disk file are answered as EIO. Lengths and offsets are
the client's and are trusted: the client is the one under test.
"""
import select
import struct

OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY = 0x3E889045565A9
SIMPLE = 0x67446698
STRUCTURED = 0x668E33EF

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED = 6, 7, 8
OPT_LIST_META, OPT_SET_META = 9, 10
REP_ACK, REP_INFO, REP_META = 1, 3, 4
ERR_UNSUP, ERR_TLS_REQD, ERR_SHUTDOWN = 0x80000001, 0x80000005, 0x80000007
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

HAS_FLAGS, READ_ONLY, FLUSH, FUA, TRIM, ZEROES = 1, 2, 4, 8, 32, 64
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH = 0, 1, 2, 3
CMD_TRIM, CMD_ZEROES, CMD_STATUS = 4, 6, 7

DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS = 0, 1, 2, 5
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 0x8001, 0x8002
CONTEXT_ID = 7
EIO, ENOSPC = 5, 28


class Gone(Exception):
    """The client went, or the case ends the connection."""


class Request:
    """What the client asked; data is the payload of a WRITE."""

    def __init__(self, head):
        (_, self.flags, self.kind, self.cookie, self.offset,
         self.length) = struct.unpack('>IHHQQI', head)
        self.data = b''


class Session:
    flags = HAS_FLAGS | FLUSH | FUA | TRIM | ZEROES
    blocks = None       # (minimum, preferred, maximum)
    structured = True
    has_status = True   # base:allocation

    settled = 0         # flushes and FUA writes honestly answered, of the class

    def __init__(self, sock, disk, number):
        self.sock = sock
        self.disk = disk      # read_at, write_at, size
        self.number = number  # of the connection, from 1 on
        self.size = disk.size
        self.is_structured = False

    def told(self):
        """Called when something worth counting has happened."""

    # Bytes
    def put(self, data):
        try:
            self.sock.sendall(data)
        except OSError as why:
            raise Gone from why

    def get(self, length):
        parts = []
        while length:
            try:
                part = self.sock.recv(min(length, 1 << 20))
            except OSError as why:
                raise Gone from why
            if not part:
                raise Gone
            parts.append(part)
            length -= len(part)
        return b''.join(parts)

    def stall(self):
        """Say nothing more, whatever comes, until the client goes."""
        while True:
            self.get(1)

    def wait_for_the_end(self):
        """Leave unread what comes, until the client goes."""
        poll = select.poll()
        poll.register(self.sock, select.POLLHUP | select.POLLERR)
        poll.poll()
        raise Gone

    # Handshake
    def greet(self):
        self.put(b'NBDMAGIC' + b'IHAVEOPT' + struct.pack('>H', 3))

    def reply(self, option, kind, data=b'', length=None):
        self.put(struct.pack('>QIII', OPTION_REPLY, option, kind,
                             len(data) if length is None else length) + data)

    def export_info(self):
        return struct.pack('>HQH', INFO_EXPORT, self.size & (2**64 - 1),
                           self.flags)

    def go(self, option):
        self.reply(option, REP_INFO, self.export_info())
        if self.blocks:
            self.reply(option, REP_INFO,
                       struct.pack('>HIII', INFO_BLOCK_SIZE, *self.blocks))
        self.reply(option, REP_ACK)

    def meta_context(self, option):
        self.reply(option, REP_META,
                   struct.pack('>I', CONTEXT_ID) + b'base:allocation')
        self.reply(option, REP_ACK)

    def option(self, option, data):
        """True when the handshake is over."""
        if option == OPT_EXPORT_NAME:
            self.put(struct.pack('>QH', self.size, self.flags))
            return True
        if option in (OPT_INFO, OPT_GO):
            self.go(option)
            return option == OPT_GO
        if option == OPT_STRUCTURED and self.structured:
            self.is_structured = True
            self.reply(option, REP_ACK)
        elif option == OPT_SET_META and self.has_status:
            self.meta_context(option)
        elif option == OPT_ABORT:
            self.reply(option, REP_ACK)
            raise Gone
        else:
            self.reply(option, ERR_UNSUP)
        return False

    def shake_hands(self):
        self.greet()
        self.get(4)
        while True:
            magic, option, length = struct.unpack('>QII', self.get(16))
            if magic != OPTION_MAGIC:
                raise Gone
            if self.option(option, self.get(length)):
                return

    # Transmission
    def simple(self, request, error=0, data=b''):
        self.put(struct.pack('>IIQ', SIMPLE, error, request.cookie) + data)

    def chunk(self, request, kind, data=b'', flags=DONE, length=None):
        self.put(struct.pack('>IHHQI', STRUCTURED, flags, kind, request.cookie,
                             len(data) if length is None else length) + data)

    def on_read(self, request):
        data = self.disk.read_at(request.offset, request.length)
        if self.is_structured:
            self.chunk(request, CHUNK_DATA,
                       struct.pack('>Q', request.offset) + data)
        else:
            self.simple(request, 0, data)

    def take_write(self, request):
        data = request.data or bytes(request.length)
        self.disk.write_at(request.offset, data)

    def count_settled(self):
        type(self).settled += 1
        self.told()

    def on_write(self, request):
        self.take_write(request)
        if request.flags & 1:  # FUA
            self.count_settled()
        self.simple(request)

    on_zeroes = on_trim = on_write

    def on_flush(self, request):
        self.count_settled()
        self.simple(request)

    def entries(self, request):
        """Extents of one block each, as (length, flags); neighbours merged."""
        step = 1 << 16
        found = []
        for at in range(request.offset, request.offset + request.length, step):
            length = min(step, request.offset + request.length - at)
            is_zero = not any(self.disk.read_at(at, length))
            kind = 3 if is_zero else 0
            if found and found[-1][1] == kind:
                found[-1][0] += length
            else:
                found.append([length, kind])
        return found

    def on_status(self, request):
        self.status(request, self.entries(request))

    def status(self, request, entries, context=CONTEXT_ID, flags=DONE):
        self.chunk(request, CHUNK_STATUS, struct.pack('>I', context) +
                   b''.join(struct.pack('>II', *e) for e in entries), flags)

    def serve_one(self):
        request = Request(self.get(28))
        if request.kind == CMD_WRITE:
            request.data = self.get(request.length)
        if request.kind == CMD_DISC:
            raise Gone
        {CMD_READ: self.on_read, CMD_WRITE: self.on_write,
         CMD_FLUSH: self.on_flush, CMD_TRIM: self.on_trim,
         CMD_ZEROES: self.on_zeroes,
         CMD_STATUS: self.on_status}[request.kind](request)

    def run(self):
        self.shake_hands()
        while True:
            self.serve_one()
