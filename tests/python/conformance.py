"""Holds a running cluster of three against the wire protocol, byte by byte, through the client of this folder.

    python3 conformance.py LEADER FOLLOWER LEADER_DATA_DIR

LEADER and FOLLOWER are client addresses. The others are paused for a moment to see a leader without a quorum, and a byte of a stored
value is flipped in LEADER_DATA_DIR to see an error; so give it a cluster that nobody else uses, with an election timeout of seconds.
"""

import json, os, pathlib, random, signal, struct, sys, time, zlib

from apexkv import *

LEADER, FOLLOWER, DATA = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
KEYED = {SET: b"value", GET: b"", DEL: b"", CAS: bytes(8), GETV: b"", SCAN: bytes(5)}


def check(what, got, wanted):
    assert got == wanted, f"{what}: got {got!r}, wanted {wanted!r}"


def exchange(sent, address=LEADER):
    """The one answer to these bytes, as bytes, and whether the connection lives on (a PING is answered)."""
    connection = Connection(address)
    connection.send(bytes.fromhex(sent) if isinstance(sent, str) else sent)
    status, payload, request_id = connection.receive()
    if request_id is None:
        answer = struct.pack("<BI", status, len(payload)) + payload
    else:
        answer = struct.pack("<BIQ", EXTENDED | status, len(payload), request_id) + payload
    lives = True
    try:
        connection.send(request(PING, b"", b"?"))
        check("a PING behind it", connection.receive(), (OK, b"?", None))
    except OSError:
        lives = False
    connection.close()
    return answer, lives


def ask(command, key=b"", value=b"", address=LEADER, deadline_ms=0, extended=None):
    """Status and payload, the same whether asked in a plain or an extended frame."""
    connection = Connection(address, 20)
    if extended or deadline_ms:
        request_id = random.getrandbits(64)
        connection.send(extended_request(command, key, value, request_id, deadline_ms))
        status, payload, echoed = connection.receive()
        check("the request's id", echoed, request_id)
    else:
        connection.send(request(command, key, value))
        status, payload, echoed = connection.receive()
        check("a plain answer", echoed, None)
    connection.close()
    return status, payload


def frames_are_the_bytes_of_the_protocol():
    check("SET", request(SET, b"key", b"value").hex(" "), "01 03 00 00 00 05 00 00 00 6b 65 79 76 61 6c 75 65")
    check("STATUS", request(STATUS).hex(" "), "08 00 00 00 00 00 00 00 00")
    wanted = "87 00 00 00 00 02 00 00 00 08 07 06 05 04 03 02 01" + " 00" * 16 + " fa 00 00 00 2f 71 ef 0d 68 69"
    check("extended PING", extended_request(PING, b"", b"hi", 0x0102030405060708, 250).hex(" "), wanted)


def answers_are_the_bytes_of_the_protocol():
    ask(DEL, b"byte")
    vectors = {
        "PING": ("07 00000000 02000000 6869", "00 02000000 6869"),
        "PING of nothing": ("07 00000000 00000000", "00 00000000"),
        "GET of nothing": ("02 04000000 00000000 62797465", "02 00000000"),
        "GETV of nothing": ("05 04000000 00000000 62797465", "02 00000000"),
        "DEL of nothing": ("03 04000000 00000000 62797465", "02 00000000"),
        "CAS of what is absent": ("04 04000000 09000000 62797465 0700000000000000 78", "05 08000000 0000000000000000"),
        "SCAN of nothing": ("06 04000000 05000000 62797465 00000000 00", "00 01000000 00"),
    }
    for what, (sent, wanted) in vectors.items():
        check(what, exchange(sent), (bytes.fromhex(wanted), True))
    check("extended GET of nothing", exchange(extended_request(GET, b"byte", b"", 77)), (bytes.fromhex("82 00000000 4d00000000000000"), True))
    answer, _ = exchange("01 04000000 01000000 62797465 78")
    check("SET", (answer[:5], len(answer)), (bytes.fromhex("00 08000000"), 13))
    version = answer[5:]
    check("GET", exchange("02 04000000 00000000 62797465"), (bytes.fromhex("00 01000000 78"), True))
    check("GETV", exchange("05 04000000 00000000 62797465"), (bytes.fromhex("00 09000000") + version + b"x", True))
    pair = bytes.fromhex("04000000 01000000") + version + b"bytex"
    check("SCAN", exchange("06 04000000 05000000 62797465 00000000 00"), (bytes.fromhex("00 16000000 00") + pair, True))
    keys = bytes.fromhex("04000000 00000000") + version + b"byte"
    check("SCAN of keys", exchange("06 04000000 05000000 62797465 00000000 01"), (bytes.fromhex("00 15000000 00") + keys, True))
    check("CAS", exchange(bytes.fromhex("04 04000000 09000000 62797465 0700000000000000 78"))[0], bytes.fromhex("05 08000000") + version)


def every_command_works_in_both_frames():
    for extended in (False, True):
        status, payload = ask(SET, b"both", b"one", extended=extended)
        first = int.from_bytes(payload, "little")
        check("SET", (status, len(payload)), (OK, 8))
        check("GET", ask(GET, b"both", extended=extended), (OK, b"one"))
        check("CAS with a wrong version", ask(CAS, b"both", struct.pack("<Q", first + 1), extended=extended), (CONFLICT, payload))
        status, payload = ask(CAS, b"both", struct.pack("<Q", first) + b"two", extended=extended)
        second = int.from_bytes(payload, "little")
        assert status == OK and second > first, (status, first, second)
        check("GETV", ask(GETV, b"both", extended=extended), (OK, payload + b"two"))
        check("SCAN", parse_page(ask(SCAN, b"both", bytes(5), extended=extended)[1]), (False, [(b"both", second, b"two")]))
        status, payload = ask(DEL, b"both", extended=extended)
        assert status == OK and int.from_bytes(payload, "little") > second, (status, payload)
        for command in (GET, GETV, DEL):
            check("after DEL", ask(command, b"both", extended=extended), (NOT_FOUND, b""))
        check("PING", ask(PING, b"", bytes(1024), extended=extended), (OK, bytes(1024)))
        status = json.loads(ask(STATUS, extended=extended)[1])
        wanted = "id role term leader commit_index applied_index last_index durable_index keys disk_bytes uptime_ms version protocol cluster_id peers"
        check("members of STATUS", [name for name in wanted.split() if name not in status], [])
        check("STATUS", (status["role"], status["leader"], status["protocol"], len(status["peers"])), ("leader", LEADER, 1, 2))
        for peer in status["peers"]:
            check("members of a peer", [name for name in ("id", "client_addr", "match_index", "alive") if name not in peer], [])


def a_follower_names_the_leader():
    for extended in (False, True):
        for command, value in KEYED.items():
            check(f"command {command}", ask(command, b"k", value, FOLLOWER, extended=extended), (NOT_LEADER, LEADER.encode()))
        check("PING", ask(PING, b"", b"p", FOLLOWER, extended=extended), (OK, b"p"))
        check("STATUS", json.loads(ask(STATUS, address=FOLLOWER, extended=extended)[1])["role"], "follower")


def wrong_shapes_cost_the_frame_only():
    shapes = {
        "SET without a key": request(SET, b"", b"v"), "GET without a key": request(GET), "GET with a value": request(GET, b"k", b"v"),
        "DEL with a value": request(DEL, b"k", b"v"), "CAS of 7 bytes": request(CAS, b"k", bytes(7)), "GETV with a value": request(GETV, b"k", b"v"),
        "SCAN of 4 bytes": request(SCAN, b"k", bytes(4)), "SCAN with unknown flags": request(SCAN, b"k", b"\0\0\0\0\2"),
        "SCAN with a foreign cursor": request(SCAN, b"k", bytes(5) + b"l"), "PING with a key": request(PING, b"k"),
        "PING of 1025 bytes": request(PING, b"", bytes(1025)), "STATUS with a value": request(STATUS, b"", b"v"),
        "command 0": request(0, b"k", b"v"), "command 127": request(127, b"k", b"v"), "extended command 127": extended_request(127, b"k", b"v"),
    }
    head = struct.pack("<BIIQQQI", EXTENDED | GET, 1, 0, 5, 1, 1, 0)
    shapes["a session"] = head + struct.pack("<I", zlib.crc32(head + b"k")) + b"k"
    for what, frame in shapes.items():
        answer, lives = exchange(frame)
        check(what, (answer[0] & ~EXTENDED, lives, len(answer) > 20), (BAD_REQUEST, True, True))


def lengths_over_the_limits_and_bad_checksums_close():
    for what, frame in {
        "KeyLen": struct.pack("<BII", SET, (64 << 10) + 1, 0), "ValLen": struct.pack("<BII", SET, 1, (16 << 20) + 9),
        "both": struct.pack("<BII", 72, 2**32 - 1, 2**32 - 1), "of an extended frame": b"\x82" + bytes(3) + b"\xff" + bytes(36),
    }.items():
        answer, lives = exchange(frame)
        check(what, (answer[0] & ~EXTENDED, lives), (BAD_REQUEST, False))
    frame = bytearray(extended_request(SET, b"k", b"v", 0xABCDEF))
    frame[-1] ^= 1
    answer, lives = exchange(bytes(frame))
    check("a bad CRC", (answer[:1], answer[5:13], lives), (b"\x87", struct.pack("<Q", 0xABCDEF), False))
    check("the refused write", ask(GET, b"k")[0], NOT_FOUND)


def requests_are_pipelined_in_order():
    connection = Connection(LEADER, 20)
    frames = [frame for number in range(500) for frame in (request(SET, b"p", b"%d" % number), request(GET, b"p"))]
    connection.send(b"".join(frames))
    for number in range(500):
        check(f"SET {number}", connection.receive()[0], OK)
        check(f"GET {number}", connection.receive(), (OK, b"%d" % number, None))
    connection.send(b"".join(extended_request(PING, b"", b"%d" % number, number) + request(GET, b"p") for number in range(100)))
    answers = [connection.receive() for _ in range(200)]
    check("plain", [answer for answer in answers if answer[2] is None], [(OK, b"499", None)] * 100)
    check("extended", {answer[2]: answer[1] for answer in answers if answer[2] is not None}, {n: b"%d" % n for n in range(100)})
    connection.close()


def scans_page():
    with Client(LEADER) as store:
        for number in range(25):
            store.set(b"page/%02d" % number, b"v" * number)
        pairs = list(store.scan(b"page/", limit=10))
        check("scan", [(key, value) for key, _, value in pairs], [(b"page/%02d" % n, b"v" * n) for n in range(25)])
        check("keys", [pair[0] for pair in store.scan(b"page/", keys_only=True)], [pair[0] for pair in pairs])
    more, page = parse_page(ask(SCAN, b"page/", struct.pack("<IB", 20, 1) + b"page/21")[1])
    check("the last page", (more, [pair[0] for pair in page]), (False, [b"page/22", b"page/23", b"page/24"]))


def a_client_finds_the_leader():
    with Client(FOLLOWER) as store:
        version = store.set(b"led", b"1")
        check("getv", store.getv(b"led"), (version, b"1"))
        check("delete", store.delete(b"led") > version, True)
        check("get", store.get(b"led"), None)


def a_leader_without_a_quorum_tells_unknown_from_not_done():
    """A write that entered the log may take effect yet; a read that could not be confirmed did nothing."""
    peers = [Connection(peer["client_addr"]) for peer in json.loads(ask(STATUS)[1])["peers"]]
    pids = []
    for peer in peers:
        peer.send(request(STATUS))
        pids.append(json.loads(peer.receive()[1])["pid"])
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        write = ask(SET, b"open", b"outcome", deadline_ms=100)
        read = ask(GET, b"open", deadline_ms=100)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    check("a write", (write[0], len(write[1]) > 10), (UNKNOWN, True))
    check("a read", (read[0], len(read[1]) > 10), (BUSY, True))


def a_value_that_rotted_is_an_error():
    value = b"this value is stored once, and rots: " + os.urandom(16).hex().encode()
    with Client(LEADER, FOLLOWER) as store:
        store.set(b"rots", value)
    for path in DATA.rglob("*"):
        at = path.read_bytes().find(value) if path.is_file() else -1
        if at >= 0:
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(b"T")
            break
    else:
        raise AssertionError(f"no file below {DATA} holds the value")
    connection = Connection(LEADER, 20)
    connection.send(request(GET, b"rots") + extended_request(GET, b"rots", request_id=7))
    for request_id in (None, 7):
        status, payload, echoed = connection.receive()
        check("GET", (status, len(payload) > 10, echoed), (ERROR, True, request_id))
    connection.close()
    # A leader that has met damage gives way to a node that has none; until then it refuses.
    deadline = time.monotonic() + 20
    while True:
        try:
            with Client(FOLLOWER) as store:
                return check("GET elsewhere", store.get(b"rots"), value)
        except Failed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


TESTS = [
    frames_are_the_bytes_of_the_protocol,
    answers_are_the_bytes_of_the_protocol,
    every_command_works_in_both_frames,
    a_follower_names_the_leader,
    wrong_shapes_cost_the_frame_only,
    lengths_over_the_limits_and_bad_checksums_close,
    requests_are_pipelined_in_order,
    scans_page,
    a_client_finds_the_leader,
    a_leader_without_a_quorum_tells_unknown_from_not_done,
    a_value_that_rotted_is_an_error,
]

for test in TESTS:
    begun = time.monotonic()
    test()
    print(f"ok  {test.__name__.replace('_', ' ')} ({time.monotonic() - begun:.2f} s)", flush=True)
