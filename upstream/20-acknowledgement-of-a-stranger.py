r"""An acknowledgement from a node that was removed raises KeyError in the leader's loop.

pysyncobj 0.3.17, a transport that delivers a removed node's last message.  TCPTransport does so on a
superseded connection (24-superseded-connection.py), which dropNode does not close.

Expected: messages of strangers are ignored.
Observed: KeyError; with `reset`, the stranger is in raftNextIndex first.
Cause: syncobj.py, SyncObj.__onMessageReceived, `self.__raftMatchIndex[node]`.
Change: ask whether the node is known.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1068,7 +1068,7 @@
                     self.__onBecomeLeader()

         if self.__raftState == _RAFT_STATE.LEADER:
-            if message['type'] == 'next_node_idx':
+            if message['type'] == 'next_node_idx' and node in self.__raftMatchIndex:
                 reset = message['reset']
                 nextNodeIdx = message['next_node_idx']
                 success = message['success']
"""

from harness import Cluster, verdict

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.3)
late = next(
    message
    for source, _, message in reversed(cluster.sent)
    if source == "c" and message["type"] == "next_node_idx"
)
removed = cluster.member("a", "remove", "c")
cluster.run_until(lambda: removed.ok)
cluster.inject("c", "a", {**late, "next_node_idx": 100, "success": True})
print("c was removed; its late answer arrives at a:", cluster.errors["a"] or "nothing happens")
verdict(bool(cluster.errors["a"]), "the leader's handler raises", "it is ignored")
