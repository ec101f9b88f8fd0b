r"""Whoever reaches the port of a node runs code in it, and may change the cluster's members.

pysyncobj 0.3.17, default settings (no password).

Expected: nothing that an unauthenticated connection sends is executed.
Observed: every message is unpickled, the first one too, before anything is known about the sender.  And any
    connection may send `add`, `remove`, `set_version` and `transfer`, or call itself a member.
Cause: tcp_connection.py, TcpConnection.__processParseMessage; transport.py,
    TCPTransport._onIncomingMessageReceived and _onUtilityMessage.
Change: not a few lines.  Authenticate the connection first (TLS with certificates, from which the node's name
    is taken; a password, which all share, keeps strangers out but lets every member be anybody), and read
    messages with a codec that knows the message types and nothing else.  Until then: refuse to bind anything
    but loopback without a password, and say so in the documentation.
"""

import pickle
import socket
import struct
import time
import zlib

from harness import verdict
from pysyncobj import SyncObj, SyncObjConf

ran = []


def attack(what):
    ran.append(what)


class Payload:
    def __reduce__(self):
        return attack, ("code of a stranger",)


def send(port, data):
    data = zlib.compress(data, 3)
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(struct.pack("i", len(data)) + data)
    return connection


with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]
conf = SyncObjConf(autoTick=False, bindAddress=f"127.0.0.1:{port}", dynamicMembershipChange=True)
node = SyncObj(f"127.0.0.1:{port}", [], conf=conf)
strangers = [send(port, pickle.dumps(Payload(), 2)), send(port, pickle.dumps(["add", "127.0.0.1:9"], 2))]
deadline = time.monotonic() + 5
while time.monotonic() < deadline and not (ran and node.otherNodes):
    node.doTick(0.05)
print("ran in the node:", ran, "; members that a stranger added:", node.otherNodes)
for connection in strangers:
    connection.close()
node.destroy()
verdict(bool(ran or node.otherNodes), "a stranger's bytes were executed", "nothing happened")
