r"""A peer's old connection still delivers after a new one has taken its place.

pysyncobj 0.3.17, TCPTransport.

Expected: one live connection per peer; no message of an earlier one arrives after it was replaced.
Observed: a second connection of the same peer replaces the first in the table, and that is all: the first is
    neither closed nor silenced, dropNode does not find it either, and the engine is not told that what was
    in flight is lost.  Raft over this transport sees stale messages in any order.
Cause: transport.py, TCPTransport._onIncomingMessageReceived, `self._connections[node] = conn`.
Change: close the old one first, as dropNode does; its callback tells the engine.

--- a/pysyncobj/transport.py
+++ b/pysyncobj/transport.py
@@ -365,6 +365,12 @@
             self._readonlyNodesCounter += 1

         self._unknownConnections.discard(conn)
+        old = self._connections.get(node)
+        if old is not None and old is not conn:
+            old.setOnMessageReceivedCallback(None)
+            self._preventConnectNodes.add(node)
+            old.disconnect()
+            self._preventConnectNodes.remove(node)
         self._connections[node] = conn
         conn.setOnMessageReceivedCallback(functools.partial(self._onMessageReceived, node))
         if not readonly:
"""

from harness import verdict
from pysyncobj.node import TCPNode
from pysyncobj.tcp_connection import CONNECTION_STATE
from pysyncobj.transport import TCPTransport


class Owner:
    encryptor = None


class Connection:
    """A socket, as far as TCPTransport uses it."""

    def __init__(self):
        self.closed, self.on_message, self.on_disconnected = False, None, None
        self.state = CONNECTION_STATE.CONNECTED

    def setOnMessageReceivedCallback(self, callback):
        self.on_message = callback

    def setOnDisconnectedCallback(self, callback):
        self.on_disconnected = callback

    def disconnect(self):
        self.closed, self.state = True, CONNECTION_STATE.DISCONNECTED
        self.on_disconnected()


transport, peer, heard = TCPTransport.__new__(TCPTransport), TCPNode("127.0.0.1:1"), []
transport._syncObj, transport._selfIsReadonlyNode = Owner(), False
transport._selfNode = TCPNode("127.0.0.1:0")
transport._connections, transport._unknownConnections, transport._preventConnectNodes = {}, set(), set()
transport._nodes, transport._nodeAddrToNode, transport._readonlyNodes = {peer}, {peer.address: peer}, set()
transport._onNodeConnectedCallback = lambda node: heard.append("connected")
transport._onNodeDisconnectedCallback = lambda node: heard.append("disconnected")
transport._onMessageReceivedCallback = lambda node, message: heard.append(message)
old, new = Connection(), Connection()
for connection in (old, new):
    transport._onNewIncomingConnection(connection)
    connection.on_message(peer.address)
if not old.closed:
    old.on_message("a message of the old connection")
print("the engine hears:", heard)
verdict("a message of the old connection" in heard, "the old connection is alive", "it was closed")
