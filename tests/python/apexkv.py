"""A client of ApexKV in one page: the wire protocol, version 1, and nothing but Python's standard library.

    with Client("localhost:9001", "localhost:9002", "localhost:9003") as store:
        version = store.set(b"greeting", b"hello")
        store.cas(b"greeting", version, b"hello again")
        print(store.get(b"greeting"), list(store.scan(b"gr")))

It finds the leader by itself. A write whose answer was lost is never sent again: it raises `Unknown`, and the caller decides.
"""

import itertools, json, socket, struct, time, zlib

SET, GET, DEL, CAS, GETV, SCAN, PING, STATUS = range(1, 9)
OK, ERROR, NOT_FOUND, NOT_LEADER, UNKNOWN, CONFLICT, BUSY, BAD_REQUEST = range(8)
EXTENDED = 0x80
READS = (GET, GETV, SCAN, PING, STATUS)


class Failed(Exception):
    """The command took no effect; `status` says why."""

    def __init__(self, status, payload):
        super().__init__(f"status {status}: {payload.decode(errors='replace')}")
        self.status, self.payload = status, payload


class Unknown(Exception):
    """A write that may have taken effect, or may yet."""


def request(command, key=b"", value=b""):
    return struct.pack("<BII", command, len(key), len(value)) + key + value


def extended_request(command, key=b"", value=b"", request_id=0, deadline_ms=0):
    head = struct.pack("<BIIQQQI", EXTENDED | command, len(key), len(value), request_id, 0, 0, deadline_ms)
    return head + struct.pack("<I", zlib.crc32(head + key + value)) + key + value


class Connection:
    """One TCP connection to one node. Requests may be sent ahead of their responses."""

    def __init__(self, address, timeout=5.0):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")

    def exactly(self, count):
        data = self.stream.read(count)
        if len(data) < count:
            raise ConnectionError(f"the node closed the connection {count - len(data)} bytes too early")
        return data

    def send(self, frame):
        self.socket.sendall(frame)

    def receive(self):
        """Status, payload, and the request's id, which is None after a plain request."""
        head = self.exactly(5)
        status, length = struct.unpack("<BI", head)
        if not status & EXTENDED:
            return status, self.exactly(length), None
        request_id, crc = struct.unpack("<QI", self.exactly(12))
        payload = self.exactly(length)
        if crc != zlib.crc32(head + struct.pack("<Q", request_id) + payload):
            raise ConnectionError("a response with a wrong CRC")
        return status & ~EXTENDED, payload, request_id

    def close(self):
        self.stream.close()
        self.socket.close()


class Client:
    """A cluster. Knows some of its nodes, and stays with the one that leads."""

    def __init__(self, *addresses, timeout=5.0):
        self.addresses, self.timeout, self.connection = itertools.cycle(addresses), timeout, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave()

    def leave(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def call(self, command, key=b"", value=b""):
        deadline, address = time.monotonic() + self.timeout, None
        while True:
            sent = False
            try:
                self.connection = self.connection or Connection(address or next(self.addresses), self.timeout)
                sent = True
                self.connection.send(request(command, key, value))
                status, payload, _ = self.connection.receive()
            except OSError as error:
                self.leave()
                status, payload, address = None, str(error).encode(), None
                if sent and command not in READS:
                    raise Unknown(str(error)) from error
            if status == OK:
                return payload
            if status in (NOT_FOUND, CONFLICT, ERROR, BAD_REQUEST):
                raise Failed(status, payload)
            if status not in (None, NOT_LEADER, BUSY):  # UNKNOWN, and every status of a later version
                raise Unknown(payload.decode(errors="replace"))
            if status == NOT_LEADER:
                self.leave()
                address = payload.decode() or None
            if time.monotonic() > deadline:
                raise Failed(BUSY if status is None else status, payload)
            time.sleep(0 if address else 0.02)

    def set(self, key, value):
        return int.from_bytes(self.call(SET, key, value), "little")

    def get(self, key):
        return self.found(GET, key)

    def getv(self, key):
        payload = self.found(GETV, key)
        return payload and (int.from_bytes(payload[:8], "little"), payload[8:])

    def delete(self, key):
        payload = self.found(DEL, key)
        return payload and int.from_bytes(payload, "little")

    def found(self, command, key):
        try:
            return self.call(command, key)
        except Failed as failed:
            if failed.status == NOT_FOUND:
                return None
            raise

    def cas(self, key, expected, value):
        return int.from_bytes(self.call(CAS, key, struct.pack("<Q", expected) + value), "little")

    def scan(self, prefix=b"", limit=0, keys_only=False):
        """All pairs below a prefix as (key, version, value), page by page."""
        cursor, more = b"", True
        while more:
            more, pairs = parse_page(self.call(SCAN, prefix, struct.pack("<IB", limit, keys_only) + cursor))
            yield from pairs
            cursor = pairs[-1][0] if pairs else cursor

    def status(self):
        return json.loads(self.call(STATUS))


def parse_page(payload):
    at, pairs = 1, []
    while at < len(payload):
        key_length, value_length, version = struct.unpack_from("<IIQ", payload, at)
        value_at = at + 16 + key_length
        pairs.append((payload[at + 16 : value_at], version, payload[value_at : value_at + value_length]))
        at = value_at + value_length
    return payload[0] == 1, pairs
