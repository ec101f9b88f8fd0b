r"""A forwarded command that is lost with its connection is never answered.

pysyncobj 0.3.17.

Expected: every callback is called, with an error if need be.
Observed: callbacks of forwarded commands are told of a change of leader only.  If the connection to the
    leader breaks with the command in flight and the leader stays, the callback waits forever, and
    `__commandsWaitingReply` grows.
Cause: syncobj.py, SyncObj.__onNodeDisconnected.
Change: answer them when the connection to the leader is lost.  What they are told should be UNKNOWN_OUTCOME
    (27-leader-changed-is-not-refused.py).

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1128,6 +1128,8 @@

     def __onNodeDisconnected(self, node):
         self.__connectedNodes.discard(node)
+        if node == self.__raftLeader:
+            self.__onLeaderChanged()

     def __getCurrentLogIndex(self):
         return self.__raftLog[-1][1]
"""

from harness import Cluster, verdict

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.3)
answer = cluster.propose("b", "second")
print("b has forwarded a command to a; the connection breaks and is there again")
cluster.reconnect("a", "b")
cluster.run(60.0)
print("a leads:", cluster.leads("a"), "; a minute later b's caller was called", answer.calls, "times")
verdict(answer.calls == 0, "the caller waits forever", "the caller was told")
